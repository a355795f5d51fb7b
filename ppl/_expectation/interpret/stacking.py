"""Values of one step and of all: the dimension of the steps, into a loop and out of it.

Inside a trace of the body the steps are no dimension, and a value is `(*axes, *event)`. Scanned
inputs and stacked outputs are `(*axes, steps, *event)` outside, and `(steps, *axes, *event)` where
JAX takes them apart and puts them together.
"""

import jax.numpy as jnp

from ..sites.weighted_site import Scan, WeightedSite
from ..values.expansion import MixedSteps
from ..values.lanes import deps_of, enter, join, stack
from ..values.value import Value, axis_sizes, broadcast, each_array, union_axes


def lead_steps(val: Value, loop: Scan) -> Value:
    """A scanned input `(*axes, steps, *event)` as `(steps, *axes, *event)`: a step's, stacked."""
    array, worlds = jnp.moveaxis(val.array, len(val.axes), 0), val.worlds
    if worlds:
        worlds = worlds._replace(array=jnp.moveaxis(worlds.array, 1 + len(worlds.axes), 0))
    relations = enter(deps_of(val), loop.level).relations
    return val._replace(array=array, worlds=worlds, relations=relations)


def stack_steps(val: Value, loop: Scan) -> Value:
    """Outputs `(steps, *axes, *event)` as one value `(*axes, steps, *event)`."""
    array, worlds = jnp.moveaxis(val.array, 0, len(val.axes)), val.worlds
    if worlds:
        worlds = worlds._replace(array=jnp.moveaxis(worlds.array, 0, 1 + len(worlds.axes)))
    relations = stack(deps_of(val), loop.level).relations
    return val._replace(array=array, worlds=worlds, relations=relations)


def stack_site(site: WeightedSite, loop: Scan) -> WeightedSite:
    """A site of the body as one of all the steps, which are its first lane dimension."""
    return site.each(lambda val: stack_steps(val, loop))


def with_first(rest: Value, first: Value, loop: Scan) -> Value:
    """The other steps `(*axes, steps - 1, *event)` and the first `(*axes, *event)`, as one value.

    It has the axes of both: the first step starts from no particle of a step before.
    """
    if first.worlds or rest.worlds:
        raise MixedSteps(loop)
    alone = each_array(lambda array, axes: jnp.expand_dims(array, len(axes)), first)
    alone = alone._replace(relations=stack(deps_of(first), loop.level).relations)
    axes = union_axes([alone, rest])
    sizes = axis_sizes([alone, rest], axes)
    pieces = [broadcast(val, axes, sizes) for val in (alone, rest)]
    array = jnp.concatenate(pieces[::-1] if loop.reverse else pieces, axis=len(axes))
    known = first.known if first.known == rest.known else None
    unbounded = first.unbounded or rest.unbounded
    deps = join([deps_of(alone), deps_of(rest)])
    return Value(array, axes, *deps, known=known, unbounded=unbounded)


def site_with_first(
    rest: WeightedSite, first: WeightedSite, alike: bool, loop: Scan
) -> WeightedSite:
    """A site of the other steps, `(steps - 1, ...)` each, and of the first.

    Where its weight is `alike` at all the others, that of one of them is kept beside (`later`).
    """
    whole = stack_site(rest, loop).each(lambda val, one: with_first(val, one, loop), first)
    if not alike:
        return whole
    weight = rest.weight
    return whole._replace(later=stack_steps(weight._replace(array=weight.array[:1]), loop))
