"""Contraction of cost terms with the weights of the sites that they depend on."""

import functools
from collections.abc import Iterable, Sequence

import jax
import jax.numpy as jnp
from jax.lax import stop_gradient

from .chain import fold
from .context import Context, Opened
from .lanes import deps_of, joined, moved
from .terms import Term, Terms, forgotten
from .value import (
    NOW,
    Val,
    axis_sizes,
    broadcast,
    each_array,
    event_shape,
    segment,
    union_axes,
    widen,
)
from .weigh import multiplied, own_weight, summed, without_dims


def contract(terms: Iterable[Term], context: Context, minimized: bool = False) -> jax.Array:
    """The weighted sum over all particles and worlds: Σ_terms Σ_particles term × Π weights.

    Sites are eliminated in reverse order. Only the terms that depend on a site meet its weights,
    and only those of the lanes that they depend on: for the others the weights sum to one
    (identically where `normalized`, else in expectation). Each elimination leaves terms that depend
    on earlier sites alone and merges them, so a chain of T sites costs T eliminations (the tower
    property, as variable elimination). Baselines are learnt as the estimate is maximised, or
    `minimized`.
    """
    given = (
        _baseline_term(site.given, None, number, context, minimized)
        for number, site in enumerate(context.opened)
        if site.given is not None
    )
    remaining = Terms([*terms, *given])
    for number in reversed(range(len(context.opened))):
        site, bit, after = context.opened[number], 1 << number, Terms()
        in_chain = any(first <= number <= last for last, first in context.chains.items())
        here = [term for term in remaining if term.val.sites & bit]
        for term in remaining:
            if term.val.sites & bit and not in_chain:
                term = forgotten(_eliminated(term, number, context, False), number)
            elif term.val.sites & bit:
                term = _eliminated(term, number, context, True)
            after.add(term)
        if site.baseline is not None and here:
            cost = _cost(here, number, context)
            after.add(_baseline_term(site.baseline, cost, number, context, minimized))
        firsts = {first: last for last, first in context.chains.items()}
        if number in firsts:
            group = range(number, firsts[number] + 1)
            after = Terms(fold(after, group, context))
        remaining = after
    first, *others = (term.val.array for term in remaining)
    return functools.reduce(jnp.add, others, first)


def _eliminated(term: Term, number: int, context: Context, own_step: bool) -> Term:
    site = context[number]
    if site.perturbed:
        return term._replace(val=_perturbed(term.val, number, site, context))
    axis = next((a for a in term.val.axes if a.site == number and a.step == NOW), None)
    if site.axis and axis is None and site.normalized:
        return term
    weight = own_weight(site, number, axis, context)
    relation = term.val.lanes.get(number, (None,) * len(site.lanes))
    if axis is not None:
        relation = tuple(None if d in axis.form else a for d, a in enumerate(relation))
        weight, relation = without_dims(weight, relation, axis.form)
        val = multiplied(term.val, weight, relation, context, own_step)
        return term._replace(val=summed(val, axis))
    return term._replace(val=multiplied(term.val, weight, relation, context, own_step))


# --- perturbations -------------------------------------------------------------------------------


def _perturbed(val: Val, number: int, site: Opened, context: Context) -> Val:
    """Adds Σ weight × (the term in the perturbed world - the term); weights are zero in value."""
    segments = val.worlds.segments if val.worlds else ()
    own = next((s for s in segments if s.site == number), None)
    if own is None:
        return val
    rest = tuple(s for s in segments if s != own)
    relation = val.lanes.get(number, (None,) * len(site.lanes))
    places = {d: along.dim for d, along in enumerate(relation) if along is not None}
    weight = _of_worlds(site.weight, own.form, context)
    order = sorted((d for d in places if d not in own.form), key=lambda d: places[d])
    lanes = [d for d in range(len(site.lanes)) if d not in own.form]
    rank = len(event_shape(val))

    def fn(here, there, weight):
        shape = [1] * rank
        for d in order:
            shape[places[d]] = site.lanes[d]
        weight = jnp.transpose(weight, (0, *(1 + lanes.index(d) for d in order)))
        weight = weight.reshape(weight.shape[0], *shape)
        return [here + jnp.sum(weight * (there - stop_gradient(here)), axis=0)]

    piece = segment(val, own)
    there = Val(
        jnp.moveaxis(piece.array, 0, len(piece.axes)),
        piece.axes,
        val.sites,
        moved(deps_of(val), lambda d: d + 1 if d >= 0 else d).lanes,
    )
    here = val._replace(worlds=None)
    (out,) = context.apply(fn, [here, there, weight], lambda deps: [deps[0]])
    return out._replace(worlds=widen(val, rest) if rest else None)


def _of_worlds(weight: Val, form: tuple[int, ...], context: Context) -> Val:
    """Perturbation weights `(perturbations, *lanes)` as `(worlds of a form, *other lanes)`."""
    if not form:
        return weight
    rank = len(event_shape(weight))
    kept = [d for d in range(1, rank) if d - 1 not in form]

    def fn(x):
        x = jnp.transpose(x, (0, *(1 + d for d in form), *kept))
        return [x.reshape(-1, *x.shape[1 + len(form) :])]

    def through(deps):
        new = {d: 1 + i for i, d in enumerate(kept)}
        return [moved(deps[0], lambda d: d if d < 0 else new.get(d))]

    return context.apply(fn, [weight], through)[0]


# --- baselines -----------------------------------------------------------------------------------


def _baseline_term(
    baseline: Val, cost: Val | None, number: int, context: Context, minimized: bool
) -> Term:
    """-(baseline)(weight - 1), of mean zero; the weight is counted here and not met again.

    A baseline that is to be learnt from the cost also gets its squared error, of value zero, with
    the sign that makes it fall as the estimate is maximised or `minimized`.
    """
    site, half = context[number], 0.5 if minimized else -0.5

    def fn(baseline, weight, *costs):
        error = sum(half * (stop_gradient(cost) - baseline) ** 2 for cost in costs)
        return [(error - stop_gradient(error)) - stop_gradient(baseline) * (weight - 1.0)]

    vals = [baseline, site.weight, *([] if cost is None else [cost])]
    (val,) = context.apply(fn, vals, lambda deps: [joined([deps[0], deps[1]])])
    return forgotten(Term(val._replace(worlds=None), len(site.lanes)), number)


def _cost(terms: Sequence[Term], number: int, context: Context) -> Val:
    """What multiplies a site's weight, for each of its lanes."""
    sizes = context[number].lanes
    total = Val(jnp.zeros(sizes))
    for val, _ in terms:
        relation = val.lanes.get(number, (None,) * len(sizes))

        def to_lanes(array, axes, relation=relation):
            lead = len(axes)
            kept = {lead + a.dim: d for d, a in enumerate(relation) if a is not None}
            gone = tuple(d for d in range(lead, array.ndim) if d not in kept)
            order = sorted(kept)
            array = jnp.sum(array, axis=gone)
            lanes = [kept[d] for d in order]
            array = jnp.transpose(
                array, (*range(lead), *(lead + lanes.index(d) for d in sorted(lanes)))
            )
            shape = [n if relation[d] is not None else 1 for d, n in enumerate(sizes)]
            array = array.reshape(*array.shape[:lead], *shape)
            return jnp.broadcast_to(array, (*array.shape[:lead], *sizes))

        part = each_array(to_lanes, val._replace(worlds=None, lanes={}))
        both = [total, part]
        axes = union_axes(both)
        found = axis_sizes(both, axes)
        total = Val(sum(broadcast(v, axes, found) for v in both), axes)
    return total
