"""Multiplying a term by a site's weights: those of the lanes that it depends on."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from .context import Context, conformed
from .dimensions import ANTICAUSAL, EXACT, Along
from .lanes import Deps, Relation, deps_of, joined, moved
from .value import Axis, Val, each_array, event_shape


def own_weight(site: Any, number: int, axis: Axis | None, context: Context) -> Val:
    """A site's weight over the axis that a term has of it; summed over its particles if none."""
    weight = site.weight
    if not site.axis:
        return weight
    lanes = {**weight.lanes, number: tuple(Along(d) for d in range(len(site.lanes)))}
    own = weight._replace(lanes=lanes, sites=weight.sites | 1 << number)
    if axis is None:
        return summed(weight, Axis(number))
    if not axis.form:
        return weight
    (own,) = conformed(context, [own], {number: set(axis.form)})
    return product_over(own, axis.form, context)


def product_over(weight: Val, dims: Sequence[int], context: Context) -> Val:
    """The product of a weight's lanes along some dimensions, which keep size one."""
    gone = tuple(dims)

    def fn(x):
        return [jnp.prod(x, axis=gone, keepdims=True)]

    def through(deps):
        return [moved(dep, lambda d: None if d in gone else d) for dep in deps]

    return context.apply(fn, [weight], through)[0]


def without_dims(weight: Val, relation: Relation, dims: Sequence[int]) -> tuple[Val, Relation]:
    """A weight and a relation without lane dimensions (of size one, after a product)."""
    if not dims:
        return weight, relation
    kept = [d for d in range(len(relation)) if d not in dims]

    def squeezed(array, axes):
        return jnp.squeeze(array, axis=tuple(len(axes) + d for d in dims))

    new = {d: i for i, d in enumerate(kept)}
    deps = moved(deps_of(weight), lambda d: d if d < 0 else new.get(d))
    weight = each_array(squeezed, weight)._replace(lanes=deps.lanes)
    return weight, tuple(relation[d] for d in kept)


def guarded_product(weight: Any, term: Any) -> Any:
    """A particle of weight zero contributes zero even where its term is infinite."""
    impossible = (weight == 0) & ~jnp.isfinite(term)
    return weight * jnp.where(impossible, 0.0, term)


def multiplied(
    val: Val,
    weight: Val,
    relation: Relation,
    context: Context,
    own_step: bool = False,
    times: Callable[[Any, Any], Any] = guarded_product,
) -> Val:
    """A term times a weight: of its own lanes where these are kept apart, else of all of them."""
    for d, along in enumerate(relation):
        if along is not None and along.how != EXACT and not own_step:
            weight = _running_product(weight, d, along.how == ANTICAUSAL, context)
    mixed = [d for d, along in enumerate(relation) if along is None]
    if mixed:
        weight = product_over(weight, mixed, context)
        weight, relation = without_dims(weight, relation, mixed)
    places = [along.dim for along in relation if along is not None]
    order = sorted(range(len(places)), key=lambda i: places[i])
    rank = len(event_shape(val))

    def fn(term, weight):
        shape = [1] * rank
        for i, place in enumerate(places):
            shape[place] = weight.shape[i]
        weight = jnp.transpose(weight, order).reshape(shape)
        return [times(weight, term)]

    def through(deps):
        return [joined([deps[0], moved(deps[1], lambda d: d if d < 0 else places[d])])]

    return context.apply(fn, [val, weight], through)[0]


def _running_product(weight: Val, d: int, reverse: bool, context: Context) -> Val:
    """For each step, the product of the weights up to it (from it on)."""

    def fn(x):
        return [jnp.exp(jax.lax.cumsum(jnp.log(x), axis=d, reverse=reverse))]

    def through(deps: Sequence[Deps]) -> list[Deps]:
        return list(deps)

    return context.apply(fn, [weight], through)[0]


def summed(val: Val, axis: Axis, total: Callable = jnp.sum) -> Val:
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
