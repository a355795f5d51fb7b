"""Perturbed sites: differences between worlds, in place of weighted particles."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax.lax import stop_gradient

from ..._jax import identities
from ..interpret.evaluation import Evaluation
from ..sites.measure import second_derivative
from ..sites.weighted_site import WeightedSite
from ..terms.terms import Term, forget
from ..values.lanes import deps_of, move
from ..values.value import Segment, Value, event_shape, infinite_at_particles, place, segment, widen
from .plugin import Plugin
from .semiring import NUMBERS


def _start(terms: Sequence[Term], evaluation: Evaluation) -> list[Term]:
    """The terms, of which some are summed exactly.

    To be asked before sites are eliminated: what is left of other sites is known in one world only.
    """
    return [_exactly(term, evaluation) for term in terms]


def _meet(term: Term, number: int, evaluation: Evaluation) -> Term | None:
    """A term with the differences that perturbations of a site make."""
    if not evaluation[number].perturbed:
        return None
    own = _own_worlds(term.val, number)
    if own is None:
        return term
    return term._replace(val=_add_differences(term.val, own, evaluation))


PERTURBATIONS = Plugin(start=_start, meet=_meet)
"""A perturbed site adds Σ weight · (term in the world - term); its weights are zero in value."""


def _exactly(term: Term, evaluation: Evaluation) -> Term:
    """A term that reads one perturbed element alone, summed over its whole support, if known."""
    number = term.val.sites.bit_length() - 1
    if term.val.sites.bit_count() != 1 or evaluation[number].chances is None:
        return term
    relation, worlds = term.val.relations.get(number, ()), term.val.worlds
    apart = len(relation) == len(evaluation[number].lane_sizes) and None not in relation
    if not apart or worlds is None or [s.form for s in worlds.segments] != [()]:
        return term
    val = _sum_over_support(term.val, worlds.segments[0], evaluation)
    return forget(term._replace(val=val), [number])


def _own_worlds(val: Value, number: int) -> Segment | None:
    segments = val.worlds.segments if val.worlds else ()
    return next((s for s in segments if s.site == number), None)


def _add_differences(val: Value, own: Segment, evaluation: Evaluation) -> Value:
    """A term here plus Σ_w weight_w · (the term in world w - the term)."""
    site = evaluation[own.site]

    def fn(here, there, weight):
        if not evaluation.allow_biased:
            here, weight = _without_mixed_derivatives(here, weight, site)
        change = stop_gradient(there - here)
        return here + jnp.sum(weight * jnp.where(jnp.isfinite(change), change, 0.0), axis=0)

    weight = _of_worlds(site.weight, own.form, evaluation)
    return _over_worlds(fn, val, own, weight, evaluation)


def _sum_over_support(val: Value, own: Segment, evaluation: Evaluation) -> Value:
    """The sum over all the particles, here and in the worlds, with their probabilities."""

    def fn(here, there, chances):
        particles = jnp.append(here[None], there, 0)
        return jnp.sum(NUMBERS.times(chances, particles, infinite_at_particles(val)), axis=0)

    chances = evaluation[own.site].chances
    assert chances is not None
    return _over_worlds(fn, val, own, chances, evaluation)


def _over_worlds(
    fn: Callable, val: Value, own: Segment, weight: Value, evaluation: Evaluation
) -> Value:
    """`fn(here, there, weight)` of a value, in the worlds of a segment too, and of their weights.

    `there` and `weight` have the worlds in front; after them, the weight's lanes are where the
    value keeps them apart.
    """
    count, rank = len(evaluation[own.site].lane_sizes), len(event_shape(val))
    relation = val.relations.get(own.site, (None,) * count)
    places = {d: along.dim for d, along in enumerate(relation) if along is not None}
    lanes = [places[d] for d in range(count) if d not in own.form]

    def placed(here, there, weight):
        return [fn(here, there, place(weight, lanes, rank, lead=1))]

    piece = segment(val, own)
    there = Value(
        jnp.moveaxis(piece.array, 0, len(piece.axes)),
        piece.axes,
        val.sites,
        move(deps_of(val), lambda d: d + 1).relations,
    )
    here = val._replace(worlds=None)
    (out,) = evaluation.apply(placed, [here, there, weight], lambda deps: [deps[0]])
    assert val.worlds is not None
    rest = tuple(s for s in val.worlds.segments if s != own)
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
