"""Gaussian choices of a chain: evidence, mean and draws at the cost of T steps.

All choices of the loop are integrated out backwards, the last step's first (`_recursion`). That is
exact about every path, of what steps read and choose. It is done about zero, for the mean, and then
about the mean, where the slopes are next to nothing and rounding errors smallest.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.linalg import solve_triangular

from ._chain import Chain, Local, first_order, second_order
from ._choices import Choices
from ._recursion import (
    Gains,
    Steps,
    backward,
    curvatures,
    curvatures_in_parallel,
    forward,
    gain,
    gains,
)


class Path(NamedTuple):
    """Choices before the loop, (p,), what each step reads, (T, k), and chooses, (T, m)."""

    before: jax.Array
    read: jax.Array
    own: jax.Array

    def __add__(self, other: "Path") -> "Path":
        return Path(*map(jnp.add, self, other))


class Paths(NamedTuple):
    """exp(f) for the log density f of a chain: a mass times a normal density of paths.

    `pushes` are the whitened slopes of f, before the loop and in it, about the path `about`, and
    `gaps` how far what is handed on there is from what is read next.
    """

    smoother: "Smoother"
    about: Path
    log_mass: jax.Array
    pushes: tuple[jax.Array, jax.Array]
    gaps: tuple[jax.Array, jax.Array]

    @property
    def size(self) -> int:
        """How many numbers are hidden."""
        return sum(push.size for push in self.pushes)

    def at(self, noise: jax.Array) -> Choices:
        """The choices that flat standard normal noise is moved to; those of zeros are the mean."""
        path = self.path(noise)
        return self.smoother.chain.nested(path.before, path.own)

    def path(self, noise: jax.Array) -> Path:
        """The same with what the steps read."""
        before, own = self.pushes
        first, rest = jnp.split(noise, [before.size])
        pushes = before + first, own + rest.reshape(own.shape)
        return self.about + self.smoother.moved(pushes, self.gaps)


class Smoother(NamedTuple):
    """A chain with its second derivatives, and what follows from them.

    `curvature` is that of all later steps in what each step hands on, (T + 1, k, k), the first in
    what the first step reads. `before` are the gains of what comes before the loop.
    """

    chain: Chain
    parallel: bool
    first: Steps
    steps: Steps
    curvature: jax.Array
    before: Gains
    gains: Gains

    def about(self, path: Path) -> Paths:
        """The square completed about a path."""
        k = self.curvature.shape[-1]
        local = self.chain.over_steps(first_order, jnp.concatenate([path.read, path.own], 1))
        first = first_order(self.chain.start, path.before)
        nexts = jnp.concatenate([path.read[1:], local.moved[-1:]])
        gap, gap_before = local.moved - nexts, first.moved - path.read[0]
        later = self.curvature[1:]
        lost = _times(later, gap)
        added = local.slope[:, :k] - _times_transposed(self.gains.feedback, local.slope[:, k:])
        added = added - _times_transposed(self.gains.closed, lost)
        slopes = backward(self.gains.closed, added, self.parallel)
        mass, push = jax.vmap(_eliminated)(local, self.steps, self.gains, slopes[1:], later, gap)
        mass_before, push_before = _eliminated(
            first, self.first, self.before, slopes[0], self.curvature[0], gap_before
        )
        mass = jnp.sum(mass) + mass_before
        return Paths(self, path, mass, (push_before, push), (gap_before, gap))

    def moved(self, pushes: tuple, gaps: tuple) -> Path:
        """How far a path is from another, given the pushes and the gaps of this."""
        k = self.curvature.shape[-1]
        before = _unwhitened(self.before.factor, pushes[0])
        own = jax.vmap(_unwhitened)(self.gains.factor, pushes[1])
        start = gaps[0] + self.first.jacobian @ before
        added = gaps[1] + _times(self.steps.jacobian[:, :, k:], own)
        read = forward(self.gains.closed, start, added, self.parallel)[:-1]
        return Path(before, read, own - _times(self.gains.feedback, read))


def completed_along(chain: Chain, parallel: bool) -> Paths:
    """The square completed about the mean, as it is found about zero."""
    steps = chain.over_steps(second_order)
    first = second_order(chain.start, jnp.zeros(chain.sizes[0]))
    curvature = (curvatures_in_parallel if parallel else curvatures)(steps)
    smoother = Smoother(
        chain,
        parallel,
        first,
        steps,
        curvature,
        gain(first, curvature[0], 0),
        gains(steps, curvature[1:]),
    )
    before, read, own = (jnp.zeros(size) for size in chain.sizes)
    each = lambda x: jnp.broadcast_to(x, (chain.length, x.size))  # noqa: E731
    found = smoother.about(Path(before, each(read), each(own)))
    mean = found.path(jnp.zeros(found.size))
    return smoother.about(jax.lax.stop_gradient(mean))


def _eliminated(local: Local, step: Steps, gain: Gains, slope, later, gap):
    """What a step adds to the log mass, and its whitened slope, given the slopes of later ones."""
    own = gain.factor.shape[-1]
    k = local.slope.size - own
    pushed = local.slope[k:] + step.jacobian[:, k:].T @ (slope - later @ gap)
    push = solve_triangular(gain.factor, pushed, lower=True)
    log_volume = 0.5 * own * jnp.log(2.0 * jnp.pi) - jnp.sum(jnp.log(jnp.diag(gain.factor)))
    handed = slope @ gap - 0.5 * gap @ later @ gap
    return local.value + handed + 0.5 * push @ push + log_volume, push


def _unwhitened(factor: jax.Array, push: jax.Array) -> jax.Array:
    return solve_triangular(factor, push, lower=True, trans=1)


def _times(matrices: jax.Array, vectors: jax.Array) -> jax.Array:
    return jnp.einsum("tij,tj->ti", matrices, vectors)


def _times_transposed(matrices: jax.Array, vectors: jax.Array) -> jax.Array:
    return jnp.einsum("tji,tj->ti", matrices, vectors)
