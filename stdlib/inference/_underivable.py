"""Values that stand in for a log probability whose derivative there is none of."""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from ppl.errors import UnsuitableEstimator


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def _refusing(x: jax.Array, message: str) -> jax.Array:
    return jnp.zeros_like(x)


@_refusing.defjvp
def _refuse(message, primals, tangents):
    raise UnsuitableEstimator(message)


def underivable(depends_on: Any, message: str) -> jax.Array:
    """Zero; `UnsuitableEstimator` with this message where it is differentiated."""
    leaves = [x for x in jax.tree.leaves(depends_on) if _is_real(x)]
    return _refusing(sum((jnp.sum(x) for x in leaves), start=jnp.zeros(())), message)


def _is_real(x: Any) -> bool:
    return hasattr(x, "dtype") and jnp.issubdtype(x.dtype, jnp.floating)
