"""Following what elements read, equation by equation.

Sums stay sums through linear equations (`linear_reads`). What is not linear reads all that its
operands read, of the elements that its dimensions come from.
"""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..._jax import equations
from ..._jax.control_flow import CallLike, form
from ..values.dimensions import EXACT, Along, dimension_maps
from .element_reads import Reads, constant, name_elements
from .linear_reads import LINEAR

_EVALUATED = 1_000_000
"""The most elements of a constant that is computed to be known."""


def follow(
    eqns: Sequence[Any],
    leaf: Callable[[Any], Reads],
    mask: Callable[[Any], Any] = lambda atom: True,
) -> dict[Any, Reads]:
    """What the variables of some equations read; equal equations have the same results.

    `leaf` says what a variable reads that none of them makes.
    """
    found: dict[Any, Reads] = {}
    results: dict[Any, list[Reads]] = {}
    for eqn in eqns:
        ins = [read(atom, found, leaf) for atom in eqn.invars]
        pairs = zip(eqn.invars, ins, strict=True)
        names = [str(v) if equations.is_literal(v) else id(reads) for v, reads in pairs]
        call = form(eqn)
        called = id(call.body.jaxpr) if isinstance(call, CallLike) else eqn.params
        key = (eqn.primitive, str(called), *names)
        if key not in results:
            outs = zip(_through(eqn, ins), eqn.outvars, strict=True)
            results[key] = [r.within(mask(v)) if r.any else r for r, v in outs]
        found.update(zip(eqn.outvars, results[key], strict=True))
    return found


def read(atom: Any, found: Mapping[Any, Reads], leaf: Callable[[Any], Reads]) -> Reads:
    """What an operand reads."""
    if equations.is_literal(atom):
        return constant(atom.val, np.shape(atom.val))
    return found[atom] if atom in found else leaf(atom)


def _through(eqn: Any, ins: Sequence[Reads]) -> list[Reads]:
    kind, passes = equations.kind(eqn), max((len(reads.otherwise) for reads in ins), default=1)
    call = form(eqn)
    if isinstance(call, CallLike):
        jaxpr, consts = call.body
        held = dict(zip(jaxpr.invars, ins, strict=True))
        held |= {v: constant(c, np.shape(c)) for v, c in zip(jaxpr.constvars, consts, strict=True)}
        found = follow(jaxpr.eqns, held.__getitem__)
        return [read(atom, found, held.__getitem__) for atom in jaxpr.outvars]
    known: Any = functools.cache(lambda: _compute(eqn, ins))
    knowns: Any = [lambda i=i: known() and known()[i] for i in range(len(eqn.outvars))]
    if not any(reads.any for reads in ins):
        return [
            Reads(np.zeros((passes, *v.aval.shape), bool), {}, k)
            for v, k in zip(eqn.outvars, knowns, strict=True)
        ]
    linear = LINEAR[kind](eqn, ins) if kind in LINEAR else None
    if linear is not None:
        return [linear]
    return [name_elements(reading) for reading in _mix(eqn, ins)]


def _compute(eqn: Any, ins: Sequence[Reads]) -> list[np.ndarray] | None:
    """The constants that an equation of constants gives."""
    if eqn.effects or sum(math.prod(v.aval.shape) for v in eqn.outvars) > _EVALUATED:
        return None
    arrays = [reads.known() for reads in ins]
    if any(array is None for array in arrays):
        return None
    with jax.ensure_compile_time_eval():
        return [np.asarray(x) for x in equations.bind(eqn, [jnp.asarray(a) for a in arrays])]


def _mix(eqn: Any, ins: Sequence[Reads]) -> list[np.ndarray]:
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
        maps = dimension_maps(eqn)
        return maps and [dims and tuple(map(_whole, dims)) for dims in maps]
    lanes = eqn.params["site"].vmaps
    maps = []
    for i, v in enumerate(eqn.invars):
        mapped = [d for d, lane in enumerate(lanes) if lane.mapped[i]]
        maps.append((*mapped, *(None for _ in v.aval.shape[len(mapped) :])))
    return maps


def _whole(place: Any) -> Any:
    """Where a dimension goes that stays whole; None for a stretch of it."""
    return None if isinstance(place, Along) and place.start is not None else place


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
