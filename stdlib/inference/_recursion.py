"""Gaussian recursions along a chain, step by step or by `lax.associative_scan`.

A step has a log density that is quadratic in what it reads, s, of k numbers, and in its choices u,
of m, and what the next step reads is affine in both. Integrated from the last step on, the log
density of all later steps is quadratic in s too: its curvature S follows a Riccati recursion, and
given that, its slope, the mean and each draw follow linear ones.

All arrays have a leading axis of T steps. Backward recursions start from zero after the last step.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.scipy.linalg import cho_solve, solve_triangular


class Steps(NamedTuple):
    """The quadratic part of each step.

    - `curvature`: (T, k + m, k + m), minus the second derivatives in (s, u).
    - `jacobian`: (T, k, k + m), those of what the next step reads.
    """

    curvature: jax.Array
    jacobian: jax.Array


class Gains(NamedTuple):
    """What a step does given all later ones: u = K s + noise, and s next = M s + ...

    - `factor`: (T, m, m), the Cholesky factor of the precision of u given s.
    - `feedback`: (T, m, k), minus K.
    - `closed`: (T, k, k), M.
    """

    factor: jax.Array
    feedback: jax.Array
    closed: jax.Array


def gains(steps: Steps, later: jax.Array) -> Gains:
    """The gains, by the curvature (T, k, k) that the steps after each give what it hands on."""
    return jax.vmap(lambda step, later: gain(step, later, later.shape[-1]))(steps, later)


def gain(step: Steps, later: jax.Array, k: int) -> Gains:
    """The gains of one step that reads k numbers."""
    jacobian = step.jacobian
    total = step.curvature + jacobian.T @ later @ jacobian
    factor = jnp.linalg.cholesky(total[k:, k:])
    feedback = cho_solve((factor, True), total[k:, :k])
    return Gains(factor, feedback, jacobian[:, :k] - jacobian[:, k:] @ feedback)


# --- curvature -----------------------------------------------------------------------------------


@jax.custom_jvp
def curvatures(steps: Steps) -> jax.Array:
    """The curvature (T + 1, k, k) of all steps from each on, in what it reads; zero at the end."""
    return _step_by_step(steps)


@jax.custom_jvp
def curvatures_in_parallel(steps: Steps) -> jax.Array:
    """The same, in a time of log T where there are lanes to use (Särkkä & García-Fernández 2021).

    Each step alone must have a proper density of its choices.
    """
    return _in_parallel(steps)


def _step_by_step(steps: Steps) -> jax.Array:
    def back(later, step):
        k, jacobian = later.shape[-1], step.jacobian
        total = step.curvature + jacobian.T @ later @ jacobian
        factor = jnp.linalg.cholesky(total[k:, k:])
        half = solve_triangular(factor, total[k:, :k], lower=True)
        now = _symmetric(total[:k, :k] - half.T @ half)
        return now, now

    return _ended(lax.scan(back, _end(steps)[0], steps, reverse=True)[1])


def _in_parallel(steps: Steps) -> jax.Array:
    alone, k = gains(steps, _end(steps)), steps.jacobian.shape[1]
    half = jax.vmap(lambda f, b: solve_triangular(f, b.T, lower=True))(
        alone.factor, steps.jacobian[:, :, k:]
    )
    spread = jnp.swapaxes(half, -1, -2) @ half
    across = steps.curvature[:, :k, k:]
    own = _symmetric(steps.curvature[:, :k, :k] - across @ alone.feedback)

    def combine(second, first):  # reversed: the later one comes first
        closed, spread, own = first
        closed2, spread2, own2 = second
        through = jnp.eye(k, dtype=own.dtype) + spread @ own2
        solved = jnp.linalg.solve(through, jnp.concatenate([closed, spread], -1))
        closed1, spread1 = solved[..., :k], solved[..., k:]
        return (
            closed2 @ closed1,
            _symmetric(closed2 @ spread1 @ jnp.swapaxes(closed2, -1, -2) + spread2),
            _symmetric(jnp.swapaxes(closed, -1, -2) @ own2 @ closed1 + own),
        )

    elements = (alone.closed, _symmetric(spread), own)
    return _ended(lax.associative_scan(combine, elements, reverse=True)[2])


def _end(steps: Steps) -> jax.Array:
    """No curvature, at each step."""
    return jnp.zeros_like(steps.jacobian[:, :, : steps.jacobian.shape[1]])


def _ended(found: jax.Array) -> jax.Array:
    return jnp.concatenate([found, jnp.zeros_like(found[:1])])


def _symmetric(matrix: jax.Array) -> jax.Array:
    return 0.5 * (matrix + jnp.swapaxes(matrix, -1, -2))


def _tangents(primals: Any, tangents: Any, solve: Any, congruent: Any) -> tuple:
    """The derivative of a Riccati recursion is linear: M' dS M and what a step adds."""
    (steps,), (moved,) = primals, tangents
    found = solve(steps)
    later = found[1:]
    gain = gains(steps, later)
    eye = jnp.broadcast_to(jnp.eye(steps.jacobian.shape[1], dtype=found.dtype), gain.closed.shape)
    both = jnp.concatenate([eye, -gain.feedback], axis=1)
    across = jnp.swapaxes(moved.jacobian, -1, -2) @ later @ steps.jacobian
    total = moved.curvature + across + jnp.swapaxes(across, -1, -2)
    added = jnp.swapaxes(both, -1, -2) @ total @ both
    return found, _ended(congruent(gain.closed, added))


def _congruent(closed: jax.Array, added: jax.Array) -> jax.Array:
    """X of each step from that of the next: M' X M + added."""

    def back(later, step):
        closed, added = step
        now = closed.T @ later @ closed + added
        return now, now

    return lax.scan(back, jnp.zeros_like(added[0]), (closed, added), reverse=True)[1]


def _congruent_in_parallel(closed: jax.Array, added: jax.Array) -> jax.Array:
    def combine(second, first):
        return (
            second[0] @ first[0],
            jnp.swapaxes(first[0], -1, -2) @ second[1] @ first[0] + first[1],
        )

    return lax.associative_scan(combine, (closed, added), reverse=True)[1]


@curvatures.defjvp
def _curvatures_jvp(primals, tangents):
    return _tangents(primals, tangents, curvatures, _congruent)


@curvatures_in_parallel.defjvp
def _curvatures_in_parallel_jvp(primals, tangents):
    return _tangents(primals, tangents, curvatures_in_parallel, _congruent_in_parallel)


# --- linear recursions ---------------------------------------------------------------------------


def forward(closed: jax.Array, start: jax.Array, added: jax.Array, parallel: bool) -> jax.Array:
    """x (T + 1, k) from `start`: x next = M x + added."""
    if parallel:
        added = added.at[0].add(closed[0] @ start)
        found = lax.associative_scan(_one_after, (closed, added))[1]
    else:
        found = lax.scan(_next, start, (closed, added))[1]
    return jnp.concatenate([start[None], found])


def backward(closed: jax.Array, added: jax.Array, parallel: bool) -> jax.Array:
    """b (T + 1, k) to zero: b = M' (b next) + added."""
    steps = jnp.swapaxes(closed, -1, -2), added
    if parallel:
        return _ended(lax.associative_scan(_one_after, steps, reverse=True)[1])
    return _ended(lax.scan(_next, jnp.zeros_like(added[0]), steps, reverse=True)[1])


def _next(x: jax.Array, step: tuple) -> tuple[jax.Array, jax.Array]:
    x = step[0] @ x + step[1]
    return x, x


def _one_after(one: tuple, other: tuple) -> tuple:
    return other[0] @ one[0], (other[0] @ one[1][..., None])[..., 0] + other[1]
