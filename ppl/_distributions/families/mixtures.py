"""Mixtures whose weights are probabilities, which may be zero."""

import copy
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
from jax.lax import stop_gradient

from .probabilities import log_of

_HIGHEST = 80.0
"""A log ratio of densities whose exponential does not overflow."""


class _MixtureBase:
    """With the derivative of the density in a weight of zero: that component's density."""

    def log_prob(self: Any, value: Any) -> jax.Array:
        if "logits" in self.mixing_distribution.arg_constraints:
            return self.family.log_prob(self, value)
        alike = copy.copy(self)
        weights = self.mixing_distribution.probs
        alike._mixing_distribution = SimpleNamespace(logits=jnp.zeros_like(weights))
        parts = alike.component_log_probs(value)
        top = stop_gradient(jnp.max(jnp.where(weights > 0.0, parts, -jnp.inf), -1, keepdims=True))
        top = jnp.where(jnp.isfinite(top), top, 0.0)
        ratios = jnp.exp(jnp.minimum(parts - top, _HIGHEST))
        size = jnp.log(float(self.mixture_size))
        return size + top[..., 0] + log_of(jnp.sum(weights * ratios, -1))
