"""Drawing ahead: the random numbers of many steps at once, outside the loop over the steps.

What a step computes from its key alone (splitting it, bits, normal noise) does not depend on where
training has got to. A vectorised draw for a block of steps costs a fraction of one draw a step: on
a CPU each small operation of a loop costs about as much as a hundred numbers.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax

from .._jax import equations
from .._jax.control_flow import Call, departs, form
from .._jax.run import run

BLOCK = 256  # steps to draw for at once, at most
BUDGET = 2**18  # bytes that those draws may take


class DrawnAhead(NamedTuple):
    """A function `step(key, *args)` in two parts.

    **Law**: `rest(draw(key), *args) == step(key, *args)`. `block` is how many steps to draw for at
    once, `out` the shapes of what a step returns.
    """

    draw: Callable[[jax.Array], list]
    rest: Callable
    block: int
    out: Any


def draw_ahead(step: Callable, key: Any, *args: Any) -> DrawnAhead:
    """Parts a step into what depends on its key alone and the rest.

    `key` and `args` are example arguments. Where a step's noise is large, drawing it ahead gains
    nothing and takes memory: then `draw` only hands on the key.
    """
    closed, out = jax.make_jaxpr(step, return_shape=True)(key, *args)
    jaxpr, treedef = closed.jaxpr, jax.tree.structure(out)
    (first, *others), outs = jaxpr.invars, jaxpr.outvars
    early, late = _part(jaxpr)
    size = sum(map(_bytes, early))
    if size * 8 > BUDGET:
        early, late, size = [], jaxpr.eqns, 0
    read = {id(atom) for eqn in late for atom in eqn.invars} | set(map(id, outs))
    noise = [var for var in [first, *_outputs(early)] if id(var) in read]

    before = jaxpr.replace(eqns=early, invars=[first], outvars=noise)
    after = jaxpr.replace(eqns=late, invars=[*noise, *others])

    def draw(key):
        return run(before, closed.consts, [key])

    def rest(drawn, *args):
        return treedef.unflatten(run(after, closed.consts, [*drawn, *jax.tree.leaves(args)]))

    return DrawnAhead(draw, rest, min(BLOCK, BUDGET // max(size, 1)), out)


def _part(jaxpr: Any) -> tuple[list, list]:
    """The equations that read the key and nothing but it and constants, and the others."""
    early, late, noise = [], [], {jaxpr.invars[0]}
    for eqn in jaxpr.eqns:
        read = {atom for atom in eqn.invars if not equations.is_literal(atom)}
        known = read <= noise | set(jaxpr.constvars) and bool(read & noise)
        if known and not eqn.effects and not departs(eqn):
            noise.update(eqn.outvars)
            early.append(eqn)
        else:
            late.append(eqn)
    return early, late


def _outputs(eqns: Sequence[Any]) -> list:
    return [var for eqn in eqns for var in eqn.outvars]


def _bytes(eqn: Any) -> int:
    """The size of what an equation computes, bodies of calls included."""
    found = form(eqn)
    if isinstance(found, Call):
        return sum(map(_bytes, found.body.jaxpr.eqns))
    return sum(var.aval.size * var.aval.dtype.itemsize for var in eqn.outvars)
