"""A jaxpr taken apart: its equations in order, those inside calls among them, as nodes."""

import math
from collections import Counter
from typing import Any, NamedTuple

import numpy as np

from .._jax import equations
from .._jax.control_flow import Call, form

SMALL = 256
"""The most elements of a value that is stacked: what is larger costs more than its compilation."""
LEAST_SUM = 4
"""The fewest addends of a `Sum`."""


class Fixed(NamedTuple):
    """A literal, by which it is the same as another: dtype, shape and bytes."""

    dtype: Any
    shape: tuple[int, ...]
    data: bytes

    @property
    def array(self) -> np.ndarray:
        """The literal as an array."""
        return np.frombuffer(self.data, self.dtype).reshape(self.shape)


class Node(NamedTuple):
    """An equation: its operands are numbers of values, or literals, and its outputs are numbers.

    A `Sum` is an `add` of more than two operands, which are addends in no order.
    """

    eqn: Any
    operands: tuple[Any, ...]
    outputs: tuple[int, ...]

    @property
    def reads(self) -> list[int]:
        """The numbers of the values that it reads."""
        return [x for x in self.operands if isinstance(x, int)]

    @property
    def is_sum(self) -> bool:
        """Whether it adds up more than two."""
        return equations.kind(self.eqn) == "add" and len(self.operands) > 2


class Flat(NamedTuple):
    """A jaxpr as nodes: the numbers of its constants and arguments, and what it returns.

    Shapes and dtypes are `avals[number]`; constants inside calls are `consts`, by number. `met` has
    the outputs of each equation by what it does, so that none is there twice.
    """

    nodes: list[Node]
    inputs: list[int]
    outputs: list[Any]
    avals: list[Any]
    consts: dict[int, Any]
    met: dict[Any, tuple[int, ...]]


def flatten(jaxpr: Any) -> Flat:
    """The nodes of a jaxpr. Calls all of whose values are small are inlined."""
    flat = Flat([], [], [], [], {}, {})
    env = {var: _number(flat, var) for var in (*jaxpr.constvars, *jaxpr.invars)}
    flat.inputs.extend(env.values())
    flat.outputs.extend(_enter(jaxpr, env, flat))
    return flat._replace(nodes=_with_sums(flat))


def is_small(aval: Any) -> bool:
    """Whether a value may be stacked: its size is known, and small."""
    shape = getattr(aval, "shape", (SMALL + 1,))
    return all(isinstance(size, int) for size in shape) and math.prod(shape) <= SMALL


def _number(flat: Flat, var: Any) -> int:
    flat.avals.append(var.aval)
    return len(flat.avals) - 1


def _enter(jaxpr: Any, env: dict, flat: Flat) -> list[Any]:
    """Adds the nodes of a body whose inputs have numbers. Returns what it returns."""

    def read(atom):
        return _fixed(atom) if equations.is_literal(atom) else env[atom]

    for eqn in equations.live(jaxpr):
        operands = [read(atom) for atom in eqn.invars]
        found = form(eqn)
        if isinstance(found, Call) and _inlined(found.body.jaxpr):
            body, consts = found.body
            held = [_number(flat, var) for var in body.constvars]
            flat.consts.update(zip(held, consts, strict=True))
            inner = zip((*body.constvars, *body.invars), (*held, *operands), strict=True)
            outputs = _enter(body, dict(inner), flat)
        else:
            outputs = _outputs(eqn, tuple(operands), flat)
        env.update(zip(eqn.outvars, outputs, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _outputs(eqn: Any, operands: tuple, flat: Flat) -> tuple[int, ...]:
    """The outputs of an equation, which is a new node unless it has been met: then they are its."""
    what = None if eqn.effects else (eqn.primitive, operands, params_of(eqn), context_of(eqn))
    outputs = flat.met.get(what)
    if outputs is None or what is None:
        outputs = tuple(_number(flat, var) for var in eqn.outvars)
        flat.nodes.append(Node(eqn, operands, outputs))
        flat.met[what] = outputs
    return outputs


def params_of(eqn: Any) -> tuple:
    """The parameters of an equation, to be compared; by identity where they cannot be."""
    params = []
    for name, value in sorted(eqn.params.items()):
        try:
            hash(value)
        except TypeError:
            value = id(value)
        params.append((name, value))
    return tuple(params)


def context_of(eqn: Any) -> tuple:
    """What holds around an equation besides its place in the source."""
    names = ("compute_type", "threefry_partitionable", "xla_metadata")
    return tuple(repr(getattr(eqn.ctx, name, None)) for name in names)


def _inlined(body: Any) -> bool:
    return all(is_small(v.aval) for eqn in body.eqns for v in eqn.outvars) and not body.effects


def _fixed(atom: Any) -> Fixed:
    array = np.asarray(atom.val, atom.aval.dtype)
    return Fixed(array.dtype, array.shape, array.tobytes())


def _with_sums(flat: Flat) -> list[Node]:
    """The nodes, with each chain of additions whose partial sums nothing else reads as one."""
    reads = Counter(x for node in flat.nodes for x in node.reads)
    reads.update(x for x in flat.outputs if isinstance(x, int))
    sums: dict[int, tuple[list, list]] = {}  # by what they are called: addends, and partial sums
    for node in flat.nodes:
        if equations.kind(node.eqn) == "add" and is_small(node.eqn.outvars[0].aval):
            addends, partial = [], []
            for x in node.operands:
                inner = sums.pop(x, None) if reads[x] == 1 else None
                addends += inner[0] if inner else [x]
                partial += inner[1] if inner else []
            sums[node.outputs[0]] = addends, [*partial, node.outputs[0]]
    sums = {out: found for out, found in sums.items() if len(found[0]) >= LEAST_SUM}
    gone = {x for out, (_, partial) in sums.items() for x in partial if x != out}
    return [
        node._replace(operands=tuple(sums[node.outputs[0]][0]))
        if node.outputs and node.outputs[0] in sums
        else node
        for node in flat.nodes
        if not node.outputs or node.outputs[0] not in gone
    ]
