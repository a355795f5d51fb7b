"""Slices of lanes: values that have some of a site's lanes, and those that meet their neighbours.

A slice keeps lanes apart: of its elements along a dimension, the first depends on lane `start` and
each on the next one. Where two slices meet, one lane apart, as in `z[1:] * z[:-1]`, the earlier
ones are the states before: the particles of a chain's step and of the one before it. It is so for
particles over an axis, in equations without sites, and in the terms of an objective. Elsewhere
lanes of which there is a slice count as mixed.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from ..._jax.equations import kind
from .dimensions import ANTICAUSAL, CAUSAL, Along, maps_of_outputs
from .expansion import Sites, conform
from .lanes import Deps, deps_of, through, without_slices
from .value import BEFORE, NOW, Steps, Value, event_shape

Lanes = dict[int, set[int]]
"""Lane dimensions of sites, by their numbers."""


def sliced(vals: Iterable[Value]) -> Lanes:
    """The lane dimensions of which some values have a slice."""
    found: Lanes = {}
    for val in vals:
        for number, relation in val.relations.items():
            dims = {d for d, along in enumerate(relation) if along and along.start is not None}
            if dims:
                found.setdefault(number, set()).update(dims)
    return found


def mix_slices(sites: Sites, val: Value) -> Value:
    """The value with lanes mixed of which it has a slice."""
    dims = sliced([val])
    if not dims:
        return val
    (val,) = conform(sites, [val], dims)
    return val._replace(relations=without_slices(deps_of(val)).relations)


def keep_slices(vals: Sequence[Value], dep: Deps) -> Deps:
    """The provenance of a result, with the slices of lanes that may be kept apart: see above."""
    found = {n for n, r in dep.relations.items() if any(a and a.start is not None for a in r)}
    mixed = without_slices(dep).relations
    lost = {n: mixed.get(n) for n in found if not _may_be_sliced(vals, n)}
    relations = {n: r for n, r in {**dep.relations, **lost}.items() if r}
    return Deps(dep.sites, relations)


def _may_be_sliced(vals: Sequence[Value], number: int) -> bool:
    axes = [axis for val in vals for axis in val.axes if axis.site == number]
    return bool(axes) and not any(axis.form for axis in axes) and not any(v.worlds for v in vals)


def whole_again(sites: Sites, val: Value) -> Value:
    """The value with slices that have all the lanes taken as these."""
    shape = event_shape(val)

    def whole(along: Along | None, lanes: int) -> Along | None:
        if along is None or along.start != 0 or shape[along.dim] < lanes:
            return along
        return along._replace(start=None)

    relations = {
        n: tuple(map(whole, relation, sites[n].lane_sizes)) if n in sliced([val]) else relation
        for n, relation in val.relations.items()
    }
    return val._replace(relations=relations)


# --- neighbours ----------------------------------------------------------------------------------


def step_back(sites: Sites, vals: Sequence[Value], eqn: Any) -> Sequence[Value]:
    """The values of an equation where slices meet that are one lane apart.

    The earlier ones are over the particles of the step before.
    """
    found = sliced(vals)
    if eqn is None or len(vals) < 2 or not found or kind(eqn) == "concatenate":
        return vals  # what is put together does not meet
    pairs = zip(vals, eqn.invars, strict=True)
    if any(len(event_shape(val)) != len(v.aval.shape) for val, v in pairs):
        return vals
    for number, dims in found.items():
        maps = maps_of_outputs(eqn)[0]
        if maps is not None and len(dims) == 1 and _may_be_sliced(vals, number):
            (dim,) = dims
            vals = _neighbours(sites, vals, maps, number, dim)
    return vals


def _neighbours(
    sites: Sites, vals: Sequence[Value], maps: Sequence[Any], number: int, dim: int
) -> Sequence[Value]:
    reading = [i for i, val in enumerate(vals) if val.sites >> number & 1]
    entries = {i: _entry(vals[i], maps[i], number, dim) for i in reading}
    starts = {along.start for along in entries.values() if along and along.start is not None}
    known = all(a and a.start is not None and a.how != ANTICAUSAL for a in entries.values())
    if not known or len(starts) != 2 or max(starts) - min(starts) != 1:
        return vals
    earlier = [i for i, along in entries.items() if along and along.start == min(starts)]
    now = all(a.step == NOW for i in earlier for a in vals[i].axes if a.site == number)
    if not now or not sites.step_back(number, dim):
        return vals
    return [_before(v, number, dim) if i in earlier else v for i, v in enumerate(vals)]


def _entry(val: Value, dims: Any, number: int, dim: int) -> Along | None:
    """The relation to one lane dimension of a site that a value has in the result."""
    relation = through(deps_of(val), dims).relations.get(number)
    return relation[dim] if relation else None


def _before(val: Value, number: int, dim: int) -> Value:
    """The value as one of the lanes that come after its own, over the step before them."""
    relation = list(val.relations[number])
    along = relation[dim]
    relation[dim] = along._replace(how=CAUSAL, start=along.start + 1)
    steps = Steps(dim, reverse=False)
    axes = tuple(
        axis._replace(step=BEFORE, steps=steps) if axis.site == number else axis
        for axis in val.axes
    )
    known = val.known
    if known and known.axis.site == number:
        known = known._replace(axis=known.axis._replace(step=BEFORE, steps=steps))
    relations = {**val.relations, number: tuple(relation)}
    return val._replace(axes=axes, relations=relations, known=known)
