"""Values of one step and of all: the dimension of the steps, into a loop and out of it.

Inside a trace of the body the steps are no dimension, and a value is `(*axes, *event)`. Scanned
inputs and stacked outputs are `(*axes, steps, *event)` outside, and `(steps, *axes, *event)` where
JAX takes them apart and puts them together.
"""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp

from ..sites.weighted_site import Scan, WeightedSite
from ..terms.terms import Term, rearrange
from ..values.expansion import MixedSteps
from ..values.lanes import as_exact, deps_of, enter, join, move, stack
from ..values.value import Value, axis_sizes, broadcast, event_shape, union_axes


def lead_steps(val: Value, loop: Scan) -> Value:
    """A scanned input `(*axes, steps, *event)` as `(steps, *axes, *event)`: a step's, stacked."""
    array, worlds = jnp.moveaxis(val.array, len(val.axes), 0), val.worlds
    if worlds:
        worlds = worlds._replace(array=jnp.moveaxis(worlds.array, 1 + len(worlds.axes), 0))
    relations = enter(deps_of(val), loop.level).relations
    return val._replace(array=array, worlds=worlds, relations=relations)


def stack_steps(val: Value, loop: Scan) -> Value:
    """Outputs `(steps, *axes, *event)` as one value `(*axes, steps, *event)`."""
    array, worlds = jnp.moveaxis(val.array, 0, len(val.axes)), val.worlds
    if worlds:
        worlds = worlds._replace(array=jnp.moveaxis(worlds.array, 0, 1 + len(worlds.axes)))
    relations = stack(deps_of(val), loop.level).relations
    return val._replace(array=array, worlds=worlds, relations=relations)


def stack_site(site: WeightedSite, loop: Scan) -> WeightedSite:
    """A site of the body as one of all the steps, which are its first lane dimension.

    Perturbations stay in front of it.
    """
    stacked = site.each(lambda val: stack_steps(val, loop))
    if not site.perturbed:
        return stacked
    chances = stacked.chances and _swap_first(stacked.chances)
    return stacked._replace(weight=_swap_first(stacked.weight), chances=chances)


def _swap_first(val: Value) -> Value:
    """The value with the first two dimensions of its event, `(*axes, *event)`, swapped."""
    array = jnp.swapaxes(val.array, len(val.axes), len(val.axes) + 1)
    swapped = move(deps_of(val), lambda d: 1 - d if d < 2 else d)
    return val._replace(array=array, relations=swapped.relations)


def stack_term(term: Term, loop: Scan) -> Term:
    """A term of each step `(steps, *axes, *lanes, *event)` as one, `(*axes, *lanes, steps, ...)`.

    Its lanes to sum stay in front.
    """
    val, lanes = stack_steps(term.val, loop), term.lanes_to_sum
    rest = range(1 + lanes, len(event_shape(val)))
    return Term(rearrange(val, [*range(1, 1 + lanes), 0, *rest]), lanes) if lanes else Term(val)


def with_first(rest: Value, first: Value, loop: Scan, dim: int = 0) -> Value:
    """The other steps, and the first, as one value; the steps are dimension `dim` of both.

    It has the axes of both: the first step starts from no particle of a step before.
    """
    if first.worlds or rest.worlds:
        raise MixedSteps(loop)
    axes = union_axes([first, rest])
    sizes = axis_sizes([first, rest], axes)
    pieces = [broadcast(val, axes, sizes) for val in (first, rest)]
    array = jnp.concatenate(pieces[::-1] if loop.reverse else pieces, axis=len(axes) + dim)
    known = first.known if first.known == rest.known else None
    unbounded = first.unbounded or rest.unbounded
    deps = join([deps_of(first), deps_of(rest)])
    return Value(array, axes, *deps, known=known, unbounded=unbounded)


def terms_with_first(
    rest: Sequence[Term], first: Sequence[Term], length: int, loop: Scan
) -> list[Term]:
    """The terms of the other steps, `length` of them, and of the first, as terms of all.

    Those that depend on the same lanes of the same sites are made one; to one that has no
    counterpart the others add nothing.
    """
    beside, alone = {}, []
    for one in first:
        place = _counterpart(one, [None if i in beside else t for i, t in enumerate(rest)])
        if place is None:
            alone.append((_nothing(one, length), one))
        else:
            beside[place] = one
    found = [(term, beside.get(i) or _nothing(term, 1)) for i, term in enumerate(rest)]
    return [
        Term(with_first(term.val, one.val, loop, term.lanes_to_sum), term.lanes_to_sum)
        for term, one in (*found, *alone)
    ]


def _counterpart(one: Term, rest: Sequence[Term | None]) -> int | None:
    """The place of the term that depends on the same lanes, and on the most of the same axes."""
    axes, lanes = set(one.val.axes), _lanes_of(one)
    other = {
        place: len(axes.symmetric_difference(term.val.axes))
        for place, term in enumerate(rest)
        if term is not None and _lanes_of(term) == lanes
    }
    return min(other, key=other.__getitem__, default=None)


def _lanes_of(term: Term) -> tuple:
    relations = as_exact(deps_of(term.val)).relations
    return term.lanes_to_sum, term.val.sites, tuple(sorted(relations.items()))


def _nothing(term: Term, length: int) -> Term:
    """Zeros for some steps at which a term is not there."""
    shape = list(event_shape(term.val))
    shape[term.lanes_to_sum] = length
    return Term(Value(jnp.zeros(shape, term.val.array.dtype)), term.lanes_to_sum)


def site_with_first(
    rest: WeightedSite, first: WeightedSite, alike: Any, loop: Scan
) -> WeightedSite:
    """A site of the other steps, `(steps - 1, ...)` each, and of the first, `(1, ...)`.

    Where its weight is the same at all the others, `alike` is that of one, and is kept beside
    (`later`).
    """
    if first.perturbed:
        raise MixedSteps(loop)
    stacked, alone = stack_site(rest, loop), stack_site(first, loop)
    whole = stacked.each(lambda val, one: with_first(val, one, loop), alone)
    if alike is None:
        return whole
    return whole._replace(later=stack_steps(rest.weight._replace(array=alike[None]), loop))
