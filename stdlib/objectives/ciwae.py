"""The combination of the evidence lower bound and the importance-weighted one."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from .._log_weights import log_mean_exp
from ._particles import check_count, log_weights


def ciwae(
    model: Callable,
    guide: Callable,
    observed: Mapping[str, Any],
    num_particles: int,
    beta: float | jax.Array,
) -> jax.Array:
    """β times the mean, plus 1 - β times the log-mean-exp, of K log importance weights.

    Estimand: β ELBO + (1 - β) IWELBO_K, for 0 ≤ β ≤ 1 a lower bound of log p(x), to be maximised.
    Value and gradient are unbiased, in the parameters of model and guide, whatever the estimators.
    Both bounds have the same particles. The ELBO's part keeps up the signal-to-noise ratio of the
    guide's gradient, which would fall as 1/√K without it.

    The other arguments are those of `iwelbo`. Scalar; to be called inside an objective.

    **Raises** `ppl.errors.InvalidSetting` where `num_particles` is not a positive integer.

    Source: Rainforth et al. 2018, 'Tighter variational bounds are not necessarily better'.

    ```python
    >>> import jax, ppl, numpyro.distributions as dist
    >>> from stdlib.objectives import ciwae
    >>> def model():
    ...     ppl.sample("x", dist.Normal(ppl.sample("z", dist.Normal(0.0, 1.0)), 1.0))
    >>> guide = lambda: ppl.sample("z", dist.Normal(1.0, 1.0))
    >>> estimate = ppl.expectation(lambda beta: ciwae(model, guide, {"x": 2.0}, 8, beta))
    >>> bool(estimate(jax.random.key(0), 0.1) > estimate(jax.random.key(0), 0.9))
    True

    ```
    """
    check_count("num_particles", num_particles, "ciwae")
    logs = log_weights(model, guide, observed, num_particles)
    return beta * jnp.mean(logs) + (1.0 - beta) * log_mean_exp(logs)
