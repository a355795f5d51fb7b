"""Sums over all the joint states of a program's enumerated choices."""

import itertools
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist

import ppl
from ppl import sample
from ppl._expectation.elimination.semiring import LOGS, MAX
from ppl._expectation.expectation import sum_exactly
from stdlib.estimators import Enumerate

KEY = jax.random.key(0)


def state(address: str, probs: Any) -> Any:
    """An enumerated choice."""
    return sample(address, dist.Categorical(probs), Enumerate())


def table(t: Any, k: int = 3) -> jax.Array:
    """Rows of chances of k states, `(k, k)`."""
    return jax.nn.softmax(jnp.sin(t * (1.0 + jnp.arange(k * k).reshape(k, k))))


def all_choices(program: Callable, t: Any, counts: Mapping[str, int]) -> dict[str, np.ndarray]:
    """All the joint states of a program's choices, in arrays `(states, *shape)`.

    `counts` says how many each has, where they are not three.
    """
    run = ppl.seed(lambda: ppl.simulate(program, t).choices)
    shapes = jax.eval_shape(run, KEY)
    each = [np.full(x.shape, counts.get(name, 3)) for name, x in shapes.items()]
    digits = itertools.product(*map(range, np.concatenate(list(map(np.ravel, each)))))
    rows, choices = np.array(list(digits)), {}
    for name, shape in shapes.items():
        columns, rows = rows[:, : shape.size], rows[:, shape.size :]
        choices[name] = columns.reshape(-1, *shape.shape)
    return choices


def cost_and_weight(program: Callable, t: Any, choices: Any) -> tuple[Any, Any]:
    """What a program returns at some choices, and the log of their probability."""
    trace = ppl.seed(lambda: ppl.simulate(ppl.condition(program, choices), t))(KEY)
    return trace.value, trace.log_likelihood


def by_states(program: Callable, t: Any, counts: Mapping[str, int]) -> Callable:
    """The mean, the log of the mean of exponentials and the maximum, by a sum over all states."""
    choices = all_choices(program, t, counts)

    def totals(t):
        costs, logs = jax.vmap(lambda choices: cost_and_weight(program, t, choices))(choices)
        mean = jnp.sum(jnp.exp(logs) * costs)
        return jnp.stack([mean, jax.nn.logsumexp(logs + costs), jnp.max(logs + costs)])

    return totals


def by_elimination(program: Callable) -> Callable:
    """The same by the three semirings."""

    def totals(t):
        mean = ppl.expectation(program)(KEY, t)
        return jnp.stack([mean, *(sum_exactly(program, ring)(t) for ring in (LOGS, MAX))])

    return totals


def check_sums(program: Callable, t: float, counts: Mapping[str, int]) -> None:
    """Asserts that elimination gives the sums over all states, and their derivatives in t."""
    found, wanted = (
        jax.jit(partial(jax.jvp, totals))((t,), (1.0,))
        for totals in (by_elimination(program), by_states(program, t, counts))
    )
    np.testing.assert_allclose(found, wanted, rtol=2e-5, atol=2e-5)
