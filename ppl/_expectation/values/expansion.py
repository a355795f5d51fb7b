"""From particles of each lane to joint states of lanes that are mixed."""

import math
from collections.abc import Collection, Sequence
from typing import Any, Protocol

import jax.numpy as jnp
import numpy as np

from .lanes import Deps
from .limits import check_expansion
from .value import (
    Segment,
    Value,
    Worlds,
    axis_sizes,
    broadcast,
    segment,
    spread_worlds,
    trim,
    union_axes,
)


class Sites(Protocol):
    """Where weighted sites are looked up by number: an evaluation."""

    def __getitem__(self, number: int) -> Any: ...

    def place(self, eqn: Any) -> str:
        """Where an equation is, for messages."""
        ...

    def mix(self, loop: Any) -> None:
        """Notes that particles of different steps of a loop meet, or raises `MixedSteps`."""
        ...


class MixedSteps(Exception):
    """Particles of different steps of a loop meet: it has to be written out.

    An exception, as it leaves the trace of the loop's body, of which JAX is in the middle, to the
    loop's own rule; or the elimination of a site, which goes on with the next.
    """

    def __init__(self, loop: Any):
        self.loop = loop


def mixed_dims(sites: Sites, vals: Sequence[Value], deps: Sequence[Deps]) -> dict[int, set[int]]:
    """The lane dimensions of multi-particle sites that are expanded, or become mixed now."""
    mixed: dict[int, set[int]] = {}
    for val in vals:
        forms = {(axis.site, axis.form, axis.step) for axis in val.axes}
        if val.worlds:
            forms |= {(s.site, s.form, 0) for s in val.worlds.segments}
        for number, form, step in forms:
            found = mixed.setdefault(number, set())
            found |= set(form)
            lanes = sites[number].lane_sizes
            for dep in deps if step < 1 else ():
                relation = dep.relations.get(number, (None,) * len(lanes))
                found |= {d for d, entry in enumerate(relation) if entry is None}
    return mixed


def conform(
    sites: Sites, vals: Sequence[Value], mixed: dict[int, set[int]], eqn: Any = None
) -> list[Value]:
    """The values, with the particles of sites expanded over their mixed lane dimensions."""
    outs = []
    for val in vals:
        for number, dims in mixed.items():
            val = _expand(sites, val, number, dims, eqn)
        outs.append(val)
    return outs


def fix(val: Value, numbers: Collection[int]) -> Value:
    """The value at the first particle of some sites, which it does not depend on then.

    It stands in for a value of a loop that is to be written out, so that the rest of the program
    can be looked through for others.
    """
    bits = sum(1 << number for number in numbers)
    relations = {site: r for site, r in val.relations.items() if site not in numbers}
    fixed = val._replace(sites=val.sites & ~bits, relations=relations)
    return trim(fixed._replace(known=None, small=None))


def _expand(sites: Sites, val: Value, number: int, dims: set[int], eqn: Any) -> Value:
    site = sites[number]
    forms = {axis.form for axis in val.axes if axis.site == number}
    if val.worlds:
        forms |= {axis.form for axis in val.worlds.axes if axis.site == number}
        forms |= {s.form for s in val.worlds.segments if s.site == number}
    if all(dims <= set(form) for form in forms):
        return val
    meeting = any(axis.site == number and axis.step for axis in val.axes)
    if meeting or min(dims) < len(site.loops):
        sites.mix(site.loops[0 if meeting else min(dims)])
        return fix(val, [number])
    if not site.perturbed:
        axis = next(a for a in site.weight.axes if a.site == number and a.step == 0)
        particles = jnp.shape(site.weight.array)[site.weight.axes.index(axis)]
        check_expansion(site, particles, dims, eqn, sites.place)
    return expand(val, number, dims, site)


def expand(val: Value, number: int, dims: set[int], site: Any) -> Value:
    """A value over the joint states of a site's lanes along `dims` (and its form so far).

    `site` has the sizes of its lane dimensions; n lanes of J particles have J**n joint states. The
    worlds of a perturbed site become one for each lane, in which that lane alone is perturbed.
    """
    relation = val.relations.get(number, ())
    where = {d: relation[d].dim for d in dims if d < len(relation) and relation[d] is not None}
    worlds = val.worlds
    if worlds and site.perturbed:
        worlds = _one_by_one(val, number, sorted(dims), where, site.lane_sizes)
    elif worlds and any(axis.site == number for axis in worlds.axes):
        array, axes = _joint(worlds.array, worlds.axes, 1, number, dims, where, site.lane_sizes)
        worlds = worlds._replace(array=array, axes=axes)
    array, axes = val.array, val.axes
    if any(axis.site == number for axis in axes):
        array, axes = _joint(array, axes, 0, number, dims, where, site.lane_sizes)
    return val._replace(array=array, axes=axes, worlds=worlds, known=None, small=None)


def _joint(array, axes, leading, number, dims, where, sizes):
    """Gathers the particle of each lane in each joint state."""
    (old,) = (axis for axis in axes if axis.site == number)
    form = tuple(sorted({*dims, *old.form}))
    new = [d for d in form if d not in old.form]
    at = leading + axes.index(old)
    source = states_of_lanes(array.shape[at], old.form, form, sizes)
    places = [leading + len(axes) + where[d] for d in new]
    front = jnp.moveaxis(array, [at, *places], range(1 + len(new)))
    lanes = front.shape[1 : 1 + len(new)]
    flat = front.reshape(front.shape[0], math.prod(lanes), *front.shape[1 + len(new) :])
    out = flat[source, np.arange(flat.shape[1])[None]]
    out = out.reshape(-1, *lanes, *out.shape[2:])
    out = jnp.moveaxis(out, range(1 + len(new)), [at, *places])
    return out, tuple(a._replace(form=form) if a == old else a for a in axes)


def states_of_lanes(states: int, old: tuple, form: tuple, sizes: tuple) -> np.ndarray:
    """For each joint state over `form` and each lane of its new dimensions: the state over `old`.

    States number the particles of the lanes of a form as digits, in the lanes' row-major order.
    """
    before, count = (math.prod(sizes[d] for d in dims) for dims in (old, form))
    particles = round(states ** (1 / before))
    digits = np.indices((particles,) * count).reshape(*(sizes[d] for d in form), -1)
    new = [i for i, d in enumerate(form) if d not in old]
    kept = [i for i, d in enumerate(form) if d in old]
    lanes = digits.transpose(*new, *kept, -1).reshape(count // before, before, -1)
    place = particles ** np.arange(before)[::-1]
    return np.einsum("nbs,b->sn", lanes, place)


def _one_by_one(val, number, dims, where, sizes) -> Worlds:
    """Each world of a site becomes one for each lane along `dims`: the others are unperturbed."""
    pieces, segments = [], []
    axes = union_axes([val, val.worlds])
    lanes = axis_sizes([val, val.worlds], axes)
    full = broadcast(val, axes, lanes)
    for own in val.worlds.segments:
        piece = spread_worlds(segment(val, own), axes, lanes)
        if own.site == number and not set(dims) <= set(own.form):
            piece, own = _split(piece, full, own, dims, where, sizes, len(axes))
        pieces.append(piece)
        segments.append(own)
    return Worlds(jnp.concatenate(pieces), axes, tuple(segments))


def _split(piece, base, own: Segment, dims, where, sizes, rank):
    old = [sizes[d] for d in own.form]
    new = [d for d in dims if d not in own.form]
    for d in new:
        place = rank + where[d]
        selected = np.eye(sizes[d], dtype=bool)
        shape = [1] * base.ndim
        shape[place] = sizes[d]
        mask = selected.reshape(sizes[d], *shape)
        piece = jnp.where(mask, piece[:, None], base).reshape(-1, *base.shape)
    # worlds are numbered (perturbation, lanes of the old form, lanes of the new dimensions)
    form = tuple(sorted((*own.form, *new)))
    order = [*own.form, *new]
    count = own.size // math.prod(old)
    grid = piece.reshape(count, *(sizes[d] for d in order), *base.shape)
    grid = jnp.moveaxis(grid, [1 + order.index(d) for d in form], range(1, 1 + len(form)))
    piece = grid.reshape(-1, *base.shape)
    return piece, Segment(own.site, form, piece.shape[0])
