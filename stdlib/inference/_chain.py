"""Programs that are chains of linear Gaussian steps, found and taken apart by degrees."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.flatten_util import ravel_pytree

import ppl
from ppl.errors import UnsupportedControlFlow
from ppl.extend import Target

from ._choices import Choices, merged
from ._parts import Parts, chosen, flat, parts_of, replaced
from ._recursion import Steps


class Local(NamedTuple):
    """A step about a point: its log density, the slope of that, and what the step hands on."""

    value: jax.Array
    slope: jax.Array
    moved: jax.Array


class Chain(NamedTuple):
    """A target as what comes before a loop, and the steps of the loop.

    - `start`: u0 -> (log density, s): of the choices before the loop, and what the first step reads
      of hidden choices.
    - `step`: x, at -> (log density, s): of one step. x are what it reads of hidden choices, s, and
      its own choices, u; `at` is what else it reads, `(shared, by_step)` of all steps.
    - `sizes`: how many numbers u0, s and u are; `length`: how many steps.
    - `nested`: choices, of u0 and the u of each step.
    """

    start: Callable[[jax.Array], tuple[jax.Array, jax.Array]]
    step: Callable[[jax.Array, Any], tuple[jax.Array, jax.Array]]
    at: tuple[Any, Any]
    sizes: tuple[int, int, int]
    length: int
    nested: Callable[[jax.Array, jax.Array], Choices]

    def over_steps(self, local: Callable, points: jax.Array | None = None) -> Any:
        """`local(one step, its point)` at each step; all at zero by default."""
        shared, by_step = self.at
        if points is None:
            zero = jnp.zeros(self.sizes[1] + self.sizes[2])
            return jax.vmap(lambda at: local(lambda x: self.step(x, (shared, at)), zero))(by_step)

        def one(point, at):
            return local(lambda x: self.step(x, (shared, at)), point)

        return jax.vmap(one)(points, by_step)


def first_order(f: Callable, point: jax.Array) -> Local:
    """A step about a point."""
    (value, moved), slope = jax.value_and_grad(f, has_aux=True)(point)
    return Local(value, slope, moved)


def second_order(f: Callable, point: jax.Array) -> Steps:
    """What is the same about every point."""
    units = jnp.eye(point.size, dtype=point.dtype)
    slope = jax.grad(lambda x: f(x)[0])
    curvature = -jax.vmap(lambda unit: jax.jvp(slope, (point,), (unit,))[1])(units)
    jacobian = jax.vmap(lambda unit: jax.jvp(lambda x: f(x)[1], (point,), (unit,))[1])(units)
    return Steps(0.5 * (curvature + curvature.T), jacobian.T)


# --- finding it ----------------------------------------------------------------------------------


def chain_of(target: Target) -> Chain | None:
    """The target as a chain, if it is proved to be one and that is the cheaper form."""
    try:
        space = ppl.extend.state_space(target.prior)
    except UnsupportedControlFlow:
        return None
    parts = parts_of(target, space, drawn=set())
    if not space.length or not parts.each:
        return None
    degrees = parts.degrees()
    if not degrees.linear:
        return None
    chain = _chain(parts, degrees.hidden)
    return chain if _is_cheaper(chain) else None


def _is_cheaper(chain: Chain) -> bool:
    """Than all choices at once."""
    before, read, own = chain.sizes
    return chain.length * (read + own) ** 3 + before**3 < (chain.length * own + before) ** 3


def _chain(parts: Parts, hidden: Sequence[bool]) -> Chain:
    """The chain, given which entries of the state are hidden."""
    zeros, before = ravel_pytree(parts.before)
    own, each = ravel_pytree(parts.each)
    state, inputs = parts.start({}, parts.before).value
    read, rebuild = ravel_pytree(chosen(state, hidden))

    def start(u):
        scored = parts.start({}, before(u))
        return scored.log_density, flat(scored.value[0], hidden)

    def step(x, at):
        fixed, (carried, inputs) = at
        state = replaced([*fixed, *carried], hidden, rebuild(x[: read.size]))
        scored = parts.step({}, state, inputs, each(x[read.size :]))
        return scored.log_density, flat(scored.value, hidden)

    def nested(u0, u):
        return merged(before(u0), jax.vmap(each)(u))

    at = state[: parts.space.fixed], (_carried(parts, state, inputs, hidden), inputs)
    return Chain(start, step, at, (zeros.size, read.size, own.size), parts.space.length, nested)


def _carried(parts: Parts, state: list, inputs: list, hidden: Sequence[bool]) -> list:
    """What each step finds carried, where that is not hidden; anything where it is."""
    space = parts.space
    fixed, init = state[: space.fixed], state[space.fixed :]
    if all(hidden[space.fixed :]):
        return [jnp.broadcast_to(part, (space.length, *jnp.shape(part))) for part in init]

    def step(carried, inputs):
        known = replaced([*fixed, *carried], hidden, chosen(state, hidden))
        return parts.step({}, known, inputs, parts.each).value[space.fixed :], carried

    return lax.scan(step, init, inputs, length=space.length)[1]
