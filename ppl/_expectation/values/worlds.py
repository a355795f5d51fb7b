"""Lanes of a perturbed site that are mixed: each is perturbed in worlds of its own."""

import math
from collections.abc import Callable, Collection, Mapping
from functools import reduce
from operator import and_
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.lax import stop_gradient

from .value import (
    Segment,
    Value,
    Worlds,
    axis_sizes,
    concatenate_worlds,
    event_shape,
    segment,
    spread_worlds,
    union_axes,
)


class Expansion(NamedTuple):
    """Which lanes of a site are expanded in a value.

    - `number`: the site's; `sizes`: those of all its lane dimensions.
    - `dims`: the lane dimensions that are expanded.
    - `places`: which of the value's `rank` dimensions they are, by lane dimension; negative where
      they are the steps of a loop around. `starts`: of a slice, from which lane on they are.
    """

    number: int
    dims: tuple[int, ...]
    places: Mapping[int, int]
    starts: Mapping[int, int]
    sizes: tuple[int, ...]
    rank: int

    def new(self, form: tuple[int, ...]) -> list[int]:
        """The lane dimensions that a form has not yet."""
        return [d for d in self.dims if d not in form]

    def form(self, old: tuple[int, ...]) -> tuple[int, ...]:
        """A form with these lane dimensions too."""
        return tuple(sorted({*self.dims, *old}))


def expansion_of(
    val: Value, number: int, dims: Collection[int], sizes: tuple[int, ...]
) -> Expansion:
    """The expansion of a value along some of a site's lane dimensions."""
    relation = val.relations.get(number, ())
    found = {d: relation[d] for d in dims if d < len(relation) and relation[d] is not None}
    places = {d: along.dim for d, along in found.items()}
    starts = {d: along.start or 0 for d, along in found.items()}
    return Expansion(number, tuple(sorted(dims)), places, starts, sizes, len(event_shape(val)))


def perturb_apart(val: Value, lanes: Expansion, number_of: Callable[[int], Any]) -> Value:
    """The value in worlds in which one lane of a site is perturbed, and the others are not.

    n lanes perturbed together, `(particles - 1, ..., n)`, are `((particles - 1) * n, ..., n)`. In a
    loop along the lanes, where a step is at `number_of` its negative dimension, its value is
    perturbed in the worlds of this step, and as it is in those of the others.
    """
    assert val.worlds is not None
    base = Worlds(jnp.asarray(val.array)[None], val.axes, ())
    pieces = {own: segment(val, own) for own in val.worlds.segments}
    for own, piece in pieces.items():
        if own.site == lanes.number and lanes.new(own.form):
            pieces[own] = _take_apart(piece, base, lanes, number_of)
    return val._replace(worlds=concatenate_worlds([*pieces.values()]), known=None, small=None)


def perturb_again(
    val: Value, drawn: Value, lanes: Expansion, number_of: Callable[[int], Any]
) -> Worlds:
    """The worlds of a site's value in a loop: those of the other steps, and its own.

    In the worlds of `val`, some of another site perhaps, no perturbation is one of this step; in
    those of `drawn` all are, and these take the place of their step.
    """
    assert val.worlds is not None and drawn.worlds is not None
    pieces = {own: segment(val, own) for own in val.worlds.segments}
    (old,) = (own for own in pieces if own.site == lanes.number)
    pieces[old] = _take_apart(drawn.worlds, pieces[old], lanes, number_of)
    return concatenate_worlds([*pieces.values()])


def _take_apart(
    piece: Worlds, base: Worlds, lanes: Expansion, number_of: Callable[[int], Any]
) -> Worlds:
    """The worlds of one segment, each lane's change by itself; they have no derivatives.

    `base` is the value without it, `(1, *axes, *event)`, or as it is in each world of the new form.
    Worlds are numbered (perturbation, lanes of the form).
    """
    (own,) = piece.segments
    form, axes = lanes.form(own.form), union_axes([piece, base])
    count = own.size // math.prod(lanes.sizes[d] for d in own.form)
    grid = (count, *(lanes.sizes[d] for d in form))
    old = (count, *(lanes.sizes[d] if d in own.form else 1 for d in form))
    sizes = axis_sizes([piece, base], axes)
    changed, same = (spread_worlds(worlds, axes, sizes) for worlds in (piece, base))
    event = changed.shape[1:]
    same = same.reshape(*(grid if len(same) > 1 else (1 for _ in grid)), *event)
    alone = [
        _is_alone(d, 1 + form.index(d), same.ndim, lanes, number_of) for d in lanes.new(own.form)
    ]
    out = jnp.where(reduce(and_, alone), changed.reshape(*old, *event), same)
    out = jnp.broadcast_to(out, (*grid, *event)).reshape(-1, *event)
    return Worlds(stop_gradient(out), axes, (Segment(own.site, form, len(out)),))


def _is_alone(d: int, at: int, rank: int, lanes: Expansion, number_of: Callable[[int], Any]) -> Any:
    """Whether a lane is the one that is perturbed, of which dimension `at` has the number."""
    place, size, shape = lanes.places[d], lanes.sizes[d], [1] * rank
    shape[at] = size
    if place < 0:
        return (np.arange(size) == number_of(place)).reshape(shape)
    shape[rank - lanes.rank + place] = size
    return np.eye(size, dtype=bool).reshape(shape)
