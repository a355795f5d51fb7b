"""A chain whose steps read those of sites outside of its loop: the sum over all joint states."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from jax import lax

import ppl
from ppl import errors, sample
from stdlib.estimators import Enumerate

KEY = jax.random.key(2)
STEPS = 3
FIRST = jnp.array([0.3, 0.8])  # chances of z, given the z before
SECOND = jnp.array([[0.55, 0.72], [0.6, 0.15]])  # of w, given z and the w before
COSTS = jnp.array([0.3, -0.9, 1.4])


def coin(name, chance):
    return sample(name, dist.Bernoulli(chance), Enumerate())


def stepping(z, _):
    z = coin("z", FIRST[z])
    return z, z


SOURCES = {
    "batch": lambda: coin("z", jnp.full(STEPS, FIRST[0])),
    "lanes": lambda: jax.vmap(lambda p: coin("z", p))(jnp.full(STEPS, FIRST[0])),
    "steps": lambda: lax.scan(lambda c, _: (c, coin("z", FIRST[0])), 0, None, STEPS)[1],
    "chain": lambda: lax.scan(stepping, 0, None, STEPS)[1],
}


def second(z):
    def step(w, z):
        w = coin("w", SECOND[z, w])
        return w, w

    return lax.scan(step, 0, z)[1]


def summed(source, cost):
    """Σ over the paths of z and w."""
    total = 0.0
    for zs, ws in itertools.product(itertools.product((0, 1), repeat=STEPS), repeat=2):
        chance, z, w = 1.0, 0, 0
        for new, other in zip(zs, ws, strict=True):
            p, q = FIRST[z if source == "chain" else 0], SECOND[new, w]
            chance *= (p if new else 1.0 - p) * (q if other else 1.0 - q)
            z, w = new, other
        total += chance * cost(np.array(zs), np.array(ws))
    return total


@pytest.mark.parametrize("source", SOURCES)
def test_a_chain_over_the_particles_of_other_sites(source):
    total = lambda: jnp.sum(COSTS * second(SOURCES[source]()))
    exact = summed(source, lambda z, w: w @ np.asarray(COSTS))
    np.testing.assert_allclose(jax.jit(ppl.expectation(total))(KEY), exact, rtol=1e-5)
    logs = jnp.log(summed(source, lambda z, w: np.exp(w @ np.asarray(COSTS))))
    np.testing.assert_allclose(jax.jit(ppl.log_expectation(total))(), logs, rtol=1e-5)


def test_factors_of_two_chains_that_do_not_read_each_other():
    def total():
        w = lax.scan(lambda w, _: (coin("w", SECOND[0, w]),) * 2, 0, None, STEPS)[1]
        return jnp.sum(COSTS * (SOURCES["chain"]() == w))

    exact = 0.0
    for zs, ws in itertools.product(itertools.product((0, 1), repeat=STEPS), repeat=2):
        p = FIRST[jnp.array([0, *zs[:-1]])], SECOND[0, jnp.array([0, *ws[:-1]])]
        chances = [
            jnp.where(jnp.array(x) == 1, p, 1.0 - p) for x, p in zip((zs, ws), p, strict=True)
        ]
        exact += jnp.prod(jnp.stack(chances)) * jnp.exp(COSTS @ (np.array(zs) == np.array(ws)))
    np.testing.assert_allclose(jax.jit(ppl.log_expectation(total))(), jnp.log(exact), rtol=1e-5)


@pytest.mark.parametrize("source", SOURCES)
def test_a_cost_of_a_chain_and_of_what_it_reads(source):
    """Step by step, as of inputs and the states that they lead to."""

    def total():
        z = SOURCES[source]()
        return jnp.sum(COSTS * z * second(z)) + jnp.sum(z)

    exact = summed(source, lambda z, w: (z * w) @ np.asarray(COSTS) + z.sum())
    np.testing.assert_allclose(jax.jit(ppl.expectation(total))(KEY), exact, rtol=1e-5)


def test_lanes_of_chains_that_all_read_one():
    """Loops are found to mix one after the other: the readers first, then what they read."""

    def total():
        zs = lax.scan(stepping, 0, None, 2)[1]
        ws = jax.vmap(lambda _: second(zs))(jnp.arange(2))
        return jnp.sum(jnp.cos(jnp.sum(ws, 0) - 1.0 * zs))

    exact = 0.0
    for zs, *ws in itertools.product(itertools.product((0, 1), repeat=2), repeat=3):
        chance, z = 1.0, 0
        for new in zs:
            chance, z = chance * (FIRST[z] if new else 1.0 - FIRST[z]), new
        for path in ws:
            w = 0
            for at, new in zip(zs, path, strict=True):
                chance, w = chance * (SECOND[at, w] if new else 1.0 - SECOND[at, w]), new
        exact += chance * np.sum(np.cos(np.sum(ws, 0) - np.array(zs)))
    np.testing.assert_allclose(jax.jit(ppl.expectation(total))(KEY), exact, rtol=1e-5)


def test_such_chains_of_many_steps_are_refused():
    def total():
        zs = lax.scan(stepping, 0, None, 100)[1]
        return jnp.sum(1.0 * second(zs))

    with pytest.raises(errors.TooManyJointStates, match=r"'[wz]' at .* 100 scan steps"):
        ppl.expectation(total)(KEY)
