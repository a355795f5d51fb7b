"""Impossible states and transitions: one-sided derivatives of what is summed in logarithms."""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from jax import lax

import ppl
from ppl import sample
from ppl.extend import Target
from stdlib.estimators import Enumerate
from stdlib.inference import Exact

Y = jnp.array([0.3, 1.2, -0.5, 2.0])
PROBS = jnp.array([[0.5, 0.5, 0.0], [0.0, 0.3, 0.7], [0.2, 0.0, 0.8]])


def scanned(kind, table):
    def step(z, y):
        z = sample("z", dist.Categorical(**{kind: table[z]}))
        sample("y", dist.Normal(1.0 * z, 1.0), obs=y)
        return z, None

    lax.scan(step, 0, Y)


def written(kind, table):
    z = 0
    for t, y in enumerate(Y):
        z = sample(f"z{t}", dist.Categorical(**{kind: table[z]}))
        sample(f"y{t}", dist.Normal(1.0 * z, 1.0), obs=y)


def evidence(program, *args):
    return Exact().log_evidence(Target(partial(program, *args), {}))


def by_paths(table):
    """The sum over all paths, of products of numbers."""
    paths = jnp.array(list(itertools.product(range(3), repeat=len(Y))))
    before = jnp.concatenate([jnp.zeros((len(paths), 1), int), paths[:, :-1]], 1)
    likelihood = jnp.exp(jnp.sum(dist.Normal(1.0 * paths, 1.0).log_prob(Y), 1))
    return jnp.log(jnp.sum(jnp.prod(table[before, paths], 1) * likelihood))


def normalized(kind, table):
    return table / jnp.sum(table, 1, keepdims=True) if kind == "probs" else jax.nn.softmax(table)


@pytest.mark.parametrize("kind", ["probs", "logits"])
@pytest.mark.parametrize("program", [scanned, written])
def test_evidence_at_impossible_transitions(program, kind):
    """A state cannot be reached at first, and can from others; each has such a transition."""
    table = PROBS if kind == "probs" else jnp.log(PROBS)
    found = jax.jit(jax.value_and_grad(partial(evidence, program, kind)))(table)
    wanted = jax.value_and_grad(lambda table: by_paths(normalized(kind, table)))(table)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5), found, wanted)


def two_coins(p):
    a = sample("a", dist.Bernoulli(p[0]))
    b = sample("b", dist.Bernoulli(p[1] * a + p[2] * (1 - a)))
    sample("c", dist.Bernoulli(jnp.where(a + b >= 1, p[3], 0.0)), obs=1)


def of_two_coins(p):
    neither = (1 - p[0]) * (1 - p[2])
    return jnp.log((1 - neither) * p[3])


CERTAIN = [[0.0, 0.3, 0.4, 0.5], [1.0, 0.0, 0.4, 0.5], [0.2, 1.0, 0.0, 1.0], [1.0, 1.0, 0.0, 0.2]]


@pytest.mark.parametrize("p", CERTAIN, ids=str)
def test_evidence_of_certain_coins_and_of_dead_ends(p):
    found = jax.value_and_grad(partial(evidence, two_coins))(jnp.array(p))
    wanted = jax.value_and_grad(of_two_coins)(jnp.array(p))
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), found, wanted)


def test_evidence_of_what_cannot_be():
    """It is -inf, and its derivative zero."""
    found = jax.value_and_grad(partial(evidence, two_coins))(jnp.array([0.0, 0.3, 0.0, 0.5]))
    assert found[0] == -jnp.inf and found[1].tolist() == [0.0] * 4


def test_lanes_around_evidence_stay_apart():
    """Each of 20 coins has evidence of its own beside it: 20·2 of them, not 2²⁰."""
    probs = jnp.linspace(0.1, 0.9, 20).at[0].set(0.0)

    def hidden(p, coin):
        z = sample("z", dist.Bernoulli(p))
        sample("y", dist.Normal(1.0 * z + coin, 1.0), obs=0.5)

    def program(probs):
        coins = sample("coin", dist.Bernoulli(jnp.full(20, 0.3)), Enumerate())
        return jnp.sum(jax.vmap(partial(evidence, hidden))(probs, 1.0 * coins))

    def exact(probs):
        at = lambda z, c: jnp.exp(dist.Normal(1.0 * z + c, 1.0).log_prob(0.5))
        log = lambda c: jnp.log((1 - probs) * at(0, c) + probs * at(1, c))
        return jnp.sum(0.7 * log(0.0) + 0.3 * log(1.0))

    estimate = lambda probs: ppl.expectation(program)(jax.random.key(0), probs)
    found, wanted = jax.value_and_grad(estimate)(probs), jax.value_and_grad(exact)(probs)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5), found, wanted)
