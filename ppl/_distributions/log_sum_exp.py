"""The logarithm of a sum of exponentials, of which all may be zero."""

import jax
import jax.numpy as jnp
from jax.lax import stop_gradient


def log_sum_exp(logs: jax.Array, axis: int | tuple[int, ...] | None = None) -> jax.Array:
    """log Σ exp(logs), for sums of weights that are given by their logs.

    Where all of them are -inf (no state is possible, no particle fits), or there are none, it is
    -inf, with derivative zero: `jax.nn.logsumexp` has NaN there, which reaches everything that the
    weights are computed from. Elsewhere both are the same, as are their derivatives.

    **Arguments**

    - `logs`: an array of reals.
    - `axis`: the dimensions to be summed over, by default all.

    **Returns** an array without these dimensions.

    ```python
    >>> import jax, jax.numpy as jnp, ppl
    >>> value_and_grad = jax.value_and_grad(ppl.log_sum_exp)
    >>> value, grad = value_and_grad(jnp.zeros(4))
    >>> bool(abs(value - jnp.log(4.0)) < 1e-6), grad.tolist()
    (True, [0.25, 0.25, 0.25, 0.25])
    >>> value, grad = value_and_grad(jnp.full(2, -jnp.inf))
    >>> float(value), grad.tolist()
    (-inf, [0.0, 0.0])

    ```
    """
    highest = stop_gradient(jnp.max(logs, axis, keepdims=True, initial=-jnp.inf))
    highest = jnp.where(jnp.isfinite(highest), highest, 0.0)
    total = jnp.sum(jnp.exp(logs - highest), axis)
    impossible = total == 0.0
    finite = jnp.log(jnp.where(impossible, 1.0, total)) + jnp.reshape(highest, total.shape)
    return jnp.where(impossible, -jnp.inf, finite)
