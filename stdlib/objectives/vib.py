"""The variational information bottleneck."""

from collections.abc import Callable, Mapping
from typing import Any

import jax

from ._analytic_kl import AnalyticKL
from .beta_elbo import beta_elbo


def vib(
    decoder: Callable,
    encoder: Callable,
    target: Mapping[str, Any],
    beta: float | jax.Array,
    *,
    analytic_kl: AnalyticKL = False,
) -> jax.Array:
    """log q(y | z) + β (log r(z) - log p(z | x)), for a code z from the encoder.

    For pairs (x, y) from the data, its mean plus the entropy H(Y) is a lower bound of

        I(Z; Y) - β I(Z; X),

    what the code tells of the target less β times what it tells of the input; equal where r(z) is
    the code's marginal and q(y | z) its posterior of the target. To be maximised; value and
    gradient are unbiased, whatever the estimators.

    It is the β-ELBO of a model of y alone whose guide reads x:

    - `decoder`: a program that draws z from r(z), and y given z.
    - `encoder`: a program that draws z given x. It must not read y.
    - `target`: the choices y, nested dict from address to value.

    `analytic_kl` is that of `elbo`. Scalar; to be called inside an objective.

    **Raises** `ppl.errors.InvalidSetting` as `elbo` does for `analytic_kl`.

    Source: Alemi et al. 2017, 'Deep variational information bottleneck'.

    ```python
    >>> import jax, ppl, numpyro.distributions as dist
    >>> from stdlib.objectives import vib
    >>> def decoder():
    ...     ppl.sample("y", dist.Bernoulli(logits=ppl.sample("z", dist.Normal(0.0, 1.0))))
    >>> def objective(slope, x, y):
    ...     encoder = lambda: ppl.sample("z", dist.Normal(slope * x, 1.0))
    ...     return vib(decoder, encoder, {"y": y}, 0.1)
    >>> estimate = ppl.expectation(objective)
    >>> bool(estimate(jax.random.key(0), 1.0, 2.0, 1) < 0.0)
    True

    ```
    """
    return beta_elbo(decoder, encoder, target, beta, analytic_kl=analytic_kl)
