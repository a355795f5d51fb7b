"""Identities with rules of their own for derivatives; the second file that touches JAX's internals.

Each is a primitive that costs nothing: what it says is said of derivatives alone.
"""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from jax import lax
from jax._src import core
from jax.interpreters import ad, batching, mlir

from ..errors import BiasedEstimator, ReverseModeLoop


def _lanes_first(args, dims):
    """The operands of a batched equation, all of them with the lanes in front."""
    (size,) = {x.shape[d] for x, d in zip(args, dims, strict=True) if d is not None}
    return [
        jnp.broadcast_to(x, (size, *jnp.shape(x))) if d is None else jnp.moveaxis(x, d, 0)
        for x, d in zip(args, dims, strict=True)
    ]


forward_only_p = core.Primitive("forward_only")
forward_only_p.def_impl(lambda x, *, message: x)
forward_only_p.def_abstract_eval(lambda x, *, message: x)
mlir.register_lowering(forward_only_p, lambda ctx, x, *, message: [x])
batching.primitive_batchers[forward_only_p] = lambda args, dims, *, message: (
    forward_only_p.bind(*args, message=message),
    dims[0],
)


def _refuse_transpose(cotangent, x, *, message):
    raise ReverseModeLoop(message)


ad.deflinear2(forward_only_p, _refuse_transpose)


def forward_only(x: Any, message: str) -> Any:
    """The identity, whose transposition (reverse-mode differentiation) is a `ReverseModeLoop`."""
    return forward_only_p.bind(x, message=message)


first_order_p = core.Primitive("first_order")
first_order_p.def_impl(lambda x, *others, **_: x)
first_order_p.def_abstract_eval(lambda x, *others, **_: x)
mlir.register_lowering(first_order_p, lambda ctx, x, *others, **_: [x])
batching.primitive_batchers[first_order_p] = lambda args, dims, **params: (
    first_order_p.bind(*args, **params),
    dims[0],
)


def _differentiated_once(primals, tangents, *, message, once):
    (_, *others), (tangent, *moved) = primals, tangents
    if once and not all(type(t) is ad.Zero for t in moved):
        raise BiasedEstimator(message)
    if type(tangent) is not ad.Zero:
        tangent = first_order_p.bind(tangent, *others, message=message, once=True)
    return first_order_p.bind(*primals, message=message, once=once), tangent


def _transposed_once(cotangent, x, *others, **params):
    # of the derivative alone, which is linear in `x`
    if type(cotangent) is not ad.Zero:
        cotangent = first_order_p.bind(cotangent, *others, **params)
    return [cotangent, *(None for _ in others)]


ad.primitive_jvps[first_order_p] = _differentiated_once
ad.primitive_transposes[first_order_p] = _transposed_once


def first_order(x: Any, others: Sequence[Any], message: str) -> Any:
    """The identity of `x`, whose derivative has none in what `others` depend on.

    A second derivative, first through `x` and then through one of the `others`, in any mode, is a
    `BiasedEstimator`. It costs nothing.
    """
    return first_order_p.bind(x, *others, message=message, once=False)


gated_p = core.Primitive("gated")
gated_p.def_impl(lambda x, flag: x)
gated_p.def_abstract_eval(lambda x, flag: x)
mlir.register_lowering(gated_p, lambda ctx, x, flag: [x])

SPREAD = 256
"""The most elements of an operand that is gated by lanes or particles which it does not have.

To gate it is to have a derivative of it for each of them; a larger one is left as it is.
"""


def gated(x: Any, flag: Any) -> Any:
    """The identity, of derivative zero where a flag is false, even where what follows has none.

    A derivative of zero times an infinite one is no number: what a mask or a branch leaves out is
    cut off on both sides, by this where it is entered and by a selection where it is left. The
    flag's shape begins that of `x`. It costs nothing but for derivatives.
    """
    return gated_p.bind(x, flag)


def _gated_jvp(primals, tangents):
    (x, flag), (tangent, _) = primals, tangents
    if type(tangent) is ad.Zero:
        return gated_p.bind(x, flag), tangent
    given = jnp.asarray(flag)  # a literal of a jaxpr may be no array
    flags = lax.broadcast_in_dim(given, tangent.shape, range(given.ndim))
    return gated_p.bind(x, flag), lax.select(flags, tangent, lax.full_like(tangent, 0))


def _gated_batching_rule(args, dims):
    if dims[0] is None and jnp.size(args[0]) > SPREAD:
        return args[0], None
    x, flag = _lanes_first(args, dims)
    return gated_p.bind(x, flag), 0


ad.primitive_jvps[gated_p] = _gated_jvp
batching.primitive_batchers[gated_p] = _gated_batching_rule


share_p = core.Primitive("share")


def _share_of(a, b):
    return lax.select(a == 0, lax.full_like(a, 0), a * b)


share_p.def_impl(_share_of)
share_p.def_abstract_eval(lambda a, b: a)
mlir.register_lowering(share_p, mlir.lower_fun(_share_of, multiple_results=False))


def share(a: Any, b: Any) -> Any:
    """The product of `a` and `b`, of one shape, zero where `a` is, whatever `b` is there.

    As the derivative of a function of one number, with the factor `b` that JAX would take: a
    cotangent of zero adds nothing, even where the function's own derivative is infinite. It is
    linear in each of the two.
    """
    return share_p.bind(a, b)


def _share_jvp(primals, tangents):
    (a, b), (da, db) = primals, tangents
    total = [share(da, b)] if type(da) is not ad.Zero else []
    total += [share(a, db)] if type(db) is not ad.Zero else []
    tangent = sum(total[1:], total[0]) if total else da
    return share(a, b), tangent


def _share_transpose(cotangent, a, b):
    if type(cotangent) is ad.Zero:
        return None, None
    if ad.is_undefined_primal(a):
        return share(cotangent, b), None
    return None, share(a, cotangent)


def _share_batching_rule(args, dims):
    return share(*_lanes_first(args, dims)), 0


ad.primitive_jvps[share_p] = _share_jvp
ad.primitive_transposes[share_p] = _share_transpose
batching.primitive_batchers[share_p] = _share_batching_rule
