"""What a loop ends with, where its steps do not read each other, against closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from jax import lax

import ppl
from ppl import sample
from stdlib.estimators import Enumerate

T = 0.3


def toss(address, t):
    return 1.0 * sample(address, dist.Bernoulli(t), Enumerate())


def last(t, start=0.5, **settings):
    step = lambda c, _: (0.5 * toss("k", t), None)
    return lax.scan(step, start, length=3, **settings)[0]


def counted(t):
    return lax.fori_loop(0, 2, lambda i, c: 0.5 * toss("k", t), 0.5)


def once(t):
    return lax.fori_loop(0, 1, lambda i, c: 0.5 * toss("k", t), 0.5)


def beside_all(t):
    c, all_of_them = lax.scan(lambda c, _: (toss("k", t),) * 2, 0.5, length=3)
    return c * all_of_them[-1] + jnp.sum(all_of_them) * c


def of_a_batch(t):
    step = lambda c, _: (toss("k", jnp.stack([t, t])), None)
    return jnp.prod(lax.scan(step, jnp.zeros(2), length=3)[0])


def of_two_sites(t):
    def step(c, _):
        return (0.5 * toss("k", t), c[0] * toss("j", t)), None

    return sum(lax.scan(step, (0.5, 0.0), length=3)[0])


def then_another(t):
    a = last(t)
    return a * lax.scan(lambda c, _: (c * toss("m", t), None), a, length=2)[0]


def in_a_loop(t):
    a, all_of_them = lax.scan(lambda c, _: (last(t, c),) * 2, 0.5, length=2)
    return a + jnp.sum(all_of_them)


def scored(t):
    q = ppl.simulate(lambda: lax.scan(lambda c, _: (toss("k", t), None), 0.5, length=2)[0])
    return q.value * q.log_density


def density_alone(t):
    step = lambda c, _: (ppl.simulate(lambda: toss("k", t)).log_density, None)
    return lax.scan(step, 0.5, length=2)[0]


def entropy(t):
    return t * jnp.log(t) + (1 - t) * jnp.log(1 - t)


EXACT = {
    last: lambda t: t / 2,
    counted: lambda t: t / 2,
    once: lambda t: t / 2,
    beside_all: lambda t: t + t + 2 * t**2,
    of_a_batch: lambda t: t**2,
    of_two_sites: lambda t: t / 2 + t**2 / 2,
    then_another: lambda t: t / 4 * t**2,
    in_a_loop: lambda t: 3 * t / 2,
    scored: lambda t: t * jnp.log(t) + t * entropy(t),
    density_alone: entropy,
}


@pytest.mark.parametrize("program", EXACT)
def test_value_and_gradient(program):
    found = jax.jit(jax.value_and_grad(ppl.expectation(program), 1))(jax.random.key(0), T)
    np.testing.assert_allclose(found, jax.value_and_grad(EXACT[program])(T), rtol=1e-5)


def test_backwards():
    found = ppl.expectation(lambda t: last(t, reverse=True))(jax.random.key(0), T)
    np.testing.assert_allclose(found, T / 2, rtol=1e-5)


def test_the_logarithm_of_an_expectation():
    found = ppl.log_expectation(lambda t: last(t))(T)
    np.testing.assert_allclose(found, jnp.log(1 - T + T * jnp.exp(0.5)), rtol=1e-5)
