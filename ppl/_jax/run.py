"""Running a jaxpr, equation by equation."""

from collections.abc import Callable, Sequence
from typing import Any

from . import equations


def run(
    jaxpr: Any,
    consts: Sequence[Any],
    args: Sequence[Any] = (),
    step: Callable[[Any, list], list] = equations.bind,
) -> list[Any]:
    """Evaluates a jaxpr, with `step(eqn, operands)` giving the outputs of each equation.

    By default each is emitted again as it is. Equations that nothing reads are left out, unless
    they contain sites.
    """
    env: dict[Any, Any] = {}
    env.update(zip(jaxpr.constvars, consts, strict=True))
    env.update(zip(jaxpr.invars, args, strict=True))

    def read(atom):
        return atom.val if equations.is_literal(atom) else env[atom]

    for eqn in equations.live(jaxpr):
        outs = step(eqn, [read(atom) for atom in eqn.invars])
        env.update(zip(eqn.outvars, outs, strict=True))
    return [
        equations.literal(atom) if equations.is_literal(atom) else env[atom]
        for atom in jaxpr.outvars
    ]
