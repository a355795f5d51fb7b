"""Picking values from an enumerated support, element by element of a batch."""

import jax
import jax.numpy as jnp


def picked(support: jax.Array, index: jax.Array) -> jax.Array:
    """Rows `index` `(K, *batch)` of a `support` `(N, *batch, *event)`, as `(K, *batch, *event)`."""
    event_axes = (1,) * (support.ndim - index.ndim)
    return jnp.take_along_axis(support, index.reshape(*index.shape, *event_axes), axis=0)
