"""Forward dataflow over a jaxpr: what each value is made from, by sets that only grow."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from .._jax import equations
from .._jax.control_flow import Branches, CallLike, CustomRule, Loop, While, form

Facts = frozenset
Transfer = Callable[[Any, list[Facts], tuple, Facts], list[Facts]]
"""`(eqn, facts of its operands, enclosing equations, facts of enclosing branches) -> facts out`."""


def merged(facts: Sequence[Facts]) -> Facts:
    """All the facts together."""
    return frozenset().union(*facts)


def flow(
    jaxpr: Any,
    ins: Sequence[Facts],
    transfer: Transfer,
    within: tuple = (),
    control: Facts = frozenset(),
    consts: Sequence[Facts] = (),
) -> list[Facts]:
    """The facts about a jaxpr's outputs, given those about its inputs (and its constants).

    Calls, loops and branches are entered; `transfer` is asked about every other equation, about a
    `cond`, and about a `while` with its predicate as one more operand.
    """
    known = dict(zip(jaxpr.invars, ins, strict=True))
    known.update(zip(jaxpr.constvars, consts, strict=False))

    def read(atom):
        return frozenset() if equations.is_literal(atom) else known.get(atom, frozenset())

    for eqn in equations.live(jaxpr):
        outs = _facts(eqn, [read(atom) for atom in eqn.invars], transfer, within, control)
        known.update(zip(eqn.outvars, outs, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def readers(
    jaxpr: Any, sources: Iterable[Any], also: Callable[[Any], bool] = lambda eqn: False
) -> set:
    """Some variables of a jaxpr, and all that read them or the equations that are `also` meant."""
    found = set(sources)
    for eqn in jaxpr.eqns:
        if also(eqn) or any(not equations.is_literal(v) and v in found for v in eqn.invars):
            found |= set(eqn.outvars)
    return found


def _facts(eqn, ins, transfer, within, control) -> list[Facts]:
    found, inner = form(eqn), (*within, eqn)
    if isinstance(found, CallLike) and _is_entered(found):
        return flow(found.body.jaxpr, ins, transfer, inner, control)
    if isinstance(found, Loop):
        carried = slice(found.num_consts, found.num_consts + found.num_carry)
        return _loop(found.body.jaxpr, ins, carried, transfer, inner, control)
    if isinstance(found, While):
        predicate, body = found.predicate.jaxpr, found.body.jaxpr
        first, count = found.predicate_consts, found.body_consts
        consts, rest = ins[:first], ins[first:]
        outs = _loop(body, rest, slice(count, len(rest)), transfer, inner, control)
        carry = [a | b for a, b in zip(rest[count:], outs, strict=True)]
        going = flow(predicate, [*consts, *carry], transfer, inner, control)
        index = transfer(eqn, [*ins, *going], within, control)
        return [a | b for a, b in zip(outs, index, strict=True)]
    if isinstance(found, Branches):
        chosen = transfer(eqn, ins, within, control)
        control = control | ins[0]
        branches = [flow(b.jaxpr, ins[1:], transfer, inner, control) for b in found.bodies]
        return [merged([a, *column]) for a, *column in zip(chosen, *branches, strict=True)]
    return transfer(eqn, ins, within, control)


def _is_entered(call: CallLike) -> bool:
    return not isinstance(call, CustomRule) or equations.has_sites(call.eqn)


def _loop(body, ins, carried, transfer, within, control) -> list[Facts]:
    """Round until what is carried from step to step (a slice of the inputs) stops growing."""
    ins = list(ins)
    while True:
        outs = flow(body, ins, transfer, within, control)
        carry = ins[carried]
        grown = [a | b for a, b in zip(carry, outs, strict=False)]
        if grown == carry:
            return outs
        ins[carried] = grown
