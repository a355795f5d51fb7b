"""Estimators as a user may write them: measures whose weights are negative, or zero."""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp

import ppl
from stdlib.estimators import Enumerate


class Split(ppl.extend.Estimator):
    """The whole support three times: twice each probability, minus it, and nothing of it."""

    exact: ClassVar[bool] = True

    def particles(self, key: jax.Array, distribution: Any) -> ppl.extend.Particles:
        """Signed, and normalized."""
        values, weights, *_ = Enumerate().particles(key, distribution)
        weights = jnp.concatenate([2.0 * weights, -weights, 0.0 * weights])
        return ppl.extend.Particles(jnp.concatenate([values] * 3), weights, normalized=True)

    def unsuitable(self, distribution: Any) -> str | None:
        """What suits `Enumerate`."""
        return Enumerate().unsuitable(distribution)


class Signed(ppl.extend.Estimator):
    """A score whose weight is multiplied by 3, 2, -1 or 0: on average, by one."""

    def particles(self, key: jax.Array, distribution: Any) -> ppl.extend.Particles:
        """One particle."""
        first, second = jax.random.split(key)
        value = jax.lax.stop_gradient(distribution.sample(first))
        factors = jnp.array([3.0, -1.0, 0.0, 2.0])
        factor = factors[jax.random.randint(second, jnp.shape(distribution.log_prob(value)), 0, 4)]
        weight = factor * ppl.extend.box(distribution.log_prob(value))
        return ppl.extend.Particles(value[None], weight[None])


def guess(x: jax.Array) -> jax.Array:
    """A control variate for `Relax`: any function will do."""
    return jnp.sum(jnp.sin(2.0 * x + 0.3))
