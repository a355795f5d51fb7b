"""What reads no batch has no particles, beside one in loops, branches and checkpoints."""

from functools import partial

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
import pytest
from jax import lax

import ppl
from ppl import Reparameterized, ScoreFunction, sample
from stdlib.estimators import Enumerate, LeaveOneOut, MeasureValued, StochasticTriple
from stdlib.testing import assert_unbiased
from tests.ppl.provenance import check_provenance

ESTIMATORS = [Enumerate(), LeaveOneOut(2), MeasureValued(), StochasticTriple(), ScoreFunction()]


def coins(p, estimator, n=2):
    return 1.0 * sample("b", dist.Bernoulli(p * jnp.ones(n)), estimator)


def scanned(p, b):
    step = lambda c, _: ((1.5 * c[0], c[1] + jnp.sum(b)), c[0])
    (x, total), before = lax.scan(step, (p * jnp.ones(2), 0.0), length=2)
    return jnp.sum(x) * total + jnp.sum(before)


def looped(p, b):
    step = lambda i, c: (c[0] + i * p, c[1] * jnp.sum(1.0 + b))
    x, total = lax.fori_loop(0, 2, step, (0.0, 1.0))
    return x * total


def mapped(p, b):
    plain, summed = lax.map(lambda y: (y * p, y + jnp.sum(b)), jnp.arange(3.0))
    return jnp.sum(plain * jnp.sum(summed)) + plain[1]


def checkpointed(p, b):
    plain, read = jax.checkpoint(lambda a, b: (a**2, jnp.sum(b) * a))(p, b)
    return plain + read * plain


def branched(p, b):
    plain, read = lax.cond(p > 0.1, lambda a, b: (a, a + jnp.sum(b)), lambda a, b: (a, a), p, b)
    return plain * jnp.sum(read) + plain


def nested(p, b):
    inner = jax.checkpoint(lambda c, b: (2.0 * c[0], c[1] + jnp.prod(1.0 + b)))
    x, total = lax.scan(lambda c, _: (inner(c, b), None), (p, 0.0), length=2)[0]
    return x * total + x


PLACES = [scanned, looped, mapped, checkpointed, branched, nested]


def one(place):
    """The objective, and its sum over both coins."""

    def objective(estimator, p):
        return place(p, coins(p, estimator))

    def exact(p):
        b = jnp.array([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
        chances = jnp.prod(jnp.where(b == 1, p, 1.0 - p), axis=1)
        return jnp.sum(chances * jax.vmap(lambda b: place(p, b))(b))

    return objective, exact


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=lambda e: type(e).__name__)
def test_values_beside_a_batch(estimator, monkeypatch):
    check_provenance(monkeypatch)
    pairs = [one(place) for place in PLACES]

    def together(p):
        return sum(objective(estimator, p) for objective, _ in pairs)

    exact = lambda p: sum(exact(p) for _, exact in pairs)
    assert_unbiased(together, 0.3, exact=exact, key=jax.random.key(1), num_samples=4_000)


def test_values_beside_two_batches(monkeypatch):
    check_provenance(monkeypatch)

    def both(p):
        b = coins(p, Enumerate())
        c = 1.0 * sample("c", dist.Bernoulli(p * jnp.ones(3)), StochasticTriple())
        read = lambda a, b, c: (a, jnp.sum(b), jnp.sum(jnp.sin(c)), a * jnp.sum(b) * jnp.sum(c))
        x, y, z, w = jax.checkpoint(read)(p, b, c)
        step = lambda s, _: ((s[0] * x, s[1] + y, s[2] + z, s[3] + w), None)
        x, y, z, w = lax.scan(step, (1.0, 0.0, 0.0, 0.0), length=2)[0]
        return x * (1.0 + y) + z + w

    exact = lambda p: p**2 * (1.0 + 4 * p) + 6 * p * jnp.sin(1.0) + 12 * p**3
    assert_unbiased(both, 0.3, exact=exact, key=jax.random.key(2), num_samples=4_000)


def test_a_sampler_with_a_loop_of_its_own(monkeypatch):
    check_provenance(monkeypatch)

    def counted(p):
        b = coins(p, Enumerate())
        n = sample("n", dist.Poisson(1.0 + b), ScoreFunction())
        x = sample("x", dist.Gamma(2.0 + b, 1.0), Reparameterized())
        return jnp.sum(1.0 * n + x) + p

    exact = lambda p: 2 * (1.0 + p) + 2 * (2.0 + p) + p
    assert_unbiased(counted, 0.3, exact=exact, key=jax.random.key(3), num_samples=4_000)


@pytest.mark.parametrize("place", PLACES, ids=lambda p: p.__name__)
def test_the_estimate_of_a_scalar_is_one(place):
    estimate = ppl.expectation(partial(one(place)[0], Enumerate()))
    assert jax.eval_shape(estimate, jax.random.key(0), 0.3).shape == ()
