"""Values over named particle axes and perturbed worlds, with their provenance."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import reduce
from operator import or_
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.lax import stop_gradient

NOW, BEFORE, LAST = 0, -1, 1
"""Which step's particles an axis is, of a site in a `scan` or of lanes that one goes along: the
element's own, the one before, or (for what leaves the loop) the last."""


class Steps(NamedTuple):
    """Lanes taken as the steps of a loop: along which lane dimension of a site, in which order."""

    dim: int
    reverse: bool


class Axis(NamedTuple):
    """A named particle axis: which site's particles run along one leading dimension of an array.

    - `site`: the number of the weighted site that opened it.
    - `step`: where a loop goes along the site's lanes, whose step's particles these are: `NOW`,
      `BEFORE` or `LAST`.
    - `form`: the site's lane dimensions whose joint states the axis runs over. Without any, the
      particles are those of each lane, and K particles of n lanes are an array `(K, n)`; with
      `form=(0,)` they are the joint states of all the lanes, `(K**n, n)`.
    - `steps`: what the steps are, where it is not `NOW`.
    """

    site: int
    step: int = NOW
    form: tuple[int, ...] = ()
    steps: Steps | None = None


class Segment(NamedTuple):
    """The worlds in which one site is perturbed, as a run of `size` worlds.

    Without a `form`, world j has the site's particle j + 1 in all lanes at once (which is right as
    long as what reads them keeps them apart). Along the lane dimensions of `form` they are
    perturbed one by one: `(particles - 1) * lanes` worlds.
    """

    site: int
    form: tuple[int, ...]
    size: int


class Worlds(NamedTuple):
    """A value in perturbed worlds: `array` is `(worlds, *axes, *event)`.

    World by world, segment after segment, it is the value had the segment's site been drawn
    otherwise, and everything else with the same noise. Values that no perturbation reaches have
    no worlds, and those of one site have the segments of that site alone.
    """

    array: Any
    axes: tuple[Axis, ...]
    segments: tuple[Segment, ...]


class Known(NamedTuple):
    """That every element of a value is the same constant of the particle of one axis.

    `constants` has one number for each particle: `(0, 1)` for an enumerated coin, whatever the
    shape of the value. So indexing by it can be seen to go through a table in order. With a
    `column`, it is so of the elements that have this place along the last dimension.
    """

    axis: Axis
    constants: tuple
    column: int | None = None


class Value(NamedTuple):
    """What a variable of the program is in an evaluation: an array over the particles it reads.

    - `array`: `(*axes, *event)`, an entry for each combination of particles of the sites in `axes`,
      in the order of these; `event` is the shape that the variable has in the program.
    - `sites`: all the weighted sites that it depends on, as a bit mask: bit i for site number i. A
      site of one particle has a bit and no axis; a reparameterised site has no weight, and neither.
    - `relations`: for a site with lanes, which of the event's dimensions keep them apart: one
      entry a lane dimension, `Along(dim)` or None where lanes are mixed (see `lanes`).
    - `worlds`: what it is where some site is perturbed, or None.
    - `known`, `small`: what is known of the array while tracing. `small` is the array with size one
      along the dimensions of the event in which all elements are the same.
    - `unbounded`: it may be infinite at a particle (see `vanishing`).

    A value is immutable, and a pytree: see `_flatten`.
    """

    array: Any
    axes: tuple[Axis, ...] = ()
    sites: int = 0
    relations: Mapping[int, Any] = {}
    worlds: Worlds | None = None
    known: Known | None = None
    small: Any = None
    unbounded: bool = False


def union_axes(vals: Iterable[Any]) -> tuple[Axis, ...]:
    """All the particle axes of some values, in order."""
    return tuple(sorted({axis for val in vals for axis in val.axes}))


def union_sites(vals: Iterable[Value]) -> int:
    """All the weighted sites some values depend on."""
    return reduce(or_, (val.sites for val in vals), 0)


def axis_sizes(vals: Sequence[Any], axes: tuple[Axis, ...]) -> list[int]:
    """The number of particles on each of `axes`, which some values (or `Worlds`) span."""
    sizes: dict[Axis, int] = {}
    for val in vals:
        shape = jnp.shape(val.array)[1 if isinstance(val, Worlds) else 0 :]
        sizes.update(zip(val.axes, shape, strict=False))
    return [sizes[axis] for axis in axes]


def joint_states(vals: Sequence[Any]) -> int:
    """How many joint particle states some values span together."""
    return math.prod(axis_sizes(vals, union_axes(vals)))


def event_shape(val: Any) -> tuple[Any, ...]:
    """The shape without the named axes."""
    return jnp.shape(val.array)[len(val.axes) :]


def spread(val: Value) -> bool:
    """Whether a value has particles."""
    return bool(val.axes or val.worlds)


def infinite_at_particles(val: Value) -> bool:
    """Whether a value may be infinite at a particle, and only there."""
    return val.unbounded and spread(val)


def meet_unbounded(vals: Sequence[Value]) -> bool:
    """Whether what is made of some values, all of which it meets everywhere, may be infinite.

    Beside particles, a number that has none is infinite at all of them, if at any.
    """
    particles = [val for val in vals if spread(val)]
    return any(val.unbounded for val in particles or vals)


def lift(fn: Callable, vals: Sequence[Any]) -> Any:
    """`fn` of the arrays, mapped over just the particle axes that they have."""
    arrays = [val.array for val in vals]
    for axis in reversed(union_axes(vals)):
        fn = jax.vmap(fn, in_axes=tuple(0 if axis in val.axes else None for val in vals))
    return fn(*arrays)


def broadcast(val: Any, axes: tuple[Axis, ...], sizes: Sequence[int]) -> jax.Array:
    """The array of a value, with a dimension of full size for each of `axes`."""
    at = tuple(i for i, axis in enumerate(axes) if axis not in val.axes)
    array = jnp.expand_dims(val.array, at) if at else jnp.asarray(val.array)
    return jnp.broadcast_to(array, (*sizes, *event_shape(val)))


def place(array: Any, places: Sequence[int], rank: int, lead: int = 0) -> jax.Array:
    """An array with its dimensions at `places` of `rank`, the others of size one.

    The first `lead` dimensions stay, and are not counted.
    """
    order = sorted(range(len(places)), key=lambda i: places[i])
    sizes = dict(zip(places, array.shape[lead:], strict=True))
    array = jnp.transpose(array, (*range(lead), *(lead + i for i in order)))
    return array.reshape(*array.shape[:lead], *(sizes.get(d, 1) for d in range(rank)))


# --- perturbed worlds ----------------------------------------------------------------------------


def union_segments(vals: Iterable[Value]) -> tuple[Segment, ...]:
    """The segments of all the worlds in which some values differ, in order."""
    return tuple(sorted({s for val in vals if val.worlds for s in val.worlds.segments}))


def segment(val: Value, wanted: Segment) -> Any:
    """A value's worlds of one segment (a value that it leaves alone: None)."""
    worlds, start = val.worlds, 0
    for own in worlds.segments if worlds else ():
        if worlds and own == wanted:
            return Worlds(worlds.array[start : start + own.size], worlds.axes, (own,))
        start += own.size
    return None


def widen(val: Value, segments: tuple[Segment, ...]) -> Worlds:
    """A value in the worlds of all `segments`: where it is not perturbed, it is as it is."""
    if val.worlds and val.worlds.segments == segments:
        return val.worlds
    return concatenate_worlds([segment(val, s) or _copies(val, s) for s in segments])


def append_worlds(worlds: Worlds | None, more: Worlds) -> Worlds:
    """The worlds of earlier sites, then those of one more."""
    return concatenate_worlds([worlds, more]) if worlds else more


def concatenate_worlds(pieces: Sequence[Worlds]) -> Worlds:
    """Worlds of several segments as one, over the particle axes of all."""
    axes = union_axes(pieces)
    sizes = axis_sizes(pieces, axes)
    arrays = [spread_worlds(p, axes, sizes) for p in pieces]
    return Worlds(jnp.concatenate(arrays), axes, tuple(s for p in pieces for s in p.segments))


def trim(val: Value) -> Value:
    """The value without axes and worlds of sites that it does not depend on.

    An equation with a body (a loop, a checkpoint) is mapped over those of all its inputs; along
    those that an output does not read it is the same.
    """

    def reads(part: Any) -> bool:
        return bool(val.sites >> part.site & 1)

    def along(axes: tuple[Axis, ...]) -> tuple:
        return tuple(slice(None) if reads(axis) else 0 for axis in axes)

    def kept(axes: tuple[Axis, ...]) -> tuple[Axis, ...]:
        return tuple(filter(reads, axes))

    segments = val.worlds.segments if val.worlds else ()
    if all(map(reads, (*val.axes, *segments, *(val.worlds.axes if val.worlds else ())))):
        return val
    pieces = [segment(val, own) for own in segments if reads(own)]
    pieces = [w._replace(array=w.array[:, *along(w.axes)], axes=kept(w.axes)) for w in pieces]
    worlds = concatenate_worlds(pieces) if pieces else None
    return val._replace(array=val.array[along(val.axes)], axes=kept(val.axes), worlds=worlds)


def spread_worlds(worlds: Worlds, axes: tuple[Axis, ...], sizes: Sequence[int]) -> jax.Array:
    """The array of some worlds, with a dimension of full size for each of `axes`."""
    return jax.vmap(lambda x: broadcast(Value(x, worlds.axes), axes, sizes))(worlds.array)


def _copies(val: Value, wanted: Segment) -> Worlds:
    array = stop_gradient(jnp.asarray(val.array))
    return Worlds(jnp.broadcast_to(array, (wanted.size, *array.shape)), val.axes, (wanted,))


def lift_worlds(fn: Callable, vals: Sequence[Value]) -> list[Value]:
    """The values that `fn` of arrays gives (a list of arrays), in every world; no provenance.

    Worlds have derivatives where the values read one site alone, whose lanes are perturbed
    together, and only there.
    """
    axes = union_axes(vals)
    infinite = meet_unbounded(vals)
    outs = [Value(out, axes, unbounded=infinite) for out in lift(fn, vals)]
    segments = union_segments(vals)
    if not segments:
        return outs
    met = union_sites(vals).bit_count() > 1 or any(own.form for own in segments)
    held = stop_gradient if met else lambda x: x
    inside = [widen(v, segments) if v.worlds else Value(held(v.array), v.axes) for v in vals]

    def world(*arrays):
        return lift(fn, [v._replace(array=a) for v, a in zip(inside, arrays, strict=True)])

    worlds = jax.vmap(world, in_axes=tuple(0 if v.worlds else None for v in vals))
    arrays = worlds(*(v.array for v in inside))
    axes = union_axes(inside)
    worlds = [Worlds(held(a), axes, segments) for a in arrays]
    return [out._replace(worlds=w) for out, w in zip(outs, worlds, strict=True)]


# --- values as arrays ----------------------------------------------------------------------------


def _flatten(val: Value) -> tuple[tuple, tuple]:
    """A value is a pytree of its array and its worlds' array; the rest is static.

    So values pass in and out of JAX's traces whole. `small` stays behind.
    """
    worlds, relations = val.worlds, tuple(sorted(val.relations.items()))
    arrays = (val.array, worlds.array if worlds else None)
    static = (worlds.axes, worlds.segments) if worlds else None
    return arrays, (val.axes, val.sites, relations, static, val.known, val.unbounded)


def _unflatten(static: tuple, arrays: tuple) -> Value:
    axes, sites, relations, worlds, known, unbounded = static
    inside = Worlds(arrays[1], *worlds) if worlds else None
    return Value(arrays[0], axes, sites, dict(relations), inside, known, unbounded=unbounded)


jax.tree_util.register_pytree_node(Value, _flatten, _unflatten)


def each_array(fn: Callable, val: Value) -> Value:
    """`fn(array, axes)` of a value's array and, mapped over worlds, of its array in each."""
    worlds = val.worlds
    if worlds:
        own = worlds.axes
        worlds = worlds._replace(array=jax.vmap(lambda x: fn(x, own))(worlds.array))
    return val._replace(array=fn(val.array, val.axes), worlds=worlds, known=None, small=None)


def with_sorted_axes(val: Value) -> Value:
    """The value with its named axes in order."""

    def ordered(array, axes):
        order = sorted(range(len(axes)), key=lambda i: axes[i])
        return jnp.transpose(array, (*order, *range(len(axes), array.ndim)))

    if list(val.axes) == sorted(val.axes) and not val.worlds:
        return val
    out = each_array(ordered, val)
    worlds = out.worlds
    if worlds:
        worlds = worlds._replace(axes=tuple(sorted(worlds.axes)))
    return out._replace(axes=tuple(sorted(out.axes)), worlds=worlds)


def shape_of(val: Value) -> Value:
    """The value with shapes for arrays."""
    return jax.tree.map(_struct, val)


def _struct(array: Any) -> Any:
    kind = jax.typeof(array) if isinstance(array, jax.Array) else array
    return jax.ShapeDtypeStruct(jnp.shape(array), getattr(kind, "dtype", jnp.result_type(array)))
