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
from ..interpret.context import Context, Loop, MixedSteps
from ..terms.terms import Term, Terms, added, collapse, forgotten
from ..values.lanes import deps_of, joined, moved
from ..values.value import LAST, Axis, Val, each_array, event_shape
from .forward import identity, layout, meeting, own_weights, transitions
from .semiring import Semiring, axis_of, summed, weighted

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


def log_sum(terms: Iterable[Term], context: Context, key: Any = None) -> jax.Array:
    """log Σ_particles exp(Σ_terms term) × Π weights: of normalized sites of several particles.

    With a `key`, its derivative is that at one joint state drawn from the sum.
    """
    ring = Semiring(_times, jnp.sum, exact_total if key is None else drawn_total(key))
    remaining = list(Terms(terms))
    chains = context.chains
    for number in reversed(range(len(context.opened))):
        group = chains.get(number, range(number, number + 1))
        if number not in chains and any(number in chain for chain in chains.values()):
            continue
        bits = sum(1 << n for n in group)
        here = [term for term in remaining if term.val.sites & bits]
        if here:
            eliminate = _chain if number in chains else _site
            rest = [term for term in remaining if not term.val.sites & bits]
            term = eliminate(here, group, context, ring)
            remaining = list(Terms([*rest, forgotten(term, group)]))
    return sum((term.val.array for term in remaining), start=jnp.zeros(()))


def _times(log_weight: Any, term: Any) -> Any:
    """A particle that is impossible stays so, even where its term is infinite."""
    return jnp.where(jnp.isneginf(log_weight), -jnp.inf, log_weight + term)


def _site(here: Sequence[Term], group: range, context: Context, ring: Semiring) -> Term:
    number = group.start
    val, pending = _one_term(here, number, context)
    axis = axis_of(val, number)
    if axis is None:
        return Term(val, pending)
    val = weighted(val, number, axis, context, True, ring)
    return Term(summed(val, axis, ring.total), pending)


def _one_term(terms: Sequence[Term], number: int, context: Context) -> Term:
    """All the terms as one: lane by lane where they keep the same lanes apart."""
    first, *rest = terms
    relation = first.val.lanes.get(number)
    whole = relation is not None and len([a for a in relation if a]) == first.pending
    apart = whole and all(
        (t.pending, t.val.lanes.get(number)) == (first.pending, relation) for t in rest
    )
    if not apart:
        vals = [collapse(Terms([term]), context) for term in terms]
        return Term(added(vals, context))
    return Term(added([term.val for term in terms], context), first.pending)


def _chain(here: Sequence[Term], group: range, context: Context, ring: Semiring) -> Term:
    """The forward recursion in logarithms."""
    loop = context[group.start].loops[0]
    stacked = [t for t in here if not any(a.step == LAST for a in t.val.axes)]
    finals = [t.val for t in here if any(a.step == LAST for a in t.val.axes)]
    lanes = context[group.start].lanes
    own = {group.start: identity(len(lanes))}
    steps = Val(jnp.zeros(lanes), (), 1 << group.start, own)
    for term in stacked:
        relation = next((r for n in group if (r := term.val.lanes.get(n))), None)
        places = relation and tuple(a and a.dim for a in relation)
        if term.pending != len(lanes) or places != tuple(range(len(lanes))):
            raise MixedSteps(loop.eqn)
        steps = added([steps, term.val], context)
    if finals and len(lanes) > 1:
        raise MixedSteps(loop.eqn)
    kept = meeting([steps, *finals], group, context)
    weights = own_weights(group, context)
    laid = layout([steps, *weights.values()], kept, group)
    state, numbers = laid.start(-jnp.inf, 0.0), jnp.arange(loop.length)
    for at, alike in _parts(loop, kept, group, context):
        own = {n: _at(weight, at) for n, weight in weights.items() if n not in alike}
        some = laid.array(transitions(_at(steps, at), own, kept, context, ring))
        shared = functools.reduce(jnp.add, (laid.array(val)[0] for val in alike.values()), 0.0)

        def step(state, at, shared=shared):
            number, costs = at
            of_step = functools.partial(ring.total, step=number)
            return laid.after(state, ring.times(shared, costs), jnp.add, of_step), None

        state, _ = jax.lax.scan(step, state, (numbers[at], some), reverse=loop.reverse)
    deps = joined([deps_of(val) for val in (steps, *weights.values())])
    last = laid.named(state, LAST, moved(deps, lambda d: d - 1 if d else None))
    val = added([last, *finals], context)
    for n in kept:
        val = summed(val, Axis(n, LAST), ring.total)
    return Term(val, len(event_shape(val)))


def _parts(
    loop: Loop, kept: list[int], group: range, context: Context
) -> list[tuple[slice, dict[int, Val]]]:
    """Steps that are summed out in one go, in order, and weights that are the same at all these."""
    alike = {
        n: later
        for n in kept
        if (later := context[n].later) is not None
        and not any(a.site in group and a.site not in kept for a in later.axes)
    }
    if not alike:
        return [(slice(None), {})]
    if loop.reverse:
        return [(slice(-1, None), {}), (slice(-1), alike)]
    return [(slice(1), {}), (slice(1, None), alike)]


def _at(steps: Val, at: slice) -> Val:
    """Some steps of a value whose first dimension they are."""
    return each_array(lambda array, axes: array[(slice(None),) * len(axes) + (at,)], steps)
