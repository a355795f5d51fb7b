"""Posterior marginals: a `normalize` program, by an exact algorithm, of part of its addresses."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

import ppl
from ppl import sample
from ppl.errors import PartialObservation
from stdlib.estimators import Enumerate
from stdlib.inference import SIR, Exact
from stdlib.objectives import elbo

WEIGHTS, MEANS = np.array([0.7, 0.3]), np.array([0.0, 2.0])
KEY = jax.random.key(0)
log_density = jax.jit(ppl.log_density, static_argnums=0)


def mixture(shift=0.0):
    a = sample("a", dist.Bernoulli(0.3))
    b = sample("b", dist.Normal(2.0 * a + shift, 1.0))
    sample("y", dist.Normal(b, 1.0))


def posterior(y=1.5, algorithm=None):
    return ppl.normalize(mixture, {"y": y}, algorithm or Exact())


def chances(y, shift=0.0):
    joint = np.log(WEIGHTS) + dist.Normal(MEANS + shift, 2**0.5).log_prob(y)
    return jax.nn.softmax(joint)


def density_of_b(b, y, shift=0.0):
    parts = dist.Normal((MEANS + shift + y) / 2, 0.5**0.5).log_prob(b)
    return jax.nn.logsumexp(jnp.log(chances(y, shift)) + parts)


def test_finite_and_gaussian_parts_and_their_slopes():
    only_a, only_b = (ppl.marginal(posterior(), keep, Exact()) for keep in "ab")
    found = [jnp.exp(log_density(only_a, {"a": a})) for a in (0, 1)]
    np.testing.assert_allclose(found, chances(1.5), rtol=1e-5)
    both = jax.jit(jax.value_and_grad(lambda s: log_density(only_b, {"b": 0.7}, s)))(0.1)
    right = jax.jit(jax.value_and_grad(lambda s: density_of_b(0.7, 1.5, s)))(0.1)
    np.testing.assert_allclose(both, right, rtol=1e-4)


def test_simulated_with_its_density_it_is_a_guide_without_a_gap():
    only_b = ppl.marginal(posterior(), "b", Exact())
    trace = jax.jit(ppl.seed(lambda: ppl.simulate(only_b)))(KEY)
    right = density_of_b(trace.choices["b"], 1.5)
    np.testing.assert_allclose(trace.log_density, right, rtol=1e-5)
    model = ppl.marginal(mixture, hide="a", algorithm=Exact())
    bound = jax.jit(ppl.expectation(lambda: elbo(model, only_b, {"y": 1.5})))(KEY)
    evidence = jax.nn.logsumexp(np.log(WEIGHTS) + dist.Normal(MEANS, 2**0.5).log_prob(1.5))
    np.testing.assert_allclose(bound, evidence, rtol=1e-5)


def test_known_in_part_it_is_the_rest_with_the_density_of_both():
    known = ppl.condition(posterior(), {"b": 0.7})
    whole = log_density(posterior(), {"a": 1, "b": 0.7})
    np.testing.assert_allclose(log_density(known, {"a": 1}), whole, rtol=1e-5)
    back = ppl.uncondition(ppl.condition(posterior(), {"a": 1, "b": 0.7}), "a")
    np.testing.assert_allclose(log_density(back, {"a": 1}), whole, rtol=1e-5)
    again = ppl.normalize(known, {}, Exact())
    by_b = jnp.log(chances(1.5)) + dist.Normal((MEANS + 1.5) / 2, 0.5**0.5).log_prob(0.7)
    right = jax.nn.log_softmax(by_b)[1]
    np.testing.assert_allclose(log_density(again, {"a": 1}), right, rtol=1e-5)
    scoped = ppl.marginal(ppl.scope(posterior(), "s"), "s/b", Exact())
    found = log_density(scoped, {"s": {"b": 0.7}})
    np.testing.assert_allclose(found, density_of_b(0.7, 1.5), rtol=1e-5)


@pytest.mark.parametrize("around", ["vmap", "scan"])
def test_in_lanes_and_in_a_loop(around):
    ys, bs = jnp.array([1.5, 0.2]), jnp.array([0.7, -1.0])

    def lanes():
        return jax.vmap(lambda y: posterior(y)())(ys)

    def loop():
        return jax.lax.scan(lambda carry, y: (carry, posterior(y)()), None, ys)[1]

    program = ppl.marginal(lanes if around == "vmap" else loop, "b", Exact())
    found = log_density(program, {"b": bs})
    np.testing.assert_allclose(found, sum(map(density_of_b, bs, ys)), rtol=1e-5)


def test_the_first_state_of_a_chain():
    stay, y = 0.8, jnp.array([0.3, 1.8, 2.2])

    def chain():
        def step(z, y):
            z = sample("z", dist.Bernoulli(jnp.where(z == 1, stay, 1.0 - stay)))
            sample("y", dist.Normal(2.0 * z, 1.0), obs=y)
            return z, None

        jax.lax.scan(step, sample("start", dist.Bernoulli(0.4)), y)

    start = ppl.marginal(ppl.normalize(chain, {}, Exact()), "start", Exact())
    likelihoods = np.exp(dist.Normal(MEANS, 1.0).log_prob(y[:, None]))
    steps = np.array([[stay, 1 - stay], [1 - stay, stay]]) * likelihoods[:, None, :]
    joint = np.array([0.6, 0.4]) * np.linalg.multi_dot(steps).sum(1)
    found = [jnp.exp(log_density(start, {"start": s})) for s in (0, 1)]
    np.testing.assert_allclose(found, joint / joint.sum(), rtol=1e-5)


def test_its_sites_are_estimated_like_others():
    """The score of a kept finite choice, summed over, is the slope of its mean."""

    def cost(shift):
        post = ppl.normalize(lambda: mixture(shift), {"y": 1.5}, Exact())
        return 1.0 * ppl.marginal(post, "a", Exact())()["a"]

    summed = ppl.expectation(ppl.with_estimators(cost, {"state": Enumerate()}))
    found = jax.jit(jax.value_and_grad(summed, argnums=1))(KEY, 0.1)
    right = jax.jit(jax.value_and_grad(lambda shift: chances(1.5, shift)[1]))(0.1)
    np.testing.assert_allclose(found, right, rtol=1e-4)


def test_what_is_not_known_exactly_is_refused_in_part():
    for program in (posterior(algorithm=SIR(3)), ppl.scale(posterior(), 2.0)):
        with pytest.raises(PartialObservation, match="exact algorithm"):
            log_density(ppl.marginal(program, "b", Exact()), {"b": 0.7})
