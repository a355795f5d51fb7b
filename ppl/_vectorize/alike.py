"""Which nodes are alike: classes of those that may be run as one equation."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from .._jax import equations
from .._jax.batching import is_mapped
from .nodes import Fixed, Flat, Node, context_of, is_small, params_of

CONTEXT = 2
"""How many equations back operands must have come about in the same way."""


def classes(flat: Flat) -> list[int]:
    """The class of each node, a number. A node that must be run by itself is alone in its own.

    Of one class are those of one signature, whose operands come from nodes of one class, up to
    `CONTEXT` equations back. So a step of a recursion is of another class than what reads it.
    """
    names: dict[Any, int] = {}

    def name(thing: Any) -> int:
        return names.setdefault(thing, len(names))

    sliced = Counter(map(_rows, flat.nodes))
    signatures = [
        name(_signature(node, flat, sliced) or ("alone", i)) for i, node in enumerate(flat.nodes)
    ]
    makers = {out: i for i, node in enumerate(flat.nodes) for out in node.outputs}
    found = signatures
    for _ in range(CONTEXT):

        def came(x: Any, found: Sequence[int] = found) -> Any:
            return type(x) if isinstance(x, Fixed) else found[makers[x]] if x in makers else None

        found = [
            name((sign, *map(came, node.operands)))
            for sign, node in zip(signatures, flat.nodes, strict=True)
        ]
    return found


def _signature(node: Node, flat: Flat, sliced: Counter) -> Any:
    """What nodes that may be run together have in common; None if this one may not be.

    Slices are alike if they are of one value and differ in their places, or if they do not.
    """
    eqn = node.eqn
    avals = [_aval(x, flat) for x in node.operands] + [var.aval for var in eqn.outvars]
    if node.is_sum or not node.operands or eqn.effects or not is_mapped(eqn):
        return None
    if not all(is_small(aval) and _keeps_numbers(aval) for aval in avals):
        return None
    params = params_of(eqn)
    rows = _rows(node)
    if rows is not None and sliced[rows] > 1:
        params = rows
    return eqn.primitive, params, tuple((x.shape, x.dtype) for x in avals), context_of(eqn)


def _aval(x: Any, flat: Flat) -> Any:
    return jax.ShapeDtypeStruct(x.shape, x.dtype) if isinstance(x, Fixed) else flat.avals[x]


def _keeps_numbers(aval: Any) -> bool:
    """Whether random bits of several keys are those of each; generators but threefry mix them."""
    is_key = jnp.issubdtype(aval.dtype, jax.dtypes.prng_key)
    return not is_key or aval.dtype.name == "key<fry>"


def _rows(node: Node) -> tuple | None:
    """What dense slices of one value, of one size, have in common; None of anything else."""
    if equations.kind(node.eqn) != "slice" or any(s > 1 for s in node.eqn.params["strides"] or ()):
        return None
    return node.operands, node.eqn.outvars[0].aval.shape
