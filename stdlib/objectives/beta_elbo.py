"""The tempered evidence lower bound."""

from collections.abc import Callable, Mapping
from typing import Any

import jax

from ppl import replay, simulate

from .._scoring import BOUNDS
from ._analytic_kl import AnalyticKL, log_ratio
from ._gradients import joint_at


def beta_elbo(
    model: Callable,
    guide: Callable,
    observed: Mapping[str, Any],
    beta: float | jax.Array,
    *,
    analytic_kl: AnalyticKL = False,
) -> jax.Array:
    """log p(x | z) + β (log p(z) - log q(z)), for z from the guide: the objective of a β-VAE.

    Estimand: E_q[log p(x | z)] - β KL(q ‖ p(z)), to be maximised; value and gradient are unbiased,
    in the parameters of model and guide, whatever the estimators. p(x | z) is the density of the
    observed sites. At β = 1 it is the ELBO; for β ≥ 1 it is below the ELBO, and so below log p(x);
    for β < 1 it is above the ELBO and no bound. `beta` may be an array, as of a schedule.

    The other arguments, and `analytic_kl`, are those of `elbo`. Scalar; to be called inside an
    objective.

    **Raises** `ppl.errors.InvalidSetting` as `elbo` does for `analytic_kl`.

    Source: Higgins et al. 2017, 'β-VAE'.

    ```python
    >>> import jax, ppl, numpyro.distributions as dist
    >>> from stdlib.objectives import beta_elbo
    >>> def model():
    ...     ppl.sample("x", dist.Normal(ppl.sample("z", dist.Normal(0.0, 1.0)), 1.0))
    >>> guide = lambda: ppl.sample("z", dist.Normal(1.0, 0.5))
    >>> def objective(beta):
    ...     return beta_elbo(model, guide, {"x": 2.0}, beta, analytic_kl=True)
    >>> slope = jax.grad(ppl.expectation(objective), argnums=1)(jax.random.key(0), 4.0)
    >>> round(float(slope), 4)  # minus the divergence
    -0.8181

    ```
    """
    q, joint = simulate(guide), joint_at(model, observed, guide, laws=BOUNDS)
    p = replay(joint, q.choices)
    if analytic_kl:
        return p.log_likelihood + beta * log_ratio(joint, guide, p, q, analytic_kl)
    return p.log_likelihood + beta * (p.log_density - q.log_density)
