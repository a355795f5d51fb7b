"""f-divergences between the posterior and the guide."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from ppl.errors import InvalidSetting

from .elbo import log_weight


def f_divergence(
    model: Callable,
    guide: Callable,
    observed: Mapping[str, Any],
    f: Callable[[jax.Array], jax.Array],
    *,
    log_evidence: float | jax.Array,
) -> jax.Array:
    """Minus f(p(x, z) / (q(z) e^c)), for z from the guide and c the `log_evidence`.

    Estimand: -E_q[f(p(x, z) / (q(z) e^c))], to be maximised. Where c = log p(x), this is minus the
    divergence D_f(p(z | x) ‖ q) = E_q[f(p(z | x) / q(z))]. For any c and a convex f it is at most
    -f(p(x) / e^c), with equality where the guide is the posterior. Value and gradient are unbiased,
    whatever the estimators (where sites are reparameterised, f must have no jumps). Train the
    guide by it; the parameters of the model have a bound of their own to maximise.

    - `f`: a convex function of the ratio t > 0, with f(1) = 0, from a scalar to a scalar:

      | f(t) | divergence |
      |---|---|
      | -log t | KL(q ‖ p), the negative ELBO but for the constant c |
      | t log t | KL(p ‖ q), whatever c: another scales it and adds a constant |
      | (t - 1)² | χ²(p ‖ q) |
      | (√t - 1)² | squared Hellinger distance, twice |
      | abs(t - 1) / 2 | total variation |
      | t log t - (t + 1) log((t + 1) / 2) | Jensen-Shannon, twice |

    - `log_evidence`: log p(x), or what is known of it, such as a bound found before.

    The other arguments are those of `elbo`. Scalar; to be called inside an objective.

    **Raises** `ppl.errors.InvalidSetting` where f is not a function from a real scalar to one.

    Sources: Ali & Silvey 1966; Csiszár 1967; Wan et al. 2020, 'f-divergence variational inference'.

    ```python
    >>> import jax, ppl, numpyro.distributions as dist
    >>> from stdlib.objectives import f_divergence
    >>> def model():
    ...     ppl.sample("x", dist.Normal(ppl.sample("z", dist.Normal(0.0, 1.0)), 1.0))
    >>> posterior = lambda: ppl.sample("z", dist.Normal(1.0, 0.5**0.5))
    >>> evidence = dist.Normal(0.0, 2.0**0.5).log_prob(2.0)
    >>> def objective(chi):
    ...     return f_divergence(model, posterior, {"x": 2.0}, chi, log_evidence=evidence)
    >>> abs(round(float(ppl.expectation(objective)(jax.random.key(0), lambda t: (t - 1)**2)), 4))
    0.0

    ```
    """
    ratio = jnp.exp(log_weight(model, guide, observed) - log_evidence)
    value = f(ratio)
    if jnp.shape(value) or not jnp.issubdtype(jnp.result_type(value), jnp.floating):
        got = f"{jnp.result_type(value).name}{list(jnp.shape(value))}"
        raise InvalidSetting(
            "f of f_divergence must give a real scalar for the ratio p/q, such as lambda t: "
            f"t * jnp.log(t); it returned {got}."
        )
    return -value
