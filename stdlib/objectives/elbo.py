"""The evidence lower bound."""

from collections.abc import Callable, Mapping
from typing import Any

import jax

from ppl import condition, log_density, simulate

from ._gradients import STICKING_THE_LANDING, TOTAL, check_gradient, frozen_log_density


def elbo(
    model: Callable, guide: Callable, observed: Mapping[str, Any], *, gradient: str = TOTAL
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

    **Raises** `ppl.errors.InvalidSetting` for another `gradient`.

    Sources: Jordan et al. 1999; Ranganath et al. 2014.

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
    q = simulate(guide)
    landing = gradient == STICKING_THE_LANDING
    log_q = frozen_log_density(guide, q.choices) if landing else q.log_density
    return log_density(condition(model, observed), q.choices) - log_q
