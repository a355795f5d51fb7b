"""Evaluating an objective's jaxpr once, over named particle axes and perturbed worlds."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..._ir.fresh_key import keys_of
from ..._jax import equations
from ..._jax.control_flow import Call, Loop, form, rule_of
from ..._jax.run import run
from ..._walk.feed import Feed, Nothing
from ..._walk.walker import placed_sites, unsupported
from ...errors import UnsuitableEstimator
from ..sites.control_variate import control_variate
from ..sites.gating import gate
from ..sites.own_lane import Environment
from ..sites.sample import sample
from ..terms.linear import linear_rule, tail
from ..terms.terms import Operand, addends, collapse, scalar
from ..values.constants import constants, lookup, uniform
from ..values.slices import mix_slices
from ..values.value import Value, union_sites
from ..values.vanishing import constant, unbounded
from .control_flow import CONTROL_FLOW
from .evaluation import Evaluation
from .scan import scan, steps_meet


def evaluate(
    jaxpr: Any,
    consts: Sequence[Any],
    args: Sequence[Operand],
    keys: Feed,
    evaluation: Evaluation,
    wanted: Sequence[bool] | None = None,
) -> list[Operand]:
    """The outputs of a jaxpr; those `wanted` as additive terms are kept apart where they can be."""
    wanted = wanted or [False] * len(jaxpr.outvars)
    kept = tail(jaxpr, wanted, [union_sites(addends(arg)) != 0 for arg in args])
    feeds = iter(keys.split(sum(map(equations.has_sites, jaxpr.eqns))))
    env: dict = {}

    def step(eqn, operands):
        operands = [scalar(operand) for operand in operands]
        found, sited = form(eqn), equations.has_sites(eqn)
        apart = [v in kept for v in eqn.outvars]
        weighted = sited or union_sites(v for o in operands for v in addends(o))
        if isinstance(found, Call) and weighted:
            feed = next(feeds) if sited else Nothing()
            return evaluate(*found.body, operands, feed, evaluation.calling(eqn), apart)
        rule = linear_rule(eqn) if any(apart) else None
        if rule is not None:
            return [rule(eqn, operands, evaluation)]
        vals = [collapse(operand, evaluation) for operand in operands]
        if sited or isinstance(found, Loop):
            vals = [mix_slices(evaluation, val) for val in vals]
        if not sited:
            if isinstance(found, Loop) and steps_meet(found, vals):
                return scan(found, vals, Nothing(), evaluation, apart)
            return apply_equation(eqn, vals, evaluation)
        feed = next(feeds)
        if equations.kind(eqn) == "control_variate":
            return control_variate(eqn, vals, Environment(jaxpr, env), evaluation)
        if isinstance(found, Loop):
            return scan(found, vals, feed, evaluation, apart)
        rule = rule_of(eqn, RULES)
        if rule is None:
            raise unsupported(eqn, next(placed_sites(eqn), None))
        return rule(vals, feed, evaluation)

    def step_noted(eqn, operands):
        outs = step(eqn, operands)
        env.update(zip(eqn.outvars, outs, strict=True))
        return outs

    has_control = any(equations.kind(eqn) == "control_variate" for eqn in jaxpr.eqns)
    if has_control:
        env.update(zip(jaxpr.invars, args, strict=True))
        env.update(zip(jaxpr.constvars, map(constant, consts), strict=True))
    taken = step_noted if has_control else step
    return [scalar(out) for out in run(jaxpr, [constant(c) for c in consts], args, taken)]


def apply_equation(eqn: Any, vals: Sequence[Value], evaluation: Evaluation) -> list[Value]:
    """An equation without sites, mapped over just the axes of its inputs."""
    if not union_sites(vals):
        outs, infinite = equations.bind(eqn, [val.array for val in vals]), unbounded(eqn, vals)
        return [Value(out, unbounded=infinite) for out in outs]
    if equations.kind(eqn) == "gated":
        return gate(eqn, vals, evaluation)
    looked_up = lookup(eqn, vals, evaluation)
    if looked_up is not None:
        return [looked_up]
    outs = evaluation.bind(eqn, vals)
    known = constants(eqn, vals)
    if known is not None:
        return [outs[0]._replace(known=known)]
    return [uniform(eqn, vals, outs[0])] if len(outs) == 1 else outs


def _fresh_key(eqn, vals, keys, evaluation):
    """One key for all particles: they share the noise that comes after them."""
    if evaluation.all_exact:
        raise UnsuitableEstimator(
            "ppl.log_expectation draws nothing, but the program draws from ppl.fresh_key() at "
            f"{eqn.params['where']}. Use ppl.expectation, or give the program its noise."
        )
    return [Value(keys_of(keys.key, eqn.params["lanes"], eqn.params["impl"]))]


RULES: Mapping[Any, Callable] = {
    "sample": sample,
    "fresh_key": _fresh_key,
    **CONTROL_FLOW,
}
"""Rules `(equation or form, vals, keys, evaluation) -> vals` for equations with sites."""
