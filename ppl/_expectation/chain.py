"""The forward recursion: summing out a loop whose particles meet those of the step before."""

from collections.abc import Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from .context import Context, MixedSteps
from .dimensions import EXACT, Along
from .terms import Term
from .value import BEFORE, LAST, NOW, Axis, Val, axis_sizes, broadcast, event_shape, union_axes
from .weigh import multiplied, own_weight, summed


def fold(terms: Iterable[Term], group: range, context: Context) -> list[Term]:
    """Terms over the particles of the step before (or the last), times those steps' probabilities.

    `group` are the sites of the loop. Each term has been summed over its own step's particles. With
    M_t[i, j] the product of the weights of step t, over the particles i of the step before and j of
    its own, α_t = α_{t-1} M_t are the probabilities of step t's particles (of a hidden Markov
    model, by the forward algorithm), and the sum of the terms c_t is Σ_t Σ_i α_{t-1}[i] c_t[i].
    """
    terms, loop = list(terms), context[group.start].loops[0]
    _check(terms, group, context, loop)
    bits = sum(1 << n for n in group)
    here = [term for term in terms if term.val.sites & bits]
    others = [term for term in terms if not term.val.sites & bits]
    if not here:
        return terms
    kept = _kept(here, group, context)
    before, last = _probabilities(kept, group, context, loop)
    return others + [_folded(term, group, before, last, context, loop) for term in here]


def _check(terms: list[Term], group: range, context: Context, loop: Any) -> None:
    alike = len({context[n].lanes for n in group}) == 1
    vals = [*(term.val for term in terms), *(context[n].weight for n in group)]
    if not alike or any(val.worlds for val in vals):
        raise MixedSteps(loop.eqn)


def _kept(terms: list[Term], group: range, context: Context) -> list[int]:
    """The sites whose particles meet a later step."""
    vals = [*(term.val for term in terms), *(context[n].weight for n in group)]
    axes = union_axes(vals)
    return [n for n in group if any(a.site == n and a.step != NOW for a in axes)]


class Steps(NamedTuple):
    """What is passed on from step to step: `(steps, *outer, *lanes, *before, *now)`.

    `sizes` are those of the outer axes, of the lanes and of the states.
    """

    array: jax.Array
    outer: tuple[Axis, ...]
    sizes: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]

    def start(self, impossible: float, certain: float) -> jax.Array:
        """The state before the first step, at which all particles mean the same."""
        outer, lanes, states = self.sizes
        first = jnp.full(states, impossible).at[(0,) * len(states)].set(certain)
        return jnp.broadcast_to(first, (*outer, *lanes, *states))


def arranged(steps: Val, kept: list[int]) -> Steps:
    """A value over the particles of a step and the one before, as a loop passes it on."""
    previous = tuple(Axis(n, BEFORE) for n in kept)
    current = tuple(Axis(n, NOW) for n in kept)
    outer = tuple(a for a in steps.axes if a not in previous and a not in current)
    known = dict(zip(steps.axes, axis_sizes([steps], steps.axes), strict=True))
    order = (*outer, *previous, *current)
    full = [known[axis if axis in known else axis._replace(step=NOW)] for axis in order]
    array = broadcast(steps, *_ordered(order, full))
    array = jnp.transpose(array, _positions(array, sorted(order), order, len(outer)))
    sizes = full[: len(outer)], event_shape(steps)[1:], full[len(outer) + len(kept) :]
    return Steps(array, outer, (tuple(sizes[0]), tuple(sizes[1]), tuple(sizes[2])))


def _probabilities(kept, group, context, loop) -> tuple[Val, Val]:
    """The probabilities before each step, over the lanes; and those after the last."""
    weights = _transitions(kept, group, context)
    steps = arranged(weights, kept)
    count = len(kept)

    def step(state, transition):
        if count == 1:
            return jnp.einsum("...i,...ij->...j", state, transition), state
        wide = state.reshape(state.shape + (1,) * count)
        return jnp.sum(wide * transition, axis=before_dims(transition, count)), state

    last, before = jax.lax.scan(step, steps.start(0.0, 1.0), steps.array, reverse=loop.reverse)
    rank, width = len(steps.outer), len(steps.sizes[1])
    end = jnp.moveaxis(last, range(rank + width, last.ndim), range(rank, rank + count))
    start = jnp.moveaxis(
        before, [*range(1, 1 + rank), *range(1 + rank + width, before.ndim)], range(rank + count)
    )
    previous = tuple(Axis(n, BEFORE) for n in kept)
    finals = tuple(Axis(n, LAST) for n in kept)
    states = Val(start, (*steps.outer, *previous), weights.sites, weights.lanes)
    return _sorted(states), _sorted(Val(end, (*steps.outer, *finals), weights.sites))


def before_dims(transition: jax.Array, count: int) -> tuple[int, ...]:
    """The dimensions of the states before."""
    return tuple(range(transition.ndim - 2 * count, transition.ndim - count))


def _ordered(order, full):
    pairs = sorted(zip(order, full, strict=True))
    return tuple(axis for axis, _ in pairs), [size for _, size in pairs]


def _positions(array, now, order, outer):
    """Named axes `now`, then steps and lanes: to steps, outer axes, lanes, the other axes."""
    rank = len(order)
    places = [now.index(axis) for axis in order]
    return (rank, *places[:outer], *range(rank + 1, array.ndim), *places[outer:])


def _sorted(val: Val) -> Val:
    order = sorted(range(len(val.axes)), key=lambda i: val.axes[i])
    rest = range(len(order), val.array.ndim)
    return val._replace(
        array=jnp.transpose(val.array, (*order, *rest)), axes=tuple(sorted(val.axes))
    )


def _transitions(kept, group, context) -> Val:
    """The product of all weights of a step, over the particles that meet other steps."""
    lanes = context[group.start].lanes
    identity = tuple(Along(d) for d in range(len(lanes)))
    total = Val(jnp.ones(lanes))
    for n in reversed(group):
        site = context[n]
        axis = Axis(n, NOW) if site.axis else None
        total = multiplied(total, own_weight(site, n, axis, context), identity, context, True)
        if axis is not None and n not in kept:
            total = summed(total, axis)
    return total


def _folded(term: Term, group: range, before: Val, last: Val, context: Context, loop: Any) -> Term:
    val = term.val
    relations = {val.lanes.get(n) for n in group if val.sites >> n & 1}
    places = {r and tuple(along and along.dim for along in r) for r in relations}
    if len(places) != 1:
        raise MixedSteps(loop.eqn)
    (place,) = places
    rank = len(context[group.start].lanes)
    if place is None:
        place = (None,) * rank
    if place[0] is None:
        val = _weighted(
            val, last, [None if p is None else Along(p) for p in place[1:]], context, loop
        )
    elif any(a.step == BEFORE and a.site in group for a in val.axes) or _past(relations):
        val = _weighted(
            val, before, [None if p is None else Along(p) for p in place], context, loop
        )
    bits = sum(1 << n for n in group)
    lanes = {site: r for site, r in val.lanes.items() if site not in group}
    return term._replace(val=val._replace(sites=val.sites & ~bits, lanes=lanes))


def _past(relations: Iterable[Any]) -> bool:
    return any(r is None or r[0] is None or r[0].how != EXACT for r in relations)


def _weighted(val: Val, states: Val, relation: list, context: Context, loop: Any) -> Val:
    """The term times the probabilities of the states it is over, summed."""
    for axis in states.axes:
        if axis.step != NOW and axis not in val.axes:
            states = summed(states, axis)
    if any(along is None for along in relation):
        raise MixedSteps(loop.eqn)
    axes = [axis for axis in states.axes if axis.step != NOW]
    val = multiplied(val, states, tuple(relation), context, True)
    for axis in axes:
        val = summed(val, axis)
    return val
