"""A function of hidden choices rewritten as one of their statistics, and proved affine in them.

The statistics, such as log u and log(1 - u), are variables of their own. The walk goes over the
function's jaxpr once: monomials stay monomials, their logs and values become statistics, and the
rest must be of degree one in these. Comparisons are those that hold inside of the support. Guards
against its ends, as distributions clip a probability or a log, are left out where they change no
more than a rounding does. Functions with derivative rules of their own are taken by their bodies,
where they read hidden choices: derivatives are those of the rewritten function.
"""

import operator
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import numpy as np
from jax import lax
from jax.scipy.special import xlogy

from ppl.extend import control_flow, fixed_point, propagate_through, run

from ._degree import DEGREES, Degree, highest
from ._monomial import Affine, Beyond, Constant, Monomial, Value, degree_of, plain, value_of
from ._monomial_rules import (
    MONOMIAL_RULES,
    MOVING,
    bound,
    leaves_of,
    logical,
    shaped,
    sum_to_one,
    with_leaves,
)


def evaluate(jaxpr: Any, consts: Sequence[Any], inputs: Sequence[Value]) -> list[Value]:
    """The outputs of a jaxpr, as functions of the statistics that its inputs are given by."""
    return run(jaxpr, list(map(Constant, consts)), inputs, _outputs, _literal)


def _literal(atom: Any) -> Constant:
    if atom.aval.shape != ():
        return Constant(atom.val)
    number = np.asarray(atom.val, atom.aval.dtype)[()]
    return Constant(number, number.item())


def _outputs(eqn: Any, ins: list[Value]) -> list[Value]:
    constant = all(isinstance(value, Constant) for value in ins)
    rule = control_flow.rule_of(eqn, OF_CONSTANTS if constant else RULES)
    found = None if rule is None else rule(ins)
    if found is None:
        return _constants(eqn, ins) if constant else _plainly(eqn, ins)
    outs = found if isinstance(found, list) else [found]
    return [_fitted(value, atom) for value, atom in zip(outs, eqn.outvars, strict=True)]


def _fitted(value: Value, atom: Any) -> Value:
    """A value whose array has its shape: monomials are spread out where they are read."""
    if isinstance(value, Constant | Affine):
        return value._replace(array=shaped(value.array, atom))
    return value


def _constants(eqn: Any, ins: Sequence[Any]) -> list[Value]:
    outs = bound(eqn, [value.array for value in ins])
    name, numbers = eqn.primitive.name, [value.number for value in ins]
    if not ins or len(outs) > 1 or None in numbers:
        return [Constant(out) for out in outs]
    number = None
    if name in FOLDED:
        number = FOLDED[name](*numbers)
    elif name in (*MOVING.split(), "convert_element_type") and len(set(numbers)) == 1:
        number = np.asarray(numbers[0], outs[0].dtype).item()
    return [Constant(outs[0], number)]


def _plainly(eqn: Any, ins: Sequence[Value]) -> list[Value]:
    """By the rules for degrees, where statistics go in as linear and others do not come out."""
    values = [plain(value, eqn.primitive.name) for value in ins]
    found = propagate_through(DEGREES, eqn, [degree_of(value) for value in values])
    found = [_at_most_linear(eqn, degree) for degree in found]
    known = [value for value in values if not isinstance(value, Beyond)]
    if len(known) < len(values):
        return [next(value for value in values if isinstance(value, Beyond))] * len(found)
    operands = [shaped(v.array, atom) for v, atom in zip(known, eqn.invars, strict=True)]
    return list(map(value_of, found, bound(eqn, operands)))


def _at_most_linear(eqn: Any, degree: Degree) -> Degree:
    if degree.power < 2:
        return degree
    return degree._replace(through=degree.through or eqn.primitive.name)


# --- control flow --------------------------------------------------------------------------------


def _call(call: control_flow.CallLike, ins: Sequence[Value]) -> list[Value] | None:
    rule = NAMED.get(call.eqn.params.get("name"))
    return evaluate(*call.body, ins) if rule is None else rule(call.eqn, ins)


def _on_paper(fn: Callable) -> Callable[[Any, Sequence[Value]], list[Value]]:
    """A rule that puts another form of a function in its place."""

    def rule(eqn, ins):
        like = [jax.ShapeDtypeStruct(atom.aval.shape, atom.aval.dtype) for atom in eqn.invars]
        closed = jax.make_jaxpr(fn)(*like)
        return evaluate(closed.jaxpr, closed.consts, ins)

    return rule


def _normalized(eqn: Any, ins: Sequence[Value]) -> list[Value] | None:
    """Numbers divided by their sum, where that is one."""
    (value,) = ins
    if not isinstance(value, Monomial) or not value.factor.number == value.exponent == 1.0:
        return None
    return [value] if sum_to_one(value.base.example) else None


def _branches(branches: control_flow.Branches, ins: Sequence[Value]) -> list[Value] | None:
    which, operands = branches.split(ins)
    eqn, bodies = branches.eqn, branches.bodies
    if not isinstance(which, Constant):
        return None
    if which.number is not None:
        return evaluate(*bodies[int(which.number)], operands)
    found: list[list[Degree]] = []

    def branch(i: int):
        degrees, arrays = _flat(eqn, evaluate(*bodies[i], operands), eqn.outvars)
        found.append(degrees)
        return arrays

    arrays = lax.switch(which.array, [partial(branch, i) for i in range(len(bodies))])
    return [value_of(highest(ds), x) for *ds, x in zip(*found, arrays, strict=True)]


def _flat(eqn: Any, values: Sequence[Value], atoms: Any) -> tuple[list[Degree], list[jax.Array]]:
    """Values as degrees, and arrays: zeros for those of which there is none."""
    values = [plain(value, eqn.primitive.name) for value in values]
    arrays = [0.0 if isinstance(value, Beyond) else value.array for value in values]
    arrays = [shaped(x, atom) for x, atom in zip(arrays, atoms, strict=True)]
    return [degree_of(value) for value in values], arrays


def _loop(loop: control_flow.Loop, ins: Sequence[Value]) -> list[Value]:
    """Degrees of the carry only grow from step to step: run to their fixed point."""
    consts, init, xs = loop.split(ins)
    _, at_start, scanned = loop.split(loop.eqn.invars)
    degrees, start = _flat(loop.eqn, init, at_start)
    slices = [_sliced(*pair) for pair in zip(xs, scanned, strict=True)]

    def over(degrees: list[Degree], found: list[Degree]) -> list[Any]:
        def step(state, arrays):
            carry = map(value_of, degrees, state)
            values = [rebuild(xs) for (_, rebuild), xs in zip(slices, arrays, strict=True)]
            outs = evaluate(*loop.body, [*consts, *carry, *values])
            found[:], outs = _flat(loop.eqn, outs, loop.body.jaxpr.outvars)
            return loop.split_outputs(outs)

        state, outs = loop.scan(step, start, [xs for xs, _ in slices])
        return [*state, *outs]

    def once(degrees):
        found: list[Degree] = []
        jax.eval_shape(lambda: over(degrees, found))
        return [highest(pair) for pair in zip(degrees, found, strict=False)], found

    degrees, found = fixed_point(degrees, once)
    if not loop.length:  # no step was taken: the carry is what it was
        found[: loop.num_carry] = degrees
    return list(map(value_of, found, over(degrees, [])))


def _sliced(value: Value, atom: Any) -> tuple[Any, Callable[[Any], Value]]:
    """The arrays of a value that a loop goes over, and what makes a value of a slice of them."""
    if isinstance(value, Monomial):
        return leaves_of(value, atom), lambda leaves: with_leaves(value, leaves)
    if isinstance(value, Beyond):
        return None, lambda _: value
    return shaped(value.array, atom), lambda x: value._replace(array=x)


NAMED: dict[str, Callable[[Any, Sequence[Value]], Any]] = {
    "ppl.deviance": _on_paper(lambda x, mean, _: xlogy(x, x) - xlogy(x, mean) - x + mean),
    "ppl.split_deviance": _on_paper(lambda x, mean, _: xlogy(x, x) - xlogy(x, mean)),
    "ppl.simplex_deviance": _on_paper(lambda x, mean, _: xlogy(x, x) - xlogy(x, mean)),
    "ppl.normalized": _normalized,
}
"""Functions of densities, by name, whose bodies are written for precision."""

RULES: dict[Any, Callable[[Any, Sequence[Value]], Any]] = {
    **MONOMIAL_RULES,
    control_flow.Call: _call,
    control_flow.Checkpoint: _call,
    control_flow.CustomRule: _call,
    control_flow.Branches: _branches,
    control_flow.Loop: _loop,
}
"""What each primitive or form makes of values that are not all constant.

None, or no rule, leaves it to the rules for degrees.
"""

OF_CONSTANTS: dict[Any, Callable] = dict.fromkeys(("and", "or"), logical)
"""What there is to say of constants, beyond what they are computed to."""

OPERATORS = "neg add sub mul eq ne lt le gt ge"
FOLDED: dict[str, Callable] = {
    **{name: getattr(operator, name) for name in OPERATORS.split()},
    "and": operator.and_,
    "or": operator.or_,
    "not": lambda x: not x if isinstance(x, bool) else ~x,
    "clamp": lambda low, x, high: max(low, min(x, high)),
    "select_n": lambda which, *cases: cases[int(which)],
}
"""What becomes of numbers that are known when traced."""
