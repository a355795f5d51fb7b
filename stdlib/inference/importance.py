"""Importance sampling and sampling-importance-resampling."""

from collections.abc import Callable, Mapping
from typing import Any

import jax

from ppl import log_density, replay, simulate
from ppl.extend import Target

from .._scoring import at_choices_of, proposed_by
from ._weighted import Weighted


class Importance(Weighted):
    """Importance sampling with n particles; to draw, one is resampled by its weight (SIR).

    Evidence: the mean of the weights p(u_k, x) / r(u_k), with u_k from the proposal r. Densities of
    what is drawn: conditional SIR, in which the given choices are one of the particles (Andrieu et
    al. 2010). As a marginal's algorithm it gives the bounds of Ranganath et al. 2016 (HVI, n = 1)
    and Sobolev & Vetrov 2019 (IWHVI). `SIR` is another name for it.

    **Arguments**

    - `num_particles`: n, at least 1.
    - `proposal`: a program over the hidden choices, called with the observed ones (a nested dict).
      By default the target's own program, drawn forward. What it never draws is left out of the
      evidence: it has to draw wherever the target has a density.

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

    proposal: Callable | None = None

    def particle(self, target: Target) -> tuple[Mapping[str, Any], jax.Array]:
        """Choices from the proposal, and p(u, x) / r(u)."""
        if self.proposal is None:
            trace = simulate(target.prior)
            return trace.choices, trace.log_likelihood
        trace = simulate(self.proposal, target.observed)
        return trace.choices, self._scored(target, trace.choices) - trace.log_density

    def log_weight(self, target: Target, choices: Mapping[str, Any]) -> jax.Array:
        """p(u, x) / r(u) at the given choices."""
        if self.proposal is None:
            return replay(target.prior, choices).log_likelihood
        proposal = at_choices_of(target.prior, self.proposal, target.observed)
        log_r = log_density(proposal, choices, target.observed)
        return self._scored(target, choices) - log_r

    def _scored(self, target: Target, choices: Mapping[str, Any]) -> jax.Array:
        """log p(u, x), at choices that the proposal draws."""
        target.check(choices)
        assert self.proposal is not None
        program = proposed_by(self.proposal, target.prior, target.observed)
        return log_density(program, choices)


SIR = Importance
