"""What a batched distribution is made of."""

import itertools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from numpyro.distributions import ExpandedDistribution, Independent


class Elements(NamedTuple):
    """The distribution inside `expand` and `to_event`.

    `shape` is that of its elements; the last `event_dims` of their axes are one joint event.
    """

    base: Any
    shape: tuple[int, ...]
    event_dims: int

    def parameter(self, value: Any) -> jax.Array:
        """A scalar parameter of the base, one for each element."""
        return jnp.broadcast_to(jnp.asarray(value, jnp.result_type(float, value)), self.shape)

    def joint(self, values: jax.Array) -> jax.Array:
        """The sum over the elements of each event."""
        return jnp.sum(values, tuple(range(-self.event_dims, 0)))


def elements(distribution: Any) -> Elements:
    """The elements of a distribution."""
    base, dims = distribution, 0
    while isinstance(base, ExpandedDistribution | Independent):
        if isinstance(base, Independent):
            dims += base.reinterpreted_batch_ndims
        base = base.base_dist
    shapes = (getattr(distribution, name, ()) for name in ("batch_shape", "event_shape"))
    shape = tuple(itertools.chain(*shapes))
    inner = len(getattr(base, "event_shape", ()))
    return Elements(base, shape[: len(shape) - inner], dims)
