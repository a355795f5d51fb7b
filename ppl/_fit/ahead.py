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
    jaxpr, constants = closed.jaxpr, dict(zip(closed.jaxpr.constvars, closed.consts, strict=True))
    treedef = jax.tree.structure(out)
    (first, *others), outs = jaxpr.invars, jaxpr.outvars
    early, late = _part(jaxpr)
    size = sum(map(_bytes, early))
    if size * 8 > BUDGET:
        early, late, size = [], jaxpr.eqns, 0
    read = {id(atom) for eqn in late for atom in eqn.invars} | set(map(id, outs))
    noise = [var for var in [first, *_outputs(early)] if id(var) in read]

    def draw(key):
        return _evaluate(early, constants | {first: key}, noise)

    def rest(drawn, *args):
        env = dict(zip([*noise, *others], [*drawn, *jax.tree.leaves(args)], strict=True))
        return jax.tree.unflatten(treedef, _evaluate(late, constants | env, outs))

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


def _evaluate(eqns: Sequence[Any], env: dict, outs: Sequence[Any]) -> list:
    def read(atom):
        return atom.val if equations.is_literal(atom) else env[atom]

    for eqn in eqns:
        env.update(zip(eqn.outvars, equations.bind(eqn, [*map(read, eqn.invars)]), strict=True))
    return [read(atom) for atom in outs]


def _bytes(eqn: Any) -> int:
    """The size of what an equation computes, bodies of calls included."""
    found = form(eqn)
    if isinstance(found, Call):
        return sum(map(_bytes, found.body.jaxpr.eqns))
    return sum(var.aval.size * var.aval.dtype.itemsize for var in eqn.outvars)
