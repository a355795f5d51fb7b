"""ARM and DisARM: two antithetic draws of Bernoulli variables."""

import abc
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.lax import stop_gradient
from numpyro.distributions import BernoulliLogits, BernoulliProbs

from ppl.extend import Estimator, Particles

from ._elements import elements


class _Antithetic(Estimator):
    """Two antithetic draws; what is left is the derivative ±slope/2 of their weights in α."""

    @abc.abstractmethod
    def _slope(self, logits: jax.Array, uniform: jax.Array, differ: jax.Array) -> jax.Array:
        """Twice the derivative of the first weight, of each element; `differ` is b - b'."""

    def particles(self, key: jax.Array, distribution: Any) -> Particles:
        """The pair, and its weights."""
        inside = elements(distribution)
        logits = inside.parameter(inside.base.logits)
        uniform = jax.random.uniform(key, inside.shape, logits.dtype)
        pair = jnp.stack([uniform > jax.nn.sigmoid(-logits), uniform < jax.nn.sigmoid(logits)])
        first, second = pair.astype(logits.dtype)
        slope = stop_gradient(self._slope(logits, uniform, first - second))
        tilt = inside.joint(slope * (logits - stop_gradient(logits)))
        dtype = jax.eval_shape(inside.base.sample, jax.random.key(0)).dtype
        weights = jnp.stack([1 + tilt, 1 - tilt]) / 2
        shared_weights = np.array([0.5, 0.5])
        return Particles(
            pair.astype(dtype),
            weights,
            normalized=True,
            shared_weights=shared_weights,
            shared="antithetic",
        )

    def unsuitable(self, distribution: Any) -> str | None:
        """It is for Bernoulli variables."""
        if isinstance(elements(distribution).base, BernoulliLogits | BernoulliProbs):
            return None
        return "it is for Bernoulli variables alone"


class Arm(_Antithetic):
    """Two antithetic draws b = [u > σ(-α)] and b' = [u < σ(α)] of logits α, from one uniform u.

    Particles of weight 1/2 ± (u - 1/2)·(α - stop_gradient(α)), so that the derivative is

        (f(b) - f(b')) (u - 1/2) ∂α

    Unbiased, whatever the objective (Yin & Zhou 2019). Needs a Bernoulli, by probs or logits;
    batches and `to_event` are allowed. Two runs of what follows, however many elements there are,
    as all flip at once. The weights sum to one identically. `DisArm` has no larger a variance.
    First derivatives only.

    ```python
    >>> import jax, ppl, numpyro.distributions as dist
    >>> from stdlib.estimators import Arm
    >>> def square(p):
    ...     return (ppl.sample("x", dist.Bernoulli(p), Arm()) - 0.45) ** 2
    >>> grad = jax.grad(ppl.expectation(square), argnums=1)
    >>> keys = jax.random.split(jax.random.key(0), 10_000)
    >>> bool(abs(jax.vmap(grad, (0, None))(keys, 0.3).mean() - 0.1) < 0.01)
    True

    ```
    """

    def _slope(self, logits: jax.Array, uniform: jax.Array, differ: jax.Array) -> jax.Array:
        return 2 * uniform - 1


class DisArm(_Antithetic):
    """`Arm`, with its uniform integrated out given the pair of draws: lower variance, same cost.

    Particles of weight 1/2 ± 1/2·c·(α - stop_gradient(α)), where c = (b - b') σ(|α|) is zero where
    the draws agree, so that the derivative is

        1/2 (f(b) - f(b')) (b - b') σ(|α|) ∂α

    Unbiased, whatever the objective (Dong, Mnih & Tucker 2020). Needs and cost are those of `Arm`.

    ```python
    >>> import jax, ppl, numpyro.distributions as dist
    >>> from stdlib.estimators import DisArm
    >>> def square(p):
    ...     return (ppl.sample("x", dist.Bernoulli(p), DisArm()) - 0.45) ** 2
    >>> grad = jax.grad(ppl.expectation(square), argnums=1)
    >>> keys = jax.random.split(jax.random.key(0), 10_000)
    >>> bool(abs(jax.vmap(grad, (0, None))(keys, 0.3).mean() - 0.1) < 0.01)
    True

    ```
    """

    def _slope(self, logits: jax.Array, uniform: jax.Array, differ: jax.Array) -> jax.Array:
        return differ * jax.nn.sigmoid(jnp.abs(logits))
