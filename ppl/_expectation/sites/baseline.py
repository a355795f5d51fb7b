"""Baselines of scores: what is taken off a cost, and how it is learnt from it.

With C the cost that meets a weight w, a baseline b adds -b·(w - 1), of mean zero, and -(C - b)²/2,
cut to be zero in value. Both are made of C and of three numbers, -b·(w - 1), b and b², which are
sums where several sites are weighted as one.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.lax import stop_gradient

from ..interpret.evaluation import Evaluation
from ..terms.terms import Term, add_up, forget
from ..values.dimensions import CAUSAL, EXACT
from ..values.lanes import join, move
from ..values.value import Value, place


def note(baseline: Value, weight: Value, evaluation: Evaluation) -> Value:
    """The three numbers of each lane of a site, along a last dimension."""

    def fn(baseline, weight):
        own = jnp.asarray(baseline, jnp.result_type(weight))
        return [jnp.stack([_taken_off(own, weight), own, own**2], axis=-1)]

    return evaluation.apply(fn, [baseline, weight], lambda deps: [join(deps)])[0]


def learn(terms: Sequence[Term], number: int, evaluation: Evaluation, minimized: bool) -> Term:
    """The term of a site's baseline, which is learnt from the terms that meet the site's weight.

    The squared error has the sign that makes it fall as the estimate is maximised or `minimized`.
    """
    site, half = evaluation[number], 0.5 if minimized else -0.5
    cost = add_up([_by_lane(term.val, number, evaluation) for term in terms], evaluation)

    def fn(baseline, cost):
        taken, own, square = jnp.moveaxis(baseline, -1, 0)
        error = half * (square - 2.0 * stop_gradient(cost) * own)
        return [(error - stop_gradient(error)) + taken]

    return _count(fn, [site.baseline, cost], number, evaluation)


def give(value: Value, number: int, evaluation: Evaluation) -> Term:
    """The term of a value that the objective gives, which is not learnt."""
    fn = lambda value, weight: [_taken_off(value, weight)]  # noqa: E731
    return _count(fn, [value, evaluation[number].weight], number, evaluation)


def _taken_off(baseline: Any, weight: Any) -> Any:
    return -stop_gradient(baseline) * (weight - 1.0)


def _count(fn: Any, vals: Sequence[Any], number: int, evaluation: Evaluation) -> Term:
    """A term in which the site's weight is counted, and not met again."""
    (val,) = evaluation.apply(fn, vals, lambda deps: [join(deps)])
    return forget(Term(val._replace(worlds=None), len(evaluation[number].lane_sizes)), [number])


def _by_lane(val: Value, number: int, evaluation: Evaluation) -> Value:
    """What multiplies a site's weight, for each of its lanes: in a loop, from its step on.

    Of its provenance, what is needed to sum out the particles that it has: other weights would
    multiply an error of value zero.
    """
    sizes = evaluation[number].lane_sizes
    relation = val.relations.get(number, (None,) * len(sizes))
    lane = {a.dim: d for d, a in enumerate(relation) if a is not None}

    several = {axis.site for axis in val.axes}

    def fn(x):
        x = jnp.sum(x, axis=tuple(d for d in range(x.ndim) if d not in lane))
        x = jnp.broadcast_to(place(x, [lane[d] for d in sorted(lane)], len(sizes)), sizes)
        for d, along in enumerate(relation):
            if along is not None and along.how != EXACT and not several:
                x = jax.lax.cumsum(x, axis=d, reverse=along.how == CAUSAL)
        return [x]

    sites = val.sites & sum(1 << site for site in several)
    lanes = {site: r for site, r in val.relations.items() if site in several}
    val = val._replace(worlds=None, sites=sites, relations=lanes)
    return evaluation.apply(fn, [val], lambda deps: [move(deps[0], lane.get)])[0]
