"""Multiplying a term by a site's weights: those of the lanes that it depends on."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ..interpret.evaluation import Evaluation
from ..values.dimensions import ANTICAUSAL, EXACT, Along
from ..values.expansion import conform
from ..values.lanes import Deps, Relation, join, move
from ..values.value import NOW, Axis, Value, each_array, event_shape, place
from ..values.vanishing import quiet


def guarded_product(weight: Any, term: Any) -> Any:
    """A particle of weight zero contributes zero even where its term is infinite."""
    impossible = (weight == 0) & ~jnp.isfinite(term)
    return weight * jnp.where(impossible, 0.0, term)


quiet_product = quiet(lambda *pair: [guarded_product(*pair)], [True, False])
"""The same for a term that may be infinite: what nothing comes back to passes back nothing."""


class Semiring(NamedTuple):
    """How weights and terms multiply and add up, as numbers or as logarithms.

    `times`: of a weight and a term; `product`: of weights, over some dimensions; `total`: the sum
    over some dimensions.
    """

    times: Callable[[Any, Any], Any]
    product: Callable
    total: Callable


NUMBERS = Semiring(guarded_product, jnp.prod, jnp.sum)


def axis_of(val: Value, number: int) -> Axis | None:
    """The axis of a site's particles (in a loop, of the same step) that a value has, if any."""
    return next((a for a in val.axes if a.site == number and a.step == NOW), None)


def weigh(
    val: Value,
    number: int,
    axis: Axis | None,
    evaluation: Evaluation,
    own_step: bool = False,
    ring: Semiring = NUMBERS,
) -> Value:
    """A value times a site's weights, over the axis that it has of the site.

    Where it has lanes mixed, or is over their joint states, it meets the product of their weights.
    """
    lanes = evaluation[number].lane_sizes
    relation = val.relations.get(number, (None,) * len(lanes))
    if axis is not None:
        relation = tuple(None if d in axis.form else a for d, a in enumerate(relation))
    weight = own_weight(number, axis, evaluation)
    return multiply(val, weight, relation, evaluation, own_step, ring)


def own_weight(number: int, axis: Axis | None, evaluation: Evaluation) -> Value:
    """A site's weight over the axis that a term has of it; summed over its particles if none."""
    site = evaluation[number]
    weight = site.weight
    if not site.axis:
        return weight
    if axis is None:
        return sum_over(weight, Axis(number))
    if not axis.form:
        return weight
    lanes = {**weight.relations, number: tuple(Along(d) for d in range(len(site.lane_sizes)))}
    own = weight._replace(relations=lanes, sites=weight.sites | 1 << number)
    return conform(evaluation, [own], {number: set(axis.form)})[0]


def multiply(
    val: Value,
    weight: Value,
    relation: Relation,
    evaluation: Evaluation,
    own_step: bool = False,
    ring: Semiring = NUMBERS,
) -> Value:
    """A term times a weight: of its own lanes where these are kept apart, else of all of them."""
    mixed = [d for d, a in enumerate(relation) if a is None]
    weight = _product_over(weight, mixed, evaluation, ring.product)
    apart = [along for along in relation if along is not None]
    for d, along in enumerate(apart):
        if along.how != EXACT and not own_step:
            weight = _running_product(weight, d, along.how == ANTICAUSAL, evaluation)
    places, rank = [along.dim for along in apart], len(event_shape(val))

    times = quiet_product if ring is NUMBERS and val.unbounded else ring.times

    def fn(term, weight):
        return [times(place(weight, places, rank), term)]

    def through(deps):
        return [join([deps[0], move(deps[1], lambda d: places[d])])]

    return evaluation.apply(fn, [val, weight], through)[0]


def _product_over(
    weight: Value, dims: Sequence[int], evaluation: Evaluation, product: Callable
) -> Value:
    """The product of a weight's lanes along some dimensions."""
    if not dims:
        return weight
    kept = [d for d in range(len(event_shape(weight))) if d not in dims]
    new = {d: i for i, d in enumerate(kept)}

    def fn(x):
        return [product(x, axis=tuple(dims))]

    def through(deps):
        return [move(dep, new.get) for dep in deps]

    return evaluation.apply(fn, [weight], through)[0]


def _running_product(weight: Value, d: int, reverse: bool, evaluation: Evaluation) -> Value:
    """For each step, the product of the weights up to it (from it on)."""

    def fn(x):
        return [jax.lax.cumprod(x, axis=d, reverse=reverse)]

    def through(deps: Sequence[Deps]) -> list[Deps]:
        return list(deps)

    return evaluation.apply(fn, [weight], through)[0]


def sum_over(val: Value, axis: Axis, total: Callable = jnp.sum) -> Value:
    """The sum over a named axis."""

    def over(array, axes):
        return total(array, axis=axes.index(axis)) if axis in axes else array

    def without(axes):
        return tuple(a for a in axes if a != axis)

    worlds = val.worlds
    if worlds and axis not in worlds.axes:
        raise AssertionError("weights are multiplied in every world")
    out = each_array(over, val)
    worlds = out.worlds and out.worlds._replace(axes=without(out.worlds.axes))
    return out._replace(axes=without(val.axes), worlds=worlds)
