"""The variational Rényi bound."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from .._log_weights import log_mean_exp
from ._particles import check_count, log_weights


def renyi(
    model: Callable,
    guide: Callable,
    observed: Mapping[str, Any],
    alpha: float | jax.Array,
    num_particles: int,
) -> jax.Array:
    """The log of the power mean, of order 1 - α, of K importance weights w = p(x, z) / q(z).

    Estimand: E[log((1/K) Σ_k w_k^(1-α)) / (1-α)], the geometric mean at α = 1. To be maximised;
    value and gradient are unbiased for it, in the parameters of model and guide, whatever the
    estimators. For K → ∞ it becomes log p(x) - D_α(q ‖ p(z | x)), with Rényi's divergence.

    - α = 1, or K = 1: the ELBO. α = 0: the importance-weighted bound.
    - 0 ≤ α: a lower bound of log p(x) for every K. In α it falls; with K it rises towards that
      limit for α < 1, and falls towards it for α > 1.
    - α < 0: for K → ∞ an upper bound, for a finite K neither (`cubo` has an unbiased estimate).

    `alpha` may be an array, as of a schedule; near 1 (but not at it) the division magnifies
    rounding. The other arguments are those of `elbo`. Scalar; to be called inside an objective.

    **Raises** `ppl.errors.InvalidSetting` where `num_particles` is not a positive integer.

    Source: Li & Turner 2016, 'Rényi divergence variational inference'.

    ```python
    >>> import jax, ppl, numpyro.distributions as dist
    >>> from stdlib.objectives import renyi
    >>> def model():
    ...     ppl.sample("x", dist.Normal(ppl.sample("z", dist.Normal(0.0, 1.0)), 1.0))
    >>> guide = lambda: ppl.sample("z", dist.Normal(1.0, 1.0))
    >>> estimate = ppl.expectation(lambda a: renyi(model, guide, {"x": 2.0}, a, 10))
    >>> bounds = [estimate(jax.random.key(0), a) for a in (0.0, 0.5, 1.0, 2.0)]
    >>> bounds == sorted(bounds, reverse=True)
    True

    ```
    """
    check_count("num_particles", num_particles, "renyi")
    logs = log_weights(model, guide, observed, num_particles)
    geometric = jnp.equal(alpha, 1.0)
    order = jnp.where(geometric, 1.0, 1.0 - alpha)
    unbounded = jnp.any(order * logs == jnp.inf)  # an impossible particle, at α > 1
    power = log_mean_exp(jnp.where(unbounded, 0.0, order * logs)) / order
    return jnp.where(geometric, jnp.mean(logs), jnp.where(unbounded, -jnp.inf, power))
