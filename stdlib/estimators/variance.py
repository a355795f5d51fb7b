"""The variance of a gradient estimate, as something to minimise."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

import ppl

from .._gradient_noise import one_scalar


def gradient_variance(objective: Callable[[Any, Any], jax.Array]) -> Callable[..., jax.Array]:
    """The variance of an objective's gradient estimate, up to a constant: minimise it to learn.

    `objective(params, tuned)` is a program whose estimators have settings in `tuned` that change no
    mean: the temperature of `Rebar`, the network of `Relax`. Returns a function

        (key, params, tuned) -> |∂ objective / ∂ params|², of one estimate

    The gradient is in the floating-point arrays of `params`, and in Python floats outside of an
    `equinox.Module`. The function's mean is the trace of the gradient's covariance plus the squared
    mean gradient, on which `tuned` has no influence. So its derivative in `tuned`, by
    `jax.grad(..., argnums=2)`, is an unbiased estimate of that of the trace (Grathwohl et al.
    2018), and a gradient step on it alternates with one on the objective. Costs a second
    derivative: about three times the gradient.

    ```python
    >>> import jax, ppl
    >>> from stdlib.distributions import FloatBernoulli
    >>> from stdlib.estimators import Rebar, gradient_variance
    >>> def square(p, tuned):
    ...     return (ppl.sample("x", FloatBernoulli(p), Rebar(**tuned)) - 0.45) ** 2
    >>> key, tuned = jax.random.key(0), {"temperature": 0.5, "eta": 0.5}
    >>> slope = jax.grad(gradient_variance(square), argnums=2)(key, 0.3, tuned)
    >>> sorted(slope), bool(slope["temperature"] != 0)
    (['eta', 'temperature'], True)

    ```
    """
    estimate = ppl.expectation(objective)

    def squared_norm(key: jax.Array, params: Any, tuned: Any) -> jax.Array:
        params = jax.tree.map(_as_array, params, is_leaf=lambda x: isinstance(x, eqx.Module))
        one = lambda params: one_scalar(estimate(key, params, tuned), objective)  # noqa: E731
        gradient = eqx.filter_grad(one)(params)
        return sum((jnp.sum(jnp.square(x)) for x in jax.tree.leaves(gradient)), jnp.zeros(()))

    return squared_norm


def _as_array(node: Any) -> Any:
    return jnp.asarray(node) if isinstance(node, float) else node
