"""Running a jaxpr, equation by equation: every interpretation of one goes through here."""

from collections.abc import Callable, Sequence
from typing import Any

from . import equations


def run(
    jaxpr: Any,
    consts: Sequence[Any],
    args: Sequence[Any] = (),
    step: Callable[[Any, list], list] = equations.bind,
    literal: Callable[[Any], Any] | None = None,
) -> list[Any]:
    """Evaluates a jaxpr, with `step(eqn, operands)` giving the outputs of each equation.

    By default each is emitted again as it is. Values may be anything that `step` knows of;
    `literal(atom)` is that of a literal, by default what stands in the jaxpr (as an array, where it
    is an output). Equations that nothing reads are left out, unless they contain sites.

    ```python
    >>> import jax
    >>> from ppl.extend import run
    >>> jaxpr = jax.make_jaxpr(lambda x: (x + 1.0) * x)(2.0).jaxpr
    >>> run(jaxpr, [], ["x"], lambda eqn, names: [f"{eqn.primitive}({', '.join(map(str, names))})"])
    ['mul(add(x, 1.0), x)']

    ```
    """
    env: dict[Any, Any] = {}
    env.update(zip(jaxpr.constvars, consts, strict=True))
    env.update(zip(jaxpr.invars, args, strict=True))

    def read(atom, of_literal):
        return of_literal(atom) if equations.is_literal(atom) else env[atom]

    for eqn in equations.live(jaxpr):
        outs = step(eqn, [read(atom, literal or equations.as_it_stands) for atom in eqn.invars])
        env.update(zip(eqn.outvars, outs, strict=True))
    return [read(atom, literal or equations.literal) for atom in jaxpr.outvars]
