"""The logarithm of an expectation of an exponential, where everything random is summed out.

The contraction of `contract` with sums for products and log-sum-exp for sums.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.nn import logsumexp

from .chain import arranged, before_dims
from .context import Context, MixedSteps
from .dimensions import Along
from .lanes import joined
from .terms import Term, Terms, collapse, forgotten
from .value import LAST, NOW, Axis, Val, event_shape, union_axes
from .weigh import multiplied, own_weight, summed, without_dims

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
    chains = {first: last for last, first in context.chains.items()}
    inside = {n for first, last in chains.items() for n in range(first, last + 1)}
    for number in reversed(range(len(context.opened))):
        group = range(number, chains.get(number, number) + 1)
        if number in inside and number not in chains:
            continue
        bits = sum(1 << n for n in group)
        here = [term for term in remaining if term.val.sites & bits]
        if here:
            eliminate = _chain if number in chains else _site
            rest = [term for term in remaining if not term.val.sites & bits]
            term = eliminate(here, group, context, total)
            for n in group:
                term = forgotten(term, n)
            remaining = list(Terms([*rest, term]))
    return sum((term.val.array for term in remaining), start=jnp.zeros(()))


def _log_times(weight: Any, term: Any) -> Any:
    possible = weight > 0
    return jnp.where(possible, jnp.log(jnp.where(possible, weight, 1.0)) + term, -jnp.inf)


def _site(here: Sequence[Term], group: range, context: Context, total: Total) -> Term:
    number = group.start
    val, pending = _added(here, number, context)
    site = context[number]
    axis = next((a for a in val.axes if a.site == number and a.step == NOW), None)
    if axis is None:
        return Term(val, pending)
    weight = own_weight(site, number, axis, context)
    relation = val.lanes.get(number, (None,) * len(site.lanes))
    relation = tuple(None if d in axis.form else a for d, a in enumerate(relation))
    weight, relation = without_dims(weight, relation, axis.form)
    val = multiplied(val, weight, relation, context, True, _log_times)
    return Term(summed(val, axis, total), pending)


def _added(terms: Sequence[Term], number: int, context: Context) -> Term:
    """All the terms as one: lane by lane where they keep the same lanes apart."""
    first, *rest = terms
    relation = first.val.lanes.get(number)
    whole = relation is not None and len([a for a in relation if a]) == first.pending
    apart = whole and all(
        (t.pending, t.val.lanes.get(number)) == (first.pending, relation) for t in rest
    )
    if not apart:
        vals = [collapse(Terms([term]), context) for term in terms]
        return Term(_plus(vals, context))
    return Term(_plus([term.val for term in terms], context), first.pending)


def _plus(vals: Sequence[Val], context: Context) -> Val:
    total, *rest = vals
    for val in rest:
        (total,) = context.apply(lambda a, b: [a + b], [total, val], lambda deps: [joined(deps)])
    return total


def _chain(here: Sequence[Term], group: range, context: Context, total: Total) -> Term:
    """The forward recursion in logarithms."""
    loop = context[group.start].loops[0]
    stacked = [t for t in here if not any(a.step == LAST for a in t.val.axes)]
    finals = [t.val for t in here if any(a.step == LAST for a in t.val.axes)]
    lanes = context[group.start].lanes
    identity = tuple(Along(d) for d in range(len(lanes)))
    steps = Val(jnp.zeros(lanes), (), 1 << group.start, {group.start: identity})
    for term in stacked:
        relation = next((r for n in group if (r := term.val.lanes.get(n))), None)
        places = relation and tuple(a and a.dim for a in relation)
        if term.pending != len(lanes) or places != tuple(range(len(lanes))):
            raise MixedSteps(loop.eqn)
        steps = _plus([steps, term.val], context)
    axes = union_axes([steps, *finals, *(context[n].weight for n in group)])
    kept = [n for n in group if any(a.site == n and a.step != NOW for a in axes)]
    for n in reversed(group):
        axis = Axis(n, NOW)
        weight = own_weight(context[n], n, axis, context)
        steps = multiplied(steps, weight, identity, context, True, _log_times)
        if n not in kept:
            steps = summed(steps, axis, total)
    return _folded(steps, kept, finals, context, loop, total)


def _folded(
    steps: Val, kept: list[int], finals: list[Val], context: Context, loop: Any, total: Total
) -> Term:
    passed, count = arranged(steps, kept), len(kept)

    def step(state, at):
        number, transition = at
        wide = state.reshape(state.shape + (1,) * count)
        return total(wide + transition, before_dims(transition, count), number), None

    start, numbers = passed.start(-jnp.inf, 0.0), jnp.arange(len(passed.array))
    last, _ = jax.lax.scan(step, start, (numbers, passed.array), reverse=loop.reverse)
    rank, width = len(passed.outer), len(passed.sizes[1])
    if finals and width:
        raise MixedSteps(loop.eqn)
    array = jnp.moveaxis(last, range(rank + width, last.ndim), range(rank, rank + count))
    axes = (*passed.outer, *(Axis(n, LAST) for n in kept))
    order = sorted(range(len(axes)), key=lambda i: axes[i])
    array = jnp.transpose(array, (*order, *range(len(axes), array.ndim)))
    lanes = {
        site: tuple(a and a._replace(dim=a.dim - 1) if a and a.dim else None for a in relation)
        for site, relation in steps.lanes.items()
    }
    val = Val(array, tuple(sorted(axes)), steps.sites, lanes)
    val = _plus([val, *finals], context)
    for n in kept:
        val = summed(val, Axis(n, LAST), total)
    return Term(val, len(event_shape(val)))
