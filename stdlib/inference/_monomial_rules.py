"""What primitives make of monomials in the statistics: of their products, places and order."""

import functools
import operator
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer, eval_jaxpr

from ._monomial import (
    ONE,
    Base,
    Beyond,
    Constant,
    Monomial,
    Value,
    alike,
    complement,
    example_of,
    log,
    power,
    product,
    range_of,
)


@functools.cache
def _empty() -> Any:
    return jax.make_jaxpr(lambda: ())().jaxpr


def bound(eqn: Any, operands: Sequence[Any]) -> list[Any]:
    """One equation, run on other operands; its literals stay."""
    pairs = zip(eqn.invars, operands, strict=True)
    named = {atom: x for atom, x in pairs if not hasattr(atom, "val")}
    alone = _empty().replace(eqns=[eqn], invars=list(named), outvars=eqn.outvars)
    return eval_jaxpr(alone, [], *named.values())


def _without_literals(eqn: Any) -> Any:
    """The equation with variables of its own alone."""
    if not any(hasattr(atom, "val") for atom in eqn.invars):
        return eqn
    like = [jax.ShapeDtypeStruct(atom.aval.shape, atom.aval.dtype) for atom in eqn.invars]
    return eqn.replace(invars=jax.make_jaxpr(lambda *xs: xs)(*like).jaxpr.invars)


def shaped(array: Any, atom: Any) -> jax.Array:
    """An array in the type and shape of an atom of a jaxpr."""
    return jnp.broadcast_to(jnp.asarray(array, atom.aval.dtype), atom.aval.shape)


# --- moving numbers about ------------------------------------------------------------------------


def _moved(eqn: Any, ins: Sequence[Value], data: slice = slice(None)) -> list[Value] | None:
    """Operands at `data` moved about by constant ones: so is all that is known of them."""
    places = range(len(ins))[data]
    moving = [value for value in ins[data] if isinstance(value, Constant | Monomial)]
    others = [value for i, value in enumerate(ins) if i not in places]
    if len(moving) < len(places) or not all(isinstance(value, Constant) for value in others):
        return None
    if eqn.primitive.name in IDLE and eqn.invars[0].aval == eqn.outvars[0].aval:
        return list(ins)
    monomials = alike(moving)
    like, atoms = monomials[0], eqn.invars[data]
    if any(m.factor.number != like.factor.number for m in monomials):
        like = like._replace(factor=Constant(None))
    leaves = [leaves_of(m, atom) for m, atom in zip(monomials, atoms, strict=True)]
    move = _without_literals(eqn)

    def moved(column):
        if column[0] is None:
            return [None] * len(eqn.outvars)
        operands = [getattr(value, "array", None) for value in ins]
        operands[data] = column
        return bound(move, operands)

    outs = zip(*map(moved, zip(*leaves, strict=True)), strict=True)
    examples = _moved_examples(move, ins, data, monomials)
    pairs = zip(outs, examples or [None] * len(eqn.outvars), strict=True)
    return [with_example(with_leaves(like, leaves), example) for leaves, example in pairs]


def _moved_examples(move: Any, ins: Sequence[Value], data: slice, moving: Any) -> Any:
    """Examples, moved likewise; None where it is not known from where to where."""
    examples = [m.base.example for m in moving]
    if any(
        example is None or m.factor.number != 1.0
        for example, m in zip(examples, moving, strict=True)
    ):
        return None
    operands = [getattr(value, "array", None) for value in ins]
    places = range(len(ins))[data]
    unknown = [i for i, x in enumerate(operands) if i not in places and isinstance(x, Tracer)]
    if unknown and not all(sum_to_one(example) for example in examples):
        return None
    for i in unknown:
        operands[i] = np.zeros(move.invars[i].aval.shape, move.invars[i].aval.dtype)
    atoms = move.invars[data]
    operands[data] = [
        np.broadcast_to(x, a.aval.shape).astype(a.aval.dtype)
        for x, a in zip(examples, atoms, strict=True)
    ]
    with jax.ensure_compile_time_eval():
        return [np.asarray(out) for out in bound(move, operands)]


def sum_to_one(example: Any) -> bool:
    """Whether arbitrary numbers sum to one along the last axis."""
    return np.ndim(example) > 0 and bool(np.allclose(np.sum(example, -1), 1.0, atol=1e-4))


def with_example(value: Monomial, example: Any) -> Monomial:
    """A monomial of a number with another example."""
    return value._replace(base=value.base._replace(example=example))


def leaves_of(value: Monomial, atom: Any) -> list[Any]:
    """The arrays of a monomial, each in its shape; None for what is not known."""
    base = value.base
    arrays = value.factor.array, base.log, base.itself, base.inverse, base.complement
    return [None if x is None else shaped(x, atom) for x in arrays]


def with_leaves(like: Monomial, leaves: Sequence[Any]) -> Monomial:
    """A monomial with other arrays."""
    factor, *known = leaves
    base = Base(*known, low=like.base.low, high=like.base.high)
    return like._replace(factor=Constant(factor, like.factor.number), base=base)


def _converted(eqn: Any, ins: Sequence[Value]) -> list[Value] | None:
    """A change of precision keeps a number, rounding to an integer does not."""
    return _moved(eqn, ins) if jnp.issubdtype(eqn.params["new_dtype"], jnp.inexact) else None


def _selected(eqn: Any, ins: Sequence[Value]) -> Value | list[Value] | None:
    which, *cases = ins
    if isinstance(which, Constant) and which.number is not None:
        return cases[int(which.number)]
    return _moved(eqn, ins, slice(1, None))


def _at(stop: int) -> Callable[[Any, Sequence[Value]], list[Value] | None]:
    return lambda eqn, ins: _moved(eqn, ins, slice(stop))


# --- arithmetic ----------------------------------------------------------------------------------


def _multiplied(eqn: Any, ins: Sequence[Value]) -> Value | None:
    one, other = ins
    if isinstance(one, Constant | Monomial) and isinstance(other, Constant | Monomial):
        return product(one, other, eqn.primitive.name)
    return None


def _divided(eqn: Any, ins: Sequence[Value]) -> Value | None:
    one, other = ins
    if isinstance(other, Constant | Monomial) and isinstance(one, Constant | Monomial):
        inverse = power(other, Constant(-1, -1.0), eqn.primitive.name)
        return _multiplied(eqn, [one, inverse])
    return None


def _to_the(exponent: int | float) -> Callable[[Any, Sequence[Value]], Value | None]:
    return lambda eqn, ins: _power(eqn, [*ins, Constant(exponent, float(exponent))])


def _integer_power(eqn: Any, ins: Sequence[Value]) -> Value | None:
    return _to_the(eqn.params["y"])(eqn, ins)


def _power(eqn: Any, ins: Sequence[Value]) -> Value | None:
    value, exponent = ins
    if isinstance(value, Monomial) and isinstance(exponent, Constant):
        return power(value, exponent, eqn.primitive.name)
    return None


def _negated(eqn: Any, ins: Sequence[Value]) -> Value | None:
    return _multiplied(eqn, [Constant(-1.0, -1.0), *ins])


def _absolute(eqn: Any, ins: Sequence[Value]) -> Value | None:
    (value,) = ins
    if not isinstance(value, Monomial) or value.base.low < 0.0:
        return None
    number = value.factor.number
    size = Constant(abs(value.factor.array), None if number is None else abs(number))
    return value._replace(factor=size)


def _subtracted(eqn: Any, ins: Sequence[Value]) -> Value | None:
    one, other = ins
    if isinstance(one, Constant) and one.number == 1.0 and isinstance(other, Monomial):
        return complement(other)
    return None


def _added(eqn: Any, ins: Sequence[Value]) -> Value | None:
    """1 + (-b), from either side."""
    for one, other in (ins, ins[::-1]):
        if isinstance(other, Monomial) and other.factor.number == -1.0:
            return _subtracted(eqn, [one, other._replace(factor=ONE)])
    return None


def _log(eqn: Any, ins: Sequence[Value]) -> Value | None:
    return log(ins[0]) if isinstance(ins[0], Monomial) else None


def _log1p(eqn: Any, ins: Sequence[Value]) -> Value | None:
    found = _added(eqn, [ONE, *ins])
    return log(found) if isinstance(found, Monomial) else None


def _product_of_all(eqn: Any, ins: Sequence[Value]) -> Value | None:
    """Of the elements along axes, or of those so far: the log is the sum of logs."""
    (value,) = ins
    if not isinstance(value, Monomial):
        return None
    factor, logs, *_ = leaves_of(value, eqn.invars[0])
    name, params = eqn.primitive.name, eqn.params
    if name == "cumprod":
        logs = lax.cumsum(logs, params["axis"], params["reverse"])
    else:
        logs = jnp.sum(logs, params["axes"])
    number = 1.0 if value.factor.number == 1.0 else None
    example = example_of(value)
    if example is not None:
        example = np.broadcast_to(example, eqn.invars[0].aval.shape)
        with jax.ensure_compile_time_eval():
            example = np.asarray(bound(eqn, [example.astype(eqn.invars[0].aval.dtype)])[0])
    base = Base(value.exponent * logs, low=min(value.base.low, 0.0), example=example)
    return Monomial(Constant(bound(eqn, [factor])[0], number), base, 1.0, name)


# --- comparisons that hold inside of the support -------------------------------------------------


def _compared(eqn: Any, ins: Sequence[Value]) -> Value | None:
    order = 0 if eqn.invars[0] is eqn.invars[1] else _order(*ins)
    if order is None or any(isinstance(value, Beyond) for value in ins):
        return None
    return _known(eqn, getattr(operator, eqn.primitive.name)(order, 0))


def _order(one: Value, other: Value) -> int | None:
    """The sign of a difference, where it is known and not zero."""
    if not isinstance(other, Constant):
        order = _order(other, one) if isinstance(one, Constant) else None
        return None if order is None else -order
    between, number = range_of(one), other.number
    if between is None or number is None or between[0] < number < between[1]:
        return None
    return 1 if number <= between[0] else -1


def _known(eqn: Any, truth: bool) -> Constant:
    return Constant(jnp.full(eqn.outvars[0].aval.shape, truth), truth)


def logical(eqn: Any, ins: Sequence[Value]) -> Value | None:
    """`and`, `or` of something that settles them."""
    settling = eqn.primitive.name == "or"
    settled = any(isinstance(v, Constant) and v.number is settling for v in ins)
    return _known(eqn, settling) if settled else None


def _clamped(eqn: Any, ins: Sequence[Value]) -> Value | None:
    """A guard against an end of a value's range, and not more than a rounding inside of it."""
    name, dtype = eqn.primitive.name, eqn.outvars[0].aval.dtype
    if name == "clamp":
        low, value, high = ins
        guards = [(low, value, "max"), (high, value, "min")]
    else:
        one, other = ins
        value = other if isinstance(one, Constant) else one
        guards = [(one if value is other else other, value, name)]
    return value if all(_guards(*guard, dtype) for guard in guards) else None


def _guards(bound: Value, value: Value, name: str, dtype: Any) -> bool:
    between, number = range_of(value), getattr(bound, "number", None)
    if between is None or number is None:
        return False
    info = jnp.finfo(dtype)
    end, number = (between[0], number) if name == "max" else (-between[1], -number)
    if np.isinf(end):
        return bool(number <= info.min)
    return bool(number <= (end + 2.0 * info.eps * abs(end) if end else info.tiny))


MOVING = (
    "broadcast_in_dim concatenate copy copy_p expand_dims reshape rev slice squeeze stack tile "
    "transpose"
)

MONOMIAL_RULES: dict[str, Callable[[Any, Sequence[Value]], Any]] = {
    **dict.fromkeys(MOVING.split(), _moved),
    **dict.fromkeys(["dynamic_slice", "gated", "gather", "split"], _at(1)),
    **dict.fromkeys(["dynamic_update_slice", "pad"], _at(2)),
    **dict.fromkeys(["eq", "ne", "lt", "le", "gt", "ge"], _compared),
    **dict.fromkeys(["and", "or"], logical),
    **dict.fromkeys(["max", "min", "clamp"], _clamped),
    **dict.fromkeys(["reduce_prod", "cumprod"], _product_of_all),
    "convert_element_type": _converted,
    "select_n": _selected,
    "mul": _multiplied,
    "div": _divided,
    "sqrt": _to_the(0.5),
    "rsqrt": _to_the(-0.5),
    "square": _to_the(2),
    "integer_pow": _integer_power,
    "pow": _power,
    "neg": _negated,
    "abs": _absolute,
    "sub": _subtracted,
    "add": _added,
    "log": _log,
    "log1p": _log1p,
}
"""What each primitive makes of values that are not all constant; None leaves it to another rule."""

IDLE = ("convert_element_type", "copy", "reshape")
"""Primitives that do nothing where type and shape stay the same."""
