"""Baselines: what a score-function estimator subtracts from the cost."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from ppl import State
from ppl.errors import InvalidSetting


def _floating(value: Any) -> jax.Array:
    return jnp.asarray(value, jnp.result_type(float, value))


class MovingAverage(State):
    """The exponential moving average of a cost, as a baseline of a score-function estimator.

    A baseline b that does not depend on the draw leaves the gradient unbiased, with
    (cost - b) ∂log p in place of cost ∂log p, at a variance that is least for b near the mean cost
    (Williams 1992). `value` is that b. Put the average into the parameters and give
    `ppl.ScoreFunction(baseline=average.value)` to the site: `ppl.fit` carries it, with

        value + (1 - decay) (cost - value)

    after each step, cost averaged over the step's estimates. The cost is what multiplies the site's
    score: the terms of the objective that depend on it.

    `value` starts as a scalar, or as an array of one average for each element of the site's batch.
    Where n elements, or lanes of a `vmap`, share one value, each step takes the sum of their n
    updates: choose 1 - decay n times smaller, or one value for each.

    **Raises** `ppl.errors.InvalidSetting` unless 0 ≤ `decay` < 1.

    ```python
    >>> import jax, optax, ppl, numpyro.distributions as dist
    >>> from stdlib.estimators import MovingAverage
    >>> def cost(params):
    ...     score = ppl.ScoreFunction(baseline=params["average"].value)
    ...     x = ppl.sample("x", dist.Bernoulli(jax.nn.sigmoid(params["logit"])), score)
    ...     return (10.0 + x) ** 2
    >>> params = {"logit": 0.5, "average": MovingAverage(decay=0.9)}
    >>> fitted = ppl.fit(cost, params, optax.adam(0.05), key=jax.random.key(0), steps=1000,
    ...                  maximize=False, progress=False)
    >>> print(f"{fitted.params['average'].value:.1f}")
    100.0

    ```
    """

    decay: float = eqx.field(static=True, default=0.9)
    value: jax.Array = eqx.field(converter=_floating, default=0.0)

    def __check_init__(self):
        if not 0 <= self.decay < 1:
            raise InvalidSetting(
                f"decay must be at least 0 and less than 1, got {self.decay!r}. Write "
                "MovingAverage(decay=0.9), which averages over about ten steps."
            )

    def updated(self, gradient: "MovingAverage") -> "MovingAverage":
        """The average after one more cost, of which the gradient tells how far off this one was."""
        return MovingAverage(self.decay, self.value + (1 - self.decay) * gradient.value)
