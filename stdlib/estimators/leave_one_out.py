"""Several independent draws, each the baseline of the others."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.lax import stop_gradient

from ppl.errors import InvalidSetting
from ppl.extend import Estimator, Particles


class LeaveOneOut(Estimator):
    """K independent draws, each scored against the others' mean cost: REINFORCE leave-one-out.

    Particle k is a draw v_k, cut off from the parameters, with weight
    (1 + s_k - mean_{j≠k} s_j) / K, where s_k = log p(v_k) - stop_gradient(log p(v_k)). In
    derivative, the sum is Σ_k ∂log p(v_k) (f(v_k) - mean_{j≠k} f(v_j)) / K (Kool, van Hoof &
    Welling 2019).

    Value and first derivative are unbiased, as the draws are independent; second derivatives are
    not. The weights sum to one identically. Particle k of one element or site goes with particle k
    of the others, so what follows runs K times, however many there are.

    Needs what `ScoreFunction` needs: a differentiable `log_prob` and a support that does not move
    with the parameters. **Raises** `ppl.errors.InvalidSetting` for fewer than two draws.

    ```python
    >>> import jax, ppl, numpyro.distributions as dist
    >>> from stdlib.estimators import LeaveOneOut
    >>> def heads(p):
    ...     return 3.0 * ppl.sample("x", dist.Bernoulli(p), LeaveOneOut(4))
    >>> grad = jax.grad(ppl.expectation(heads), argnums=1)
    >>> keys = jax.random.split(jax.random.key(0), 2000)
    >>> bool(abs(jax.vmap(grad, (0, None))(keys, 0.3).mean() - 3.0) < 0.2)
    True

    ```
    """

    num_draws: int = eqx.field(static=True, default=2)

    def __check_init__(self):
        if self.num_draws < 2:
            raise InvalidSetting(
                "num_draws must be at least two, as each draw is compared with the "
                f"others, got {self.num_draws!r}. Write LeaveOneOut(num_draws=2), or "
                "ppl.ScoreFunction() for a single draw."
            )

    def particles(self, key: jax.Array, distribution: Any) -> Particles:
        """`num_draws` draws and their weights, one in K in value."""
        size = self.num_draws
        values = stop_gradient(jax.vmap(distribution.sample)(jax.random.split(key, size)))
        log_prob = jax.vmap(distribution.log_prob)(values)
        score = log_prob - stop_gradient(log_prob)
        others = (jnp.sum(score, 0) - score) / (size - 1)
        weights = (1 + score - others) / size
        shared_weights = np.full(size, 1 / size)
        name = ("LeaveOneOut", size)
        return Particles(values, weights, True, shared_weights=shared_weights, shared=name)
