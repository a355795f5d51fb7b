"""Sequential Monte Carlo over tempered targets."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from ppl import simulate
from ppl.extend import Target

from ._filter import Choices, Run, Settings, normalized, resample, uniform
from ._weights import taken, with_first
from .kernels import Kernel
from .tempering import Tempered, increments, log_likelihood, powers


def annealed_filter(
    settings: Settings,
    target: Target,
    schedule: Any,
    kernel: Kernel,
    given: Choices | None = None,
) -> Run:
    """Particles from the prior, weighed, resampled and moved at each temperature.

    With `given` choices, the first particle's path is one that ends at them: they are taken back to
    the prior by the same moves in reverse.
    """
    temperatures = powers(schedule)
    retained = given is not None
    free = jnp.arange(settings.num_particles - retained)
    particles = jax.vmap(lambda _: simulate(target.prior).choices)(free)
    kept = None
    if given is not None:
        begun, kept = _reversed_path(target, temperatures, kernel, given)
        particles = with_first(particles, begun)

    def step(carry, at):
        (particles, log_weights), (power, increment, kept) = carry, at
        gained = increment * jax.vmap(lambda u: log_likelihood(target, u))(particles)
        log_weights, gain = normalized(log_weights + gained)
        ancestors, log_weights = resample(settings, log_weights, retained)
        particles = taken(particles, ancestors)
        moved = jax.vmap(lambda u: kernel.step(Tempered(target, power), u))
        if retained:
            particles = with_first(moved(taken(particles, slice(1, None))), kept)
        else:
            particles = moved(particles)
        return (particles, log_weights), gain

    start = particles, uniform(settings.num_particles)
    at = temperatures, increments(temperatures), kept
    (particles, log_weights), gains = lax.scan(step, start, at)
    return Run(log_weights, jnp.sum(gains), lambda index: taken(particles, index))


def _reversed_path(
    target: Target, temperatures: Any, kernel: Kernel, given: Choices
) -> tuple[Choices, Choices]:
    """Where a path that ends at the given choices starts, and where each move of it leads."""

    def back(choices, power):
        return kernel.step(Tempered(target, power), choices), choices

    return lax.scan(back, jax.tree.map(jnp.asarray, given), temperatures, reverse=True)
