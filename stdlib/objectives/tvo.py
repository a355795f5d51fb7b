"""The thermodynamic variational objective."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.lax import stop_gradient

from ppl import frozen, log_density, simulate
from ppl.errors import BiasedEstimator, InvalidSetting

from .._log_weights import share_sum, shares
from ._gradients import TOTAL, check_gradient, derivative_of, joint_at
from ._particles import check_count, log_weights

COVARIANCE = "covariance"


def tvo(
    model: Callable,
    guide: Callable,
    observed: Mapping[str, Any],
    num_particles: int,
    betas: Sequence[float],
    *,
    gradient: str = TOTAL,
    allow_biased: bool = False,
) -> jax.Array:
    """A left Riemann sum of ∫ E_β[log w] dβ over [0, 1], which is log p(x), with K particles.

    E_β is over the path q(z)^(1-β) p(x, z)^β from guide to posterior, w = p(x, z) / q(z). With the
    particles' weights normalised along the path, the value is

        Σ_j (β_{j+1} - β_j) Σ_k w_k^β_j log w_k / Σ_k w_k^β_j.

    Estimand: the mean of this text, to be maximised. For every K it lies between the ELBO (`betas`
    of 0 alone, or K = 1) and the importance-weighted bound of K particles (to which it rises as the
    betas become dense): a lower bound of log p(x).

    - `betas`: where the integrand is taken: increasing numbers from 0, below 1, such as (0, 0.1).
    - `gradient`: `"total"`, the derivative of the text above, unbiased for the estimand, whatever
      the estimators. `"covariance"`: that of the exact integrand,
      E_β[∂log w] + Cov_β(log w, ∂log of the path), by the same normalised particles. It is cheap
      and of a low variance for discrete choices, as it takes no score of the guide; its bias is
      O(1/K) as a gradient of the sum with exact expectations, so it takes `allow_biased=True`.

    The other arguments are those of `iwelbo`. Scalar; to be called inside an objective.

    **Raises** `ppl.errors.BiasedEstimator`; `InvalidSetting` for other `betas` or another
    `gradient`, or where `num_particles` is not a positive integer.

    Source: Masrani, Le & Wood 2019, 'The thermodynamic variational objective'.

    ```python
    >>> import jax, ppl, numpyro.distributions as dist
    >>> from stdlib.objectives import iwelbo, tvo
    >>> def model():
    ...     ppl.sample("x", dist.Normal(ppl.sample("z", dist.Normal(0.0, 1.0)), 1.0))
    >>> guide = lambda: ppl.sample("z", dist.Normal(1.0, 1.0))
    >>> def gaps(betas):
    ...     return iwelbo(model, guide, {"x": 2.0}, 50) - tvo(model, guide, {"x": 2.0}, 50, betas)
    >>> def mean(betas):
    ...     gap = jax.vmap(ppl.expectation(lambda: gaps(betas)))
    ...     return round(float(jax.jit(gap)(keys).mean()), 1)
    >>> keys = jax.random.split(jax.random.key(0), 500)
    >>> mean((0.0,)), mean((0.0, 0.1))
    (0.3, 0.2)

    ```
    """
    check_gradient(gradient, (TOTAL, COVARIANCE), "tvo")
    check_count("num_particles", num_particles, "tvo")
    orders = _checked(betas)
    if gradient == COVARIANCE:
        if not allow_biased:
            raise BiasedEstimator(
                f"gradient={COVARIANCE!r} of tvo is biased: its weights are normalised among its "
                f"particles. Write gradient={TOTAL!r}, or accept it: tvo(..., allow_biased=True)."
            )
        return _covariance(model, guide, observed, num_particles, orders)
    logs = log_weights(model, guide, observed, num_particles)
    terms = (step * share_sum(_tempered(logs, beta), logs) for beta, step in _steps(orders))
    return sum(terms, jnp.zeros(()))


def _checked(betas: Sequence[float]) -> np.ndarray:
    try:
        orders = np.asarray(betas, float)
        wrong = orders.ndim != 1 or orders[0] != 0 or np.any(np.diff([*orders, 1.0]) <= 0)
    except (TypeError, ValueError, IndexError):
        wrong = True
    if wrong:
        raise InvalidSetting(
            f"betas of tvo must be increasing numbers from 0, below 1, got {betas!r}. Write, for "
            "example, betas=(0.0, 0.1)."
        )
    return orders


def _tempered(logs: jax.Array, beta: float) -> jax.Array:
    return shares(beta * logs if beta else jnp.zeros_like(logs))


def _steps(orders: np.ndarray) -> list[tuple[float, float]]:
    return list(zip(orders.tolist(), np.diff([*orders, 1.0]).tolist(), strict=True))


def _covariance(
    model: Callable,
    guide: Callable,
    observed: Mapping[str, Any],
    num_particles: int,
    orders: np.ndarray,
) -> jax.Array:
    joint, sampler = joint_at(model, observed, guide), frozen(guide)

    def particle(_: Any) -> tuple[jax.Array, jax.Array]:
        choices = simulate(sampler).choices
        return log_density(joint, choices), log_density(guide, choices)

    log_p, log_q = jax.vmap(particle)(jnp.arange(num_particles))
    logs = log_p - log_q

    def term(beta: float) -> jax.Array:
        own = stop_gradient(_tempered(logs, beta))
        mean = share_sum(own, logs)
        centred = stop_gradient(own * jnp.where(own == 0, 0.0, logs - mean))
        return mean + derivative_of(share_sum(centred, beta * log_p + (1.0 - beta) * log_q))

    return sum((step * term(beta) for beta, step in _steps(orders)), jnp.zeros(()))
