"""How the steps of a chain are laid out as arrays."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from ..values.lanes import Deps
from ..values.value import (
    BEFORE,
    NOW,
    Axis,
    Steps,
    Value,
    axis_sizes,
    event_shape,
    union_axes,
    with_sorted_axes,
)
from .semiring import Semiring


class Layout(NamedTuple):
    """How steps are laid out as arrays: `(steps, *outer, *lanes, *before, *now)`.

    The states passed on from step to step are the particles of the sites `kept`, K in all: a row of
    them is `(*outer, *lanes, K)`. `sizes` are those of outer axes, of lanes and of states.
    """

    outer: tuple[Axis, ...]
    kept: tuple[int, ...]
    steps: Steps
    sizes: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]

    def states(self, step: int) -> tuple[Axis, ...]:
        """The axes of the states of a step."""
        return tuple(Axis(n, step, steps=self.steps if step else None) for n in self.kept)

    def array(self, val: Value) -> jax.Array:
        """The array of a value of the steps; of size one along axes that it has not."""
        rank, states = len(val.axes), [*self.states(BEFORE), *self.states(NOW)]
        leading, trailing = ([a for a in part if a in val.axes] for part in (self.outer, states))
        places = [val.axes.index(axis) for axis in (*leading, *trailing)]
        lanes = range(rank + 1, jnp.ndim(val.array))
        order = (rank, *places[: len(leading)], *lanes, *places[len(leading) :])
        before = 1 + len(self.outer) + len(lanes)
        absent = [1 + i for i, axis in enumerate(self.outer) if axis not in val.axes]
        absent += [before + i for i, axis in enumerate(states) if axis not in val.axes]
        return jnp.expand_dims(jnp.transpose(val.array, order), absent)

    def start(self, ring: Semiring) -> jax.Array:
        """The row before the first step, at which all particles mean the same: it has the first."""
        outer, lanes, states = self.sizes
        first = jnp.full(math.prod(states), ring.zero).at[0].set(ring.one)
        return jnp.broadcast_to(first, (*outer, *lanes, first.size))

    def matrix(self, step: jax.Array) -> jax.Array:
        """A step `(*outer, *lanes, *before, *now)` as a matrix, `(*outer, *lanes, K, K)`."""
        outer, lanes, states = self.sizes
        step = jnp.broadcast_to(step, (*outer, *lanes, *states, *states))
        count = math.prod(states)
        return step.reshape(*outer, *lanes, count, count)

    def row(self, step: jax.Array) -> jax.Array:
        """A step that does not read the one before, as a row, `(*outer, *lanes, K)`."""
        outer, lanes, states = self.sizes
        step = jnp.broadcast_to(step, (*outer, *lanes, *(1 for _ in states), *states))
        return step.reshape(*outer, *lanes, math.prod(states))

    def named(self, rows: jax.Array, step: int, deps: Deps, lead: int = 0) -> Value:
        """Rows `(*lead, *outer, *lanes, K)` as a value, over the particles of a `step`."""
        count, rank = len(self.outer), len(self.kept)
        rows = rows.reshape(*rows.shape[:-1], *self.sizes[-1])
        named = [*range(lead, lead + count), *range(rows.ndim - rank, rows.ndim)]
        array = jnp.moveaxis(rows, named, range(count + rank))
        axes = (*self.outer, *self.states(step))
        return with_sorted_axes(Value(array, axes, *deps))


def layout(vals: Sequence[Value], kept: tuple[int, ...], steps: Steps, sites: range) -> Layout:
    """That of values over the particles of a step of some sites and of the one before."""
    outer = tuple(axis for axis in union_axes(vals) if axis.site not in sites)
    states = tuple(Axis(n) for n in kept)
    lanes = event_shape(vals[0])[1:]
    sizes = tuple(axis_sizes(vals, outer)), lanes, tuple(axis_sizes(vals, states))
    return Layout(outer, kept, steps, sizes)
