"""A program taken apart at its loop, with the degrees of its parts in the choices summed out."""

import itertools
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

import ppl
from ppl.extend import StateSpace, Target, fixed_point, propagate

from ._choices import Choices, merged, within
from ._degree import CONSTANT, DEGREES, LINEAR, Degree, highest
from ._hidden import addresses_of
from ._integral import zeros_of
from ._weights import taken


class Scored(NamedTuple):
    """A run at given choices: its log density, what of that is of the drawn ones, and its value."""

    log_density: jax.Array
    of_drawn: jax.Array
    value: Any


class Degrees(NamedTuple):
    """In choices summed out: of log densities, in all and of drawn choices alone, and of parts.

    These are the inputs of the steps, and the entries of the state that is carried.
    """

    log_density: Degree
    of_drawn: Degree
    inputs: Degree
    state: list[Degree]

    @property
    def linear(self) -> bool:
        """Whether it is a chain of linear Gaussian steps."""
        fits = self.log_density.power <= 2 and highest(self.state).power <= 1
        return fits and self.inputs <= CONSTANT

    @property
    def hidden(self) -> list[bool]:
        """Which entries of the state read choices that are summed out."""
        return [degree > CONSTANT for degree in self.state]


class Parts(NamedTuple):
    """What comes before the loop, and one step of it; zeros for the choices of each.

    `before` and `each` are summed out, `drawn_before` and `drawn_each` are not.
    """

    space: StateSpace
    before: Choices
    each: Choices
    drawn_before: Choices
    drawn_each: Choices

    def start(self, drawn: Choices, choices: Choices) -> Scored:
        """What comes before the loop; its value is `(state, inputs)`."""
        return _scored(self.space.start, drawn, choices)

    def step(self, drawn: Choices, state: list, inputs: list, choices: Choices) -> Scored:
        """One step; its value is the state after it."""
        return _scored(partial(self.space.step, state, inputs), drawn, choices)

    def degrees(self) -> Degrees:
        """The degrees of all parts, what is carried at its fixed point."""
        start = self.drawn_before, self.before
        state, inputs = self.start(*start).value
        first, *read = _propagated(self.start, start, [CONSTANT, LINEAR])
        drawn_first, init, scanned = read[0], read[1 : 1 + len(state)], read[1 + len(state) :]
        arguments = self.drawn_each, state, taken(inputs, 0), self.each

        def once(state):
            outs = _propagated(self.step, arguments, [CONSTANT, state, scanned, LINEAR])
            return list(map(_either, state, outs[2:])), outs[:2]

        state, (each, drawn) = fixed_point(init, once)
        both = _either(first, each), _either(drawn_first, drawn)
        return Degrees(*both, highest(scanned), state)


def parts_of(target: Target, space: StateSpace, drawn: set[str]) -> Parts:
    """A target taken apart, of which the choices at some addresses are drawn."""
    names = set(addresses_of(Target(space.start, {}).hidden))
    zeros = zeros_of(target)
    before, in_loop = within(zeros, names, inside=True), within(zeros, names, inside=False)
    each = taken(in_loop, 0) if space.length else in_loop
    apart = [within(part, drawn, inside) for inside in (False, True) for part in (before, each)]
    return Parts(space, *apart)


def _scored(program: Callable, drawn: Choices, choices: Choices) -> Scored:
    trace = ppl.replay(program, merged(drawn, choices))
    of_drawn = [jnp.sum(trace.sites[address].log_density) for address in addresses_of(drawn)]
    total = trace.log_density + trace.log_likelihood
    return Scored(total, sum(of_drawn, start=jnp.zeros(())), trace.value)


def _either(one: Degree, other: Degree) -> Degree:
    return highest([one, other])


def _propagated(program: Callable, arguments: Sequence[Any], degrees: Sequence[Any]) -> list:
    """The degrees of a program's outputs, given one, or a list of them, for each argument."""
    each = [
        degree if isinstance(degree, list) else [degree] * len(jax.tree.leaves(argument))
        for argument, degree in zip(arguments, degrees, strict=True)
    ]
    jaxpr = jax.make_jaxpr(program)(*arguments).jaxpr
    return propagate(DEGREES, jaxpr, list(itertools.chain(*each)))


# --- entries of a state --------------------------------------------------------------------------


def chosen(parts: Sequence[Any], which: Sequence[bool]) -> list[Any]:
    """The parts that are chosen."""
    return [part for part, here in zip(parts, which, strict=True) if here]


def flat(parts: Sequence[Any], which: Sequence[bool]) -> jax.Array:
    """The parts that are chosen, as one array."""
    return ravel_pytree(chosen(parts, which))[0]


def replaced(parts: Sequence[Any], which: Sequence[bool], others: Sequence[Any]) -> list[Any]:
    """All parts, with others in place of those that are chosen."""
    rest = iter(others)
    return [next(rest) if here else part for part, here in zip(parts, which, strict=True)]
