"""The evidence lower bound."""

from collections.abc import Callable, Mapping
from typing import Any

import jax

from ppl import Trace, log_density, replay, simulate
from ppl.errors import InvalidSetting

from .._scoring import BOUNDS
from ._analytic_kl import AnalyticKL, log_ratio
from ._gradients import STICKING_THE_LANDING, TOTAL, check_gradient, frozen_log_density, joint_at


def elbo(
    model: Callable,
    guide: Callable,
    observed: Mapping[str, Any],
    *,
    gradient: str = TOTAL,
    analytic_kl: AnalyticKL = False,
) -> jax.Array:
    """log p(x, z) - log q(z) for z from the guide: its mean is a lower bound of log p(x).

    `model` and `guide` are programs with their arguments bound; `observed` the choices to condition
    the model on (`{}` if it has its data as `obs=`). Every other site of the model needs one of the
    same address in the guide, and the other way round. Scalar; to be called inside an objective.

    `gradient` says which derivative the estimate has; its value is the same. Both are unbiased, in
    the parameters of the model and of the guide, whatever the estimators of the guide's sites:

    - `"total"`: the derivative of the text above.
    - `"sticking-the-landing"`: without that of log q at a fixed z, the score, whose mean is zero.
      With reparameterised sites its variance falls to zero as the guide nears the posterior
      (Roeder, Wu & Duvenaud 2017); far from there it may be the larger one. What the guide reads
      counts as a constant in its density, so factors of `ppl.scale` in the guide must not be
      parameters.

    `analytic_kl=True` replaces log p(z_i) - log q(z_i) by -KL(q_i ‖ p_i) at those sites where the
    divergence is known in closed form: two of Gaussian (normal, full, of low rank), log-normal,
    Laplace, gamma (exponential), beta, Dirichlet, Bernoulli, categorical and one-hot; Weibull and
    gamma. The steps of a chain in `lax.scan` have theirs given the steps before. The mean and the
    mean gradient are the same. The variance is lower where these terms have most of it; near the
    posterior, where they cancel the likelihood's, it is higher. A site stays as sampled where the
    model's distribution reads what the guide draws given it, and where it is scaled, masked or in a
    branch. `"all"` refuses where one stays sampled; `analytic_kl_sites` says which do, and why.

    **Raises** `ppl.errors.InvalidSetting` for another `gradient`, for `analytic_kl` with
    `"sticking-the-landing"`, or where no site can be rewritten (with `"all"`: where one cannot).

    Sources: Jordan et al. 1999; Ranganath et al. 2014; for `analytic_kl`, Kingma & Welling 2014.

    ```python
    >>> import jax, ppl, numpyro.distributions as dist
    >>> from stdlib.objectives import elbo
    >>> def model():
    ...     ppl.sample("x", dist.Normal(ppl.sample("z", dist.Normal(0.0, 1.0)), 1.0))
    >>> def objective(mean, gradient):
    ...     guide = lambda: ppl.sample("z", dist.Normal(mean, 0.5**0.5))
    ...     return elbo(model, guide, {"x": 2.0}, gradient=gradient)
    >>> estimate = jax.value_and_grad(ppl.expectation(objective), argnums=1)
    >>> value, slope = estimate(jax.random.key(0), 1.0, "sticking-the-landing")
    >>> round(float(value), 4), abs(round(float(slope), 4))  # the posterior: no variance
    (-2.2655, 0.0)

    ```
    """
    check_gradient(gradient, (TOTAL, STICKING_THE_LANDING), "elbo")
    landing = gradient == STICKING_THE_LANDING
    q, joint = simulate(guide), joint_at(model, observed, guide, laws=BOUNDS)
    if analytic_kl:
        if landing:
            raise InvalidSetting(
                "analytic_kl=True leaves no density of the guide to hold constant. Write "
                f"gradient={TOTAL!r}, or leave analytic_kl out."
            )
        p = replay(joint, q.choices)
        return p.log_likelihood + log_ratio(joint, guide, p, q, analytic_kl)
    return _log_ratio(joint, guide, q, landing)


def log_weight(
    model: Callable, guide: Callable, observed: Mapping[str, Any], gradient: str = TOTAL
) -> jax.Array:
    """The same log p(x, z) - log q(z), to be read as the logarithm of a weight.

    **Raises** `EstimatedDensity` also where a density has E[log w] = log p alone.
    """
    q, joint = simulate(guide), joint_at(model, observed, guide)
    return _log_ratio(joint, guide, q, gradient == STICKING_THE_LANDING)


def _log_ratio(joint: Callable, guide: Callable, q: Trace, landing: bool) -> jax.Array:
    log_q = frozen_log_density(guide, q.choices) if landing else q.log_density
    return log_density(joint, q.choices) - log_q
