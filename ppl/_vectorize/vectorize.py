"""Running a long jaxpr with its equations that are alike together."""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import jax

from .._jax.run import run
from .alike import classes
from .nodes import Flat, Node, flatten
from .schedule import schedule
from .stacks import Stacks

LEAST = 4
"""The fewest equations that are worth stacking their operands."""
SHORTER = 3
"""How many times fewer equations there must be: what is stacked to be taken apart gains nothing."""


def vectorized(function: Callable[[], list]) -> list[Any]:
    """The arrays that a function returns, with equations that are alike run together."""
    closed = jax.make_jaxpr(function)()
    return run_vectorized(closed.jaxpr, closed.consts, shorter=SHORTER)


def run_vectorized(
    jaxpr: Any, consts: Sequence[Any], args: Sequence[Any] = (), shorter: int = 1
) -> list[Any]:
    """Evaluates a jaxpr, as `run` does, with equations that are alike run together.

    Where there are not `shorter` times fewer equations then, they are run as they are.

    **Law**: what is returned is what `run(jaxpr, consts, args)` returns, up to the rounding of
    sums of `LEAST_SUM` addends and more.

    ```python
    >>> import jax, jax.numpy as jnp
    >>> closed = jax.make_jaxpr(lambda x: [jnp.exp(x[i]) for i in range(8)])(jnp.zeros(8))
    >>> def again(x):
    ...     return run_vectorized(closed.jaxpr, closed.consts, [x])
    >>> def exponentials(jaxpr):
    ...     return sum(eqn.primitive.name == "exp" for eqn in jaxpr.eqns)
    >>> exponentials(closed.jaxpr), exponentials(jax.make_jaxpr(again)(jnp.zeros(8)).jaxpr)
    (8, 1)

    ```
    """
    flat = flatten(jaxpr)
    groups = _groups(flat)
    if len(groups) * shorter > len(flat.nodes):
        return run(jaxpr, consts, args)
    alone = Counter(x for group in groups if len(group) == 1 for x in group[0].reads)
    alone.update(x for x in flat.outputs if isinstance(x, int))
    stacks = Stacks(flat, [*consts, *args], alone)
    for group in groups:
        stacks.run(group)
    return [stacks.read(x) for x in flat.outputs]


def _groups(flat: Flat) -> list[list[Node]]:
    """The nodes that are run together, in order."""
    groups = []
    for numbers in schedule(flat.nodes, classes(flat)):
        group = [flat.nodes[i] for i in numbers]
        groups.extend([group] if len(group) >= LEAST else [[node] for node in group])
    return groups
