"""Running a jaxpr, equation by equation."""

from collections.abc import Callable, Sequence
from typing import Any

from . import _internals as internals


def run(
    jaxpr: Any,
    consts: Sequence[Any],
    args: Sequence[Any] = (),
    step: Callable[[Any, list], list] = internals.bind,
) -> list[Any]:
    """Evaluates a jaxpr, with `step(eqn, operands)` giving the outputs of each equation.

    By default each is emitted again as it is. Equations that nothing reads are left out, unless
    they contain sites.
    """
    env: dict[Any, Any] = {}
    env.update(zip(jaxpr.constvars, consts, strict=True))
    env.update(zip(jaxpr.invars, args, strict=True))

    def read(atom):
        return atom.val if internals.is_literal(atom) else env[atom]

    for eqn in internals.live(jaxpr):
        outs = step(eqn, [read(atom) for atom in eqn.invars])
        env.update(zip(eqn.outvars, outs, strict=True))
    return [
        internals.literal(atom) if internals.is_literal(atom) else env[atom]
        for atom in jaxpr.outvars
    ]
