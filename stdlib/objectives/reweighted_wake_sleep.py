"""Reweighted wake-sleep: importance-weighted updates of model and guide."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.lax import stop_gradient

from ppl import frozen, log_density, simulate
from ppl.errors import BiasedEstimator

from .._log_weights import log_mean_exp, share_sum, shares
from ._gradients import derivative_of, joint_at
from ._particles import check_count


def reweighted_wake_sleep(
    model: Callable,
    guide: Callable,
    observed: Mapping[str, Any],
    num_particles: int,
    *,
    allow_biased: bool = False,
) -> jax.Array:
    """The importance-weighted bound for the model, self-normalised forward KL for the guide.

    Not the gradient of one function. With K draws z_k from the guide, and w_k their normalised
    importance weights, to be maximised:

    - the value is unbiased for the bound of `iwelbo`, and so is the gradient, in the parameters of
      the model: Σ_k w_k ∂log p(x, z_k);
    - in the parameters of the guide the gradient is Σ_k w_k ∂log q(z_k), w constant: an estimate of
      -∂KL(p(z | x) ‖ q) with a bias of O(1/K), so that it takes `allow_biased=True`.

    (Of a parameter that both read, the two are added.) These are the two wake phases, with the same
    particles. Nothing is differentiated through the draws, which may be discrete, and the
    guide's gradient becomes better, not worse, with K. For the sleep phase as well, add it:
    `reweighted_wake_sleep(...) + sleep_phase(...)`.

    The arguments are those of `iwelbo`. Scalar; to be called inside an objective.

    **Raises** `ppl.errors.BiasedEstimator`; `InvalidSetting` where `num_particles` is not a
    positive integer.

    Sources: Bornschein & Bengio 2015; Le et al. 2019, 'Revisiting reweighted wake-sleep'.

    ```python
    >>> import jax, ppl, numpyro.distributions as dist
    >>> from stdlib.objectives import reweighted_wake_sleep
    >>> def model():
    ...     z = ppl.sample("z", dist.Bernoulli(0.5))
    ...     ppl.sample("x", dist.Normal(4.0 * z, 1.0))
    >>> def objective(p):
    ...     guide = lambda: ppl.sample("z", dist.Bernoulli(p))
    ...     return reweighted_wake_sleep(model, guide, {"x": 4.0}, 50, allow_biased=True)
    >>> bool(jax.grad(ppl.expectation(objective), 1)(jax.random.key(0), 0.5) > 1.9)
    True

    ```
    """
    check_count("num_particles", num_particles, "reweighted_wake_sleep")
    if not allow_biased:
        raise BiasedEstimator(
            "reweighted_wake_sleep is biased in the guide's parameters: its weights are normalised "
            "among its particles. Accept it: reweighted_wake_sleep(..., allow_biased=True), or "
            "write wake_sleep."
        )
    joint, sampler = joint_at(model, observed, guide), frozen(guide)

    def particle(_: Any) -> tuple[jax.Array, jax.Array]:
        q = simulate(sampler)
        log_weight = log_density(joint, q.choices) - q.log_density
        return log_weight, log_density(guide, q.choices)

    log_weights, scores = jax.vmap(particle)(jnp.arange(num_particles))
    own = stop_gradient(shares(log_weights))
    return log_mean_exp(log_weights) + derivative_of(share_sum(own, scores))
