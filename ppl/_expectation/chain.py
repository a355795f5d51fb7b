"""The forward recursion: summing out a loop whose particles meet those of the step before."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from .context import Context, MixedSteps
from .dimensions import EXACT, Along
from .lanes import Deps, Relation, deps_of
from .terms import Term, forgotten
from .value import (
    BEFORE,
    LAST,
    NOW,
    Axis,
    Val,
    axis_sizes,
    broadcast,
    event_shape,
    union_axes,
    with_sorted_axes,
)
from .weigh import guarded_product, multiplied, own_weight, summed


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
    kept = meeting([term.val for term in here], group, context)
    before, last = _probabilities(kept, group, context, loop)
    return others + [_folded(term, group, before, last, context, loop) for term in here]


def _check(terms: list[Term], group: range, context: Context, loop: Any) -> None:
    alike = len({context[n].lanes for n in group}) == 1
    vals = [*(term.val for term in terms), *(context[n].weight for n in group)]
    if not alike or any(val.worlds for val in vals):
        raise MixedSteps(loop.eqn)


def meeting(vals: Sequence[Val], group: range, context: Context) -> list[int]:
    """The sites of a loop whose particles meet another step, in some values or in weights."""
    axes = union_axes([*vals, *(context[n].weight for n in group)])
    return [n for n in group if any(a.site == n and a.step != NOW for a in axes)]


class Steps(NamedTuple):
    """What is passed on from step to step: `(steps, *outer, *lanes, *before, *now)`.

    The states are the particles of the sites `kept`. `sizes` are those of the outer axes, of the
    lanes and of the states.
    """

    array: jax.Array
    outer: tuple[Axis, ...]
    kept: list[int]
    sizes: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]

    def start(self, impossible: float, certain: float) -> jax.Array:
        """The state before the first step, at which all particles mean the same."""
        outer, lanes, states = self.sizes
        first = jnp.full(states, impossible).at[(0,) * len(states)].set(certain)
        return jnp.broadcast_to(first, (*outer, *lanes, *states))

    def after(self, state: jax.Array, step: jax.Array, times: Callable, total: Callable) -> Any:
        """The state after a step: the `total`, over the states before, of the two, `times`."""
        count = len(self.kept)
        wide = state.reshape(state.shape + (1,) * count)
        before = tuple(range(step.ndim - 2 * count, step.ndim - count))
        return total(times(wide, step), axis=before)

    def named(self, states: jax.Array, step: int, deps: Deps, lead: int = 0) -> Val:
        """States `(*lead, *outer, *lanes, *states)` as a value, over the particles of a `step`."""
        count, rank = len(self.outer), len(self.kept)
        named = [*range(lead, lead + count), *range(states.ndim - rank, states.ndim)]
        array = jnp.moveaxis(states, named, range(count + rank))
        axes = (*self.outer, *(Axis(n, step) for n in self.kept))
        return with_sorted_axes(Val(array, axes, *deps))


def passed_on(steps: Val, kept: list[int]) -> Steps:
    """A value over the particles of a step and the one before, as a loop passes it on."""
    previous = [Axis(n, BEFORE) for n in kept]
    current = [Axis(n, NOW) for n in kept]
    outer = tuple(a for a in steps.axes if a not in previous and a not in current)
    known = dict(zip(steps.axes, axis_sizes([steps], steps.axes), strict=True))
    sizes = {a: known[a if a in known else a._replace(step=NOW)] for a in [*previous, *current]}
    sizes.update((axis, known[axis]) for axis in outer)
    axes = sorted(sizes)
    array = broadcast(steps, tuple(axes), [sizes[axis] for axis in axes])
    rank, lanes = len(axes), event_shape(steps)[1:]
    leading, states = ([axes.index(a) for a in part] for part in (outer, [*previous, *current]))
    array = jnp.transpose(array, (rank, *leading, *range(rank + 1, array.ndim), *states))
    full = tuple(sizes[a] for a in outer), lanes, tuple(sizes[a] for a in current)
    return Steps(array, outer, kept, full)


def _probabilities(kept, group, context, loop) -> tuple[Val, Val]:
    """The probabilities before each step, over the lanes; and those after the last."""
    lanes = context[group.start].lanes
    weights = transitions(Val(jnp.ones(lanes)), kept, group, context)
    steps = passed_on(weights, kept)

    def step(state, transition):
        if len(kept) == 1:
            return jnp.einsum("...i,...ij->...j", state, transition), state
        return steps.after(state, transition, jnp.multiply, jnp.sum), state

    last, before = jax.lax.scan(step, steps.start(0.0, 1.0), steps.array, reverse=loop.reverse)
    states = steps.named(before, BEFORE, deps_of(weights), lead=1)
    return states, steps.named(last, LAST, Deps(weights.sites))


def identity(rank: int) -> Relation:
    """The relation of a value to a site whose lanes are its dimensions."""
    return tuple(Along(d) for d in range(rank))


def transitions(
    steps: Val,
    kept: list[int],
    group: range,
    context: Context,
    times: Callable = guarded_product,
    total: Callable = jnp.sum,
) -> Val:
    """Costs of the steps times all weights of a step, over the particles that meet other steps."""
    for n in reversed(group):
        relation = identity(len(context[n].lanes))
        weight = own_weight(n, Axis(n), context)
        steps = multiplied(steps, weight, relation, context, True, times)
        if n not in kept:
            steps = summed(steps, Axis(n), total)
    return steps


def _folded(term: Term, group: range, before: Val, last: Val, context: Context, loop: Any) -> Term:
    val = term.val
    relations = {val.lanes.get(n) for n in group if val.sites >> n & 1}
    places = {r and tuple(along and along.dim for along in r) for r in relations}
    if len(places) != 1:
        raise MixedSteps(loop.eqn)
    (place,) = places
    rank = len(context[group.start].lanes)
    place = place or (None,) * rank
    if place[0] is None:
        val = _weighted(val, last, place[1:], context, loop)
    elif any(a.step == BEFORE and a.site in group for a in val.axes) or _past(relations):
        val = _weighted(val, before, place, context, loop)
    return forgotten(term._replace(val=val), group)


def _past(relations: Iterable[Any]) -> bool:
    return any(r is None or r[0] is None or r[0].how != EXACT for r in relations)


def _weighted(val: Val, states: Val, places: Sequence, context: Context, loop: Any) -> Val:
    """The term, of lanes at `places`, times the probabilities of its states, and summed."""
    for axis in states.axes:
        if axis.step != NOW and axis not in val.axes:
            states = summed(states, axis)
    if None in places:
        raise MixedSteps(loop.eqn)
    axes = [axis for axis in states.axes if axis.step != NOW]
    val = multiplied(val, states, tuple(map(Along, places)), context, True)
    for axis in axes:
        val = summed(val, axis)
    return val
