"""Algorithms that know the evidence exactly, and with it the density of what they draw."""

import abc
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from ppl.extend import Algorithm, Target


class Integral(Algorithm):
    """Draws from the posterior, and has log p(x): the posterior's density is p(u, x) over it."""

    law: ClassVar = "exact"

    @abc.abstractmethod
    def log_evidence(self, target: Target) -> jax.Array:
        """log p(x)."""

    def log_density(self, target: Target, choices: Mapping[str, Any]) -> jax.Array:
        """log p(u, x) - log p(x)."""
        return target.log_density(choices) - self.log_evidence(target)

    def log_evidence_given(self, target: Target, choices: Mapping[str, Any]) -> jax.Array:
        """log p(x)."""
        return self.log_evidence(target)


def zeros_of(target: Target) -> Mapping[str, Any]:
    """Zeros in the shapes of the hidden choices."""
    return jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), target.hidden)
