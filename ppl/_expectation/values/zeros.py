"""Logarithms of weights that may be zero, and have derivatives there.

The log of w = 0 is -inf, of which there is no derivative; but a sum of products of weights has one
in w, where the other factors are possible. So of a product a·w₁·…·wₙ, of which the n weights w are
zero, log a and n are kept, as the complex number log a + i·n. For the product of two these are
added. The derivatives in the weights w are those of the imaginary part.
"""

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


def _total(log: jax.Array, zeros: jax.Array, axis: Any) -> tuple[jax.Array, jax.Array]:
    count = stop_gradient(jnp.where(jnp.isneginf(log), jnp.inf, zeros))
    fewest = jnp.min(count, axis, keepdims=True)
    fewest = jnp.where(jnp.isinf(fewest), 0.0, fewest)
    here, next_to = count == fewest, (fewest == 0) & (count == 1)
    total = log_sum_exp(jnp.where(here, log, -jnp.inf), axis)
    shape = fewest.shape
    base = jnp.where(jnp.isneginf(total), 0.0, total).reshape(shape)

    def derivatives(met):
        """Those in the zero factors of some of the addends; zero in value."""
        shares = jnp.where(met, jnp.exp(jnp.where(met, log - base, 0.0)), 0.0)
        return jnp.sum(shares * (zeros - stop_gradient(zeros)), axis)

    own = derivatives(here & (fewest > 0))
    return total + jnp.log1p(derivatives(next_to)), fewest.reshape(total.shape) + own
