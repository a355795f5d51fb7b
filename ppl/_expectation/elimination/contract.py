"""Contraction of cost terms with the weights of the sites that they depend on."""

import functools
from collections.abc import Iterable

import jax
import jax.numpy as jnp
from jax.lax import stop_gradient

from ..._jax import identities
from ..interpret.evaluation import Evaluation
from ..sites import baseline
from ..sites.measure import second_derivative
from ..sites.weighted_site import WeightedSite
from ..terms.terms import Term, Terms, forget
from ..values.lanes import deps_of, move
from ..values.value import Value, event_shape, place, segment, widen
from .forward import fold
from .semiring import axis_of, guarded_product, quiet_product, sum_over, weigh


def contract(terms: Iterable[Term], evaluation: Evaluation, minimized: bool = False) -> jax.Array:
    """The weighted sum over all particles and worlds: Σ_terms Σ_particles term × Π weights.

    Sites are eliminated in reverse order. Only the terms that depend on a site meet its weights,
    and only those of the lanes that they depend on: for the others the weights sum to one
    (identically where `normalized`, else in expectation). Each elimination leaves terms that depend
    on earlier sites alone and merges them, so a chain of T sites costs T eliminations (the tower
    property, as variable elimination). Baselines are learnt as the estimate is maximised, or
    `minimized`.
    """
    given = (
        baseline.give(site.given, number, evaluation)
        for number, site in enumerate(evaluation.opened)
        if site.given is not None
    )
    remaining = Terms([*(_exactly(term, evaluation) for term in terms), *given])
    chains = evaluation.chains
    for number in reversed(range(len(evaluation.opened))):
        site, here, after = evaluation.opened[number], [], Terms()
        in_chain = any(number in group for group in chains.values())
        for term in remaining:
            if term.val.sites >> number & 1:
                here.append(term)
                term = _eliminate(term, number, evaluation, in_chain)
                if not in_chain:
                    # and, in a loop, the later sites of earlier steps that the weight depends on
                    term = forget(term, range(number, len(evaluation.opened)))
            after.add(term)
        if site.baseline is not None and here:
            after.add(baseline.learn(here, number, evaluation, minimized))
        if number in chains:
            after = Terms(fold(after, chains[number], evaluation))
        remaining = after
    first, *others = (term.val.array for term in remaining)
    return functools.reduce(jnp.add, others, first)


def _eliminate(term: Term, number: int, evaluation: Evaluation, own_step: bool) -> Term:
    site = evaluation[number]
    if site.perturbed:
        return term._replace(val=_perturb(term.val, number, site, evaluation))
    axis = axis_of(term.val, number)
    if site.axis and axis is None and site.normalized:
        return term
    val = weigh(term.val, number, axis, evaluation, own_step)
    return term._replace(val=val if axis is None else sum_over(val, axis))


# --- perturbations -------------------------------------------------------------------------------


def _exactly(term: Term, evaluation: Evaluation) -> Term:
    """A term that reads one perturbed element alone, summed over a support that its particles are.

    To be asked before sites are eliminated: what is left of other sites is known in one world only.
    """
    number = term.val.sites.bit_length() - 1
    if term.val.sites.bit_count() != 1 or evaluation[number].chances is None:
        return term
    site, relation = evaluation[number], term.val.relations.get(number, ())
    segments = term.val.worlds.segments if term.val.worlds else ()
    apart = len(relation) == len(site.lane_sizes) and None not in relation
    if not apart or [s.form for s in segments] != [()]:
        return term
    val = _perturb(term.val, number, site, evaluation, site.chances)
    return forget(term._replace(val=val), [number])


def _perturb(
    val: Value,
    number: int,
    site: WeightedSite,
    evaluation: Evaluation,
    chances: Value | None = None,
) -> Value:
    """Adds Σ weight × (the term in the perturbed world - the term); weights are zero in value.

    With `chances` in place of weights, the sum over the particles.
    """
    segments = val.worlds.segments if val.worlds else ()
    own = next((s for s in segments if s.site == number), None)
    if own is None:
        return val
    rest = tuple(s for s in segments if s != own)
    relation = val.relations.get(number, (None,) * len(site.lane_sizes))
    places = {d: along.dim for d, along in enumerate(relation) if along is not None}
    weight = _of_worlds(site.weight, own.form, evaluation) if chances is None else chances
    lanes = [places[d] for d in range(len(site.lane_sizes)) if d not in own.form]
    rank = len(event_shape(val))

    times = quiet_product if val.unbounded else guarded_product

    def fn(here, there, weight):
        weight = place(weight, lanes, rank, lead=1)
        if chances is not None:
            return [jnp.sum(times(weight, jnp.append(here[None], there, 0)), axis=0)]
        if not evaluation.allow_biased:
            here, weight = _without_mixed_derivatives(here, weight, site)
        change = stop_gradient(there - here)
        return [here + jnp.sum(weight * jnp.where(jnp.isfinite(change), change, 0.0), axis=0)]

    piece = segment(val, own)
    there = Value(
        jnp.moveaxis(piece.array, 0, len(piece.axes)),
        piece.axes,
        val.sites,
        move(deps_of(val), lambda d: d + 1).relations,
    )
    here = val._replace(worlds=None)
    (out,) = evaluation.apply(fn, [here, there, weight], lambda deps: [deps[0]])
    return out._replace(worlds=widen(val, rest) if rest else None)


def _without_mixed_derivatives(
    here: jax.Array, weight: jax.Array, site: WeightedSite
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


def _of_worlds(weight: Value, form: tuple[int, ...], evaluation: Evaluation) -> Value:
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
        return [move(deps[0], new.get)]

    return evaluation.apply(fn, [weight], through)[0]
