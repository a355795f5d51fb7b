"""An enumerated support: its probabilities, and values picked from it, element by element."""

from typing import Any

import jax
import jax.numpy as jnp

from ._elements import elements


def picked(support: jax.Array, index: jax.Array) -> jax.Array:
    """Rows `index` `(K, *batch)` of a `support` `(N, *batch, *event)`, as `(K, *batch, *event)`."""
    event_axes = (1,) * (support.ndim - index.ndim)
    return jnp.take_along_axis(support, index.reshape(*index.shape, *event_axes), axis=0)


def probabilities(distribution: Any, support: Any) -> jax.Array:
    """Of the values `(N, *batch, *event)` of a whole support, `(N, *batch)`.

    A family that says `enumerate_probs` has derivatives where a probability is zero.
    """
    known = getattr(elements(distribution).base, "enumerate_probs", None)
    if known is None:
        return jnp.exp(distribution.log_prob(support))
    found = known()
    batch = getattr(distribution, "batch_shape", ())
    missing = 1 + len(batch) - found.ndim
    found = found.reshape(found.shape[0], *(1,) * missing, *found.shape[1:])
    return jnp.broadcast_to(found, (found.shape[0], *batch))
