"""Particle Gibbs: a Markov kernel made of conditional sequential Monte Carlo."""

from collections.abc import Mapping
from typing import Any

from ppl.extend import Target

from .kernels import Kernel
from .smc import SMC


class ParticleGibbs(Kernel):
    """A move to a path of a conditional particle filter, chosen by its weight.

    Leaves p(u | x) invariant, however few the particles (Andrieu, Doucet & Holenstein 2010), and
    moves all the hidden choices at once, discrete ones too. `smc` is an `SMC(n)` with multinomial
    resampling after every step.

    ```python
    >>> import jax, jax.numpy as jnp, ppl, numpyro.distributions as dist
    >>> from stdlib.inference import SMC, ParticleGibbs, chain
    >>> def walk():
    ...     def step(x, _):
    ...         x = ppl.sample("x", dist.Normal(0.9 * x, 1.0))
    ...         ppl.sample("y", dist.Normal(x, 0.5))
    ...         return x, None
    ...     jax.lax.scan(step, 0.0, length=4)
    >>> target = ppl.extend.Target(walk, {"y": jnp.array([0.3, 1.2, 0.9, -0.1])})
    >>> initial = {"x": jnp.zeros(4)}
    >>> draws = ppl.seed(chain)(jax.random.key(0), ParticleGibbs(SMC(20)), target, initial, 500)
    >>> draws["x"].shape, bool(abs(draws["x"][:, 1].mean() - 0.99) < 0.1)
    ((500, 4), True)

    ```
    """

    smc: SMC

    def step(self, target: Target, choices: Mapping[str, Any]) -> Mapping[str, Any]:
        """A path of a run in which the choices are one."""
        run = self.smc.conditional(target.exactly, choices)
        return self.smc.path(target, run)
