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
from stdlib.testing import assert_unbiased
from tests.random_programs.invariant import watched

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


def kept(t):
    def body(c):
        return jnp.tanh(toss("k", jax.nn.sigmoid(c)))

    return lax.scan(lambda c, _: (jax.checkpoint(body)(c), None), t, length=2)[0]


def of_kept(t):
    first, high = jax.nn.sigmoid(t), jnp.tanh(1.0)
    return high * (first * jax.nn.sigmoid(high) + (1 - first) * 0.5)


def test_a_checkpoint_that_reads_the_step_before():
    found = jax.jit(jax.value_and_grad(ppl.expectation(kept), 1))(jax.random.key(0), T)
    np.testing.assert_allclose(found, jax.value_and_grad(of_kept)(T), rtol=1e-5)


def test_a_loop_and_a_branch_that_read_the_step_before():
    def objective(t):
        def step(c, _):
            x = lax.scan(lambda d, _: (0.5 * d + score("a", 0.2 + 0.5 * c), None), 0.0, length=2)[0]
            y = lax.cond(t > 0.1, lambda: score("d", 0.1 + 0.5 * c), lambda: c)
            return score("b", 0.2 + 0.3 * x), x + y

        c, made = lax.scan(step, t, length=2)
        return c + jnp.sum(made)

    def score(address, p):
        return 1.0 * sample(address, dist.Bernoulli(p))

    def exact(t):  # everything is linear
        x = 1.5 * (0.2 + 0.5 * t)
        b = 0.2 + 0.3 * x
        later = 1.5 * (0.2 + 0.5 * b)
        return 0.2 + 0.3 * later + x + 0.1 + 0.5 * t + later + 0.1 + 0.5 * b

    assert_unbiased(objective, T, exact=exact, key=jax.random.key(1), num_samples=50_000)


def test_a_value_that_reads_no_site_beside_one_that_does():
    def objective(t):
        ends = lax.fori_loop(0, 3, lambda i, c: (2.0 * c[0], 0.5 * c[1]), (t, toss("k", t)))
        return ends[0] + ends[1] + jnp.asarray(ends[0] > 0, float)

    with watched():
        found = ppl.expectation(objective)(jax.random.key(0), T)
    np.testing.assert_allclose(found, 8 * T + T / 8 + 1, rtol=1e-5)
