"""The logarithm of an expectation of an exponential, where everything random is summed out.

The contraction of `contract` with sums for products and log-sum-exp for sums; the weights that
sites leave are logarithms.
"""

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from ..._distributions.log_sum_exp import log_sum_exp
from ..interpret.evaluation import Evaluation
from ..sites.weighted_site import Scan
from ..terms.terms import Term, Terms, add_up, collapse, forget
from ..values.expansion import MixedSteps
from ..values.lanes import deps_of, join, move
from ..values.value import LAST, Axis, Value, each_array, event_shape
from .forward import identity, layout, meeting, own_weights, transitions
from .semiring import Semiring, axis_of, sum_over, weigh

Total = Callable[..., jax.Array]
"""A log-sum-exp `(array, axis, step=0)` over some dimensions; `step` counts those of a loop."""


def exact_total(array: jax.Array, axis: Any, step: Any = 0) -> jax.Array:
    """The log-sum-exp."""
    return log_sum_exp(array, axis)


def drawn_total(key: jax.Array) -> Total:
    """A log-sum-exp whose derivative is that of one addend, drawn by its share of the sum.

    Reverse-mode derivatives of nested sums then are those at one joint state, drawn backwards from
    its distribution. Sums are told apart by their order: one `Total` serves one elimination.
    """
    count = iter(range(1_000_000))

    def total(array, axis, step=0):
        own = jax.random.fold_in(jax.random.fold_in(key, next(count)), step)
        axes = (axis,) if isinstance(axis, int) else tuple(axis)
        moved = jnp.moveaxis(array, axes, range(len(axes)))
        return _drawn(moved.reshape(-1, *moved.shape[len(axes) :]), own)

    return total


@jax.custom_vjp
def _drawn(logs: jax.Array, key: jax.Array) -> jax.Array:
    return log_sum_exp(logs, 0)


def _draw(logs, key):
    total, chosen = log_sum_exp(logs, 0), jax.random.categorical(key, logs, axis=0)
    shares = jax.nn.one_hot(chosen, len(logs), dtype=logs.dtype, axis=0)
    return total, jnp.where(jnp.isneginf(total), 0.0, shares)


_drawn.defvjp(_draw, lambda chosen, cotangent: (chosen * cotangent, None))


def log_sum(terms: Iterable[Term], evaluation: Evaluation, key: Any = None) -> jax.Array:
    """log Σ_particles exp(Σ_terms term) × Π weights: of normalized sites of several particles.

    With a `key`, its derivative is that at one joint state drawn from the sum.
    """
    ring = Semiring(_times, jnp.sum, exact_total if key is None else drawn_total(key))
    remaining = list(Terms(terms))
    chains = evaluation.chains
    for number in reversed(range(len(evaluation.opened))):
        group = chains.get(number, range(number, number + 1))
        if number not in chains and any(number in chain for chain in chains.values()):
            continue
        bits = sum(1 << n for n in group)
        here = [term for term in remaining if term.val.sites & bits]
        if here:
            eliminate = _chain if number in chains else _site
            rest = [term for term in remaining if not term.val.sites & bits]
            term = eliminate(here, group, evaluation, ring)
            remaining = list(Terms([*rest, forget(term, group)]))
    return sum((term.val.array for term in remaining), start=jnp.zeros(()))


def _times(log_weight: Any, term: Any) -> Any:
    """A particle that is impossible stays so, even where its term is infinite."""
    return jnp.where(jnp.isneginf(log_weight), -jnp.inf, log_weight + term)


def _site(here: Sequence[Term], group: range, evaluation: Evaluation, ring: Semiring) -> Term:
    number = group.start
    val, lanes_to_sum = _one_term(here, number, evaluation)
    axis = axis_of(val, number)
    if axis is None:
        return Term(val, lanes_to_sum)
    val = weigh(val, number, axis, evaluation, True, ring)
    return Term(sum_over(val, axis, ring.total), lanes_to_sum)


def _one_term(terms: Sequence[Term], number: int, evaluation: Evaluation) -> Term:
    """All the terms as one: lane by lane where they keep the same lanes apart."""
    first, *rest = terms
    relation = first.val.relations.get(number)
    whole = relation is not None and len([a for a in relation if a]) == first.lanes_to_sum
    apart = whole and all(
        (t.lanes_to_sum, t.val.relations.get(number)) == (first.lanes_to_sum, relation)
        for t in rest
    )
    if not apart:
        vals = [collapse(Terms([term]), evaluation) for term in terms]
        return Term(add_up(vals, evaluation))
    return Term(add_up([term.val for term in terms], evaluation), first.lanes_to_sum)


def _chain(here: Sequence[Term], group: range, evaluation: Evaluation, ring: Semiring) -> Term:
    """The forward recursion in logarithms."""
    loop = evaluation[group.start].loops[0]
    stacked = [t for t in here if not any(a.step == LAST for a in t.val.axes)]
    finals = [t.val for t in here if any(a.step == LAST for a in t.val.axes)]
    lanes = evaluation[group.start].lane_sizes
    own = {group.start: identity(len(lanes))}
    steps = Value(jnp.zeros(lanes), (), 1 << group.start, own)
    for term in stacked:
        relation = next((r for n in group if (r := term.val.relations.get(n))), None)
        places = relation and tuple(a and a.dim for a in relation)
        if term.lanes_to_sum != len(lanes) or places != tuple(range(len(lanes))):
            raise MixedSteps(loop.eqn)
        steps = add_up([steps, term.val], evaluation)
    if finals and len(lanes) > 1:
        raise MixedSteps(loop.eqn)
    kept = meeting([steps, *finals], group, evaluation)
    weights = own_weights(group, evaluation)
    laid = layout([steps, *weights.values()], kept, group)
    state, numbers = laid.start(-jnp.inf, 0.0), jnp.arange(loop.length)
    for at, alike in _parts(loop, kept, group, evaluation):
        own = {n: _at(weight, at) for n, weight in weights.items() if n not in alike}
        some = laid.array(transitions(_at(steps, at), own, kept, evaluation, ring))
        shared = functools.reduce(jnp.add, (laid.array(val)[0] for val in alike.values()), 0.0)

        def step(state, at, shared=shared):
            number, costs = at
            of_step = functools.partial(ring.total, step=number)
            return laid.after(state, ring.times(shared, costs), jnp.add, of_step), None

        state, _ = jax.lax.scan(step, state, (numbers[at], some), reverse=loop.reverse)
    deps = join([deps_of(val) for val in (steps, *weights.values())])
    last = laid.named(state, LAST, move(deps, lambda d: d - 1 if d else None))
    val = add_up([last, *finals], evaluation)
    for n in kept:
        val = sum_over(val, Axis(n, LAST), ring.total)
    return Term(val, len(event_shape(val)))


def _parts(
    loop: Scan, kept: list[int], group: range, evaluation: Evaluation
) -> list[tuple[slice, dict[int, Value]]]:
    """Steps that are summed out in one go, in order, and weights that are the same at all these."""
    alike = {
        n: later
        for n in kept
        if (later := evaluation[n].later) is not None
        and not any(a.site in group and a.site not in kept for a in later.axes)
    }
    if not alike:
        return [(slice(None), {})]
    if loop.reverse:
        return [(slice(-1, None), {}), (slice(-1), alike)]
    return [(slice(1), {}), (slice(1, None), alike)]


def _at(steps: Value, at: slice) -> Value:
    """Some steps of a value whose first dimension they are."""
    return each_array(lambda array, axes: array[(slice(None),) * len(axes) + (at,)], steps)
