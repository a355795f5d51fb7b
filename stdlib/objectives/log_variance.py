"""The log-variance divergence, and VarGrad."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from ppl import frozen, log_density, simulate

from ._gradients import drawn_by, joint_at
from ._particles import check_count, unless_impossible


def log_variance(
    model: Callable,
    guide: Callable,
    observed: Mapping[str, Any],
    num_particles: int,
    *,
    reference: Callable | None = None,
) -> jax.Array:
    """Minus half the sample variance of log(p(x, z_k) / q(z_k)), for K draws from a reference.

    Estimand: -Var_r[log p(x, z) - log q(z)] / 2, with r the reference held constant. To be
    maximised: it is at most zero, and zero just where the guide is the posterior (on the support of
    r), for whatever evidence. Value and gradient are unbiased, in the parameters of model and
    guide; nothing is differentiated through the draws, which may be discrete.

    **Law**: where r is the guide itself, the default, the gradient in the guide's parameters is
    that of the ELBO. The estimator is then VarGrad: the score function with the mean of the other
    particles' log weights as baseline, a factor K / (K - 1) apart. Train the guide by it; in the
    model's parameters its gradient is not that of any bound.

    - `num_particles`: K, at least 2.
    - `reference`: a program over the same choices as the guide.

    The other arguments are those of `iwelbo`. Scalar; to be called inside an objective.

    **Raises** `ppl.errors.InvalidSetting` where `num_particles` is not an integer of at least 2.

    Sources: Richter et al. 2020, 'VarGrad'; Nüsken & Richter 2021.

    ```python
    >>> import jax, ppl, numpyro.distributions as dist
    >>> from stdlib.objectives import log_variance
    >>> def model():
    ...     ppl.sample("x", dist.Normal(ppl.sample("z", dist.Normal(0.0, 1.0)), 1.0))
    >>> posterior = lambda: ppl.sample("z", dist.Normal(1.0, 0.5**0.5))
    >>> estimate = ppl.expectation(lambda: log_variance(model, posterior, {"x": 2.0}, 8))
    >>> abs(round(float(estimate(jax.random.key(0))), 4))
    0.0

    ```
    """
    check_count("num_particles", num_particles, "log_variance", least=2)
    sampler, what, scored = drawn_by(guide, reference, "reference")
    joint = joint_at(model, observed, sampler, what)

    def particle(_: Any) -> jax.Array:
        choices = simulate(frozen(sampler)).choices
        return log_density(joint, choices) - log_density(scored, choices)

    logs = jax.vmap(particle)(jnp.arange(num_particles))
    return unless_impossible(lambda logs: -0.5 * jnp.var(logs, ddof=1), logs)
