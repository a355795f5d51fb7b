"""ARM and DisARM: two antithetic draws of Bernoulli variables."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.lax import stop_gradient
from numpyro.distributions import BernoulliLogits, BernoulliProbs

from ppl import Estimator, Particles

from ._elements import Elements, elements


class Arm(Estimator):
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

    def particles(self, key: jax.Array, distribution: Any) -> Particles:
        """The pair, and its weights."""
        inside, logits, uniform = _antithetic(key, distribution)
        return _pair(inside, logits, uniform, 2 * uniform - 1)

    def unsuitable(self, distribution: Any) -> str | None:
        """It is for Bernoulli variables."""
        return _why_not_bernoulli(distribution)


class DisArm(Estimator):
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

    def particles(self, key: jax.Array, distribution: Any) -> Particles:
        """The pair, and its weights."""
        inside, logits, uniform = _antithetic(key, distribution)
        first, second = _draws(logits, uniform)
        differ = first.astype(logits.dtype) - second.astype(logits.dtype)
        return _pair(inside, logits, uniform, differ * jax.nn.sigmoid(jnp.abs(logits)))

    def unsuitable(self, distribution: Any) -> str | None:
        """It is for Bernoulli variables."""
        return _why_not_bernoulli(distribution)


def _antithetic(key: jax.Array, distribution: Any) -> tuple[Elements, jax.Array, jax.Array]:
    """The elements, their logits and their uniforms."""
    inside = elements(distribution)
    logits = inside.parameter(inside.base.logits)
    return inside, logits, jax.random.uniform(key, inside.shape, logits.dtype)


def _draws(logits: jax.Array, uniform: jax.Array) -> tuple[jax.Array, jax.Array]:
    return uniform > jax.nn.sigmoid(-logits), uniform < jax.nn.sigmoid(logits)


def _pair(inside: Elements, logits: jax.Array, uniform: jax.Array, slope: jax.Array) -> Particles:
    """The pair, with the derivative ±slope/2 of its weights in the logits."""
    tilt = inside.joint(stop_gradient(slope) * (logits - stop_gradient(logits)))
    dtype = jax.eval_shape(inside.base.sample, jax.random.key(0)).dtype
    values = jnp.stack(_draws(logits, uniform)).astype(dtype)
    weights = jnp.stack([1 + tilt, 1 - tilt]) / 2
    runs = np.array([0.5, 0.5])
    return Particles(values, weights, normalized=True, runs=runs, shared="antithetic")


def _why_not_bernoulli(distribution: Any) -> str | None:
    if isinstance(elements(distribution).base, BernoulliLogits | BernoulliProbs):
        return None
    return "it is for Bernoulli variables alone"
