"""Weights of any sign, and zero, in every control flow and beside other sites."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpyro.distributions as dist
import pytest
from jax import lax

import ppl
from ppl import ScoreFunction, sample
from stdlib.estimators import Enumerate
from stdlib.testing import assert_estimator_law, assert_unbiased


class Thinned(ppl.extend.Estimator):
    """A score whose weight is one of two numbers of mean one, by a fair coin."""

    pair: tuple = eqx.field(static=True)

    def particles(self, key, distribution):
        first, second = jax.random.split(key)
        value = lax.stop_gradient(distribution.sample(first))
        heads = jax.random.bernoulli(second, 0.5, jnp.shape(value))
        factor = jnp.where(heads, self.pair[0], self.pair[1])
        return ppl.extend.Particles(
            value[None], (factor * ppl.extend.box(distribution.log_prob(value)))[None]
        )


SIGNED, ZERO = Thinned((2.5, -0.5)), Thinned((2.0, 0.0))
both = pytest.mark.parametrize("estimator", [SIGNED, ZERO], ids=["signed", "zero"])


def toss(p, estimator, name="x"):
    return 1.0 * sample(name, dist.Bernoulli(p), estimator)


def branched(p, e):
    taken = lax.cond(p > 0.1, lambda: 3.0 * toss(p, e), lambda: 0.0)
    return taken + lax.cond(toss(p, e) > 0, lambda: toss(p, e, "y"), lambda: 1.0)


def visits(p, e):
    def step(total, _):
        b = toss(p, e)
        return total + b, total * b

    total, products = lax.scan(step, 0.0, length=2)
    return total + jnp.sum(products)


def backwards(p, e):
    step = lambda total, _: (total + toss(p, e), total)
    total, before = lax.scan(step, 0.0, length=2, reverse=True)
    return total**2 + before[0]


def batched(p, e):
    b = toss(p * jnp.ones(2), e)
    return jnp.prod(b) + jnp.cumsum(b)[1] + jax.checkpoint(lambda q: toss(q, e))(p)


def beside(p, e):
    x = toss(p, e)
    y = toss(0.2 + 0.5 * x, Enumerate(), "y")
    return x * y + y * toss(p, ScoreFunction(), "z")


PROGRAMS = {
    branched: lambda p: 3 * p + p**2 + 1 - p,
    visits: lambda p: 2 * p + p**2,
    backwards: lambda p: 2 * p * (1 - p) + 4 * p**2 + p,
    batched: lambda p: p**2 + 3 * p,
    beside: lambda p: 0.7 * p + p * (0.2 + 0.5 * p),
}


@both
def test_the_law_holds(estimator):
    assert_estimator_law(estimator, dist.Bernoulli, 0.3, key=jax.random.key(0), num_samples=20_000)


@both
@pytest.mark.parametrize("program", PROGRAMS, ids=lambda f: f.__name__)
def test_weights_of_any_sign_in_programs(estimator, program):
    assert_unbiased(
        lambda p: program(p, estimator),
        0.3,
        exact=PROGRAMS[program],
        key=jax.random.key(1),
        num_samples=40_000,
    )


@both
def test_weights_of_any_sign_in_while_loops(estimator):
    def twice(p):
        body = lambda c: (c[0] + toss(p, estimator), c[1] + 1)
        return lax.while_loop(lambda c: c[1] < 2, body, (0.0, 0))[0]

    @jax.jit
    @jax.vmap
    def one(key):
        return jax.jvp(lambda p: ppl.expectation(twice)(key, p), (0.3,), (1.0,))

    values, slopes = one(jax.random.split(jax.random.key(2), 20_000))
    for found, wanted in ((values, 0.6), (slopes, 2.0)):
        error = found.std() / len(found) ** 0.5
        assert abs(found.mean() - wanted) < 5 * error, (found.mean(), wanted, error)
