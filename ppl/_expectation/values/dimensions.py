"""Where the dimensions of an equation's operands go: the rule table of provenance by dimension.

A rule `(eqn) -> maps` gives, for each operand, a tuple with an entry a dimension: the dimension of
the result whose elements depend, along it, each on the same index of the operand; an `Along` where
on those before or after; None where indices are mixed. An equation without a rule
mixes everything.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from ..._jax import equations

EXACT, CAUSAL, ANTICAUSAL = 0, 1, -1


class Along(NamedTuple):
    """Lanes run along an array dimension; a negative one is the step of a loop around.

    `how`: an element depends on its own lane alone (`EXACT`), on those up to its own (`CAUSAL`) or
    from its own on (`ANTICAUSAL`). `start`: of a slice, which lane the first element's own is; None
    where there is an element for each lane.
    """

    dim: int
    how: int = EXACT
    start: int | None = None


def dimension_maps(eqn: Any) -> list[tuple | None] | None:
    """The map of each operand, or None where the equation is not known or outputs differ."""
    rule = RULES.get(equations.kind(eqn))
    return None if rule is None else rule(eqn)


def maps_of_outputs(eqn: Any) -> list[list[tuple | None] | None]:
    """For each output, the map of each operand, or None where the equation is not known."""
    rule = OUTPUTS.get(equations.kind(eqn))
    return [dimension_maps(eqn)] * len(eqn.outvars) if rule is None else rule(eqn)


def is_elementwise(eqn: Any) -> bool:
    """Whether an equation does the same with each element of its operands."""
    return equations.kind(eqn) in ELEMENTWISE


def moves_elements(eqn: Any) -> bool:
    """Whether the elements of an equation's result are those of its operand, moved about."""
    kind = equations.kind(eqn)
    return kind in MOVING or (kind in REDUCTIONS and not eqn.params["axes"])


def _shape(atom):
    return atom.aval.shape


def _same_size(eqn):
    """Dimensions of which the result has all, as they are; one of size one may be spread out."""
    out = _shape(eqn.outvars[0])
    maps = []
    for v in eqn.invars:
        shape = _shape(v)
        whole = len(shape) == len(out)
        maps.append(tuple(d if whole and n == out[d] else None for d, n in enumerate(shape)))
    return maps


def _slice(eqn):
    """Dimensions that stay whole, and those of which a stretch is taken."""
    starts, strides = eqn.params["start_indices"], eqn.params["strides"]
    old, new = _shape(eqn.invars[0]), _shape(eqn.outvars[0])

    def kept(d):
        if old[d] == new[d]:
            return d
        return None if strides and strides[d] != 1 else Along(d, EXACT, int(starts[d]))

    return [tuple(map(kept, range(len(old))))]


def _concatenate(eqn):
    """The elements of each operand come after those of the ones before."""
    dim, maps, before = eqn.params["dimension"], [], 0
    for v in eqn.invars:
        shape = _shape(v)
        maps.append(tuple(Along(d, EXACT, -before) if d == dim else d for d in range(len(shape))))
        before += shape[dim]
    return maps


def _split(eqn):
    """Stretches of one dimension, one after the other: a map for each output."""
    sizes, axis = eqn.params["sizes"], eqn.params["axis"]
    rank, starts = len(_shape(eqn.invars[0])), np.cumsum([0, *sizes[:-1]])
    return [
        [tuple(Along(d, EXACT, int(start)) if d == axis else d for d in range(rank))]
        for start in starts
    ]


def _broadcast(eqn):
    out, (operand, *rest) = _shape(eqn.outvars[0]), eqn.invars
    dims = eqn.params["broadcast_dimensions"]
    own = [d if n == out[d] else None for n, d in zip(_shape(operand), dims, strict=True)]
    return [tuple(own), *(() for _ in rest)]


def _reshape(eqn):
    """Dimensions that stay whole: those with as much before them, and the same size."""
    old, new = _shape(eqn.invars[0]), _shape(eqn.outvars[0])
    places, before = {}, 1
    for i, n in enumerate(new):
        if n > 1:
            places[before, n] = i
        before *= n
    dims, before = [], 1
    for n in old:
        dims.append(places.get((before, n)) if n > 1 else None)
        before *= n
    return [tuple(dims), *(() for _ in eqn.invars[1:])]


def _removing(name):
    """The rule of equations that remove the dimensions in a parameter."""

    def rule(eqn):
        maps = []
        for v in eqn.invars:
            places = iter(range(len(_shape(v))))
            gone = eqn.params[name]
            maps.append(tuple(None if d in gone else next(places) for d in range(len(_shape(v)))))
        return maps

    return rule


def _mixing(name):
    """The rule of equations that mix indices along the dimensions (or the one) in a parameter."""

    def rule(eqn):
        mixed = np.ravel(eqn.params[name])
        ranks = [len(_shape(v)) for v in eqn.invars]
        return [tuple(None if d in mixed else d for d in range(rank)) for rank in ranks]

    return rule


def _top_k(eqn):
    """Indices are mixed along one dimension: the last one, where JAX (0.7) names none."""
    (operand,) = eqn.invars
    rank = len(_shape(operand))
    axis = eqn.params.get("axis", rank - 1)
    return [tuple(None if d == axis else d for d in range(rank))]


def _transpose(eqn):
    order = eqn.params["permutation"]
    return [tuple(order.index(d) for d in range(len(order)))]


def _cumulative(eqn):
    axis, how = eqn.params["axis"], ANTICAUSAL if eqn.params["reverse"] else CAUSAL
    rank = len(_shape(eqn.invars[0]))
    return [tuple(Along(d, how) if d == axis else d for d in range(rank))]


def _dot_general(eqn):
    (left_sum, right_sum), (left_batch, right_batch) = eqn.params["dimension_numbers"]
    left, right = (len(_shape(v)) for v in eqn.invars)
    place, maps = len(left_batch), []
    for rank, summed, batch in ((left, left_sum, left_batch), (right, right_sum, right_batch)):
        dims: list[int | None] = []
        for d in range(rank):
            if d in batch:
                dims.append(list(batch).index(d))
            elif d in summed:
                dims.append(None)
            else:
                dims.append(place)
                place += 1
        maps.append(tuple(dims))
    return maps


def _pad(eqn):
    padding = eqn.params["padding_config"]
    return [tuple(d if p == (0, 0, 0) else None for d, p in enumerate(padding)), ()]


def _update_slice(eqn):
    operand, update, *starts = eqn.invars
    shape, own = _shape(operand), _shape(update)
    inner = tuple(d if n == own[d] else None for d, n in enumerate(shape))
    return [tuple(range(len(shape))), inner, *(() for _ in starts)]


def _stack(eqn):
    axis = eqn.params["axis"]
    ranks = [len(_shape(v)) for v in eqn.invars]
    return [tuple(d if d < axis else d + 1 for d in range(rank)) for rank in ranks]


def _gather(eqn):
    operand, _ = eqn.invars
    numbers, sizes = eqn.params["dimension_numbers"], eqn.params["slice_sizes"]
    rank = len(_shape(eqn.outvars[0]))
    offsets = iter(sorted(numbers.offset_dims))
    batch = [d for d in range(rank) if d not in numbers.offset_dims]
    pairs = dict(
        zip(
            getattr(numbers, "operand_batching_dims", ()),
            getattr(numbers, "start_indices_batching_dims", ()),
            strict=True,
        )
    )
    dims: list[int | None] = []
    for d, n in enumerate(_shape(operand)):
        if d in pairs:
            dims.append(batch[pairs[d]])
        elif d in numbers.collapsed_slice_dims:
            dims.append(None)
        else:
            place = next(offsets)
            dims.append(place if sizes[d] == n else None)
    return [tuple(dims), (*batch, None)]


def _gated(eqn):
    return [tuple(range(len(_shape(v)))) for v in eqn.invars]


def _matrices(eqn):
    """Linear algebra: a matrix for each index of the leading dimensions."""
    return [(*range(len(_shape(v)) - 2), None, None) for v in eqn.invars]


def _triangular_solve(eqn):
    """Right-hand sides are solved for one by one: columns, or rows where the matrix is behind."""
    matrix, rank = (len(_shape(v)) for v in eqn.invars)
    mixed = rank - 2 if eqn.params["left_side"] else rank - 1
    sides = tuple(None if d == mixed else d for d in range(rank))
    return [(*range(matrix - 2), None, None), sides]


_ELEMENTWISE = (
    "abs acos acosh add add_any and asin asinh atan atan2 atanh bessel_i0e bessel_i1e cbrt ceil "
    "clamp clz complex conj convert_element_type copy copy_p cos cosh digamma div eq erf erf_inv "
    "erfc exp exp2 expm1 floor forward_only ge gt igamma igamma_grad_a igammac imag integer_pow "
    "is_finite le lgamma log log1p logistic lt max min mul ne neg nextafter not or polygamma "
    "population_count pow random_gamma random_gamma_grad real reduce_precision "
    "regularized_incomplete_beta rem round rsqrt select_n share shift_left shift_right_arithmetic "
    "shift_right_logical sign sin sinh sqrt square stop_gradient sub tan tanh xor zeta"
)

ELEMENTWISE = frozenset(_ELEMENTWISE.split())

_MOVING = "broadcast_in_dim copy reshape rev slice squeeze stop_gradient transpose"

MOVING = frozenset(_MOVING.split())

_REDUCTIONS = (
    "argmax argmin reduce_and reduce_max reduce_min reduce_or reduce_prod reduce_sum reduce_xor"
)

REDUCTIONS = frozenset(_REDUCTIONS.split())

RULES: Mapping[str, Callable] = {
    **dict.fromkeys((*ELEMENTWISE, "dynamic_slice"), _same_size),
    **dict.fromkeys(REDUCTIONS, _removing("axes")),
    **dict.fromkeys(("cumsum", "cumprod", "cummax", "cummin", "cumlogsumexp"), _cumulative),
    "cholesky": _matrices,
    "broadcast_in_dim": _broadcast,
    "concatenate": _concatenate,
    "dot_general": _dot_general,
    "dynamic_update_slice": _update_slice,
    "gated": _gated,
    "gather": _gather,
    "pad": _pad,
    "reshape": _reshape,
    "rev": _mixing("dimensions"),
    "sort": _mixing("dimension"),
    "slice": _slice,
    "squeeze": _removing("dimensions"),
    "stack": _stack,
    "top_k": _top_k,
    "transpose": _transpose,
    "triangular_solve": _triangular_solve,
}
"""Rules `(eqn) -> maps`: a map an operand, the same for all outputs of the equation."""

OUTPUTS: Mapping[str, Callable] = {"split": _split}
"""Rules `(eqn) -> maps of each output`, of equations whose outputs are not alike."""
