"""Sites that are only scored: any object with a `log_prob` will do.

They are observed, conditioned, scored at choices, or moved by a kernel; nothing draws them.
"""

from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from jax import lax

import ppl
from ppl import sample
from ppl.errors import ChoiceShapeError, InvalidDistribution, UndrawableSite
from stdlib.estimators import Enumerate
from stdlib.inference import HMC, Importance, chain
from stdlib.objectives import elbo
from stdlib.testing import assert_unbiased

KEY = jax.random.key(0)
REAL = dist.constraints.real


class Quartic(dist.Distribution):
    """Unnormalised, in NumPyro's way, without a sampler: -width·x⁴."""

    support = REAL
    pytree_data_fields = ("width",)

    def __init__(self, width=1.0, shape=()):
        self.width = jnp.broadcast_to(width, shape)
        super().__init__(shape, ())

    def log_prob(self, value):
        return -self.width * value**4


class Bare(eqx.Module):
    """Nothing but a density."""

    slope: jax.Array | float = 2.0

    def log_prob(self, value):
        return self.slope * jnp.sum(value)


class Counts(eqx.Module):
    """States its shape and dtype; a density of integers."""

    rate: jax.Array
    shape = (3,)
    dtype = jnp.int32

    def log_prob(self, value):
        return dist.Poisson(self.rate).log_prob(value)


class Table(eqx.Module):
    """A finite support with weights, and no sampler."""

    logits: jax.Array
    batch_shape = event_shape = ()
    dtype = jnp.int32
    has_enumerate_support = True

    def log_prob(self, value):
        return jax.nn.log_softmax(self.logits)[value]

    def enumerate_support(self, expand=True):
        return jnp.arange(3)


CASES = {
    "numpyro": (Quartic(2.0), 1.5, -2.0 * 1.5**4),
    "a batch": (Quartic(jnp.array([1.0, 3.0]), (2,)), jnp.array([1.0, -2.0]), -49.0),
    "bare": (Bare(), 1.5, 3.0),
    "integers": (Counts(jnp.full(3, 2.0)), np.array([0, 1, 4]), 5 * np.log(2) - 6 - np.log(24)),
    "improper": (dist.ImproperUniform(REAL, (), (2,)), jnp.ones(2), 0.0),
    "improper positive": (dist.ImproperUniform(dist.constraints.positive, (2,), ()), jnp.ones(2),
                          0.0),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_the_density_without_a_sampler(name):
    distribution, value, expected = CASES[name]
    program = lambda: sample("x", distribution)
    given = [
        ppl.log_density(program, {"x": value}),
        ppl.log_density(lambda: sample("x", distribution, obs=value), {}),
        ppl.log_density(ppl.condition(program, {"x": value}), {}),
        ppl.seed(lambda: ppl.simulate(ppl.condition(program, {"x": value})))(KEY).log_likelihood,
    ]
    np.testing.assert_allclose(given, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(ppl.seed(ppl.intervene(program, {"x": value}))(KEY), value)
    assert ppl.log_density(ppl.mask(program, False), {"x": value}) == 0.0
    with pytest.raises(UndrawableSite, match=r"'x'.*test_scored_sites"):
        ppl.seed(program)(KEY)


def test_in_vmap_scan_and_cond():
    widths, at = jnp.array([1.0, 2.0, 0.5]), jnp.array([0.5, -1.0, 2.0])
    lanes = lambda: jax.vmap(lambda w: sample("x", Quartic(w)))(widths)
    steps = lambda: lax.scan(lambda c, w: (c, sample("x", Quartic(w))), 0.0, widths)
    either = lambda: jax.vmap(
        lambda w: lax.cond(w < 1.0, lambda: sample("x", Quartic(w)), lambda: 0.0)
    )(widths)
    exact = -np.array(widths) * np.array(at) ** 4
    for program, expected in ((lanes, exact.sum()), (steps, exact.sum()), (either, exact[2])):
        score = lambda x, program=program: ppl.log_density(program, {"x": x})
        np.testing.assert_allclose(score(at), expected, rtol=1e-5)
        slope = jax.grad(score)(at)
        np.testing.assert_allclose(slope[2], -4 * 0.5 * 2.0**3, rtol=1e-5)
        assert slope.shape == (3,)


def test_the_shape_of_data_where_none_is_stated():
    data = jnp.array([[1.0, 2.0], [3.0, 4.0]])
    program = lambda slope: sample("y", Bare(slope), obs=data)
    assert ppl.log_density(program, {}, 0.5) == 5.0
    assert jax.grad(lambda s: ppl.log_density(program, {}, s))(0.5) == 10.0
    with pytest.raises(ChoiceShapeError, match="'y'"):
        ppl.log_density(lambda: sample("y", Bare()), {"y": data})


def test_targets_of_kernels():
    """x ~ exp(-x⁴): E x² = Γ(3/4)/Γ(1/4)."""
    target = ppl.extend.Target(lambda: sample("x", Quartic()), {})
    draws = jax.jit(lambda k: ppl.seed(chain)(k, HMC(0.4, 6), target, {"x": 0.3}, 6000))(KEY)["x"]
    means = jnp.mean(jnp.square(draws).reshape(30, -1), 1)
    assert abs(means.mean() - 0.337989) < 5 * means.std() / np.sqrt(29)


def test_models_with_a_factor_beside_guides_and_proposals():
    """N(0, 1) times exp(2x): of evidence e², posterior N(2, 1)."""

    def model():
        sample("tilt", Bare(), obs=sample("x", dist.Normal(0.0, 1.0)))

    def improper():
        x = sample("x", dist.ImproperUniform(REAL, (), ()))
        sample("y", dist.Normal(x, 1.0), obs=2.0)

    guide = lambda m: sample("x", dist.Normal(m, 1.0))
    for program, best in ((model, 2.0), (improper, 0.0)):
        assert_unbiased(
            lambda m, program=program: elbo(program, lambda: guide(m), {}),
            1.2,
            exact=lambda m, best=best: best - 0.5 * (m - 2.0) ** 2,
            key=KEY,
            num_samples=20_000,
        )
        target = ppl.extend.Target(program, {})
        algorithm = Importance(1, proposal=lambda _: guide(2.0))
        value = ppl.expectation(partial(algorithm.log_evidence, target))(KEY)
        np.testing.assert_allclose(value, best, atol=1e-4)


def test_a_support_that_is_summed_needs_no_sampler():
    logits = jnp.array([0.3, -0.2, 1.0])
    square = lambda t: (1.0 * sample("k", Table(t), Enumerate())) ** 2
    value, slope = jax.value_and_grad(ppl.expectation(square), 1)(KEY, logits)
    exact = lambda t: jax.nn.softmax(t) @ jnp.arange(3.0) ** 2
    np.testing.assert_allclose(value, exact(logits), rtol=1e-5)
    np.testing.assert_allclose(slope, jax.jit(jax.grad(exact))(logits), rtol=1e-5, atol=1e-6)
    with pytest.raises(UndrawableSite, match="'k'"):
        ppl.expectation(lambda t: 1.0 * sample("k", Table(t)))(KEY, logits)


def test_what_has_no_density_is_no_distribution():
    with pytest.raises(InvalidDistribution, match="log_prob"):
        ppl.log_density(lambda: sample("x", jnp.zeros(3), obs=0.0), {})
