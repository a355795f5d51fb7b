"""The χ upper bound."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from ppl.errors import InvalidSetting

from .elbo import log_weight


def cubo(
    model: Callable,
    guide: Callable,
    observed: Mapping[str, Any],
    order: float = 2.0,
    *,
    log_evidence: float | jax.Array = 0.0,
) -> jax.Array:
    """Minus the n-th power of the importance weight p(x, z) / (q(z) e^c), for z from the guide.

    Estimand: -E_q[(p(x, z) / (q(z) e^c))^n] = -exp(n (CUBO_n - c)), with n the `order` and c the
    `log_evidence`. To be maximised, which minimises

        CUBO_n = (1/n) log E_q[(p(x, z) / q(z))^n] ≥ log p(x),

    an upper bound; at n = 2 its gap is log(1 + χ²(p ‖ q)) / 2. Value and gradient of this power are
    unbiased, whatever the estimators; CUBO_n itself has no unbiased estimate. Of the mean of
    many values v, log(-v)/n + c estimates it from below. Train the guide by it: in the model's
    parameters it pulls the evidence down.

    - `order`: n > 1. The variance is that of w^n, heavy-tailed where the guide is too narrow.
    - `log_evidence`: a constant that keeps the power in range, best near log p(x) (such as an ELBO
      found before). It scales the objective and moves no optimum.

    The other arguments are those of `elbo`. Scalar; to be called inside an objective.

    **Raises** `ppl.errors.InvalidSetting` where `order` is not above 1.

    Source: Dieng et al. 2017, 'Variational inference via χ upper bound minimization'.

    ```python
    >>> import jax, jax.numpy as jnp, ppl, numpyro.distributions as dist
    >>> from stdlib.objectives import cubo
    >>> def model():
    ...     ppl.sample("x", dist.Normal(ppl.sample("z", dist.Normal(0.0, 1.0)), 1.0))
    >>> guide = lambda: ppl.sample("z", dist.Normal(0.5, 1.0))
    >>> estimate = ppl.expectation(lambda: cubo(model, guide, {"x": 2.0}, log_evidence=-2.0))
    >>> values = jax.vmap(estimate)(jax.random.split(jax.random.key(0), 1000))
    >>> evidence = dist.Normal(0.0, 2.0**0.5).log_prob(2.0)
    >>> bool(jnp.log(-values.mean()) / 2 - 2.0 > evidence)
    True

    ```
    """
    if not order > 1:
        raise InvalidSetting(
            f"order of cubo must be above 1, got {order!r}. For a lower bound write renyi(..., "
            "alpha=1 - order), with an order between 0 and 1."
        )
    return -jnp.exp(order * (log_weight(model, guide, observed) - log_evidence))
