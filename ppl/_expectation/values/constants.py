"""What is known while tracing of values that are constants of a particle: enumerated states.

A table indexed by an enumerated state, over all of whose particles the index runs from first to
last, is the table itself: its dimension becomes the particle axis, and nothing is gathered.
"""

from collections.abc import Callable, Mapping, Sequence
from operator import or_
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..._jax import equations
from .dimensions import dimension_maps, is_elementwise, moves_elements
from .expansion import Sites, mixed_dims
from .lanes import deps_of, transfer
from .value import Axis, Known, Value, lift, place, union_axes, with_sorted_axes

_INTEGER = (
    "add and clamp convert_element_type eq ge gt le lt max min mul ne neg not or rem select_n sub"
)
_COMPUTED = frozenset(_INTEGER.split())
"""Equations of integers that are computed while tracing."""


def constants(eqn: Any, vals: Sequence[Value]) -> Known | None:
    """The constants of an equation's result, where its inputs are known and it is simple."""
    name, found = equations.kind(eqn), [val.known for val in vals if val.known]
    if not found or len({known.axis for known in found}) > 1 or len(eqn.outvars) != 1:
        return None
    if name == "concatenate":
        return _in_a_column(eqn, vals)
    if any(known.column is not None for known in found):
        return None
    if moves_elements(eqn):
        return found[0] if len(vals) == 1 else None
    integers = not jnp.issubdtype(eqn.outvars[0].aval.dtype, jnp.inexact)
    if name not in _COMPUTED or not integers:
        return None
    length = len(found[0].constants)
    with jax.ensure_compile_time_eval():
        inputs = [_constant(v, val) for v, val in zip(eqn.invars, vals, strict=True)]
        spread = [jnp.broadcast_to(x, (length,)) for x in inputs if x is not None]
        if len(spread) < len(inputs):
            return None
        (out,) = equations.bind(eqn, spread)
    return Known(found[0].axis, tuple(np.asarray(out).tolist()))


def _in_a_column(eqn: Any, vals: Sequence[Value]) -> Known | None:
    """What is known of columns side by side, of which one is: the parts of an index."""
    shapes = [v.aval.shape for v in eqn.invars]
    found = [(i, val.known) for i, val in enumerate(vals) if val.known]
    last = eqn.params["dimension"] == len(shapes[0]) - 1
    if not last or len(found) > 1 or any(shape[-1] != 1 for shape in shapes):
        return None
    ((place, known),) = found
    return known._replace(column=place) if known.column is None else None


def _constant(atom: Any, val: Value) -> Any:
    if val.known is not None:
        return jnp.asarray(val.known.constants, atom.aval.dtype)
    literal = equations.is_literal(atom) and np.ndim(val.array) == 0
    return jnp.asarray(val.array, atom.aval.dtype) if literal else None


def lookup(eqn: Any, vals: Sequence[Value], sites: Sites) -> Value | None:
    """A table indexed by all the particles of one axis in turn: the table; else None."""
    rule = _LOOKUPS.get(equations.kind(eqn))
    looked_up = None if rule is None else rule(eqn, vals)
    if looked_up is None:
        return None
    dim, axis = looked_up
    table, out = vals[0], eqn.outvars[0].aval.shape
    (deps,) = transfer(eqn, [deps_of(val) for val in vals])
    mixed = mixed_dims(sites, vals, [deps])
    whole = all(mixed.get(a.site, set()) <= set(a.form) for a in (*table.axes, axis))
    if not whole or any(val.worlds for val in vals) or axis in table.axes:
        return None
    maps = dimension_maps(eqn)
    assert maps is not None and maps[0] is not None
    places = [p for d, p in enumerate(maps[0]) if d != dim]
    if None in places or places != sorted(places):
        return None
    array = jnp.moveaxis(table.array, len(table.axes) + dim, len(table.axes))
    val = with_sorted_axes(Value(array, (*table.axes, axis), *deps, unbounded=table.unbounded))
    small = place(val.array, places, len(out), lead=len(val.axes))
    return val._replace(array=jnp.broadcast_to(small, (*_lead(val), *out)), small=small)


def uniform(eqn: Any, vals: Sequence[Value], out: Value) -> Value:
    """The result of an equation elementwise, computed once for elements that are all the same."""
    small = _small(eqn, vals, out)
    if small is None:
        return out
    lead = out.array.shape[: len(out.axes)]
    shape = (*lead, *eqn.outvars[0].aval.shape)
    return out._replace(array=jnp.broadcast_to(small, shape), small=small)


def _small(eqn: Any, vals: Sequence[Value], out: Value) -> Any:
    """The result with size one along dimensions in which it is all the same, if there are any."""
    literals = [equations.is_literal(v) and np.ndim(v.val) == 0 for v in eqn.invars]
    found = [v.small is not None for v in vals]
    if not any(found) or not all(map(or_, found, literals)) or any(v.worlds for v in vals):
        return None
    if out.axes != union_axes(vals):  # particles have been expanded
        return None
    if is_elementwise(eqn):
        return _computed(eqn, vals)
    return _moved(eqn, vals) if moves_elements(eqn) else None


def _moved(eqn: Any, vals: Sequence[Value]) -> Any:
    """The small array with its dimensions where the equation puts them."""
    val, rank = vals[0], len(eqn.outvars[0].aval.shape)
    maps = dimension_maps(eqn)
    assert maps is not None and maps[0] is not None
    varying = [d for d, n in enumerate(_own(val)) if n > 1]
    moved = [maps[0][d] for d in varying]
    if any(not isinstance(d, int) for d in moved):
        return None
    flat = val.small.reshape(*_lead(val), *(_own(val)[d] for d in varying))
    return place(flat, moved, rank, lead=len(val.axes))


def _computed(eqn: Any, vals: Sequence[Value]) -> Any:
    """An equation elementwise, of the small arrays."""
    shape = np.broadcast_shapes(*(_own(v) for v in vals if v.small is not None))
    if shape == eqn.outvars[0].aval.shape:
        return None
    inputs = [
        v if v.small is None else v._replace(array=jnp.broadcast_to(v.small, (*_lead(v), *shape)))
        for v in vals
    ]
    return lift(lambda *arrays: equations.bind(eqn, arrays)[0], inputs)


def _lead(val: Value) -> tuple[int, ...]:
    return val.array.shape[: len(val.axes)]


def _own(val: Value) -> tuple[int, ...]:
    return val.small.shape[len(val.axes) :]


def _counts(val: Value, size: int, column: int | None = None) -> Axis | None:
    """The axis whose particles a value (or a column of it) counts, from zero up to a size."""
    counted = val.known == (val.known.axis, tuple(range(size)), column) if val.known else False
    return val.known.axis if val.known and counted else None


def _gathered(eqn: Any, vals: Sequence[Value]) -> tuple[int, Axis] | None:
    """The one dimension of which slices of size one are taken.

    Where an index is clamped, one along a dimension that is taken whole changes nothing.
    """
    numbers, sizes = eqn.params["dimension_numbers"], eqn.params["slice_sizes"]
    shape, indexed = eqn.invars[0].aval.shape, [int(d) for d in numbers.start_index_map]
    batch = set(getattr(numbers, "operand_batching_dims", ()))
    partial = [d for d, (n, m) in enumerate(zip(shape, sizes, strict=True)) if n != m]
    partial = [d for d in partial if d not in batch]
    if len(partial) != 1 or sizes[partial[0]] != 1 or partial[0] not in indexed:
        return None
    (dim,) = partial
    several = len(indexed) > 1
    if several and eqn.params["mode"] != jax.lax.GatherScatterMode.CLIP:
        return None
    axis = _counts(vals[1], shape[dim], indexed.index(dim) if several else None)
    return (dim, axis) if axis else None


def _sliced(eqn: Any, vals: Sequence[Value]) -> tuple[int, Axis] | None:
    shape, sizes = eqn.invars[0].aval.shape, eqn.params["slice_sizes"]
    partial = [d for d, (n, m) in enumerate(zip(shape, sizes, strict=True)) if n != m]
    if len(partial) != 1 or sizes[partial[0]] != 1:
        return None
    (dim,) = partial
    axis = _counts(vals[1 + dim], shape[dim])
    return (dim, axis) if axis else None


_LOOKUPS: Mapping[str, Callable] = {"gather": _gathered, "dynamic_slice": _sliced}
"""Rules `(eqn, vals) -> (dimension that is indexed, axis)`, or None where it is no table."""
