"""Logarithms of weights that may be zero, and have derivatives there.

The log of w = 0 is -inf, of which there is no derivative; but a sum of products of weights has one
in w, where the other factors are possible. So of a product a·w₁·…·wₙ, of which the n weights w are
zero, log a and n are kept, as the complex number log a + i·n. For the product of two these are
added. The derivatives in the weights w are those of the imaginary part.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.lax import stop_gradient

from ..._distributions.log_sum_exp import log_sum_exp


def log_with_zeros(weight: jax.Array) -> jax.Array:
    """The logs of some weights, complex."""
    weight = jnp.asarray(weight, jnp.result_type(weight, jnp.float32))
    possible = weight > 0
    logs = jnp.log(jnp.where(possible, weight, 1.0))
    zeros = jnp.where(possible, 0.0, 1.0 + weight - stop_gradient(weight))
    return jax.lax.complex(logs, zeros)


def without_zeros(log: jax.Array) -> jax.Array:
    """The log of a weight, real: -inf where it has a factor that is zero."""
    if not jnp.iscomplexobj(log):
        return log
    return jnp.where(jnp.imag(stop_gradient(log)) > 0, -jnp.inf, jnp.real(log))


def total_with_zeros(logs: jax.Array, axis: Any) -> jax.Array:
    """The log of a sum of weights: it has the fewest zeros that one of them has.

    Where it has none, those with one zero have a share in its first derivative.
    """
    if not jnp.iscomplexobj(logs):
        return log_sum_exp(logs, axis)
    real, imag = _total(jnp.real(logs), jnp.imag(logs), axis)
    return jax.lax.complex(real, imag)


@functools.partial(jax.custom_jvp, nondiff_argnums=(2,))
def _total(log: jax.Array, zeros: jax.Array, axis: Any) -> tuple[jax.Array, jax.Array]:
    here, fewest = _possible(log, zeros, axis)
    total = log_sum_exp(jnp.where(here, log, -jnp.inf), axis)
    return total, fewest.reshape(total.shape)


@_total.defjvp
def _total_jvp(axis: Any, primals: tuple, tangents: tuple) -> tuple:
    """The shares of addends, in their logs and in zero factors of those that have one more."""
    (log, zeros), (by_log, by_zeros) = primals, tangents
    total, few = _total(log, zeros, axis)
    here, fewest = _possible(log, zeros, axis)
    base = jnp.where(jnp.isneginf(total), 0.0, total).reshape(fewest.shape)
    moved = jnp.where(fewest > 0, here, zeros == 1)
    shares = jnp.where(here | moved, jnp.exp(jnp.where(here | moved, log - base, 0.0)), 0.0)
    in_zeros = jnp.sum(jnp.where(moved, shares * by_zeros, 0.0), axis)
    in_logs = jnp.sum(jnp.where(here, shares * by_log, 0.0), axis)
    none = jnp.zeros_like(in_zeros)
    at_zero = few > 0
    tangent = in_logs + jnp.where(at_zero, none, in_zeros), jnp.where(at_zero, in_zeros, none)
    return (total, few), tangent


def _possible(log: jax.Array, zeros: jax.Array, axis: Any) -> tuple[jax.Array, jax.Array]:
    """Which addends have the fewest zeros, and how many those are."""
    count = jnp.where(jnp.isneginf(log), jnp.inf, zeros)
    fewest = jnp.min(count, axis, keepdims=True)
    return count == fewest, jnp.where(jnp.isinf(fewest), 0.0, fewest)
