"""Whether a control variate reads its site's own lane, where lanes have been mixed.

Elements are followed one by one, from values that keep lanes apart: `where` of a constant mask, a
shift and a leave-one-out sum read other lanes alone, and are seen to.
"""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..._jax import equations
from ..._jax.control_flow import departs
from ..values.dimensions import EXACT, Along
from ..values.value import Value
from .element_reads import constant, name_elements
from .follow_reads import follow, read
from .linear_reads import LINEAR

_AT_ONCE = 1_000_000
"""The most elements, times lanes, that are followed at once; of more lanes, some are."""
_SMALL = 10_000
"""Linear equations of so many elements are followed even where nothing has been mixed."""


class Environment(NamedTuple):
    """The values that have been made so far of a jaxpr, by variable."""

    jaxpr: Any
    vals: Mapping[Any, Any]


def reads_own_lane(
    atom: Any,
    env: Environment,
    number: int,
    path: Any,
    places: Sequence[int],
    shape: tuple[int, ...],
) -> bool:
    """Whether elements of a variable read their own lane of a site, which has this path.

    Dimension i of the variable, of this shape, runs along the site's lane dimension `places[i]`.
    """
    settled = functools.partial(_settled, env, number, places, shape)
    eqns = _needed(env.jaxpr, atom, settled, path)
    largest = max([math.prod(v.aval.shape) for eqn in eqns for v in eqn.outvars], default=1)
    count = math.prod(shape)
    few = np.linspace(0, count - 1, min(count, max(8, _AT_ONCE // max(largest, 1))))
    own = np.unravel_index(np.unique(few.astype(int)), shape) if shape else ()
    lanes = dict(zip(places, own, strict=True))
    passes = len(own[0]) if own else 1

    def mask(atom):
        return _mask(atom, env.vals.get(atom), number, lanes, passes)

    @functools.cache
    def leaf(atom):
        val = env.vals.get(atom)
        if val is None or not _depends(val, number):
            return constant(getattr(val, "array", None), atom.aval.shape)
        return name_elements(mask(atom))

    reading = read(atom, follow(eqns, leaf, mask), leaf).all()
    return bool(np.broadcast_to(reading, (passes, *shape))[(np.arange(passes), *own)].any())


def _settled(
    env: Environment, number: int, places: Sequence[int], shape: tuple[int, ...], atom: Any
) -> bool:
    """Whether a variable is like the value, each element of its own lane; so it is a start."""
    val = env.vals.get(atom)
    if not isinstance(val, Value) or not val.sites >> number & 1 or atom.aval.shape != shape:
        return False
    relation = val.relations.get(number, ())
    own = [relation[d] if d < len(relation) else None for d in places]
    return bool(places) and own == [Along(i) for i in range(len(places))]


def _needed(jaxpr: Any, atom: Any, settled: Callable[[Any], bool], path: Any) -> list[Any]:
    """The equations that a variable is made by, from settled ones and the site itself on."""
    wanted, kept = {atom} if not equations.is_literal(atom) else set(), []
    for eqn in reversed(jaxpr.eqns):
        small = sum(math.prod(v.aval.shape) for v in eqn.invars) <= _SMALL
        entered = (small and equations.kind(eqn) in LINEAR) or not all(map(settled, eqn.outvars))
        if any(v in wanted for v in eqn.outvars) and entered and _enters(eqn, path):
            kept.append(eqn)
            wanted |= {v for v in eqn.invars if not equations.is_literal(v)}
    return kept[::-1]


def _enters(eqn: Any, path: Any) -> bool:
    if equations.kind(eqn) == "sample":
        return eqn.params["site"].path != path
    return not equations.has_sites(eqn) and not departs(eqn)


def _mask(
    atom: Any, val: Any, number: int, lanes: Mapping[int, np.ndarray], passes: int
) -> np.ndarray:
    """Which elements of a variable may read the lane, by its relation to the site."""
    reading = np.ones((passes, *atom.aval.shape), bool)
    relation = val.relations.get(number, ()) if isinstance(val, Value) else ()
    for d, index in lanes.items():
        along = relation[d] if d < len(relation) else None
        if along is not None:
            reading &= _along(along, index, atom.aval.shape)
    return reading


def _depends(operand: Any, number: int) -> bool:
    addends = [operand] if isinstance(operand, Value) else [term.val for term in operand]
    return any(val.sites >> number & 1 for val in addends)


def _along(along: Along, index: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    at = (along.start or 0) + np.arange(shape[along.dim])
    at = at.reshape(1, -1, *(1 for _ in shape[along.dim + 1 :]))
    at = at.reshape(1, *(1 for _ in shape[: along.dim]), *at.shape[1:])
    own = index.reshape(-1, *(1 for _ in shape))
    return at == own if along.how == EXACT else along.how * (at - own) >= 0
