"""What linear equations make of the elements that their operands read."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..._jax import equations
from .element_reads import Reads


def _each(fn: Callable, eqn: Any, *ins: Reads) -> Reads:
    """A linear function of arrays, of each part of the operands; what is missing is zero."""
    shape = eqn.outvars[0].aval.shape
    passes = max(len(reads.otherwise) for reads in ins)

    def part(name):
        parts = [np.asarray(r.sums.get(name, np.zeros((1, *r.otherwise.shape[1:])))) for r in ins]
        full = [np.broadcast_to(p, (passes, *p.shape[1:])) for p in parts]
        return np.broadcast_to(fn(*map(_with_rank(shape), full)), (passes, *shape))

    names = {name for reads in ins for name in reads.sums}
    otherwise = np.zeros((passes, *shape), bool)
    for i in range(len(ins)):
        alone = [np.where(i == j, r.otherwise, 0.0) for j, r in enumerate(ins)]
        otherwise |= fn(*map(_with_rank(shape), alone)) != 0
    return Reads(otherwise, {name: part(name) for name in names})


def _same(part: np.ndarray) -> np.ndarray:
    return part


def _with_rank(shape: tuple[int, ...]) -> Callable[[np.ndarray], np.ndarray]:
    """Scalars, which may stand for arrays, with as many dimensions as these."""
    return lambda part: part.reshape(-1, *(1 for _ in shape)) if part.ndim == 1 else part


def _product(eqn: Any, ins: Sequence[Reads]) -> Reads | None:
    one, other = ins
    if one.any and other.any:
        return None
    reads, factor = (one, other.known()) if one.any else (other, one.known())
    if factor is None:
        return None
    return _each(lambda part: part * np.asarray(factor, float), eqn, reads)


def _quotient(eqn: Any, ins: Sequence[Reads]) -> Reads | None:
    reads, divisor = ins[0], ins[1].known()
    if ins[1].any or divisor is None or not np.all(divisor):
        return None
    return _each(lambda part: part / np.asarray(divisor, float), eqn, reads)


def _cast(eqn: Any, ins: Sequence[Reads]) -> Reads | None:
    old, new = eqn.invars[0].aval.dtype, eqn.params["new_dtype"]
    widens = jnp.issubdtype(new, jnp.inexact) or not jnp.issubdtype(old, jnp.inexact)
    return _each(_same, eqn, *ins) if widens and new != np.dtype(bool) else None


def _sum(eqn: Any, ins: Sequence[Reads]) -> Reads:
    axes = tuple(1 + d for d in eqn.params["axes"])
    total = lambda part: part.sum(axis=axes)  # noqa: E731
    parts = {name: total(part) for name, part in ins[0].sums.items()}
    return Reads(np.asarray(ins[0].otherwise.any(axis=axes)), parts)


def _running_sum(eqn: Any, ins: Sequence[Reads]) -> Reads:
    axis, order = 1 + eqn.params["axis"], -1 if eqn.params["reverse"] else 1

    def fn(part):
        front = np.moveaxis(part, axis, 0)[::order]
        return np.moveaxis(np.cumsum(front, axis=0)[::order], 0, axis)

    return _each(fn, eqn, *ins)


def _contraction(eqn: Any, ins: Sequence[Reads]) -> Reads | None:
    """A product of matrices, of which one is a constant."""
    ((left, right), (left_batch, right_batch)) = eqn.params["dimension_numbers"]
    first, second = (len(v.aval.shape) for v in eqn.invars)
    a, b = list(range(first)), list(range(first, first + second))
    for i, j in (*zip(left_batch, right_batch, strict=True), *zip(left, right, strict=True)):
        b[j] = a[i]
    out = [a[i] for i in left_batch]
    out += [i for d, i in enumerate(a) if d not in (*left, *left_batch)]
    out += [i for d, i in enumerate(b) if d not in (*right, *right_batch)]
    lane = first + second
    one, other = ins
    if one.any and other.any:
        return None
    known = (other if one.any else one).known()
    if known is None:
        return None
    known = np.asarray(known, float)

    def fn(part, size=lambda x: x):
        if one.any:
            return np.einsum(part, [lane, *a], size(known), b, [lane, *out])
        return np.einsum(size(known), a, part, [lane, *b], [lane, *out])

    reads = one if one.any else other
    otherwise = fn(reads.otherwise * 1.0, np.abs) != 0
    return Reads(otherwise, {name: fn(part) for name, part in reads.sums.items()})


def _rearrange(data: slice, padding: bool = False) -> Callable:
    """The rule of equations that move elements: of which operands (the others are constants)."""

    def rule(eqn, ins):
        at = range(len(ins))[data]
        others = [None if i in at else reads.known() for i, reads in enumerate(ins)]
        if any(other is None for i, other in enumerate(others) if i not in at):
            return None
        sizes = [math.prod(eqn.invars[i].aval.shape) for i in at]
        starts = dict(zip(at, np.cumsum([0, *sizes]), strict=False))
        numbers = {
            i: starts[i] + np.arange(size, dtype=np.int32).reshape(eqn.invars[i].aval.shape)
            for i, size in zip(at, sizes, strict=True)
        }
        if padding:
            others[1] = np.int32(-1)
        arrays = [numbers.get(i, other) for i, other in enumerate(others)]
        with jax.ensure_compile_time_eval():
            source = np.asarray(equations.bind(eqn, [jnp.asarray(a) for a in arrays])[0])
        return _take([ins[i] for i in at], source)

    return rule


def _take(ins: Sequence[Reads], source: np.ndarray) -> Reads:
    """The elements of some operands, numbered one after the other, at these places."""
    none = (source < 0) | (source >= sum(r.otherwise[0].size for r in ins))
    places = np.where(none, 0, source)

    def fn(parts):
        flat = np.concatenate([p.reshape(len(p), -1) for p in parts], axis=1)
        return np.where(none, 0, flat[:, places])

    names = {name for reads in ins for name in reads.sums}
    passes = max(len(reads.otherwise) for reads in ins)
    others = [np.broadcast_to(r.otherwise, (passes, *r.otherwise.shape[1:])) for r in ins]
    parts = {
        name: fn([r.sums.get(name, 0.0 * o) for r, o in zip(ins, others, strict=True)])
        for name in names
    }
    return Reads(fn(others).astype(bool), parts)


_ALL, _FIRST = slice(None), slice(1)
LINEAR: Mapping[str, Callable] = {
    **dict.fromkeys(("add", "add_any"), lambda eqn, ins: _each(np.add, eqn, *ins)),
    **dict.fromkeys(("copy", "copy_p", "stop_gradient"), lambda eqn, ins: _each(_same, eqn, *ins)),
    "sub": lambda eqn, ins: _each(np.subtract, eqn, *ins),
    "neg": lambda eqn, ins: _each(np.negative, eqn, *ins),
    "mul": _product,
    "div": _quotient,
    "convert_element_type": _cast,
    "reduce_sum": _sum,
    "cumsum": _running_sum,
    "dot_general": _contraction,
    "select_n": _rearrange(slice(1, None)),
    "concatenate": _rearrange(_ALL),
    "pad": _rearrange(_FIRST, padding=True),
    **dict.fromkeys(
        ("broadcast_in_dim", "dynamic_slice", "expand_dims", "gather", "reshape", "rev", "slice",
         "squeeze", "transpose"),
        _rearrange(_FIRST),
    ),
}  # fmt: skip
"""Rules `(eqn, ins) -> what the result reads`, or None where the equation is not linear."""
