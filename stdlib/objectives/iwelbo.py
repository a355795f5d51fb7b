"""The importance-weighted evidence lower bound."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.lax import stop_gradient

from ppl import control_variate, flatten_choices, log_density, simulate
from ppl.errors import BiasedEstimator, InvalidSetting

from .._log_weights import log_mean_exp, shares
from ._gradients import (
    DOUBLY_REPARAMETERIZED,
    STICKING_THE_LANDING,
    TOTAL,
    VIMCO,
    check_gradient,
    frozen_log_density,
    joint_at,
    simulate_pathwise,
)
from ._particles import check_count
from .elbo import log_weight

GRADIENTS = (TOTAL, DOUBLY_REPARAMETERIZED, VIMCO, STICKING_THE_LANDING)

_REMEDY = (
    f"Write gradient={VIMCO!r} where they are discrete, or gradient={TOTAL!r}, which takes every "
    "guide."
)


def iwelbo(
    model: Callable,
    guide: Callable,
    observed: Mapping[str, Any],
    num_particles: int,
    *,
    gradient: str = TOTAL,
    allow_biased: bool = False,
) -> jax.Array:
    """The log of the mean of `num_particles` importance weights p(x, z) / q(z).

    Its mean is a lower bound of log p(x), tighter the more particles (Burda et al. 2016). The
    arguments are those of `elbo`. Scalar; to be called inside an objective.

    `gradient` says which derivative the estimate has; its value is the same, and so is the
    derivative in the model's parameters, which is unbiased. In those of the guide:

    - `"total"`: the derivative of the text above. Unbiased, whatever the estimators of the guide's
      sites; its signal-to-noise ratio falls as K, the number of particles, grows (Rainforth et al.
      2018).
    - `"doubly-reparameterized"`: Σ_k w_k² ∂log(p/q)(z_k) through z_k alone, with w the normalised
      weights. Unbiased for a guide of continuous choices, each of which is reparameterised here
      whatever its own estimator, and of a density neither scaled nor masked; the signal-to-noise
      ratio grows with K (DReG, Tucker et al. 2019).
    - `"vimco"`: each particle's score meets the objective less what it would be without that
      particle, its weight replaced by the geometric mean of the others'. Unbiased, whatever the
      estimators; of a variance well below that of the plain score where the bound itself, or a sum
      of bounds, is the objective: the baseline is the bound's, so that one which is turned about or
      averaged over data in the objective raises it (Mnih & Rezende 2016). It is for the sites that
      have a score: `ppl.ScoreFunction`, the default of integer choices, at choices of any kind.
      Those of other estimators, such as reparameterised ones, are left as they are. Needs two
      particles.
    - `"sticking-the-landing"`: without the derivative of log q at fixed z_k. Biased for K > 1, so
      it takes `allow_biased=True`; its variance is zero at the posterior.

    **Raises** `ppl.errors.InvalidSetting` for another `gradient`, or one that does not go with the
    number of particles or with the guide; `UnsuitableEstimator` where a choice of the guide cannot
    be reparameterised; `BiasedEstimator`; in `ppl.expectation`, `InvalidControlVariate` where no
    site has the score that `"vimco"` asks for.

    ```python
    >>> import jax, ppl, numpyro.distributions as dist
    >>> from stdlib.objectives import iwelbo
    >>> def model():
    ...     ppl.sample("x", dist.Normal(ppl.sample("z", dist.Normal(0.0, 1.0)), 1.0))
    >>> def objective(mean):
    ...     guide = lambda: ppl.sample("z", dist.Normal(mean, 0.5**0.5))
    ...     return iwelbo(model, guide, {"x": 2.0}, 5, gradient="doubly-reparameterized")
    >>> estimate = jax.value_and_grad(ppl.expectation(objective), argnums=1)
    >>> value, slope = estimate(jax.random.key(0), 1.0)
    >>> round(float(value), 4), abs(round(float(slope), 4))  # the posterior: no variance
    (-2.2655, 0.0)

    ```
    """
    _check(gradient, num_particles, allow_biased)
    particles = jnp.arange(num_particles)
    if gradient == DOUBLY_REPARAMETERIZED:
        log_weights = _doubly_reparameterized(model, guide, observed, particles)
    elif gradient == VIMCO:
        log_weights = _vimco(model, guide, observed, particles)
    else:
        log_weights = jax.vmap(lambda _: log_weight(model, guide, observed, gradient))(particles)
    return log_mean_exp(log_weights)


def _check(gradient: str, num_particles: int, allow_biased: bool) -> None:
    check_gradient(gradient, GRADIENTS, "iwelbo")
    check_count("num_particles", num_particles, "iwelbo")
    if gradient == VIMCO and num_particles < 2:
        raise InvalidSetting(
            f"gradient={VIMCO!r} compares particles with each other, so num_particles must be at "
            f"least 2, got {num_particles}. Write gradient={TOTAL!r} for a single particle."
        )
    if gradient == STICKING_THE_LANDING and num_particles > 1 and not allow_biased:
        raise BiasedEstimator(
            f"gradient={STICKING_THE_LANDING!r} of iwelbo is biased in the guide's parameters, "
            "unless num_particles is 1. "
            f"Write gradient={DOUBLY_REPARAMETERIZED!r}, or accept it: iwelbo(..., "
            "allow_biased=True)."
        )


def _doubly_reparameterized(
    model: Callable, guide: Callable, observed: Mapping[str, Any], particles: jax.Array
) -> jax.Array:
    """Log weights, differentiated along w_k times the particle's own derivative."""
    joint = joint_at(model, observed, guide)

    def drawn(_):
        q = simulate_pathwise(guide, f"gradient={DOUBLY_REPARAMETERIZED!r}", _REMEDY)
        return q.choices, log_density(joint, q.choices) - q.log_density

    def weighed(weight, choices):
        moved = jax.tree.map(lambda z: stop_gradient(z) + weight * (z - stop_gradient(z)), choices)
        return log_density(joint, moved) - frozen_log_density(guide, moved)

    choices, log_weights = jax.vmap(drawn)(particles)
    return jax.vmap(weighed)(stop_gradient(shares(log_weights)), choices)


def _vimco(
    model: Callable, guide: Callable, observed: Mapping[str, Any], particles: jax.Array
) -> jax.Array:
    """Log weights; each particle's score is compared with the bound that the others make."""
    joint = joint_at(model, observed, guide)

    def drawn(_):
        q = simulate(guide)
        return q.choices, log_density(joint, q.choices) - q.log_density

    choices, log_weights = jax.vmap(drawn)(particles)
    control_variate(tuple(flatten_choices(choices)), _bounds_without(log_weights))
    return log_weights


def _bounds_without(log_weights: jax.Array) -> jax.Array:
    """For each particle, the bound with the geometric mean of the others' weights for its own."""
    count = len(log_weights)
    itself = jnp.eye(count, dtype=bool)
    mean = jnp.sum(jnp.where(itself, 0.0, log_weights), 1, keepdims=True) / (count - 1)
    bounds = log_mean_exp(jnp.where(itself, mean, log_weights))
    return jnp.where(jnp.isfinite(bounds), bounds, 0.0)  # the others may all be impossible
