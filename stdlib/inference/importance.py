"""Importance sampling and sampling-importance-resampling."""

from collections.abc import Callable, Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpyro.distributions as dist

from ppl import Algorithm, Target, intervene, log_density, sample, simulate

from ._weights import log_mean_exp, taken


class Importance(Algorithm):
    """Importance sampling with n particles; to draw, one is resampled by its weight (SIR).

    Evidence: the mean of the weights p(u_k, x) / r(u_k), with u_k from the proposal r. Densities of
    what is drawn: conditional SIR, in which the given choices are one of the particles (Andrieu et
    al. 2010). As a marginal's algorithm it gives the bounds of Ranganath et al. 2016 (HVI, n = 1)
    and Sobolev & Vetrov 2019 (IWHVI). `SIR` is another name for it.

    **Arguments**

    - `num_particles`: n, at least 1.
    - `proposal`: a program over the hidden choices, called with the observed ones (a nested dict).
      By default the target's own program, drawn forward.

    The index drawn is a site of its own, `"resampled"`, with a score unless `with_estimators` says
    otherwise.

    ```python
    >>> import jax, ppl, numpyro.distributions as dist
    >>> from stdlib.inference import Importance
    >>> def model():
    ...     ppl.sample("x", dist.Normal(ppl.sample("u", dist.Normal(0.0, 1.0)), 1.0))
    >>> only_x = ppl.marginal(model, "x", Importance(1000))
    >>> estimate = ppl.expectation(lambda: ppl.log_density(only_x, {"x": 1.0}))
    >>> exact = dist.Normal(0.0, 2.0**0.5).log_prob(1.0)
    >>> bool(abs(estimate(jax.random.key(0)) - exact) < 0.1)
    True

    ```
    """

    num_particles: int = eqx.field(static=True, default=1)
    proposal: Callable | None = None

    def simulate(self, target: Target) -> tuple[Mapping[str, Any], jax.Array]:
        """One particle in proportion to its weight, and its density p(u, x) / (mean weight)."""
        choices, log_weights = self._particles(target, self.num_particles)
        if self.num_particles == 1:
            index = 0
        else:
            index = sample("resampled", dist.Categorical(logits=log_weights))
        chosen = taken(choices, index)
        return chosen, target.log_density(chosen) - log_mean_exp(log_weights)

    def log_density(self, target: Target, choices: Mapping[str, Any]) -> jax.Array:
        """By conditional SIR: p(u, x) over the mean weight of u and n - 1 more particles."""
        return target.log_density(choices) - self.log_evidence_given(target, choices)

    def log_evidence(self, target: Target) -> jax.Array:
        """The log of the mean weight."""
        return log_mean_exp(self._particles(target, self.num_particles)[1])

    def log_evidence_given(self, target: Target, choices: Mapping[str, Any]) -> jax.Array:
        """The log of the mean weight, the given choices being one of the particles."""
        own = self._log_weight(target, choices)
        if self.num_particles == 1:
            return own
        _, others = self._particles(target, self.num_particles - 1)
        return log_mean_exp(jnp.append(others, own))

    def _particles(self, target: Target, count: int) -> tuple[Any, jax.Array]:
        """Choices from the proposal, and their log weights, `(count,)`."""

        def particle(_):
            if self.proposal is None:
                trace = simulate(target.prior)
                return trace.choices, trace.log_likelihood
            trace = simulate(self.proposal, target.observed)
            return trace.choices, target.log_density(trace.choices) - trace.log_density

        return jax.vmap(particle)(jnp.arange(count))

    def _log_weight(self, target: Target, choices: Mapping[str, Any]) -> jax.Array:
        if self.proposal is None:
            return simulate(intervene(target.prior, choices)).log_likelihood
        log_q = log_density(self.proposal, choices, target.observed)
        return target.log_density(choices) - log_q


SIR = Importance
