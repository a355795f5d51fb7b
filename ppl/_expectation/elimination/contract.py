"""Contraction of cost terms with the weights of the sites that they depend on."""

import functools
from collections.abc import Iterable

import jax
import jax.numpy as jnp
from jax.lax import stop_gradient

from ..._jax import identities
from ..interpret.context import Context, Opened
from ..sites import baseline
from ..sites.measure import second_derivative
from ..terms.terms import Term, Terms, forgotten
from ..values.lanes import deps_of, moved
from ..values.value import Val, event_shape, placed, segment, widen
from .forward import fold
from .semiring import axis_of, guarded_product, quiet_product, summed, weighted


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
        baseline.given(site.given, number, context)
        for number, site in enumerate(context.opened)
        if site.given is not None
    )
    remaining = Terms([*(_exactly(term, context) for term in terms), *given])
    for number in reversed(range(len(context.opened))):
        site, here, after = context.opened[number], [], Terms()
        in_chain = any(number in group for group in context.chains.values())
        for term in remaining:
            if term.val.sites >> number & 1:
                here.append(term)
                term = _eliminated(term, number, context, in_chain)
                if not in_chain:
                    # and, in a loop, the later sites of earlier steps that the weight depends on
                    term = forgotten(term, range(number, len(context.opened)))
            after.add(term)
        if site.baseline is not None and here:
            after.add(baseline.learnt(here, number, context, minimized))
        if number in context.chains:
            after = Terms(fold(after, context.chains[number], context))
        remaining = after
    first, *others = (term.val.array for term in remaining)
    return functools.reduce(jnp.add, others, first)


def _eliminated(term: Term, number: int, context: Context, own_step: bool) -> Term:
    site = context[number]
    if site.perturbed:
        return term._replace(val=_perturbed(term.val, number, site, context))
    axis = axis_of(term.val, number)
    if site.axis and axis is None and site.normalized:
        return term
    val = weighted(term.val, number, axis, context, own_step)
    return term._replace(val=val if axis is None else summed(val, axis))


# --- perturbations -------------------------------------------------------------------------------


def _exactly(term: Term, context: Context) -> Term:
    """A term that reads one perturbed element alone, summed over a support that its particles are.

    To be asked before sites are eliminated: what is left of other sites is known in one world only.
    """
    number = term.val.sites.bit_length() - 1
    if term.val.sites.bit_count() != 1 or context[number].chances is None:
        return term
    site, relation = context[number], term.val.lanes.get(number, ())
    segments = term.val.worlds.segments if term.val.worlds else ()
    apart = len(relation) == len(site.lanes) and None not in relation
    if not apart or [s.form for s in segments] != [()]:
        return term
    val = _perturbed(term.val, number, site, context, site.chances)
    return forgotten(term._replace(val=val), [number])


def _perturbed(
    val: Val, number: int, site: Opened, context: Context, chances: Val | None = None
) -> Val:
    """Adds Σ weight × (the term in the perturbed world - the term); weights are zero in value.

    With `chances` in place of weights, the sum over the particles.
    """
    segments = val.worlds.segments if val.worlds else ()
    own = next((s for s in segments if s.site == number), None)
    if own is None:
        return val
    rest = tuple(s for s in segments if s != own)
    relation = val.lanes.get(number, (None,) * len(site.lanes))
    places = {d: along.dim for d, along in enumerate(relation) if along is not None}
    weight = _of_worlds(site.weight, own.form, context) if chances is None else chances
    lanes = [places[d] for d in range(len(site.lanes)) if d not in own.form]
    rank = len(event_shape(val))

    times = quiet_product if val.unbounded else guarded_product

    def fn(here, there, weight):
        weight = placed(weight, lanes, rank, lead=1)
        if chances is not None:
            return [jnp.sum(times(weight, jnp.append(here[None], there, 0)), axis=0)]
        if not context.allow_biased:
            here, weight = _without_mixed_derivatives(here, weight, site)
        change = stop_gradient(there - here)
        return [here + jnp.sum(weight * jnp.where(jnp.isfinite(change), change, 0.0), axis=0)]

    piece = segment(val, own)
    there = Val(
        jnp.moveaxis(piece.array, 0, len(piece.axes)),
        piece.axes,
        val.sites,
        moved(deps_of(val), lambda d: d + 1).lanes,
    )
    here = val._replace(worlds=None)
    (out,) = context.apply(fn, [here, there, weight], lambda deps: [deps[0]])
    return out._replace(worlds=widen(val, rest) if rest else None)


def _without_mixed_derivatives(
    here: jax.Array, weight: jax.Array, site: Opened
) -> tuple[jax.Array, jax.Array]:
    """A term and the weights of its perturbations, not to be differentiated one after the other.

    The difference that a weight meets has lost its own derivatives.
    """
    assert site.site is not None
    message = second_derivative(site.site)
    return (
        identities.first_order(here, [weight], message),
        identities.first_order(weight, [weight, here], message),
    )


def _of_worlds(weight: Val, form: tuple[int, ...], context: Context) -> Val:
    """Perturbation weights `(perturbations, *lanes)` as `(worlds of a form, *other lanes)`."""
    if not form:
        return weight
    rank = len(event_shape(weight))
    kept = [d for d in range(1, rank) if d - 1 not in form]
    new = {d: 1 + i for i, d in enumerate(kept)}

    def fn(x):
        x = jnp.transpose(x, (0, *(1 + d for d in form), *kept))
        return [x.reshape(-1, *x.shape[1 + len(form) :])]

    def through(deps):
        return [moved(deps[0], new.get)]

    return context.apply(fn, [weight], through)[0]
