"""The logarithm of an expectation of an exponential, where everything random is summed out.

The contraction of `contract` with sums for products and log-sum-exp for sums.
"""

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.nn import logsumexp

from .chain import identity, meeting, passed_on, transitions
from .context import Context, MixedSteps
from .lanes import deps_of, moved
from .terms import Term, Terms, added, collapse, forgotten
from .value import LAST, Axis, Val, event_shape
from .weigh import axis_of, summed, weighted

Total = Callable[..., jax.Array]
"""A log-sum-exp `(array, axis, step=0)` over some dimensions; `step` counts those of a loop."""


def exact_total(array: jax.Array, axis: Any, step: Any = 0) -> jax.Array:
    """The log-sum-exp."""
    return logsumexp(array, axis=axis)


def drawn_total(key: jax.Array) -> Total:
    """A log-sum-exp whose derivative is that of one addend, drawn by its share of the sum.

    Reverse-mode derivatives of nested sums then are those at one joint state, drawn backwards from
    its distribution.
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
    return logsumexp(logs, axis=0)


def _draw(logs, key):
    chosen = jax.random.categorical(key, logs, axis=0)
    return logsumexp(logs, axis=0), jax.nn.one_hot(chosen, len(logs), dtype=logs.dtype, axis=0)


_drawn.defvjp(_draw, lambda chosen, cotangent: (chosen * cotangent, None))


def log_sum(terms: Iterable[Term], context: Context, total: Total = exact_total) -> jax.Array:
    """log Σ_particles exp(Σ_terms term) × Π weights: of normalized sites of several particles."""
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
            term = eliminate(here, group, context, total)
            remaining = list(Terms([*rest, forgotten(term, group)]))
    return sum((term.val.array for term in remaining), start=jnp.zeros(()))


def _log_times(weight: Any, term: Any) -> Any:
    possible = weight > 0
    return jnp.where(possible, jnp.log(jnp.where(possible, weight, 1.0)) + term, -jnp.inf)


def _site(here: Sequence[Term], group: range, context: Context, total: Total) -> Term:
    number = group.start
    val, pending = _one_term(here, number, context)
    axis = axis_of(val, number)
    if axis is None:
        return Term(val, pending)
    val = weighted(val, number, axis, context, True, _log_times)
    return Term(summed(val, axis, total), pending)


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


def _chain(here: Sequence[Term], group: range, context: Context, total: Total) -> Term:
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
    steps = transitions(steps, kept, group, context, _log_times, total)
    passed = passed_on(steps, kept)

    def step(state, at):
        number, transition = at
        of_step = functools.partial(total, step=number)
        return passed.after(state, transition, jnp.add, of_step), None

    start, numbers = passed.start(-jnp.inf, 0.0), jnp.arange(len(passed.array))
    last, _ = jax.lax.scan(step, start, (numbers, passed.array), reverse=loop.reverse)
    deps = moved(deps_of(steps), lambda d: d - 1 if d else None)
    val = added([passed.named(last, LAST, deps), *finals], context)
    for n in kept:
        val = summed(val, Axis(n, LAST), total)
    return Term(val, len(event_shape(val)))
