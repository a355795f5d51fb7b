"""Forward dataflow over a jaxpr: what each value is made from, by sets that only grow."""

from collections.abc import Callable, Sequence
from typing import Any

from . import _internals as internals

Facts = frozenset
Transfer = Callable[[Any, list[Facts], tuple, Facts], list[Facts]]
"""`(eqn, facts of its operands, enclosing equations, facts of enclosing branches) -> facts out`."""

_ENTERED = {"jit", "checkpoint"}
_CUSTOM = {"custom_jvp_call", "custom_vjp_call"}


def merged(facts: Sequence[Facts]) -> Facts:
    """All the facts together."""
    return frozenset().union(*facts)


def flow(
    jaxpr: Any,
    ins: Sequence[Facts],
    transfer: Transfer,
    within: tuple = (),
    control: Facts = frozenset(),
) -> list[Facts]:
    """The facts about a jaxpr's outputs, given those about its inputs.

    Calls, loops and branches are entered; `transfer` is asked about every other equation.
    """
    known = dict(zip(jaxpr.invars, ins, strict=True))

    def read(atom):
        return frozenset() if internals.is_literal(atom) else known.get(atom, frozenset())

    for eqn in internals.live(jaxpr):
        outs = _facts(eqn, [read(atom) for atom in eqn.invars], transfer, within, control)
        known.update(zip(eqn.outvars, outs, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _facts(eqn, ins, transfer, within, control) -> list[Facts]:
    kind, inner = internals.kind(eqn), (*within, eqn)
    if kind in _ENTERED or (kind in _CUSTOM and internals.has_sites(eqn)):
        return flow(internals.bodies(eqn)[0], ins, transfer, inner, control)
    if kind == "scan":
        consts, carry, _ = map(len, internals.scan_split(eqn, ins))
        carried = slice(consts, consts + carry)
        return _loop(internals.bodies(eqn)[0], ins, carried, transfer, inner, control)
    if kind == "while":
        index = transfer(eqn, ins, within, control)
        params = eqn.params
        ins = ins[params["cond_nconsts"] :]
        body = internals.bodies(eqn)[-1]
        carried = slice(params["body_nconsts"], len(ins))
        outs = _loop(body, ins, carried, transfer, inner, control)
        return [a | b for a, b in zip(outs, index, strict=True)]
    if kind == "cond":
        chosen = transfer(eqn, ins, within, control)
        control = control | ins[0]
        branches = [flow(body, ins[1:], transfer, inner, control) for body in internals.bodies(eqn)]
        return [merged([a, *column]) for a, *column in zip(chosen, *branches, strict=True)]
    return transfer(eqn, ins, within, control)


def _loop(body, ins, carried: slice, transfer, within, control) -> list[Facts]:
    """Round until what is carried from step to step stops growing."""
    ins = list(ins)
    while True:
        outs = flow(body, ins, transfer, within, control)
        grown = list(ins)
        grown[carried] = [a | b for a, b in zip(ins[carried], outs, strict=False)]
        if grown == ins:
            return outs
        ins = grown
