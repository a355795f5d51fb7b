"""Running groups of nodes on stacked values."""

import functools
import itertools
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .._jax import equations
from .nodes import Fixed, Flat, Node

FEW = 4
"""Up to how many elements are taken out of a stack one by one, and how many runs put together."""


class Element(NamedTuple):
    """Where a value is: in which stack, `(n, *shape)`, and where in that."""

    stack: int
    index: int


class Stacks:
    """The values of a jaxpr while its groups are run, by number: arrays, or elements of stacks.

    `alone` counts by how many equations of their own values are read.
    """

    def __init__(self, flat: Flat, values: Sequence[Any], alone: Counter):
        self.alone = alone
        self.arrays: dict[int, Any] = {**flat.consts, **dict(zip(flat.inputs, values, strict=True))}
        self.elements: dict[int, Element] = {}
        self.stacks: list[tuple[Any, list[int]]] = []  # each with the numbers of its elements

    def run(self, group: Sequence[Node]) -> None:
        """Runs nodes that are alike."""
        first = group[0]
        if first.is_sum:
            self.arrays[first.outputs[0]] = self._total(first.operands)
        elif len(group) == 1:
            outs = equations.bind(first.eqn, [self.read(x) for x in first.operands])
            self.arrays.update(zip(first.outputs, outs, strict=True))
        elif equations.kind(first.eqn) == "slice" and len({n.operands for n in group}) == 1:
            self._slice(group)
        else:
            self._run_together(sorted(group, key=self._place))

    def read(self, x: Any) -> Any:
        """A value by itself."""
        if isinstance(x, Fixed):
            return x.array
        if x not in self.arrays:
            self._take_out(x)
        return self.arrays[x]

    def _place(self, node: Node) -> list[Element]:
        """Where the operands of a node are, so that a group is in the order of its operands."""
        return [self.elements.get(x, Element(-1, 0)) for x in node.operands]

    def _run_together(self, group: Sequence[Node]) -> None:
        run = functools.partial(_bind, group[0].eqn)
        columns = _columns(node.operands for node in group)
        arrays, axes = _columns(map(self._stacked, columns))
        outs = jax.vmap(run, axes, axis_size=len(group))(*arrays)
        for out, numbers in zip(outs, _columns(node.outputs for node in group), strict=True):
            self._keep(out, numbers)

    def _slice(self, group: Sequence[Node]) -> None:
        """Slices of one value, of one size: those along one dimension, one wide, are its rows."""
        starts = np.array([node.eqn.params["start_indices"] for node in group])
        moving = np.flatnonzero((starts != starts[0]).any(0))
        shape = group[0].eqn.outvars[0].aval.shape
        if len(moving) != 1 or shape[moving[0]] != 1:
            for node in group:
                self.run([node])
            return
        (axis,) = map(int, moving)
        order = np.argsort(starts[:, axis])
        array = self.read(group[0].operands[0])
        for place, (start, length) in enumerate(zip(starts[0], shape, strict=True)):
            if place != axis:
                array = _rows(array, np.arange(start, start + length), place)
        rows = jnp.moveaxis(_rows(array, starts[order, axis], axis), axis, 0)
        self._keep(jnp.expand_dims(rows, axis + 1), [group[i].outputs[0] for i in order])

    def _keep(self, array: Any, numbers: Sequence[int]) -> None:
        """Keeps a stack of some values."""
        for index, number in enumerate(numbers):
            self.elements[number] = Element(len(self.stacks), index)
        self.stacks.append((array, list(numbers)))

    def _take_out(self, number: int) -> None:
        """Makes the elements of a stack that are read alone arrays of their own."""
        array, numbers = self.stacks[self.elements[number].stack]
        places = [i for i, x in enumerate(numbers) if self.alone[x] or x == number]
        if len(places) > FEW:
            rows = lax.split(array, [1] * len(numbers))
        else:
            rows = {i: lax.slice_in_dim(array, i, i + 1) for i in places}
        for i in places:
            self.arrays[numbers[i]] = lax.squeeze(rows[i], [0])

    def _stacked(self, column: Sequence[Any]) -> tuple[Any, int | None]:
        """The operands of a group's nodes at one place, and their axis; None where all are one."""
        if all(x == column[0] for x in column):
            return self.read(column[0]), None
        if all(isinstance(x, Fixed) for x in column):
            return np.stack([x.array for x in column]), 0
        elements = [self.elements.get(x) for x in column]
        runs = _runs(elements)
        if len(runs) > FEW:
            return self._gathered(column), 0
        pieces = [self._piece(column[i:j], elements[i]) for i, j in runs]
        return pieces[0] if len(pieces) == 1 else lax.concatenate(pieces, 0), 0

    def _gathered(self, column: Sequence[Any]) -> Any:
        """Values from here and there, as rows of all the stacks that they are in."""
        parts, starts, indices, size = [], {}, [], 0
        for x in column:
            element = self.elements.get(x)
            where = x if element is None else Element(element.stack, 0)
            if where not in starts:
                part = self.read(x)[None] if element is None else self.stacks[element.stack][0]
                parts.append(part)
                starts[where], size = size, size + len(part)
            indices.append(starts[where] + (element.index if element else 0))
        array = parts[0] if len(parts) == 1 else lax.concatenate(parts, 0)
        return _rows(array, np.array(indices))

    def _piece(self, column: Sequence[Any], first: Element | None) -> Any:
        if first is None:
            return jnp.expand_dims(self.read(column[0]), 0)
        array, numbers = self.stacks[first.stack]
        if len(column) == len(numbers):
            return array
        return lax.slice_in_dim(array, first.index, first.index + len(column))

    def _total(self, addends: Sequence[Any]) -> Any:
        """The sum of values: stack by stack, then of those that stand alone."""
        within: dict[int, list[int]] = {}
        parts = []
        for x in addends:
            if x in self.elements:
                within.setdefault(self.elements[x].stack, []).append(self.elements[x].index)
            else:
                parts.append(self.read(x))
        for stack, indices in within.items():
            rows = _rows(self.stacks[stack][0], np.sort(indices))
            parts.append(jnp.sum(rows, 0, dtype=rows.dtype))
        if len(parts) > FEW:
            return jnp.sum(jnp.stack(parts), 0, dtype=parts[0].dtype)
        return functools.reduce(lax.add, parts)


def _bind(eqn: Any, *operands: Any) -> list[Any]:
    return equations.bind(eqn, operands)


def _columns(rows: Iterable[Sequence[Any]]) -> list[tuple]:
    return list(zip(*rows, strict=True))


def _runs(elements: Sequence[Element | None]) -> list[tuple[int, int]]:
    """Where elements of one stack follow each other, as ranges; what is in no stack is alone."""

    def follows(last: Element | None, next: Element | None) -> bool:
        return last is not None and next == last._replace(index=last.index + 1)

    pairs = enumerate(itertools.pairwise(elements), 1)
    ends = [i for i, pair in pairs if not follows(*pair)]
    return list(zip([0, *ends], [*ends, len(elements)], strict=True))


def _rows(array: Any, indices: np.ndarray, axis: int = 0) -> Any:
    """Some rows of an array along an axis; those next to each other are sliced."""
    first, count = int(indices[0]), len(indices)
    if count == array.shape[axis] and np.array_equal(indices, np.arange(count)):
        return array
    if np.array_equal(indices, np.arange(first, first + count)):
        return lax.slice_in_dim(array, first, first + count, axis=axis)
    return jnp.take(array, indices, axis, mode="clip")
