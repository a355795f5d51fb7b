"""The degree of a function as a polynomial, proved from its jaxpr.

Derivatives cannot prove it: those of `abs`, of a jump or of `stop_gradient` look like the
derivatives of a polynomial, and a custom rule may say anything. So the walk goes over the function
itself, and each primitive has a row that says what becomes of degrees.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from ppl.extend import Analysis, control_flow, propagate


class Degree(NamedTuple):
    """At most `power`; or `BEYOND` two, or no polynomial, because of the primitive `through`."""

    power: int
    through: str = ""


BEYOND = 3
CONSTANT, LINEAR = Degree(0), Degree(1)
TRUE = Degree(-1)
"""Of booleans that are true at all real inputs: less than constant, in that the value is known."""
ZERO = Degree(-2)
"""Of what is known to be zero."""


def highest(degrees: Sequence[Degree]) -> Degree:
    """The degree of what may be of several; of the highest the first, which says what spoilt it."""
    return max(degrees, key=lambda degree: degree.power, default=CONSTANT)


def _transfer(eqn: Any, ins: list[Degree], scope: Any) -> list[Degree]:
    """The degrees of one equation's outputs."""
    if all(degree == CONSTANT for degree in ins):
        return [CONSTANT] * len(eqn.outvars)
    rule = RULES.get(eqn.primitive.name, _unknown)
    outs = rule(eqn, ins)
    return outs if isinstance(outs, list) else [outs] * len(eqn.outvars)


# --- arithmetic ----------------------------------------------------------------------------------


def _unknown(eqn: Any, ins: list[Degree]) -> Degree:
    """Of a primitive without a row; what spoilt its operands before is named first."""
    if max(ins) <= CONSTANT:
        return CONSTANT
    return Degree(BEYOND, next((d.through for d in ins if d.through), eqn.primitive.name))


def _linear(eqn: Any, ins: list[Degree]) -> Degree:
    """Linear in all operands at once. Indices and predicates among them are constant or spoilt."""
    return max(ins)


def _product(eqn: Any, ins: list[Degree]) -> Degree:
    if ZERO in ins:
        return ZERO
    power = sum(max(degree, CONSTANT).power for degree in ins)
    return _unknown(eqn, ins) if power >= BEYOND else Degree(power)


def _power(eqn: Any, ins: list[Degree]) -> Degree:
    exponent = eqn.params.get("y", 2)  # `square` has none
    return _product(eqn, ins * exponent) if exponent >= 0 else _unknown(eqn, ins)


def _over_constant(eqn: Any, ins: list[Degree]) -> Degree:
    return ins[0] if ins[1] <= CONSTANT else _unknown(eqn, ins)


def _solved(eqn: Any, ins: list[Degree]) -> Degree:
    return ins[1] if ins[0] <= CONSTANT else _unknown(eqn, ins)


def _solved_by_functions(eqn: Any, ins: list[Degree]) -> Degree:
    closed_over = sum(eqn.params["const_lengths"])
    constant = max(ins[:closed_over], default=CONSTANT) <= CONSTANT
    return max(ins[closed_over:]) if constant else _unknown(eqn, ins)


def _converted(eqn: Any, ins: list[Degree]) -> Degree:
    """A change of precision keeps a number, rounding to an integer does not."""
    inexact = jnp.issubdtype(eqn.params["new_dtype"], jnp.inexact)
    if inexact:
        return ins[0] if ins[0] == ZERO else max(ins[0], CONSTANT)
    return _unknown(eqn, ins)


# --- comparisons that hold for every real number, as distributions make them of their values ------


def _equal(eqn: Any, ins: list[Degree]) -> Degree:
    same = eqn.invars[0] is eqn.invars[1] and ins[0].power < BEYOND
    return TRUE if same else _unknown(eqn, ins)


def _unequal(eqn: Any, ins: list[Degree]) -> Degree:
    infinite = any(np.all(np.isinf(getattr(atom, "val", 0.0))) for atom in eqn.invars)
    return TRUE if infinite and max(ins).power < BEYOND else _unknown(eqn, ins)


def _selected(eqn: Any, ins: list[Degree]) -> Degree:
    which, *cases = ins
    return cases[1] if which == TRUE and len(cases) == 2 else max(which, CONSTANT, *cases)


# --- control flow --------------------------------------------------------------------------------


def _is_entered(form: control_flow.Form) -> bool:
    """Not those that run an unknown number of times, or whose derivatives are not their own."""
    return not isinstance(form, control_flow.While | control_flow.CustomRule)


def _decided(eqn: Any, which: Degree, ins: list[Degree], scope: Any) -> list[Degree]:
    """Branches chosen by a constant are of the degree of the highest."""
    return [TRUE if which <= CONSTANT else _unknown(eqn, ins)] * len(eqn.outvars)


DEGREES = Analysis(highest, _transfer, enters=_is_entered, decide=_decided)
"""The analysis; constants of a jaxpr are constant."""

LINEAR_PRIMITIVES = (
    "add add_any and broadcast_in_dim concatenate copy copy_p cumsum device_put dynamic_slice "
    "dynamic_update_slice expand_dims gather name neg optimization_barrier pad reduce_and "
    "reduce_sum reduce_window_sum reshape rev scatter scatter-add sharding_constraint slice split "
    "squeeze stack sub tile transpose"
)

RULES: dict[str, Callable[[Any, list[Degree]], Degree | list[Degree]]] = {
    **dict.fromkeys(LINEAR_PRIMITIVES.split(), _linear),
    **dict.fromkeys(["mul", "dot_general", "conv_general_dilated"], _product),
    **dict.fromkeys(["square", "integer_pow"], _power),
    "convert_element_type": _converted,
    "div": _over_constant,
    "eq": _equal,
    "gated": _over_constant,
    "ne": _unequal,
    "select_n": _selected,
    "triangular_solve": _solved,
    "custom_linear_solve": _solved_by_functions,
}
"""What each primitive makes of degrees, where these are not all zero; no others are polynomials.

Functions with derivative rules of their own are left out: evidence comes from their derivatives.
"""


def degree_in(jaxpr: Any, names: Sequence[str]) -> Callable[[Sequence[str]], Degree]:
    """The degree of a scalar in some of its named inputs, the others held constant."""

    def of(varying: Sequence[str]) -> Degree:
        return propagate(
            DEGREES, jaxpr, [LINEAR if name in varying else CONSTANT for name in names]
        )[0]

    return of


def culprits(
    of: Callable[[Sequence[str]], Degree], names: Sequence[str], fits: Callable[[Degree], bool]
) -> tuple[list[str], Degree]:
    """A least set of a scalar's inputs in which its degree does not fit, and that degree.

    Other inputs are held constant meanwhile. The set is empty where the degree in all of them fits.
    """
    degree = of(names)
    if fits(degree):
        return [], degree
    kept = list(names)
    for name in names:
        fewer = [other for other in kept if other != name]
        if not fits(of(fewer)):
            kept = fewer
    return kept, of(kept)
