"""Monomials c·bᵏ of positive numbers b whose log, and perhaps value, are given as statistics."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from ._degree import BEYOND, CONSTANT, LINEAR, TRUE, Degree


class Constant(NamedTuple):
    """Of data and parameters alone; `number` where all elements are known to be that."""

    array: Any
    number: float | None = None


class Affine(NamedTuple):
    """An affine function of the statistics; they are finite."""

    array: Any


class Beyond(NamedTuple):
    """No affine function of the statistics, because of the primitive `through`."""

    through: str


class Base(NamedTuple):
    """A number b, by what is known of it: log b, b, 1/b, log(1 - b), each affine; low < b < high.

    The inequalities hold where log b is finite. `example` is what b may be, as constants: what is
    true of arbitrary ones, such as that they sum to one, is true of all. None where it is not kept.
    """

    log: Any
    itself: Any = None
    inverse: Any = None
    complement: Any = None
    low: float = 0.0
    high: float = math.inf
    example: Any = None


class Monomial(NamedTuple):
    """c·bᵏ, for a constant c and a number k; `through` is the primitive that gave it that k."""

    factor: Constant
    base: Base
    exponent: float = 1.0
    through: str = ""


Value: TypeAlias = Constant | Affine | Beyond | Monomial
ONE = Constant(1.0, 1.0)


# --- what they are worth -------------------------------------------------------------------------


def degree_of(value: Value) -> Degree:
    """As a polynomial in the statistics."""
    if isinstance(value, Constant):
        return CONSTANT
    return Degree(BEYOND, value.through) if isinstance(value, Beyond) else LINEAR


def value_of(degree: Degree, array: Any) -> Value:
    """An array of which nothing is known but its degree."""
    if degree == TRUE:
        return Constant(array, True)
    if degree <= CONSTANT:
        return Constant(array)
    return Affine(array) if degree.power == 1 else Beyond(degree.through)


def plain(value: Value, reader: str) -> Constant | Affine | Beyond:
    """What a value is worth to a primitive that reads it linearly."""
    if not isinstance(value, Monomial):
        return value
    known = {1.0: value.base.itself, -1.0: value.base.inverse}.get(value.exponent)
    return Beyond(value.through or reader) if known is None else Affine(scaled(value.factor, known))


def scaled(factor: Constant, array: Any) -> Any:
    """A product with a constant, left out where it is known to be one."""
    return array if factor.number == 1.0 else factor.array * array


def log(value: Monomial) -> Affine:
    """The log of c·bᵏ: log c + k·log b."""
    logs = value.exponent * value.base.log
    return Affine(logs if value.factor.number == 1.0 else logs + jnp.log(value.factor.array))


def range_of(value: Value) -> tuple[float, float] | None:
    """Numbers that a value lies strictly between."""
    if isinstance(value, Affine):
        return -math.inf, math.inf
    if not isinstance(value, Monomial) or not value.factor.number or value.base.low < 0.0:
        return None
    ends = [_to_the(end, value.exponent) for end in (value.base.low, value.base.high)]
    low, high = sorted(value.factor.number * end for end in ends)
    return low, high


def _to_the(end: float, exponent: float) -> float:
    return math.inf if end == 0.0 and exponent < 0.0 else end**exponent


# --- arithmetic ----------------------------------------------------------------------------------


def times(one: Constant, other: Constant) -> Constant:
    """The product of constants."""
    if one.number == 1.0 or other.number == 1.0:
        return other if one.number == 1.0 else one
    array = one.array * other.array
    if one.number is None or other.number is None:
        return Constant(array)
    return Constant(array, one.number * other.number)


def product(one: Monomial | Constant, other: Monomial | Constant, through: str) -> Value:
    """The product of monomials; of different numbers, it is one of which the log is known."""
    if isinstance(one, Constant) or isinstance(other, Constant):
        constant, monomial = (one, other) if isinstance(one, Constant) else (other, one)
        assert isinstance(constant, Constant)
        if isinstance(monomial, Constant):
            return times(constant, monomial)
        return monomial._replace(factor=times(constant, monomial.factor))
    factor = times(one.factor, other.factor)
    if one.base is not other.base:
        logs = one.exponent * one.base.log + other.exponent * other.base.log
        low = min(one.base.low, other.base.low, 0.0)
        examples = example_of(one), example_of(other)
        known = all(example is not None for example in examples)
        example = examples[0] * examples[1] if known else None
        return Monomial(factor, Base(logs, low=low, example=example), 1.0, through)
    exponent = one.exponent + other.exponent
    return Monomial(factor, one.base, exponent, through) if exponent else factor


def example_of(value: Monomial) -> Any:
    """An example of bᵏ."""
    example = value.base.example
    return None if example is None else example**value.exponent


def power(value: Monomial | Constant, exponent: Constant, through: str) -> Value:
    """(c·bᵏ)^y; where y is not known when traced, of the result the log is."""
    if isinstance(value, Constant):
        return Constant(value.array**exponent.array, 1.0 if value.number == 1.0 else None)
    one = value.factor.number == 1.0
    factor = ONE if one else Constant(value.factor.array**exponent.array)
    if exponent.number is None:
        logs = value.exponent * exponent.array * value.base.log
        return Monomial(factor, Base(logs, low=min(value.base.low, 0.0)), 1.0, through)
    if exponent.number == 0.0:
        return factor
    return value._replace(factor=factor, exponent=value.exponent * exponent.number, through=through)


def complement(value: Monomial) -> Monomial | None:
    """1 - b, where its log is known."""
    plainly = value.factor.number == 1.0 and value.exponent == 1.0
    if not plainly or value.base.complement is None:
        return None
    known = value.base
    low, high = 1.0 - known.high, 1.0 - known.low
    example = None if known.example is None else 1.0 - known.example
    found = Base(known.complement, complement=known.log, low=low, high=high, example=example)
    return Monomial(ONE, found)


def alike(values: Sequence[Monomial | Constant]) -> list[Monomial]:
    """Values as monomials of one exponent, of which the same things are known: to be one array."""
    monomials = [value for value in values if isinstance(value, Monomial)]
    exponents = {value.exponent for value in monomials}
    exponent = exponents.pop() if len(exponents) == 1 else None
    through = next((value.through for value in monomials if value.through), "")
    found = [_of_exponent(value, exponent, through) for value in values]
    low, high = min(m.base.low for m in found), max(m.base.high for m in found)
    kept: dict[str, Any] = {"low": low, "high": high}
    for name in ("itself", "inverse", "complement"):
        if any(getattr(m.base, name) is None for m in found):
            kept[name] = None
    return [m._replace(base=m.base._replace(**kept)) for m in found]


def _of_exponent(value: Monomial | Constant, exponent: float | None, through: str) -> Monomial:
    """A value as a monomial of an exponent; of any, with nothing known but the log, for None."""
    if isinstance(value, Constant):
        if exponent in (None, 1.0):
            return Monomial(ONE, _base_of(value), 1.0, through)
        ones = jnp.ones_like(value.array)
        return Monomial(value, Base(jnp.zeros_like(ones), ones, ones), exponent or 1.0, through)
    if exponent is not None:
        return value
    only_log = Base(value.exponent * value.base.log, low=min(value.base.low, 0.0))
    return Monomial(value.factor, only_log, 1.0, through)


def _base_of(value: Constant) -> Base:
    """A constant, which may be zero or one, as if it were one of the numbers."""
    c, number = value.array, value.number
    positive = number is not None and number > 0.0
    below_one = number is not None and number < 1.0
    low, high = 0.0 if positive else -math.inf, 1.0 if below_one else math.inf
    example = None if isinstance(c, Tracer) else np.asarray(c)
    if number is not None:
        example = np.full(jnp.shape(c), number)
    return Base(jnp.log(c), jnp.asarray(c), 1.0 / c, jnp.log1p(-c), low, high, example)
