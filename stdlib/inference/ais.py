"""Annealed importance sampling."""

from collections.abc import Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from ppl import simulate
from ppl.extend import Target

from ._weighted import Weighted
from .kernels import HMC, Kernel
from .tempering import Tempered, increments, log_likelihood, powers


class AIS(Weighted):
    """Annealed importance sampling: from the prior to the posterior by tempered Markov moves.

    A particle starts from the prior; at each temperature β its weight gains p(x | u)^(Δβ), and then
    the kernel moves it, leaving p(u) p(x | u)^β invariant (Neal 2001). Given choices are taken back
    to the prior by the same moves in reverse (bidirectional Monte Carlo, Grosse et al. 2015).

    **Arguments**

    - `num_particles`: n, independent ones.
    - `schedule`: how many equal steps of temperature, or the temperatures, rising to 1.
    - `kernel`: `RandomWalk`, `MALA`, `HMC`, `NUTS`, ...

    The kernel's sites (`"step"`, `"momentum"`, `"accept"`) are sites like any others: the
    gradient of what is estimated is unbiased.

    ```python
    >>> import jax, ppl, numpyro.distributions as dist
    >>> from stdlib.inference import AIS, RandomWalk
    >>> def model():
    ...     ppl.sample("x", dist.Normal(ppl.sample("u", dist.Normal(0.0, 1.0)), 0.5))
    >>> only_x = ppl.marginal(model, "x", AIS(100, 20, RandomWalk(0.5)))
    >>> estimate = ppl.expectation(lambda: ppl.log_density(only_x, {"x": 3.0}))
    >>> exact = dist.Normal(0.0, 1.25**0.5).log_prob(3.0)
    >>> bool(abs(estimate(jax.random.key(0)) - exact) < 0.2)
    True

    ```
    """

    schedule: Any = 10
    kernel: Kernel = eqx.field(default_factory=HMC)

    def __check_init__(self):
        powers(self.schedule)

    def particle(self, target: Target) -> tuple[Mapping[str, Any], jax.Array]:
        """One chain forward."""

        def anneal(choices, at):
            power, gain = at
            log_weight = gain * log_likelihood(target, choices)
            return self.kernel.step(Tempered(target, power), choices), log_weight

        temperatures = powers(self.schedule)
        start = simulate(target.prior).choices
        end, gains = jax.lax.scan(anneal, start, (temperatures, increments(temperatures)))
        return end, jnp.sum(gains)

    def log_weight(self, target: Target, choices: Mapping[str, Any]) -> jax.Array:
        """One chain backward."""

        def anneal(choices, at):
            power, gain = at
            choices = self.kernel.step(Tempered(target, power), choices)
            return choices, gain * log_likelihood(target, choices)

        temperatures = powers(self.schedule)
        at = temperatures, increments(temperatures)
        start = jax.tree.map(jnp.asarray, choices)
        return jnp.sum(jax.lax.scan(anneal, start, at, reverse=True)[1])
