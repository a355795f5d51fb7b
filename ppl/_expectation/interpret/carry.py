"""What is carried from step to step of a loop: over which particles, and how it is handed on.

A value of step t that depends on a site of the loop has the particles of its own step (`NOW`). For
step t + 1 they are those of the step before (`BEFORE`), for what follows the loop those of the last
(`LAST`): the axis is renamed, and the array stays as it is. So a carried state of K values is
`(K, *event)` throughout, and never `(K, K, *event)`.
"""

from collections.abc import Sequence
from typing import Any

import jax

from ..._analysis.propagate import fixed_point
from ..sites.weighted_site import Scan, WeightedSite
from ..values.expansion import MixedSteps, conform, mixed_dims
from ..values.lanes import Deps, deps_of, hand_on, join, leave
from ..values.value import (
    BEFORE,
    LAST,
    NOW,
    Axis,
    Steps,
    Value,
    Worlds,
    axis_sizes,
    broadcast,
    event_shape,
    shape_of,
    spread_worlds,
    union_axes,
    union_segments,
    widen,
)
from .body import ScanBody, Step
from .evaluation import Evaluation


def settle(
    body: ScanBody, start: Sequence[Value], inputs: Any, known: Sequence[WeightedSite] = ()
) -> tuple[list[Value], Step]:
    """The carry of a loop and what a step leaves, with shapes for arrays.

    The least fixed point from the start on: what the carry depends on, the axes and worlds it has
    at some step, it has at all. `inputs` are those of one step.
    """

    def once(state):
        carry, known = state
        step = jax.eval_shape(lambda carry, inputs: body.step(carry, inputs, known), carry, inputs)
        sites = body.sites(step.sites)
        handed = [hand_over(val, body.loop, sites) for val in step.carry]
        grown = [_grow(old, new, body.loop, sites) for old, new in zip(carry, handed, strict=True)]
        return (grown, step.sites), step

    def same(grown, state):
        return jax.tree.structure(grown[0]) == jax.tree.structure(state[0])

    (carry, _), step = fixed_point(([shape_of(val) for val in start], known), once, same)
    return carry, step


def hand_over(val: Value, loop: Scan, sites: Evaluation) -> Value:
    """What one step hands to the next: `(*axes, *event)`, the axes renamed from NOW to BEFORE."""
    for axis in val.axes:
        steps = _steps_of(val, axis, loop)
        if steps is None:
            continue
        loops = sites[axis.site].loops
        if axis.step != NOW or axis.form or (loops and steps.dim):
            raise MixedSteps(loop)
        if not loops:
            sites.ledger.carry(axis.site, loop)
    deps = hand_on(deps_of(val), loop.level, loop.reverse)
    return _rename(val, BEFORE, loop)._replace(relations=deps.relations)


def leave_loop(val: Value, loop: Scan) -> Value:
    """What the last step hands out: `(*axes, *event)`, the axes renamed from BEFORE to LAST."""
    deps = leave(deps_of(val), loop.level)
    return _rename(val, LAST, loop)._replace(relations=deps.relations)


def fill(val: Value, meta: Value, sites: Evaluation) -> Value:
    """The value over the axes and worlds that it is carried with, those of `meta`."""
    segments = meta.worlds.segments if meta.worlds else ()
    (val,) = conform(sites, [val], {own.site: set(own.form) for own in segments})
    array = broadcast(val, meta.axes, axis_sizes([meta], meta.axes)).astype(meta.array.dtype)
    worlds = meta.worlds
    if worlds:
        wide = widen(val, worlds.segments)
        sizes = axis_sizes([worlds], worlds.axes)
        worlds = worlds._replace(array=spread_worlds(wide, worlds.axes, sizes))
    return meta._replace(array=array, worlds=worlds)


def _steps_of(val: Value, axis: Axis, loop: Scan) -> Steps | None:
    """The lanes that the steps of the loop are, where an axis has the particles of a step."""
    for dim, along in enumerate(val.relations.get(axis.site, ())):
        if along is not None and along.dim == -loop.level:
            return Steps(dim, loop.reverse)
    return None


def _rename(val: Value, step: int, loop: Scan) -> Value:
    """The value with its particle axes of a step of the loop renamed to those of another."""

    def named(axes: tuple[Axis, ...]) -> tuple[Axis, ...]:
        found = ((axis, _steps_of(val, axis, loop)) for axis in axes)
        return tuple(axis._replace(step=step, steps=s) if s else axis for axis, s in found)

    worlds, known = val.worlds, val.known
    if worlds:
        worlds = worlds._replace(axes=named(worlds.axes))
    if known:
        known = known._replace(axis=named((known.axis,))[0])
    return val._replace(axes=named(val.axes), worlds=worlds, known=known)


def _grow(old: Value, new: Value, loop: Scan, sites: Evaluation) -> Value:
    """The shapes of a carry that is the old one at some steps and the new one at others."""
    deps = join([deps_of(old), deps_of(new)])
    old, new = _in_same_worlds(old, new, deps, sites)
    axes = union_axes([old, new])
    if len({(a.site, a.step) for a in axes}) < len(axes) or _loses_lanes(axes, deps, sites):
        raise MixedSteps(loop)
    sizes = axis_sizes([old, new], axes)
    struct = jax.ShapeDtypeStruct((*sizes, *event_shape(old)), old.array.dtype)
    worlds = None
    segments = union_segments([old, new])
    if segments:
        inside = [Value(struct, axes), *(v.worlds for v in (old, new) if v.worlds)]
        own = union_axes(inside)
        count = sum(s.size for s in segments)
        shape = (count, *axis_sizes(inside, own), *event_shape(old))
        worlds = Worlds(jax.ShapeDtypeStruct(shape, struct.dtype), own, segments)
    known = old.known if old.known == new.known else None
    unbounded = old.unbounded or new.unbounded
    return Value(struct, axes, *deps, worlds=worlds, known=known, unbounded=unbounded)


def _in_same_worlds(old: Value, new: Value, deps: Deps, sites: Evaluation) -> list[Value]:
    """The shapes of two values in worlds of the same form."""
    mixed = mixed_dims(sites, [old, new], [deps])
    mixed = {number: dims for number, dims in mixed.items() if sites[number].perturbed}
    return jax.eval_shape(lambda *vals: conform(sites, vals, mixed), old, new)


def _loses_lanes(axes: tuple[Axis, ...], deps: Any, sites: Evaluation) -> bool:
    """Whether particles of each lane would be carried where lanes are mixed."""
    for axis in axes:
        lanes = sites[axis.site].lane_sizes if axis.step != LAST else ()
        relation = deps.relations.get(axis.site, (None,) * len(lanes))
        if any(along is None and d not in axis.form for d, along in enumerate(relation)):
            return True
    return False
