"""Perturbed sites in a `lax.scan`: a walk of coins, each step of which is run again turned over.

`MeasureValued` and `StochasticTriple` beside the same by hand: T copies of the loop, side by side,
in each of which one step's coin lies the other way, of the same noise.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jax import lax

import ppl
from benchmarks.measure import compare_gradients, table
from ppl import sample
from stdlib.estimators import MeasureValued, StochasticTriple

LENGTHS = (20, 64, 200, 1000)


def cost(position: jax.Array, coin: jax.Array) -> jax.Array:
    """What a step costs, where it comes from and where it goes."""
    return jnp.cos(position + coin)


def walk(logits: jax.Array, estimator: Any) -> jax.Array:
    """A walk whose coins lean back to where it came from."""

    def step(position, logit):
        coin = 1.0 * sample("z", dist.Bernoulli(logits=logit - position), estimator)
        return 0.9 * position + coin, cost(position, coin)

    end, costs = lax.scan(step, 0.0, logits)
    return end**2 + jnp.sum(costs)


def handwritten(key: Any, logits: jax.Array) -> jax.Array:
    """The draw's cost, and the differences that steps make times their probabilities."""
    steps = jnp.arange(len(logits))
    noise = jax.random.uniform(key, logits.shape)

    def run(logits, turned):
        def step(position, at):
            logit, u, number = at
            prob = jax.nn.sigmoid(logit - position)
            coin = (u < prob) * 1.0
            coin = jnp.where(number == turned, 1.0 - coin, coin)
            return 0.9 * position + coin, (cost(position, coin), prob, coin)

        end, (costs, probs, coins) = lax.scan(step, 0.0, (logits, noise, steps))
        return end**2 + jnp.sum(costs), probs, coins

    here, probs, coins = run(logits, -1)
    there = lax.stop_gradient(jax.vmap(run, (None, 0))(lax.stop_gradient(logits), steps)[0])
    change = (there - lax.stop_gradient(here)) * (1.0 - 2.0 * coins)
    return here + jnp.sum(change * (probs - lax.stop_gradient(probs)))


def ours(estimator: Any) -> Callable:
    """The walk's expected cost, by an estimator."""
    return ppl.expectation(lambda logits: walk(logits, estimator))


def main(lengths: tuple[int, ...] = LENGTHS) -> list[str]:
    """Tables for growing lengths."""
    functions = {
        "hand-written": handwritten,
        "`MeasureValued`": ours(MeasureValued()),
        "`StochasticTriple`": ours(StochasticTriple()),
    }
    tables = []
    for length in lengths:
        args = jax.random.key(0), jax.random.normal(jax.random.key(1), (length,))
        rows = compare_gradients(functions, args, "hand-written")
        tables.append(table(f"Perturbed steps of a `scan`, T = {length}", rows))
    return tables
