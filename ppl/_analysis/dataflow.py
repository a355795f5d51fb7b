"""Forward dataflow over a jaxpr: what each value is made from, by sets that only grow."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from .._jax import equations
from .._jax.control_flow import CustomRule, Form
from .propagate import Analysis, propagate

Facts = frozenset
Transfer = Callable[[Any, list[Facts], tuple, Facts], list[Facts]]
"""`(eqn, facts of its operands, enclosing equations, facts of enclosing branches) -> facts out`."""


def merged(facts: Sequence[Facts]) -> Facts:
    """All the facts together."""
    return frozenset().union(*facts)


def flow(
    jaxpr: Any, ins: Sequence[Facts], transfer: Transfer, consts: Sequence[Facts] | None = None
) -> list[Facts]:
    """The facts about a jaxpr's outputs, given those about its inputs (and its constants).

    Calls, loops and branches are entered; `transfer` is asked about every other equation, and about
    a `cond` and a `while` with their predicate as one more operand.
    """
    return propagate(sets(transfer), jaxpr, ins, consts)


def sets(transfer: Transfer) -> Analysis[Facts]:
    """The analysis by sets of facts; a function with a rule of its own is entered for its sites."""

    def plain(eqn, ins, scope):
        return transfer(eqn, ins, scope.within, scope.control)

    def decide(eqn, predicate, ins, scope):
        return transfer(eqn, [*ins, predicate], scope.within, scope.control)

    return Analysis(merged, plain, _is_entered, decide=decide)


def _is_entered(form: Form) -> bool:
    return not isinstance(form, CustomRule) or equations.has_sites(form.eqn)


def readers(
    jaxpr: Any, sources: Iterable[Any], also: Callable[[Any], bool] = lambda eqn: False
) -> set:
    """Some variables of a jaxpr, and all that read them or the equations that are `also` meant."""
    found = set(sources)
    for eqn in jaxpr.eqns:
        if also(eqn) or any(not equations.is_literal(v) and v in found for v in eqn.invars):
            found |= set(eqn.outvars)
    return found
