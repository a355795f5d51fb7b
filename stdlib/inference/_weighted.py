"""Algorithms that draw one of several independent, weighted particles."""

import abc
from collections.abc import Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpyro.distributions as dist

from ppl import sample
from ppl.errors import InvalidSetting
from ppl.extend import Algorithm, Target

from .._log_weights import log_mean_exp
from ._weights import taken


class Weighted(Algorithm):
    """Independent particles, each properly weighted: E[w f(u)] = ∫ p(u, x) f(u) du.

    A draw is one of them by its weight, a site of its own, `"resampled"`. Its density is
    p(u, x) over the mean weight; of given choices, over the mean weight of a run in which one
    particle ends at them (conditional SIR, Andrieu, Doucet & Holenstein 2010).
    """

    num_particles: int = eqx.field(static=True, default=1)

    def __check_init__(self):
        if self.num_particles < 1:
            raise InvalidSetting(
                f"{type(self).__name__} needs at least one particle, got {self.num_particles}."
            )

    @abc.abstractmethod
    def particle(self, target: Target) -> tuple[Mapping[str, Any], jax.Array]:
        """The choices of one particle, and its log weight: a program."""

    @abc.abstractmethod
    def log_weight(self, target: Target, choices: Mapping[str, Any]) -> jax.Array:
        """The log weight of a particle given that it ends at these choices: a program."""

    def simulate(self, target: Target) -> tuple[Mapping[str, Any], jax.Array]:
        """One particle in proportion to its weight, and its density."""
        choices, log_weights = self._particles(target, self.num_particles)
        if self.num_particles == 1:
            index = 0
        else:
            index = sample("resampled", dist.Categorical(logits=log_weights))
        chosen = taken(choices, index)
        return chosen, target.log_density(chosen) - log_mean_exp(log_weights)

    def log_density(self, target: Target, choices: Mapping[str, Any]) -> jax.Array:
        """p(u, x) over the mean weight of the given particle and n - 1 more."""
        return target.log_density(choices) - self.log_evidence_given(target, choices)

    def log_evidence(self, target: Target) -> jax.Array:
        """The log of the mean weight."""
        return log_mean_exp(self._particles(target, self.num_particles)[1])

    def log_evidence_given(self, target: Target, choices: Mapping[str, Any]) -> jax.Array:
        """The log of the mean weight, one of the particles ending at the given choices."""
        own = self.log_weight(target, choices)
        if self.num_particles == 1:
            return own
        _, others = self._particles(target, self.num_particles - 1)
        return log_mean_exp(jnp.append(others, own))

    def _particles(self, target: Target, count: int) -> tuple[Any, jax.Array]:
        return jax.vmap(lambda _: self.particle(target))(jnp.arange(count))
