"""The tail-adaptive f-divergence."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.lax import stop_gradient

from ppl import frozen, log_density
from ppl.errors import BiasedEstimator

from ._gradients import frozen_log_density, joint_at, simulate_pathwise
from ._particles import check_count


def tail_adaptive(
    model: Callable,
    guide: Callable,
    observed: Mapping[str, Any],
    num_particles: int,
    *,
    exponent: float = -1.0,
    allow_biased: bool = False,
) -> jax.Array:
    """Σ_k γ_k log(p(x, z_k) / q(z_k)), with γ by the rank of the importance weight, for K draws.

    γ_k is proportional to F_k^exponent, where F_k is the share of particles whose weight is at
    least the k-th's, and sums to one. To be maximised, over the parameters of the guide; they are
    differentiated through z_k alone, with γ constant:

        Σ_k γ_k ∂ log(p/q)(z_k), through z_k.

    In the model's parameters the derivative is zero. For K → ∞ this is the direction of an
    f-divergence that changes with the weights' tail, such that its moments stay finite: it covers
    the posterior as a χ² would, without the variance. No fixed estimand, and normalised
    by the particles: it takes `allow_biased=True`. An exponent of 0 gives the ELBO with the
    gradient of sticking the landing, without bias.

    Every choice of the guide is reparameterised here. The other arguments are those of `iwelbo`.
    Scalar; to be called inside an objective.

    **Raises** `ppl.errors.BiasedEstimator`; `UnsuitableEstimator` where a choice cannot be
    reparameterised; `InvalidSetting` where `num_particles` is not a positive integer.

    Source: Wang, Liu & Liu 2018, 'Variational inference with tail-adaptive f-divergence'.

    ```python
    >>> import jax, ppl, numpyro.distributions as dist
    >>> from stdlib.objectives import tail_adaptive
    >>> def model():
    ...     ppl.sample("x", dist.Normal(ppl.sample("z", dist.Normal(0.0, 1.0)), 1.0))
    >>> def objective(mean):
    ...     guide = lambda: ppl.sample("z", dist.Normal(mean, 0.5**0.5))
    ...     return tail_adaptive(model, guide, {"x": 2.0}, 16, allow_biased=True)
    >>> slope = jax.grad(ppl.expectation(objective), argnums=1)
    >>> abs(round(float(slope(jax.random.key(0), 1.0)), 4))  # the posterior: no variance
    0.0

    ```
    """
    check_count("num_particles", num_particles, "tail_adaptive")
    if not allow_biased:
        raise BiasedEstimator(
            "tail_adaptive weights its particles by their ranks, so it is biased for any one "
            "divergence. Accept it: tail_adaptive(..., allow_biased=True), or write elbo, or "
            "f_divergence."
        )
    joint = joint_at(frozen(model), observed, guide)

    def particle(_: Any) -> jax.Array:
        q = simulate_pathwise(guide, "tail_adaptive", "Write f_divergence where they are discrete.")
        return log_density(joint, q.choices) - frozen_log_density(guide, q.choices)

    log_weights = jax.vmap(particle)(jnp.arange(num_particles))
    weights = _shares(stop_gradient(log_weights)) ** exponent
    return jnp.sum(weights / jnp.sum(weights) * log_weights)


def _shares(values: jax.Array) -> jax.Array:
    """For each value, the share of those that are at least as large."""
    # sorted values are compared, as XLA may compute an operand twice, with other roundings
    ordered, places = jax.lax.sort_key_val(values, jnp.arange(len(values)))
    return jnp.zeros_like(values).at[places].set(jnp.mean(ordered >= ordered[:, None], axis=1))
