"""Estimators and probabilities that are zero, one, or not normalised."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

import ppl
from ppl import ScoreFunction, sample
from stdlib.distributions import FloatBernoulli, OneHotCategorical
from stdlib.estimators import (
    Enumerate,
    LeaveOneOut,
    MeasureValued,
    StochasticTriple,
    WithoutReplacement,
)


def estimates(f, t, count):
    """Mean and standard error of value and derivative."""
    one = jax.value_and_grad(ppl.expectation(f), argnums=1)
    run = jax.jit(jax.vmap(one, (0, None)))
    found = jnp.stack(run(jax.random.split(jax.random.key(1), count), jnp.float32(t)))
    return np.mean(found, 1), np.std(found, 1) / np.sqrt(count)


def agree(f, t, right, count=4000):
    mean, error = estimates(f, t, count)
    assert np.all(np.abs(mean - np.array(right)) <= 5 * error + 1e-4), (mean, error, right)


AT_ENDS = [Enumerate(), MeasureValued(), StochasticTriple()]
EVERYWHERE = [*AT_ENDS, ScoreFunction(), LeaveOneOut(2), WithoutReplacement(2)]


def weights(t):
    return jnp.stack([t, 1.0, 0.2])


@pytest.mark.parametrize("estimator", EVERYWHERE, ids=lambda e: type(e).__name__)
def test_unnormalised(estimator):
    def cost(t):
        lanes = jax.vmap(lambda s: sample("k", dist.Categorical(weights(s)), estimator))
        return jnp.sum(1.0 * lanes(t * jnp.ones(2)))

    agree(cost, 0.3, (2 * 1.4 / 1.5, -2 * 1.4 / 1.5**2))


@pytest.mark.parametrize("estimator", AT_ENDS, ids=lambda e: type(e).__name__)
@pytest.mark.parametrize("end", [0.0, 1.0])
def test_ends(estimator, end):
    """E[2x + 1] and E[x²] of binary and binomial variables, and of a class without weight."""

    def costs(t):
        x = sample("x", dist.Bernoulli(t).expand([2]), estimator)
        y = sample("y", dist.Binomial(3, t), estimator)
        k = sample("k", dist.Categorical(jnp.stack([t, 1.0 - t, 0.0 * t + 1.0])), estimator)
        return jnp.sum(2.0 * x + 1.0) + 1.0 * y**2 + 1.0 * k

    value = 2 * (2 * end + 1) + 3 * end * (1 - end) + 9 * end**2 + (1 - end + 2) / 2
    agree(costs, end, (value, 4 + 3 - 6 * end + 18 * end - 0.5), 400)


@pytest.mark.parametrize("estimator", AT_ENDS, ids=lambda e: type(e).__name__)
def test_infinite_where_the_probability_is_zero(estimator):
    """A value of probability zero at which the cost is infinite, beside others, in a loop too."""

    def costs(t):
        never = sample("x", dist.Bernoulli(0.0 * t * jnp.ones(2)), estimator)
        y = sample("y", dist.Bernoulli(t), estimator)
        step = lambda c, _: (c, jnp.log(1.0 - sample("z", dist.Bernoulli(0.0 * t), estimator)))
        steps = jax.lax.scan(step, 0.0, length=2)[1]
        return t + jnp.sum(jnp.log(1.0 - never)) + jnp.sum(steps) + 2.0 * y

    agree(costs, 0.3, (0.9, 3.0))


@pytest.mark.parametrize("end", [0.0, 1.0])
def test_second_derivatives_at_ends(end):
    square = lambda t: 1.0 * sample("x", dist.Binomial(3, t), Enumerate()) ** 2
    second = jax.grad(jax.grad(ppl.expectation(square), argnums=1), argnums=1)
    np.testing.assert_allclose(second(jax.random.key(0), end), 12.0, rtol=1e-5)


def test_ends_of_float_families():
    def costs(t):
        x = sample("x", FloatBernoulli(t), Enumerate())
        y = sample("y", OneHotCategorical(jnp.stack([t, 2.0])), Enumerate())
        return 3.0 * x + y[0]

    found = jax.value_and_grad(ppl.expectation(costs), argnums=1)(jax.random.key(0), 0.0)
    np.testing.assert_allclose(found, (0.0, 3.5), atol=1e-6)


def test_zero_inflated():
    def cost(t):
        inflated = dist.ZeroInflatedDistribution(dist.Binomial(2, 0.5), gate=t)
        return 1.0 * sample("x", inflated, Enumerate())

    for gate in (0.0, 0.3, 1.0):
        found = jax.value_and_grad(ppl.expectation(cost), argnums=1)(jax.random.key(0), gate)
        np.testing.assert_allclose(found, (1 - gate, -1.0), rtol=1e-5)
