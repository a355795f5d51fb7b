"""What each element of an array reads of some lanes of a site, equation by equation.

A value is followed as sums, with known coefficients, of single elements that read the lanes, so
that x cancels out of `sum(x) - x`; what is not linear reads all that its operands read.
"""

import functools
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from ..._jax import equations
from ..._jax.control_flow import CallLike, form
from ..values.dimensions import EXACT, Along, dimension_maps

_TRACKED = 16
"""The most elements of one value that are followed by name."""
_EVALUATED = 1_000_000
"""The most elements of a constant that is computed to be known."""
_fresh = itertools.count()


class Reads(NamedTuple):
    """What an array reads of some lanes, which are along the first dimension of what is noted.

    `otherwise` says which elements read the lane in an unknown way; `sums` has coefficients of
    single elements that read it, by their names. `known` gives the array, if it is a constant.
    """

    otherwise: np.ndarray
    sums: Mapping[Any, np.ndarray]
    known: Callable[[], np.ndarray | None] = lambda: None

    def all(self) -> np.ndarray:
        """Which elements read the lane."""
        found = self.otherwise
        for part in self.sums.values():
            sizes = np.abs(part).reshape(len(part), -1)
            rounding = 1e-5 * sizes.max(axis=1, keepdims=True, initial=0.0)
            found = found | (sizes > rounding).reshape(part.shape)
        return found

    def within(self, mask: Any) -> "Reads":
        """Of some elements alone: the others are known not to read the lane."""
        sums = {name: part * mask for name, part in self.sums.items()}
        return Reads(self.otherwise & mask, sums, self.known)

    @property
    def any(self) -> bool:
        return bool(self.sums) or bool(self.otherwise.any())


def followed(
    eqns: Sequence[Any],
    found: dict,
    leaf: Callable[[Any], Reads],
    mask: Callable[[Any], Any] = lambda atom: True,
) -> dict:
    """What variables read, equation by equation; the same ones have the same results."""
    made: dict = {}
    for eqn in eqns:
        ins = [read(atom, found, leaf) for atom in eqn.invars]
        pairs = zip(eqn.invars, ins, strict=True)
        names = [str(v) if equations.is_literal(v) else id(reads) for v, reads in pairs]
        call = form(eqn)
        called = id(call.body.jaxpr) if isinstance(call, CallLike) else eqn.params
        key = (eqn.primitive, str(called), *names)
        if key not in made:
            outs = _through(eqn, ins)
            made[key] = [
                r.within(mask(v)) if r.any else r for r, v in zip(outs, eqn.outvars, strict=True)
            ]
        found.update(zip(eqn.outvars, made[key], strict=True))
    return found


def read(atom: Any, found: Mapping[Any, Reads], leaf: Callable[[Any], Reads]) -> Reads:
    """What an operand reads."""
    if equations.is_literal(atom):
        return constant(atom.val, np.shape(atom.val))
    return found[atom] if atom in found else leaf(atom)


def constant(array: Any, shape: tuple[int, ...]) -> Reads:
    """A value that does not read the site; it is known unless it is traced, or there is none."""
    unknown = array is None or isinstance(array, Tracer)
    return Reads(np.zeros((1, *shape), bool), {}, lambda: None if unknown else np.asarray(array))


def named(reading: np.ndarray, known: Callable = lambda: None) -> Reads:
    """Each element that reads the lane under a name of its own, where these are few."""
    flat = reading.reshape(len(reading), -1)
    count = int(flat.sum(axis=1).max(initial=0))
    if count > _TRACKED:
        return Reads(reading, {}, known)
    rank, name = np.cumsum(flat, axis=1) * flat, next(_fresh)
    parts = {(name, k): (rank == k).reshape(reading.shape) * 1.0 for k in range(1, count + 1)}
    return Reads(np.zeros_like(reading), parts, known)


# --- through one equation ------------------------------------------------------------------------


def _through(eqn: Any, ins: Sequence[Reads]) -> list[Reads]:
    kind, passes = equations.kind(eqn), max((len(reads.otherwise) for reads in ins), default=1)
    call = form(eqn)
    if isinstance(call, CallLike):
        jaxpr, consts = call.body
        held = dict(zip(jaxpr.invars, ins, strict=True))
        held |= {v: constant(c, np.shape(c)) for v, c in zip(jaxpr.constvars, consts, strict=True)}
        found = followed(jaxpr.eqns, held, held.__getitem__)
        return [read(atom, found, held.__getitem__) for atom in jaxpr.outvars]
    known: Any = functools.cache(lambda: _evaluated(eqn, ins))
    knowns: Any = [lambda i=i: known() and known()[i] for i in range(len(eqn.outvars))]
    if not any(reads.any for reads in ins):
        return [
            Reads(np.zeros((passes, *v.aval.shape), bool), {}, k)
            for v, k in zip(eqn.outvars, knowns, strict=True)
        ]
    made = LINEAR[kind](eqn, ins) if kind in LINEAR else None
    if made is not None:
        return [made]
    return [named(reading) for reading in _mixed(eqn, ins)]


def _evaluated(eqn: Any, ins: Sequence[Reads]) -> list[np.ndarray] | None:
    """The constants that an equation of constants gives."""
    if eqn.effects or sum(math.prod(v.aval.shape) for v in eqn.outvars) > _EVALUATED:
        return None
    arrays = [reads.known() for reads in ins]
    if any(array is None for array in arrays):
        return None
    with jax.ensure_compile_time_eval():
        return [np.asarray(x) for x in equations.bind(eqn, [jnp.asarray(a) for a in arrays])]


def _mixed(eqn: Any, ins: Sequence[Reads]) -> list[np.ndarray]:
    """Which elements of the results read the lane, by where dimensions go."""
    reading = [reads.all() for reads in ins]
    maps = _maps(eqn)
    outs = []
    for v in eqn.outvars:
        shape = v.aval.shape
        total = np.zeros((max(map(len, reading)), *shape), bool)
        mixed = [[None] * (own.ndim - 1) for own in reading]
        for own, places in zip(reading, mixed if maps is None else maps, strict=True):
            total = total | _place(own, places, shape)
        outs.append(total)
    return outs


def _maps(eqn: Any) -> list | None:
    """Where the dimensions of each operand go; a site keeps apart the vmaps around it."""
    if equations.kind(eqn) != "sample":
        return dimension_maps(eqn)
    lanes = eqn.params["site"].vmaps
    maps = []
    for i, v in enumerate(eqn.invars):
        mapped = [d for d, lane in enumerate(lanes) if lane.mapped[i]]
        maps.append((*mapped, *(None for _ in v.aval.shape[len(mapped) :])))
    return maps


def _place(reading: np.ndarray, places: Sequence[Any], shape: tuple[int, ...]) -> np.ndarray:
    """An operand's readings as they arrive in a result of this shape."""
    alongs = [p if p is None or isinstance(p, Along) else Along(p) for p in places]
    gone = tuple(1 + d for d, along in enumerate(alongs) if along is None)
    reading, left = (
        np.asarray(reading.any(axis=gone)),
        [along for along in alongs if along is not None],
    )
    for d, along in enumerate(left):
        if along.how != EXACT:
            order = slice(None, None, along.how)
            flipped = np.moveaxis(reading, 1 + d, 0)[order]
            flipped = np.logical_or.accumulate(flipped, axis=0)[order]
            reading = np.moveaxis(flipped, 0, 1 + d)
    order = sorted(range(len(left)), key=lambda d: left[d].dim)
    reading = np.transpose(reading, (0, *(1 + d for d in order)))
    sizes = {left[d].dim: reading.shape[1 + i] for i, d in enumerate(order)}
    spread = reading.reshape(len(reading), *(sizes.get(d, 1) for d in range(len(shape))))
    return np.broadcast_to(spread, (len(reading), *shape))


# --- linear equations ----------------------------------------------------------------------------


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


def _rearranged(data: slice, padding: bool = False) -> Callable:
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
        return _taken([ins[i] for i in at], source)

    return rule


def _taken(ins: Sequence[Reads], source: np.ndarray) -> Reads:
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
    "select_n": _rearranged(slice(1, None)),
    "concatenate": _rearranged(_ALL),
    "pad": _rearranged(_FIRST, padding=True),
    **dict.fromkeys(
        ("broadcast_in_dim", "dynamic_slice", "expand_dims", "gather", "reshape", "rev", "slice",
         "squeeze", "transpose"),
        _rearranged(_FIRST),
    ),
}  # fmt: skip
"""Rules `(eqn, ins) -> what the result reads`, or None where the equation is not linear."""
