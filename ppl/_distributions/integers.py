"""Integers given as numbers of another dtype: which of them are integers, and which these are."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def is_integral(dtype: Any) -> bool:
    """Whether values of a dtype are integers or flags."""
    return jnp.issubdtype(dtype, jnp.integer) or jnp.issubdtype(dtype, jnp.bool_)


def representable(array: Any, dtype: Any) -> Any:
    """Which elements are the same numbers in an integral dtype; NaN and infinities are not."""
    xp = np if isinstance(array, np.ndarray) else jnp
    if is_integral(array.dtype):
        there = array.astype(dtype)
        return (there.astype(array.dtype) == array) & ((there < 0) == (array < 0))
    flags = jnp.issubdtype(dtype, jnp.bool_)
    low, high = (0, 1) if flags else (jnp.iinfo(dtype).min, jnp.iinfo(dtype).max)
    return (xp.floor(array) == array) & (array >= low) & (array < high + 1.0)


def as_integers(array: Any, dtype: Any) -> Any:
    """The numbers in an integral dtype, zero where they have none."""
    return jnp.where(representable(array, dtype), array, jnp.zeros_like(array)).astype(dtype)


def of_elements(flags: jax.Array, batch: tuple[int, ...]) -> jax.Array:
    """Whether all numbers of each event are flagged, for each element of a batch."""
    if flags.shape[: len(batch)] != batch:
        return jnp.all(flags)
    return jnp.all(flags, axis=tuple(range(len(batch), flags.ndim)))
