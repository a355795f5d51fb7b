"""Multiplying a term by a site's weights: those of the lanes that it depends on."""

from collections.abc import Sequence

import jax

from ..interpret.evaluation import Evaluation
from ..values.dimensions import ANTICAUSAL, EXACT, Along
from ..values.expansion import conform
from ..values.lanes import Deps, Relation, join, move
from ..values.value import NOW, Axis, Value, each_array, event_shape, infinite_at_particles, place
from .semiring import Semiring


def axis_of(val: Value, number: int) -> Axis | None:
    """The axis of a site's particles (in a loop, of the same step) that a value has, if any."""
    return next((a for a in val.axes if a.site == number and a.step == NOW), None)


def identity(rank: int) -> Relation:
    """The relation of a value to a site whose lanes are its first dimensions, all apart."""
    return tuple(Along(d) for d in range(rank))


def weigh(
    val: Value, number: int, evaluation: Evaluation, ring: Semiring, own_step: bool = False
) -> Value:
    """A value times a site's weights, over the axis that it has of the site.

    Where it has lanes mixed, or is over their joint states, it meets the product of their weights.
    With K particles and n lanes, the weight is `(K, n)`: a value `(K, n, ...)` that keeps the lanes
    apart meets it as it is; one of joint states, `(K^n, ...)`, their products `(K^n,)`. A cost that
    depends on its step and those before meets the weights of all these, and with `own_step` (or in
    a ring in which terms are factors) those of its step alone.
    """
    lanes, axis = evaluation[number].lane_sizes, axis_of(val, number)
    relation = val.relations.get(number, (None,) * len(lanes))
    if axis is not None:
        relation = tuple(None if d in axis.form else a for d, a in enumerate(relation))
    if own_step or not ring.linear:
        relation = tuple(None if a is None else Along(a.dim) for a in relation)
    return multiply(val, own_weight(number, axis, evaluation, ring), relation, evaluation, ring)


def own_weight(number: int, axis: Axis | None, evaluation: Evaluation, ring: Semiring) -> Value:
    """A site's weight over the axis that a term has of it; its total over particles if none."""
    site = evaluation[number]
    weight = site.weight
    if not site.axis:
        return weight
    if axis is None:
        return total_over(weight, Axis(number), ring)
    if not axis.form:
        return weight
    lanes = {**weight.relations, number: identity(len(site.lane_sizes))}
    own = weight._replace(relations=lanes, sites=weight.sites | 1 << number)
    return conform(evaluation, [own], {number: set(axis.form)})[0]


def multiply(
    val: Value, weight: Value, relation: Relation, evaluation: Evaluation, ring: Semiring
) -> Value:
    """A term times a weight: of its own lanes where these are kept apart, else of all of them.

    `relation` says which of the term's dimensions the weight's are; along one that is causal, the
    term meets the product of the weights up to its own.
    """
    mixed = [d for d, a in enumerate(relation) if a is None]
    weight = _product_over(weight, mixed, evaluation, ring)
    apart = [along for along in relation if along is not None]
    for d, along in enumerate(apart):
        if along.how != EXACT:
            weight = _running_product(weight, d, along.how == ANTICAUSAL, evaluation)
    places, rank = [along.dim for along in apart], len(event_shape(val))

    def fn(term, weight):
        return [ring.times(place(weight, places, rank), term, infinite_at_particles(val))]

    def through(deps):
        return [join([deps[0], move(deps[1], lambda d: places[d])])]

    return evaluation.apply(fn, [val, weight], through)[0]


def _product_over(
    weight: Value, dims: Sequence[int], evaluation: Evaluation, ring: Semiring
) -> Value:
    """The product of a weight's lanes along some dimensions."""
    if not dims:
        return weight
    kept = [d for d in range(len(event_shape(weight))) if d not in dims]
    new = {d: i for i, d in enumerate(kept)}

    def fn(x):
        return [ring.multiplication.product(x, axis=tuple(dims))]

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


def total_over(val: Value, axis: Axis, ring: Semiring) -> Value:
    """The total over a named axis, in the value and in each of its worlds."""

    def over(array, axes):
        return ring.total(array, axis=axes.index(axis)) if axis in axes else array

    worlds = val.worlds
    if worlds and axis not in worlds.axes:
        raise AssertionError("weights are multiplied in every world")
    out = each_array(over, val)
    if worlds := out.worlds:
        worlds = worlds._replace(axes=_without(axis, worlds.axes))
    return out._replace(axes=_without(axis, val.axes), worlds=worlds)


def _without(axis: Axis, axes: tuple[Axis, ...]) -> tuple[Axis, ...]:
    return tuple(a for a in axes if a != axis)
