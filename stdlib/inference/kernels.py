"""Markov kernels that leave a target invariant: programs, moved by sites of their own.

Each is reversible with respect to its target, on the choices' own scale; a move out of a
distribution's support is not accepted. Choices whose elements obey equations (a simplex, a Cholesky
factor of correlations) are moved on the scale of the free numbers that `biject_to` maps to them.
"""

import abc
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpyro.distributions as dist

from ppl import sample

from ._coordinates import Choices, real_vector
from ._proposed import Proposal, proposed


class Kernel(eqx.Module):
    """The protocol: a program that moves the hidden choices of a target.

    **Law**: where the choices have the density `target.log_density` (normalised), so have the
    moved ones; and the kernel is reversible: from there, a move and its reverse are as likely.
    `target` is a `ppl.extend.Target`, or has the same methods `log_density(choices)` and
    `supports(choices)`.
    """

    @abc.abstractmethod
    def step(self, target: Any, choices: Choices) -> Choices:
        """The choices after one move."""


class RandomWalk(Kernel):
    """Random-walk Metropolis: a normal step, accepted by the density's ratio.

    `scale` is the standard deviation of each coordinate's step (Metropolis et al. 1953).

    ```python
    >>> import jax, ppl, numpyro.distributions as dist
    >>> from stdlib.inference import RandomWalk, chain
    >>> def model():
    ...     ppl.sample("x", dist.Normal(ppl.sample("u", dist.Normal(0.0, 1.0)), 1.0))
    >>> target = ppl.extend.Target(model, {"x": 2.0})
    >>> draws = ppl.seed(chain)(jax.random.key(0), RandomWalk(1.5), target, {"u": 1.0}, 2000)
    >>> bool(abs(draws["u"].mean() - 1.0) < 0.15)
    True

    ```
    """

    scale: Any = 1.0

    def step(self, target: Any, choices: Choices) -> Choices:
        """One proposal, taken or not."""
        density, old, rebuild = real_vector(target, choices)

        def propose(old, noise):
            return density.judged(old, old + self.scale * noise, lambda new: 0.0)

        noise = sample("step", dist.Normal(jnp.zeros_like(old), 1.0))
        return rebuild(_accepted(propose, old, noise))


class MALA(Kernel):
    """The Metropolis-adjusted Langevin algorithm: a step along the gradient, and noise.

    `step_size` is ε in u + ε²/2 ∇log p(u) + ε·noise (Roberts & Tweedie 1996).
    """

    step_size: Any = 0.1

    def step(self, target: Any, choices: Choices) -> Choices:
        """One proposal, taken or not."""
        density, old, rebuild = real_vector(target, choices)

        def drift(u):
            return u + 0.5 * self.step_size**2 * jax.grad(density.log)(u)

        def propose(old, noise):
            def log_ratio(new):
                there = jnp.sum(((old - drift(new)) / self.step_size) ** 2)
                return 0.5 * (jnp.sum(noise**2) - there)

            return density.judged(old, drift(old) + self.step_size * noise, log_ratio)

        noise = sample("step", dist.Normal(jnp.zeros_like(old), 1.0))
        return rebuild(_accepted(propose, old, noise))


class HMC(Kernel):
    """Hamiltonian Monte Carlo: leapfrog steps from a fresh momentum (Neal 2011).

    `step_size` of a leapfrog step; `num_steps` of them to a proposal.
    """

    step_size: Any = 0.1
    num_steps: int = eqx.field(static=True, default=10)

    def step(self, target: Any, choices: Choices) -> Choices:
        """One proposal, taken or not."""
        density, old, rebuild = real_vector(target, choices)
        slope, half = jax.grad(density.log), 0.5 * self.step_size

        def propose(old, start):
            def leap(state, _):
                u, momentum, inside = state
                momentum = momentum + half * slope(jnp.where(inside, u, old))
                u = u + self.step_size * momentum
                inside = inside & density.supports(u)
                return (u, momentum + half * slope(jnp.where(inside, u, old)), inside), None

            begin = old, start, jnp.asarray(True)
            (new, end, inside), _ = jax.lax.scan(leap, begin, length=self.num_steps)
            kinetic = 0.5 * (jnp.sum(start**2) - jnp.sum(end**2))
            return density.judged(old, new, lambda new: kinetic, inside)

        momentum = sample("momentum", dist.Normal(jnp.zeros_like(old), 1.0))
        return rebuild(_accepted(propose, old, momentum))


def chain(kernel: Kernel, target: Any, initial: Choices, length: int) -> Choices:
    """A program: `length` moves of a kernel, one after another; their choices, stacked.

    To run it as Markov chain Monte Carlo: `ppl.seed(chain)(key, kernel, target, initial, 1000)`.
    The `initial` choices are what `target.as_arrays` makes of them: numbers at integer sites are
    the integers.
    """

    def move(choices, _):
        choices = kernel.step(target, choices)
        return choices, choices

    as_arrays = getattr(target, "as_arrays", partial(jax.tree.map, jnp.asarray))
    return jax.lax.scan(move, as_arrays(initial), length=length)[1]


def _accepted(propose: Proposal, old: jax.Array, noise: jax.Array) -> jax.Array:
    """The new vector, with the probability of Metropolis and Hastings; else the old one."""
    new, rate = proposed(propose, old, noise)
    accept = sample("accept", dist.Bernoulli(rate))
    return jnp.where(accept == 1, new, old)
