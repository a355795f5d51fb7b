"""Supports: where a distribution has a density, as it says, and as what it transforms says."""

from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from .law import is_a, is_discrete, same_support, stated


def inside(distribution: Any, value: Any) -> Any:
    """Whether a value is in the support, by element of the batch; True where nothing is known."""
    support = stated(distribution, "support")
    held = jnp.asarray(support(value)) if callable(support) else jnp.asarray(True)
    if not _fills_partly(distribution):
        return held
    below = inside(distribution.base_dist, _back(distribution, value))
    depth = min(held.ndim, below.ndim)
    return _within(held, depth) & _within(below, depth)


def _fills_partly(distribution: Any) -> bool:
    """Whether the draws may leave a part of the support out.

    A transformed distribution says where its transforms map all of their domain to. The values that
    they come from are in the support of what is transformed.
    """
    base, transforms = _base(distribution), _transforms(distribution)
    if base is None or is_discrete(base):
        return False
    filled = not transforms or same_support(stated(base, "support"), transforms[0].domain)
    return not filled or _fills_partly(base)


def _base(distribution: Any) -> Any:
    """What a transformed distribution transforms."""
    return getattr(distribution, "base_dist", None)


def _back(distribution: Any, value: Any) -> Any:
    for transform in reversed(_transforms(distribution)):
        value = transform.inv(value)
    return value


def _transforms(distribution: Any) -> Sequence[Any]:
    return getattr(distribution, "transforms", ())


def _within(flags: Any, depth: int) -> Any:
    """Flags of a batch of this many dimensions, all of the later ones together."""
    return jnp.all(flags, axis=tuple(range(depth, jnp.ndim(flags))))


def feasible(distribution: Any, value: Any) -> Any:
    """A value in the support, of the shape of the given one; that one where none is known."""
    transforms = _transforms(distribution)
    if transforms:
        value = feasible(_base(distribution), _back(distribution, value))
        for transform in transforms:
            value = transform(value)
        return value
    found = getattr(stated(distribution, "support"), "feasible_like", None)
    return value if found is None else jnp.broadcast_to(found(value), jnp.shape(value))


def varies(distribution: Any) -> bool:
    """Whether the support is not known while tracing: it depends on arrays, or is partly filled."""
    if isinstance(distribution, Bounded):
        return False
    leaves = jax.tree.leaves(stated(distribution, "support"))
    return any(isinstance(x, jax.Array) for x in leaves) or _fills_partly(distribution)


class Bounded(eqx.Module):
    """A distribution whose density is zero outside its support, with derivatives zero there."""

    distribution: Any

    @property
    def support(self) -> Any:
        return stated(self.distribution, "support")

    def sample(self, key: jax.Array) -> jax.Array:
        return self.distribution.sample(key)

    def moved(self, value: Any) -> Any:
        """The value where it is in the support, elsewhere one that is; a masked one as it is."""
        if is_a(self.distribution, "MaskedDistribution"):
            return value
        held = inside(self.distribution, value)
        held = jnp.reshape(held, jnp.shape(held) + (1,) * (jnp.ndim(value) - jnp.ndim(held)))
        return jnp.where(held, value, feasible(self.distribution, value))

    def log_prob(self, value: Any) -> jax.Array:
        log = self.distribution.log_prob(self.moved(value))
        return jnp.where(_within(inside(self.distribution, value), jnp.ndim(log)), log, -jnp.inf)
