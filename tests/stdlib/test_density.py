"""`Density`: an unnormalised target as a site, scored and never drawn."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from jax import lax
from numpyro.distributions import constraints

import ppl
from ppl import sample
from stdlib.distributions import Density
from stdlib.inference import AIS, HMC, Importance, RandomWalk, chain
from stdlib.objectives import elbo
from stdlib.testing import assert_unbiased

KEY = jax.random.key(0)


def quartic(width):
    return Density(lambda x: -width * x**4)


def test_scores_and_their_derivatives_are_those_of_the_function():
    def model(width):
        sample("x", quartic(width))

    def lanes(widths):
        jax.vmap(model)(widths)

    def steps(widths):
        lax.scan(lambda c, width: (model(width), None), None, widths)

    def branch(width):
        return lax.cond(width > 0, lambda: model(width), lambda: model(2.0 * width))

    score = jax.value_and_grad(lambda w, x: ppl.log_density(model, {"x": x}, w), (0, 1))
    np.testing.assert_allclose(score(3.0, 0.5)[0], -3.0 / 16)
    np.testing.assert_allclose(score(3.0, 0.5)[1], (-1 / 16, -1.5))
    widths, x = jnp.array([1.0, 2.0]), jnp.array([0.5, -1.0])
    for program in (lanes, steps):
        summed = lambda w, program=program: ppl.log_density(program, {"x": x}, w)
        np.testing.assert_allclose(jax.grad(summed)(widths), -(x**4))
    np.testing.assert_allclose(ppl.log_density(branch, {"x": 0.5}, 3.0), -3.0 / 16)
    masked = ppl.scale(ppl.mask(model, jnp.array(True)), 2.0)
    np.testing.assert_allclose(ppl.log_density(masked, {"x": 0.5}, 3.0), -6.0 / 16)


def test_wrappers_and_batches_of_numpyro():
    wide = Density(lambda x: -jnp.sum(x**2), shape=(2,)).expand([3])
    values = jnp.arange(6.0).reshape(3, 2)
    wanted = -jnp.sum(values**2, -1)
    np.testing.assert_allclose(wide.log_prob(values), wanted)
    np.testing.assert_allclose(wide.to_event(1).log_prob(values), jnp.sum(wanted))
    program = lambda: sample("x", wide.mask(jnp.array([True, False, True])))
    np.testing.assert_allclose(ppl.log_density(program, {"x": values}), wanted[0] + wanted[2])


def test_what_the_function_closes_over_may_be_a_module_or_a_choice():
    network = eqx.nn.MLP(2, "scalar", 4, 1, key=KEY)

    def energy(network, x):
        sample("x", Density(lambda x: -network(x), shape=(2,)))

    x = jnp.array([0.3, -0.2])
    found = eqx.filter_grad(lambda n: ppl.log_density(energy, {"x": x}, n, x))(network)
    wanted = eqx.filter_grad(lambda n: -n(x))(network)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)

    def hierarchical():
        scale = sample("scale", dist.Gamma(3.0, 2.0))
        sample("x", Density(lambda x: -scale * x**2), obs=0.5)

    log = ppl.log_density(hierarchical, {"scale": 1.5})
    np.testing.assert_allclose(log, dist.Gamma(3.0, 2.0).log_prob(1.5) - 0.375, rtol=1e-6)


def test_bounds_and_evidences_are_of_the_unnormalised_mass():
    """∫ exp(-x²/2 + m x) dx = sqrt(2 π) exp(m²/2)."""

    def tilted(m):
        sample("x", Density(lambda x: -0.5 * x**2 + m * x))

    def guide(m):
        sample("x", dist.Normal(0.5, 1.2))

    def bound(m):
        return elbo(lambda: tilted(m), lambda: guide(m), {})

    exact = lambda m: -0.5 * (0.25 + 1.44) + m * 0.5 + dist.Normal(0.0, 1.2).entropy()
    assert_unbiased(bound, 0.7, exact=exact, key=KEY, num_samples=50_000)

    def evidence(m):
        target = ppl.extend.Target(lambda: tilted(m), {})
        return jnp.exp(Importance(3, lambda _: guide(m)).log_evidence(target))

    mass = lambda m: jnp.sqrt(2 * jnp.pi) * jnp.exp(0.5 * m**2)
    assert_unbiased(evidence, 0.7, exact=mass, key=KEY, num_samples=50_000)


@pytest.mark.parametrize("kernel", [HMC(0.5, 3), RandomWalk(1.0)], ids=lambda k: type(k).__name__)
def test_kernels_move_it_within_its_support(kernel):
    """Of exp(-2 x) on x > 0: mean 1/2, square 1/2; from exact draws."""
    target = ppl.extend.Target(
        lambda: sample("x", Density(lambda x: -2.0 * x, support=constraints.positive)), {}
    )

    def moved(key):
        start, move = jax.random.split(key)
        x = dist.Exponential(2.0).sample(start)
        return ppl.seed(chain)(move, kernel, target, {"x": x}, 3)["x"][-1]

    x = jax.jit(jax.vmap(moved))(jax.random.split(KEY, 20_000))
    assert jnp.all(x > 0)
    for power in (1, 2):
        assert abs((x**power).mean() - 0.5) < 5 * (x**power).std() / 20_000**0.5


def test_integers():
    weights = jnp.array([0.2, 0.5, 0.3])
    table = Density(lambda k: jnp.log(weights)[k], support=constraints.integer_interval(0, 2))
    assert table.dtype == jnp.int32
    np.testing.assert_allclose(
        jnp.exp(ppl.log_density(lambda: sample("k", table), {"k": 1})), 0.5, rtol=1e-6
    )


def test_errors():
    with pytest.raises(ppl.errors.UndrawableSite, match=r"Site 'x' .* Density has no sampler"):
        ppl.seed(lambda: sample("x", quartic(1.0)))(KEY)
    with pytest.raises(TypeError, match="must be one real scalar"):
        Density(lambda x: -(x**2), shape=(2,))
    with pytest.raises(ppl.errors.ChoiceShapeError, match="'x'"):
        ppl.log_density(lambda: sample("x", quartic(1.0)), {"x": jnp.ones(3)})
    with pytest.raises(ppl.errors.UndrawableSite):
        target = ppl.extend.Target(lambda: sample("x", quartic(1.0)), {})
        ppl.seed(lambda: AIS(2, 2, RandomWalk(0.5)).log_evidence(target))(KEY)
