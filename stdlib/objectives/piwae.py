"""A tight bound for the model, and a looser one for the guide."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.lax import stop_gradient

from ppl import frozen, log_density, simulate

from .._log_weights import log_mean_exp
from ._gradients import derivative_of, joint_at
from ._particles import check_count


def piwae(
    model: Callable,
    guide: Callable,
    observed: Mapping[str, Any],
    num_bounds: int,
    num_particles: int,
) -> jax.Array:
    """M importance-weighted bounds of K particles for the guide, one of all M·K for the model.

    Not the gradient of one function. With L_n the mean of `iwelbo` with n particles, to be
    maximised:

    - the value is unbiased for L_K, and so is the gradient for ∂L_K, in the parameters that the
      guide reads;
    - in those that the model reads, the gradient is unbiased for ∂L_{MK}.

    (Of a parameter that both read, the two are added.) The same M·K particles serve both. So the
    model has the tighter bound, and the guide a gradient whose signal-to-noise ratio does not fall
    with M: it grows as √M. All this whatever the estimators of the guide's sites.

    The other arguments are those of `miwae`. Scalar; to be called inside an objective.

    **Raises** `ppl.errors.InvalidSetting` where `num_bounds` or `num_particles` is not a positive
    integer.

    Source: Rainforth et al. 2018, 'Tighter variational bounds are not necessarily better'.

    ```python
    >>> import jax, ppl, numpyro.distributions as dist
    >>> from stdlib.objectives import piwae
    >>> def objective(theta, phi):
    ...     def model():
    ...         ppl.sample("x", dist.Normal(ppl.sample("z", dist.Normal(theta, 1.0)), 1.0))
    ...     guide = lambda: ppl.sample("z", dist.Normal(phi, 1.0))
    ...     return piwae(model, guide, {"x": 2.0}, 8, 8)
    >>> slopes = jax.grad(ppl.expectation(objective), (1, 2))(jax.random.key(0), 0.0, 0.0)
    >>> bool(slopes[0] > 0), bool(slopes[1] > 0)
    (True, True)

    ```
    """
    check_count("num_bounds", num_bounds, "piwae")
    check_count("num_particles", num_particles, "piwae")
    fixed = joint_at(frozen(model), observed, guide)
    joint = joint_at(model, observed, guide)

    def particle(_: Any) -> tuple[jax.Array, jax.Array]:
        q = simulate(guide)
        for_guide = log_density(fixed, q.choices) - q.log_density
        log_p = log_density(joint, stop_gradient(q.choices))
        return for_guide, log_p - stop_gradient(q.log_density)

    shape = (num_bounds, num_particles)
    for_guide, for_model = jax.vmap(jax.vmap(particle))(jnp.zeros(shape))
    bounds = jnp.mean(log_mean_exp(for_guide))
    return bounds + derivative_of(log_mean_exp(for_model.reshape(-1)))
