"""Elements of one site that flags leave out, in the parameters of its distribution and its data.

A parameter of an element that is left out is replaced by that of the last one that is not: then
nothing there is infinite or no number, and what elements share has no derivative from it. Which
dimensions of a parameter are those of a batch follows from what the distribution states of itself
(`arg_constraints`); a parameter of which nothing is stated stays what it is.
"""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from .._jax import identities
from .law import is_a, stated

_MASKED = "MaskedDistribution"


class _Parameter(NamedTuple):
    """A leaf with the flags of the elements it belongs to; its last dimensions are of one event."""

    index: int
    flag: jax.Array
    event_dim: int


def is_masked(tree: Any) -> bool:
    """Whether a distribution has a mask, however deep."""
    found = lambda part: is_a(part, _MASKED)  # noqa: E731
    return any(map(found, jax.tree.leaves(tree, is_leaf=found)))


def without(distribution: Any, flag: Any) -> Any:
    """A distribution whose elements that are left out have the parameters of others."""
    leaves, treedef = jax.tree.flatten(distribution)
    twin = jax.tree.unflatten(treedef, [_Twin(i) for i in range(len(leaves))])
    found = [p for p in _parameters(distribution, twin, flag) if _is_real(leaves[p.index])]
    varying = {p.index: other for p in found if (other := _other(leaves[p.index], p)) is not None}
    for p in found:
        if varying or not p.flag.ndim:
            leaf = varying.get(p.index, leaves[p.index])
            leaves[p.index] = identities.gated(jnp.asarray(leaf), jnp.any(p.flag))
    return jax.tree.unflatten(treedef, leaves)


def counted(distribution: Any, flag: Any, shape: tuple[int, ...]) -> jax.Array | bool:
    """Which numbers of a value count, by the masks around and within its distribution."""
    while is_a(distribution, _MASKED, "Independent", "ExpandedDistribution"):
        flag = _within(distribution, flag)
        if is_a(distribution, "Independent"):
            flag = _padded(flag, distribution.reinterpreted_batch_ndims)
        distribution = distribution.base_dist
    if flag is None:
        return True
    event = getattr(distribution, "event_shape", shape[flag.ndim :])
    padded = _padded(flag, len(event))
    try:
        fits = jnp.broadcast_shapes(padded.shape, shape) == shape
    except ValueError:
        return True
    return padded if fits else True


class _Twin:
    """Stands for a leaf of a pytree, by its position."""

    def __init__(self, index: int):
        self.index = index


def _parameters(part: Any, twin: Any, flag: Any) -> Iterator[_Parameter]:
    flag, dims = _within(part, flag), event_dims(part)
    places = getattr(twin, "__dict__", {})
    for name, value in getattr(part, "__dict__", {}).items():
        place = places.get(name)
        for child, at in _children(value, place):
            inner = _of_child(part, child, flag)
            if inner is not None:
                yield from _parameters(child, at, inner)
            elif is_masked(child):
                yield from _parameters(child, at, None)
        if flag is None:
            continue
        if isinstance(place, _Twin) and name in dims:
            yield _Parameter(place.index, flag, dims[name])
        for bound in ("lower_bound", "upper_bound"):  # of a support
            edge = getattr(place, "__dict__", {}).get(bound)
            if isinstance(edge, _Twin):
                yield _Parameter(edge.index, flag, 0)


def _children(value: Any, place: Any) -> list[tuple[Any, Any]]:
    """The distributions that an attribute has, with what stands for them."""
    values, places = (x if isinstance(x, list | tuple) else [x] for x in (value, place))
    pairs = zip(values, places, strict=False)
    return [(v, p) for v, p in pairs if hasattr(v, "log_prob") and hasattr(v, "batch_shape")]


def _within(part: Any, flag: Any) -> Any:
    if not is_a(part, _MASKED):
        return flag
    mask = jnp.broadcast_to(part._mask, part.batch_shape) if jnp.ndim(part._mask) else part._mask
    return jnp.asarray(mask) if flag is None else flag & mask


def _of_child(part: Any, child: Any, flag: Any) -> Any:
    """The flags of a part, for a part of it whose batch begins with its own, or is expanded."""
    if flag is None or is_a(part, "ExpandedDistribution"):
        return flag
    own, inner = part.batch_shape, child.batch_shape
    return _padded(flag, len(inner) - len(own)) if inner[: len(own)] == own else None


def _padded(flag: Any, n: int) -> Any:
    return flag.reshape(flag.shape + (1,) * n) if flag is not None and flag.ndim and n > 0 else flag


def event_dims(part: Any) -> Mapping[str, int]:
    """How many dimensions one event's parameter has, of each parameter that is stated."""
    dims: dict[str, int] = {}
    for kind in reversed(type(part).__mro__):
        constraints = vars(kind).get("arg_constraints")
        for name, constraint in (constraints if isinstance(constraints, dict) else {}).items():
            dim = stated(constraint, "event_dim")
            if dim is not None:
                dims[name] = dim
    return dims


def _is_real(leaf: Any) -> bool:
    return hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jnp.inexact)


def _other(leaf: Any, parameter: _Parameter) -> jax.Array | None:
    """A parameter replaced where it is left out; None where elements share it."""
    lead = leaf.shape[: max(leaf.ndim - parameter.event_dim, 0)]
    if leaf.ndim < parameter.event_dim or all(n == 1 for n in lead) or not parameter.flag.ndim:
        return None
    batch = jnp.broadcast_shapes(parameter.flag.shape, lead)
    flag, skipped = jnp.broadcast_to(parameter.flag, batch), len(batch) - len(lead)
    last = jnp.max(jnp.where(flag.ravel(), jnp.arange(flag.size), 0))
    places = zip(jnp.unravel_index(last, batch)[skipped:], lead, strict=True)
    other = jnp.asarray(leaf)[tuple(i if n > 1 else 0 for i, n in places)]
    shared = [i for i in range(len(batch)) if i < skipped or lead[i - skipped] == 1]
    counts = jnp.any(flag, axis=shared).reshape(lead + (1,) * parameter.event_dim)
    return jnp.where(counts, leaf, identities.gated(other, jnp.asarray(False)))
