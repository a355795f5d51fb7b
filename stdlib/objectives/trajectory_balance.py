"""Trajectory balance."""

from collections.abc import Callable, Mapping
from typing import Any

import jax

from ppl import frozen, log_density, simulate

from ._gradients import drawn_by, joint_at
from ._particles import unless_impossible


def trajectory_balance(
    model: Callable,
    guide: Callable,
    observed: Mapping[str, Any],
    log_evidence: float | jax.Array,
    *,
    reference: Callable | None = None,
) -> jax.Array:
    """Minus half the square of log Z + log q(z) - log p(x, z), for z from a reference.

    Estimand: -E_r[(log Z + log q(z) - log p(x, z))²] / 2, with r the reference held constant and
    log Z, the `log_evidence`, a parameter to be learnt along with the guide. To be maximised: it is
    at most zero, and zero just where the guide is the posterior (on the support of r) and log Z is
    log p(x). Value and gradient are unbiased, in all parameters; nothing is differentiated through
    the draws, which may be discrete.

    **Law**: where r is the guide itself, the default, the gradient in the guide's parameters is
    that of the ELBO, with log Z as the baseline of its scores, and that in log Z is the ELBO less
    log Z. Train the guide by it; in the model's parameters its gradient is not that of any bound.

    - `log_evidence`: a scalar, such as `params["log_evidence"]`.
    - `reference`: a program over the same choices as the guide, such as a tempered one.

    The other arguments are those of `elbo`. Scalar; to be called inside an objective.

    Source: Malkin et al. 2022, 'Trajectory balance'.

    ```python
    >>> import jax, ppl, numpyro.distributions as dist
    >>> from stdlib.objectives import trajectory_balance
    >>> def model():
    ...     ppl.sample("x", dist.Normal(ppl.sample("z", dist.Normal(0.0, 1.0)), 1.0))
    >>> posterior = lambda: ppl.sample("z", dist.Normal(1.0, 0.5**0.5))
    >>> def objective(log_evidence):
    ...     return trajectory_balance(model, posterior, {"x": 2.0}, log_evidence)
    >>> slope = jax.grad(ppl.expectation(objective), 1)(jax.random.key(0), -3.0)
    >>> round(float(slope), 4)  # to the evidence, -2.2655
    0.7345

    ```
    """
    sampler, what, scored = drawn_by(guide, reference, "reference")
    joint = joint_at(model, observed, sampler, what)
    z = simulate(frozen(sampler)).choices
    log_ratio = log_density(joint, z) - log_density(scored, z)
    return unless_impossible(lambda log: -0.5 * (log_evidence - log) ** 2, log_ratio)
