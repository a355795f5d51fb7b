"""The forward recursion: summing out a loop whose particles meet those of the step before."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ..interpret.evaluation import Evaluation
from ..terms.terms import Term, forget
from ..values.dimensions import EXACT, Along
from ..values.expansion import MixedSteps
from ..values.lanes import Deps, Relation, deps_of
from ..values.value import (
    BEFORE,
    LAST,
    NOW,
    Axis,
    Value,
    axis_sizes,
    event_shape,
    union_axes,
    with_sorted_axes,
)
from .semiring import NUMBERS, Semiring, multiply, own_weight, sum_over


def fold(terms: Iterable[Term], group: range, evaluation: Evaluation) -> list[Term]:
    """Terms over the particles of the step before (or the last), times those steps' probabilities.

    `group` are the sites of the loop. Each term has been summed over its own step's particles. With
    M_t[i, j] the product of the weights of step t, over the particles i of the step before and j of
    its own, α_t = α_{t-1} M_t are the probabilities of step t's particles (of a hidden Markov
    model, by the forward algorithm), and the sum of the terms c_t is Σ_t Σ_i α_{t-1}[i] c_t[i].
    """
    terms, loop = list(terms), evaluation[group.start].loops[0]
    _check(terms, group, evaluation, loop)
    bits = sum(1 << n for n in group)
    here = [term for term in terms if term.val.sites & bits]
    others = [term for term in terms if not term.val.sites & bits]
    if not here:
        return terms
    kept = meeting([term.val for term in here], group, evaluation)
    before, last = _probabilities(kept, group, evaluation, loop)
    return others + [_fold_term(term, group, before, last, evaluation, loop) for term in here]


def _check(terms: list[Term], group: range, evaluation: Evaluation, loop: Any) -> None:
    alike = len({evaluation[n].lane_sizes for n in group}) == 1
    vals = [*(term.val for term in terms), *(evaluation[n].weight for n in group)]
    if not alike or any(val.worlds for val in vals):
        raise MixedSteps(loop.eqn)


def meeting(vals: Sequence[Value], group: range, evaluation: Evaluation) -> list[int]:
    """The sites of a loop whose particles meet another step, in some values or in weights."""
    axes = union_axes([*vals, *(evaluation[n].weight for n in group)])
    return [n for n in group if any(a.site == n and a.step != NOW for a in axes)]


class Layout(NamedTuple):
    """How steps are laid out as arrays: `(steps, *outer, *lanes, *before, *now)`.

    The states passed on from step to step are the particles of the sites `kept`, `(*outer, *lanes,
    *states)`. `sizes` are those of the outer axes, of the lanes and of the states.
    """

    outer: tuple[Axis, ...]
    kept: list[int]
    sizes: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]

    def _states(self) -> list[Axis]:
        return [Axis(n, step) for step in (BEFORE, NOW) for n in self.kept]

    def array(self, val: Value) -> jax.Array:
        """The array of a value of the steps; of size one along axes that it has not."""
        rank, states = len(val.axes), self._states()
        leading, trailing = ([a for a in part if a in val.axes] for part in (self.outer, states))
        places = [val.axes.index(axis) for axis in (*leading, *trailing)]
        lanes = range(rank + 1, jnp.ndim(val.array))
        order = (rank, *places[: len(leading)], *lanes, *places[len(leading) :])
        before = 1 + len(self.outer) + len(lanes)
        absent = [1 + i for i, axis in enumerate(self.outer) if axis not in val.axes]
        absent += [before + i for i, axis in enumerate(states) if axis not in val.axes]
        return jnp.expand_dims(jnp.transpose(val.array, order), absent)

    def full(self, val: Value) -> jax.Array:
        """The array of a value of the steps, of full size along all axes."""
        array, (outer, lanes, states) = self.array(val), self.sizes
        return jnp.broadcast_to(array, (len(array), *outer, *lanes, *states, *states))

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

    def named(self, states: jax.Array, step: int, deps: Deps, lead: int = 0) -> Value:
        """States `(*lead, *outer, *lanes, *states)` as a value, over the particles of a `step`."""
        count, rank = len(self.outer), len(self.kept)
        named = [*range(lead, lead + count), *range(states.ndim - rank, states.ndim)]
        array = jnp.moveaxis(states, named, range(count + rank))
        axes = (*self.outer, *(Axis(n, step) for n in self.kept))
        return with_sorted_axes(Value(array, axes, *deps))


def layout(vals: Sequence[Value], kept: list[int], group: range) -> Layout:
    """That of values over the particles of a step and the one before."""
    outer = tuple(axis for axis in union_axes(vals) if axis.site not in group)
    states = tuple(Axis(n) for n in kept)
    lanes = event_shape(vals[0])[1:]
    sizes = tuple(axis_sizes(vals, outer)), lanes, tuple(axis_sizes(vals, states))
    return Layout(outer, kept, sizes)


def _probabilities(kept, group, evaluation, loop) -> tuple[Value, Value]:
    """The probabilities before each step, over the lanes; and those after the last."""
    lanes = evaluation[group.start].lane_sizes
    weights = transitions(Value(jnp.ones(lanes)), own_weights(group, evaluation), kept, evaluation)
    laid = layout([weights], kept, group)

    def step(state, transition):
        if len(kept) == 1:
            return jnp.einsum("...i,...ij->...j", state, transition), state
        return laid.after(state, transition, jnp.multiply, jnp.sum), state

    last, before = jax.lax.scan(
        step, laid.start(0.0, 1.0), laid.full(weights), reverse=loop.reverse
    )
    states = laid.named(before, BEFORE, deps_of(weights), lead=1)
    return states, laid.named(last, LAST, Deps(weights.sites))


def own_weights(group: range, evaluation: Evaluation) -> dict[int, Value]:
    """The weights of the sites of a loop, over the particles of their own step.

    They count as depending on their site, lane by lane, also where its steps are independent.
    """
    weights = {}
    for n in group:
        weight = own_weight(n, Axis(n), evaluation)
        own = {n: identity(len(evaluation[n].lane_sizes))} if evaluation[n].axis else {}
        weights[n] = weight._replace(
            sites=weight.sites | (1 << n if own else 0), relations={**own, **weight.relations}
        )
    return weights


def identity(rank: int) -> Relation:
    """The relation of a value to a site whose lanes are its dimensions."""
    return tuple(Along(d) for d in range(rank))


def transitions(
    steps: Value,
    weights: dict[int, Value],
    kept: list[int],
    evaluation: Evaluation,
    ring: Semiring = NUMBERS,
) -> Value:
    """Costs of the steps times weights of a step, over the particles that meet other steps."""
    for n, weight in reversed(list(weights.items())):
        relation = identity(len(evaluation[n].lane_sizes))
        steps = multiply(steps, weight, relation, evaluation, True, ring)
        if n not in kept:
            steps = sum_over(steps, Axis(n), ring.total)
    return steps


def _fold_term(
    term: Term, group: range, before: Value, last: Value, evaluation: Evaluation, loop: Any
) -> Term:
    val = term.val
    relations = {val.relations.get(n) for n in group if val.sites >> n & 1}
    places = {r and tuple(along and along.dim for along in r) for r in relations}
    if len(places) != 1:
        raise MixedSteps(loop.eqn)
    (place,) = places
    rank = len(evaluation[group.start].lane_sizes)
    place = place or (None,) * rank
    if place[0] is None:
        val = _weigh(val, last, place[1:], evaluation, loop)
    elif any(a.step == BEFORE and a.site in group for a in val.axes) or _past(relations):
        val = _weigh(val, before, place, evaluation, loop)
    return forget(term._replace(val=val), group)


def _past(relations: Iterable[Any]) -> bool:
    return any(r is None or r[0] is None or r[0].how != EXACT for r in relations)


def _weigh(val: Value, states: Value, places: Sequence, evaluation: Evaluation, loop: Any) -> Value:
    """The term, of lanes at `places`, times the probabilities of its states, and summed."""
    for axis in states.axes:
        if axis.step != NOW and axis not in val.axes:
            states = sum_over(states, axis)
    if None in places:
        raise MixedSteps(loop.eqn)
    axes = [axis for axis in states.axes if axis.step != NOW]
    val = multiply(val, states, tuple(map(Along, places)), evaluation, True)
    for axis in axes:
        val = sum_over(val, axis)
    return val
