"""The degree of a function as a polynomial, proved from its jaxpr.

Derivatives cannot prove it: those of `abs`, of a jump or of `stop_gradient` look like the
derivatives of a polynomial, and a custom rule may say anything. So the walk goes over the function
itself, and each primitive has a row that says what becomes of degrees.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np


class Degree(NamedTuple):
    """At most `power`; or `BEYOND` two, or no polynomial, because of the primitive `through`."""

    power: int
    through: str = ""


BEYOND = 3
CONSTANT, LINEAR = Degree(0), Degree(1)
TRUE = Degree(-1)
"""Of booleans that are true at all real inputs: less than constant, in that the value is known."""


def degrees(jaxpr: Any, inputs: Sequence[Degree]) -> list[Degree]:
    """The degrees of a jaxpr's outputs, from those of its inputs; its constants are constant."""
    known = dict(zip(jaxpr.invars, inputs, strict=True))

    def of(atom: Any) -> Degree:
        return CONSTANT if hasattr(atom, "val") else known.get(atom, CONSTANT)

    for eqn in jaxpr.eqns:
        ins = [of(atom) for atom in eqn.invars]
        known.update(zip(eqn.outvars, outputs(eqn, ins), strict=True))
    return [of(atom) for atom in jaxpr.outvars]


def outputs(eqn: Any, ins: list[Degree]) -> list[Degree]:
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
    return max(ins[0], CONSTANT) if inexact else _unknown(eqn, ins)


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


def _call(eqn: Any, ins: list[Degree]) -> list[Degree]:
    body = eqn.params.get("jaxpr", eqn.params.get("call_jaxpr"))
    return degrees(getattr(body, "jaxpr", body), ins)


def _branches(eqn: Any, ins: list[Degree]) -> list[Degree]:
    which, *operands = ins
    if which > CONSTANT:
        return [_unknown(eqn, ins)] * len(eqn.outvars)
    found = [degrees(branch.jaxpr, operands) for branch in eqn.params["branches"]]
    return [max(outs) for outs in zip(*found, strict=True)]


def _loop(eqn: Any, ins: list[Degree]) -> list[Degree]:
    """Degrees of the carry only grow from step to step: run to their fixed point.

    What is scanned over, and what is stacked, has one axis more outside of the body than in it.
    """
    body = eqn.params["jaxpr"].jaxpr
    carried = len(body.outvars) - stacked(eqn.outvars, body.outvars)
    first = len(body.invars) - stacked(eqn.invars, body.invars) - carried
    carry = ins[first : first + carried]
    while True:
        outs = degrees(body, [*ins[:first], *carry, *ins[first + carried :]])
        grown = [max(pair) for pair in zip(carry, outs[:carried], strict=True)]
        if grown == carry:
            return outs
        carry = grown


def stacked(outside: Sequence[Any], inside: Sequence[Any]) -> int:
    """How many values of a loop have one axis more outside of its body than in it."""
    pairs = zip(outside, inside, strict=True)
    return sum(len(a.aval.shape) != len(b.aval.shape) for a, b in pairs)


LINEAR_PRIMITIVES = (
    "add add_any and broadcast_in_dim concatenate copy copy_p cumsum device_put dynamic_slice "
    "dynamic_update_slice expand_dims gather name neg optimization_barrier pad reduce_and "
    "reduce_sum reduce_window_sum reshape rev scatter scatter-add sharding_constraint slice split "
    "squeeze sub transpose"
)
CALLS = "checkpoint closed_call core_call jit pjit remat remat2"

RULES: dict[str, Callable[[Any, list[Degree]], Degree | list[Degree]]] = {
    **dict.fromkeys(LINEAR_PRIMITIVES.split(), _linear),
    **dict.fromkeys(CALLS.split(), _call),
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
    "cond": _branches,
    "scan": _loop,
}
"""What each primitive makes of degrees, where these are not all zero; no others are polynomials.

Functions with derivative rules of their own are left out: evidence comes from their derivatives.
"""


def degree_in(jaxpr: Any, names: Sequence[str]) -> Callable[[Sequence[str]], Degree]:
    """The degree of a scalar in some of its named inputs, the others held constant."""

    def of(varying: Sequence[str]) -> Degree:
        return degrees(jaxpr, [LINEAR if name in varying else CONSTANT for name in names])[0]

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
