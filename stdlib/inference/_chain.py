"""Programs that are chains of linear Gaussian steps, found and taken apart by degrees."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.flatten_util import ravel_pytree

import ppl
from ppl.errors import UnsupportedControlFlow
from ppl.extend import StateSpace, Target, fixed_point, propagate

from ._choices import Choices, merged, within
from ._degree import CONSTANT, DEGREES, LINEAR, Degree, highest
from ._hidden import addresses_of
from ._integral import zeros_of
from ._recursion import Steps
from ._weights import taken


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
    names = set(addresses_of(Target(space.start, {}).hidden))
    zeros = zeros_of(target)
    before, in_loop = within(zeros, names, inside=True), within(zeros, names, inside=False)
    if not space.length or not in_loop:
        return None
    taken_apart = _Program(space, before, taken(in_loop, 0))
    hidden = taken_apart.hidden_state()
    if hidden is None:
        return None
    chain = taken_apart.chain(hidden)
    return chain if _is_cheaper(chain) else None


def _is_cheaper(chain: Chain) -> bool:
    """Than all choices at once."""
    before, read, own = chain.sizes
    return chain.length * (read + own) ** 3 + before**3 < (chain.length * own + before) ** 3


class _Program(NamedTuple):
    """A program taken apart, with zeros for the choices before its loop and for those of a step."""

    space: StateSpace
    before: Choices
    each: Choices

    def start(self, choices: jax.Array) -> tuple[jax.Array, tuple[list, list]]:
        """Log density, and what the steps read, of flat choices before the loop."""
        return _run(self.space.start, self.before, choices)

    def step(self, state: list, inputs: list, choices: jax.Array) -> tuple[jax.Array, list]:
        """Log density, and what the next step reads, of flat choices of one step."""
        return _run(partial(self.space.step, state, inputs), self.each, choices)

    def zeros(self) -> tuple[jax.Array, jax.Array]:
        """Flat choices before the loop, and of a step."""
        return ravel_pytree(self.before)[0], ravel_pytree(self.each)[0]

    def hidden_state(self) -> list[bool] | None:
        """Which parts of the state read hidden choices; None where this is no linear chain."""
        zeros, own = self.zeros()
        state, inputs = self.start(zeros)[1]
        started = jax.make_jaxpr(self.start)(zeros).jaxpr
        step = jax.make_jaxpr(self.step)(state, taken(inputs, 0), own).jaxpr
        first, *read = propagate(DEGREES, started, [LINEAR if zeros.size else CONSTANT])
        init, scanned = read[: len(state)], read[len(state) :]
        each, carried = _carried(step, init, [*scanned, LINEAR])
        fits = highest([first, each]).power <= 2 and highest(carried).power <= 1
        if not fits or highest(scanned) > CONSTANT:
            return None
        return [degree > CONSTANT for degree in carried]

    def chain(self, hidden: Sequence[bool]) -> Chain:
        """The chain, given which parts of the state are hidden."""
        zeros, own = self.zeros()
        state, inputs = self.start(zeros)[1]
        read, rebuild = ravel_pytree(_at(state, hidden))

        def start(u):
            log_density, (state, _) = self.start(u)
            return log_density, _flat(state, hidden)

        def step(x, at):
            shared, (carried, inputs) = at
            known = [*shared, *carried]
            state = _with(known, hidden, rebuild(x[: read.size]))
            log_density, state = self.step(state, inputs, x[read.size :])
            return log_density, _flat(state, hidden)

        def nested(u0, u):
            first, each = ravel_pytree(self.before)[1], ravel_pytree(self.each)[1]
            return merged(first(u0), jax.vmap(each)(u))

        shared, carried = state[: self.space.fixed], self._carried(state, inputs, hidden)
        sizes = zeros.size, read.size, own.size
        at = shared, (carried, inputs)
        return Chain(start, step, at, sizes, self.space.length, nested)

    def _carried(self, state: list, inputs: list, hidden: Sequence[bool]) -> list:
        """What each step finds carried, where that is not hidden; anything where it is."""
        fixed, own = self.space.fixed, self.zeros()[1]
        if all(hidden[fixed:]):
            return _at_all_steps(state[fixed:], self.space.length)

        def step(carried, inputs):
            known = _with([*state[:fixed], *carried], hidden, _at(state, hidden))
            return self.step(known, inputs, own)[1][fixed:], carried

        return lax.scan(step, state[fixed:], inputs, length=self.space.length)[1]


def _run(program: Callable, like: Choices, choices: jax.Array) -> tuple[jax.Array, Any]:
    trace = ppl.replay(program, ravel_pytree(like)[1](choices))
    return trace.log_density + trace.log_likelihood, trace.value


def _carried(step: Any, init: list[Degree], rest: list[Degree]) -> tuple[Degree, list[Degree]]:
    """The degrees of a step's log density, and of what is carried, at their fixed point."""

    def once(degrees):
        each, *after = propagate(DEGREES, step, [*degrees, *rest])
        return [highest(pair) for pair in zip(degrees, after, strict=True)], each

    carried, each = fixed_point(init, once)
    return each, carried


def _at(parts: Sequence[Any], which: Sequence[bool]) -> list[Any]:
    return [part for part, chosen in zip(parts, which, strict=True) if chosen]


def _flat(parts: Sequence[Any], which: Sequence[bool]) -> jax.Array:
    return ravel_pytree(_at(parts, which))[0]


def _with(parts: Sequence[Any], which: Sequence[bool], others: Sequence[Any]) -> list[Any]:
    """Parts, with others in the places that are chosen."""
    rest = iter(others)
    return [next(rest) if chosen else part for part, chosen in zip(parts, which, strict=True)]


def _at_all_steps(parts: Sequence[Any], length: int) -> list[Any]:
    return [jnp.broadcast_to(part, (length, *jnp.shape(part))) for part in parts]
