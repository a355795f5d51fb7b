"""A branch of one particle reads a batch that has several, element by element or mixed."""

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
import pytest
from jax import lax

import ppl
from ppl import sample
from stdlib.estimators import Enumerate, LeaveOneOut
from stdlib.testing import assert_unbiased


def coin(address, p, estimator=None):
    return 1.0 * sample(address, dist.Bernoulli(p), estimator)


def batch(p, estimator):
    return coin("b", jnp.stack([p, p]), estimator)


def lanes(p, estimator):
    return jax.vmap(lambda q: coin("b", q, estimator))(jnp.stack([p, p]))


def steps(p, estimator):
    return lax.scan(lambda c, _: (c, coin("b", p, estimator)), 0.0, length=2)[1]


def product(p, b):
    return lax.cond(p > 0.1, lambda: coin("s", p) * b[0] * b[1], lambda: 0.0)


def square_of_sum(p, b):
    return jnp.sum(lax.cond(p > 0.1, lambda: coin("s", p) * b, lambda: b)) ** 2.0


def reversed_beside(p, b):
    one, other = lax.cond(p > 0.1, lambda: (coin("s", p) * b, b[::-1]), lambda: (b, b))
    return jnp.sum(one * other)


def a_value_that_reads_none(p, b):
    one, other = lax.cond(p > 0.1, lambda: (coin("s", p), b), lambda: (0.0, b))
    return one * jnp.sum(other)


def in_a_loop(p, b):
    def step(c, _):
        return c, lax.cond(p > 0.1, lambda: coin("s", p) * b[::-1], lambda: b) * b

    return jnp.sum(lax.scan(step, 0.0, length=2)[1])


def below_it(p, b):
    s = lax.cond(p > 0.1, lambda: coin("s", p) * b[0], lambda: 0.0)
    return coin("t", 0.2 + 0.5 * s) * b[1]


EXACT = {
    product: lambda p: p**3,
    square_of_sum: lambda p: p * (2 * p * (1 - p) + 4 * p**2),
    reversed_beside: lambda p: 2 * p**3,
    a_value_that_reads_none: lambda p: 2 * p**2,
    in_a_loop: lambda p: 4 * p**3,
    below_it: lambda p: p * (0.2 + 0.5 * p**2),
}


@pytest.mark.parametrize("program", EXACT)
def test_value_and_gradient(program):
    """Of a batch, of lanes and of steps, in one objective."""
    drawn = [(batch, Enumerate()), (lanes, LeaveOneOut(2)), (steps, Enumerate())]

    def objective(p):
        return sum(
            ppl.scope(lambda p, made=made, by=by: program(p, made(p, by)), made.__name__)(p)
            for made, by in drawn
        )

    exact = lambda p: len(drawn) * EXACT[program](p)
    assert_unbiased(objective, 0.4, exact=exact, key=jax.random.key(3), num_samples=20_000)
