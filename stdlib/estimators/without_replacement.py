"""Distinct values of a finite support, drawn without replacement."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.lax import stop_gradient

from ppl import log_sum_exp
from ppl.errors import InvalidSetting
from ppl.extend import Estimator, Particles

from ._support import picked
from .enumerate import Enumerate

MAX_DRAWS = 8
"""The weights are sums over all 2^K parts of the set drawn, which the program writes out."""


class WithoutReplacement(Estimator):
    """K distinct values of a finite support: the unordered-set estimator, with its baseline.

    Values are drawn one after another without replacement. The weight of s in the set S is, in
    value, P(s came first | S); in derivative, ∂log p(s) times that, less each value's derivative
    times its built-in baseline, an estimate of the mean cost made from the same K values
    (Kool, van Hoof & Welling 2020).

    Value and first derivative are unbiased; second derivatives are not. The weights sum to one
    identically. The variance falls to zero as K grows to the size of the support, where this is
    `Enumerate`. What follows runs K times; a batch of n elements costs n·K where the program keeps
    them apart, K^n where it mixes them, as for `Enumerate`. The weights of an element cost
    O(2^K + N log N), for a support of N values.

    Needs `enumerate_support`, at least `num_draws` values of positive probability (unless it draws
    the whole support), and a differentiable `log_prob`. **Raises** `ppl.errors.InvalidSetting`
    unless 2 ≤ `num_draws` ≤ 8.

    ```python
    >>> import jax, jax.numpy as jnp, ppl, numpyro.distributions as dist
    >>> from stdlib.estimators import WithoutReplacement
    >>> def cost(logits):
    ...     return 1.0 * ppl.sample("x", dist.Categorical(logits=logits), WithoutReplacement(3))
    >>> exact = jax.grad(ppl.expectation(cost), argnums=1)(jax.random.key(0), jnp.zeros(3))
    >>> exact.round(4).tolist()
    [-0.3333, 0.0, 0.3333]

    ```
    """

    num_draws: int = eqx.field(static=True, default=2)

    def __check_init__(self):
        if not 2 <= self.num_draws <= MAX_DRAWS:
            raise InvalidSetting(
                f"num_draws must be from 2 to {MAX_DRAWS}, got {self.num_draws!r}. Write "
                "WithoutReplacement(num_draws=2), or LeaveOneOut(num_draws) for more draws."
            )

    def particles(self, key: jax.Array, distribution: Any) -> Particles:
        """`num_draws` distinct values, the largest of perturbed log-probabilities."""
        support = distribution.enumerate_support(expand=True)
        if len(support) == self.num_draws:
            return Enumerate().particles(key, distribution)
        log_prob = distribution.log_prob(support)
        fixed = stop_gradient(log_prob)
        noise = jax.random.gumbel(key, fixed.shape, fixed.dtype, mode="high")
        order = jnp.argsort(fixed + noise, axis=0, descending=True)
        chosen, rest = order[: self.num_draws], order[self.num_draws :]
        first, baseline = _shares(picked(fixed, chosen), log_sum_exp(picked(fixed, rest), 0))
        score = picked(log_prob - fixed, chosen)
        weights = first * (1 + score) - jnp.sum((first * score)[:, None] * baseline, axis=0)
        return Particles(picked(support, chosen), weights, normalized=True)

    def unsuitable(self, distribution: Any) -> str | None:
        """Only a finite support of at least `num_draws` values will do."""
        reason = Enumerate().unsuitable(distribution)
        if reason is not None:
            return reason
        size = distribution.enumerate_support(expand=False).shape[0]
        if size < self.num_draws:
            return f"its support has {size} values, fewer than num_draws={self.num_draws}"
        return None


def _shares(log_prob: jax.Array, log_rest: jax.Array) -> tuple[jax.Array, jax.Array]:
    """P(s came first | S), `(K, *batch)`, and each one's baseline weights, `(K, K, *batch)`.

    The probability that what remains of S is drawn after its part C is the product of the
    probabilities of what remains, times `orders[C]`: the sum, over the orders of drawing it, of
    the inverse masses left at each draw. Both answers are ratios in which the product cancels but
    for one factor. A part is the bits of an integer.
    """
    members = range(log_prob.shape[0])
    full = 2 ** len(members) - 1
    orders = {full: jnp.zeros_like(log_rest)}
    for part in range(full - 1, -1, -1):
        left = [t for t in members if not part >> t & 1]
        mass = log_sum_exp(jnp.stack([log_rest, *(log_prob[t] for t in left)]), 0)
        orders[part] = log_sum_exp(jnp.stack([orders[part | 1 << t] for t in left]), 0) - mass
    first = jnp.stack([jnp.exp(orders[1 << s] - orders[0]) for s in members])

    def share(s: int, t: int) -> jax.Array:
        return jnp.exp(log_prob[s] if s == t else orders[1 << s | 1 << t] - orders[1 << s])

    return first, jnp.stack([jnp.stack([share(s, t) for t in members]) for s in members])
