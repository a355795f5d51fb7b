"""The abstract interpreter: values of a lattice, propagated through a jaxpr.

An `Analysis` says what is known of an equation's outputs, given what is known of its operands.
Calls, loops and branches are entered here, for all analyses alike: what is carried from step to
step (to a fixed point, as it only grows), and what a predicate adds.
"""

import dataclasses
import operator
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

from .._jax.control_flow import Branches, CallLike, Form, Loop, While, form
from .._jax.run import run

V = TypeVar("V")
R = TypeVar("R")


@dataclasses.dataclass(frozen=True)
class Scope(Generic[V]):
    """Where an equation stands: the equations `within` whose bodies it is, outermost first.

    `control` is what is known of the predicates that chose the branches around it, joined.
    """

    within: tuple[Any, ...]
    control: V


@dataclasses.dataclass(frozen=True)
class Stepping(Generic[V]):
    """How values go into a loop, from step to step, and out of it; by default, as they are.

    - `enter(x)`: one step's slice of a scanned input.
    - `hand_on(x)`: what one step carries to the next.
    - `stack(y)`: the outputs of all steps, of a step's output.
    - `leave(c)`: what the last step leaves, of the carry that it gives.
    """

    enter: Callable[[V], V] = lambda value: value
    hand_on: Callable[[V], V] = lambda value: value
    stack: Callable[[V], V] = lambda value: value
    leave: Callable[[V], V] = lambda value: value


def _as_they_are(loop: Form, ins: Sequence[Any]) -> Stepping:
    return Stepping()


def _everything(form: Form) -> bool:
    return True


@dataclasses.dataclass(frozen=True)
class Analysis(Generic[V]):
    """An abstract interpretation of jaxprs: a lattice, and what equations make of its values.

    **Arguments**

    - `join`: the least value that covers some; of none, what is known of a constant. Values have
      `==`, and what is above a value has to be reached in finitely many joins.
    - `transfer(eqn, ins, scope)`: the values of an equation's outputs. It has to be monotone.
    - `enters(form)`: whether the bodies of an equation with bodies are entered; else it is one of
      those that `transfer` is asked of.
    - `steps(loop, ins)`: how values go through a `Loop` or a `While` with these operands.
    - `decide(eqn, predicate, ins, scope)`: what the outputs of branches, or of a `while_loop`, read
      of the predicate: joined with what the bodies give. By default, the predicate's value.
    """

    join: Callable[[Sequence[V]], V]
    transfer: Callable[[Any, list[V], Scope[V]], list[V]]
    enters: Callable[[Form], bool] = _everything
    steps: Callable[[Form, Sequence[V]], Stepping[V]] = _as_they_are
    decide: Callable[[Any, V, list[V], Scope[V]], list[V]] | None = None

    def decided(self, eqn: Any, predicate: V, ins: list[V], scope: Scope[V]) -> list[V]:
        """What an equation's outputs read of the predicate that it goes by."""
        if self.decide is None:
            return [predicate] * len(eqn.outvars)
        return self.decide(eqn, predicate, ins, scope)


def propagate(
    analysis: Analysis[V],
    jaxpr: Any,
    ins: Sequence[V],
    consts: Sequence[V] | None = None,
    scope: Scope[V] | None = None,
) -> list[V]:
    """What an analysis knows of a jaxpr's outputs, given what is known of its inputs.

    Equations that no output reads are left out, unless they contain sites. `consts` are the values
    of the jaxpr's constants, by default those of a constant; `scope` says where it stands.

    ```python
    >>> import jax
    >>> from ppl.extend import Analysis, propagate
    >>> join = lambda sets: frozenset().union(*sets)  # which outputs read which inputs
    >>> reads = Analysis(join, lambda eqn, ins, scope: [join(ins)] * len(eqn.outvars))
    >>> def program(x, y):
    ...     total = jax.lax.fori_loop(0, 3, lambda _, total: total + x, 0.0)
    ...     return total, jax.lax.cond(y > 0, lambda: 1.0, lambda: 2.0), 0.0
    >>> jaxpr = jax.make_jaxpr(program)(1.0, 1.0).jaxpr
    >>> [sorted(names) for names in propagate(reads, jaxpr, [frozenset("x"), frozenset("y")])]
    [['x'], ['y'], []]

    ```
    """
    bottom = analysis.join([])
    here = Scope((), bottom) if scope is None else scope
    given = [bottom] * len(jaxpr.constvars) if consts is None else consts

    def step(eqn, operands):
        return propagate_through(analysis, eqn, operands, here)

    return run(jaxpr, given, ins, step, lambda atom: bottom)


def propagate_through(
    analysis: Analysis[V], eqn: Any, ins: Sequence[V], scope: Scope[V] | None = None
) -> list[V]:
    """What an analysis knows of one equation's outputs, given what is known of its operands."""
    scope = Scope((), analysis.join([])) if scope is None else scope
    found, ins = form(eqn), list(ins)
    if found is None or not analysis.enters(found):
        return analysis.transfer(eqn, ins, scope)
    inside = dataclasses.replace(scope, within=(*scope.within, eqn))
    if isinstance(found, CallLike):
        return propagate(analysis, found.body.jaxpr, ins, scope=inside)
    if isinstance(found, Branches):
        return _branches(analysis, found, ins, inside, scope)
    if isinstance(found, Loop):
        return _loop(analysis, found, ins, inside)
    assert isinstance(found, While), found
    return _while(analysis, found, ins, inside, scope)


def _branches(analysis, found: Branches, ins, inside, scope) -> list:
    index, operands = found.split(ins)
    chosen = analysis.decided(found.eqn, index, ins, scope)
    inside = dataclasses.replace(inside, control=analysis.join([inside.control, index]))
    outs = [propagate(analysis, body.jaxpr, operands, scope=inside) for body in found.bodies]
    return [analysis.join(column) for column in zip(chosen, *outs, strict=True)]


def _loop(analysis, loop: Loop, ins, inside) -> list:
    steps, (consts, init, xs) = analysis.steps(loop, ins), loop.split(ins)
    now = [steps.enter(x) for x in xs]

    def body(carry):
        return propagate(analysis, loop.body.jaxpr, [*consts, *carry, *now], scope=inside)

    _, outs = _carried(analysis, steps, init, body)
    end, ys = loop.split_outputs(outs)
    return [*(map(steps.leave, end) if loop.length else init), *map(steps.stack, ys)]


def _while(analysis, loop: While, ins, inside, scope) -> list:
    steps, (own, consts, init) = analysis.steps(loop, ins), loop.split(ins)

    def body(carry):
        return propagate(analysis, loop.body.jaxpr, [*consts, *carry], scope=inside)

    carry, end = _carried(analysis, steps, init, body)
    (going,) = propagate(analysis, loop.predicate.jaxpr, [*own, *carry], scope=inside)
    ended = analysis.decided(loop.eqn, going, ins, scope)
    left = map(steps.leave, end)
    return [analysis.join(column) for column in zip(init, left, ended, strict=True)]


def _carried(analysis, steps: Stepping, init: list, body: Callable) -> tuple[list, list]:
    """What a loop carries at its fixed point, and what its body gives there."""

    def once(carry):
        outs = body(carry)
        handed = map(steps.hand_on, outs[: len(carry)])
        return [analysis.join(pair) for pair in zip(carry, handed, strict=True)], outs

    return fixed_point(init, once)


def fixed_point(
    start: V, once: Callable[[V], tuple[V, R]], same: Callable[[V, V], bool] = operator.eq
) -> tuple[V, R]:
    """Repeats `once(state) -> (what it grows to, result)` until the state grows no more.

    **Returns** that state, and the result there.

    ```python
    >>> from ppl.extend import fixed_point
    >>> fixed_point({1}, lambda seen: (seen | {n + 2 for n in seen if n < 6}, len(seen)))
    ({1, 3, 5, 7}, 4)

    ```
    """
    while True:
        grown, result = once(start)
        if same(grown, start):
            return start, result
        start = grown
