"""`scan` with sites inside, or over the particles of sites that were in one.

The steps are lanes: their sites' weights and particles stay apart, step by step. What is carried
depends on the steps before; where it holds particles of the step that made it, the next step's body
is evaluated over those and its own.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from ..._jax import source
from ..._jax.control_flow import Loop, form
from ..._walk.walker import placed_sites
from ...errors import TooManyJointStates
from ..sites.coupled import coupled_axis, open_coupled
from ..sites.measure import kinds_within
from ..terms.terms import Operand, Terms, body_operands, terms_of
from ..values.expansion import MixedSteps
from ..values.lanes import deps_of, join, move
from ..values.value import Value, each_array
from .control_flow import TakenWhole
from .evaluation import Evaluation
from .steps import steps_at_once

UNROLLED_STEPS = 64
"""The most steps of a loop that are written out."""


def steps_meet(loop: Loop, vals: Sequence[Value]) -> bool:
    """Whether a scan goes along the steps of particles of another one."""
    _, _, xs = loop.split(vals)
    return any(
        along is not None and along.dim == 0
        for x in xs
        for axis in x.axes
        for along in x.relations.get(axis.site, ())
    )


def scan(
    loop: Loop, vals: Sequence[Value], keys: Any, evaluation: Evaluation, apart: Sequence[bool]
) -> list[Operand]:
    """The rule of a `scan` equation; `apart` says of which outputs the terms are kept apart."""
    _, stacked = loop.split_outputs(apart)
    if loop.length == 0:
        return _no_steps(loop, vals)
    kinds = kinds_within(loop.body.jaxpr, evaluation.allow_biased)
    perturbed = any(kind.perturbed for kind in kinds)
    shared = [kind for kind in kinds if kind.shared is not None]
    several = any(
        kind.particles > 1 and kind.shared is None and not kind.perturbed for kind in kinds
    )
    unknown = any(kind.constants is None for kind in shared)
    scope = evaluation.scope
    if id(loop.eqn) in scope.written_out or unknown or (several and scope.loops):
        return _write_out(loop, vals, keys, evaluation, stacked)
    for kind in shared:
        if coupled_axis(evaluation, kind) is None:
            open_coupled(evaluation, Value(jnp.asarray(kind.constants)), kind)
    try:
        return steps_at_once(loop, vals, keys, evaluation, stacked, perturbed)
    except TakenWhole:
        if scope.loops:
            raise
        return scan(loop, vals, keys, evaluation, apart)
    except MixedSteps as found:
        if all(other.eqn is not loop.eqn for other in found.loops):
            raise
    return _write_out(loop, vals, keys, evaluation, stacked)


def _no_steps(loop: Loop, vals: Sequence[Value]) -> list[Operand]:
    """What a loop of no steps leaves: the carry as it came, and outputs without elements."""
    _, carry, _ = loop.split(vals)
    avals = [v.aval for v in loop.eqn.outvars[len(carry) :]]
    return [*carry, *(Value(jnp.zeros(aval.shape, aval.dtype)) for aval in avals)]


# --- written out ---------------------------------------------------------------------------------


def _write_out(
    loop: Loop, vals: Sequence[Value], keys: Any, evaluation: Evaluation, apart: Sequence[bool]
) -> list[Operand]:
    """Step after step, each site of each step a site of its own."""
    length = loop.length
    if length > UNROLLED_STEPS:
        raise too_long(loop.eqn)
    consts, carry, xs = loop.split(vals)
    feeds = keys.steps((), length)
    ys: list = [None] * length
    wanted = [*(False for _ in carry), *apart]
    for t in reversed(range(length)) if loop.reverse else range(length):
        now = [_slice(x, t, evaluation) for x in xs]
        feed = jax.tree.map(lambda k, t=t: k[t], feeds)
        outs = body_operands(evaluation, loop.body, [*consts, *carry, *now], feed, wanted)
        carry, ys[t] = loop.split_outputs(outs)
    columns = zip(zip(*ys, strict=True), apart, strict=True)
    pile = partial(_pile, loop.eqn, evaluation=evaluation)
    return [*carry, *(_pile_terms(ys) if a else pile(ys) for ys, a in columns)]


def too_long(eqn: Any) -> TooManyJointStates:
    """The error for a loop that would have to be written out."""
    placed, loop = next(placed_sites(eqn), None), form(eqn)
    assert isinstance(loop, Loop)
    named = (
        f"Site {placed.site.address!r} at {placed.site.where} has several particles in each of"
        if placed
        else f"The scan at {source.source_line(eqn)} reads a site of several particles in"
    )
    return TooManyJointStates(
        f"{named} {loop.length} scan steps, and what it carries, or what is made of it, depends on "
        "more than one step's particles; such loops are written out, of at most "
        f"{UNROLLED_STEPS} steps. "
        "Carry the state alone (costs as stacked outputs), use a one-particle estimator for it "
        "(ppl.ScoreFunction()), or a shorter loop."
    )


def _slice(val: Value, t: int, evaluation: Evaluation) -> Value:
    def through(deps):
        return [move(dep, lambda d: d - 1 if d else None) for dep in deps]

    return evaluation.apply(lambda x: [x[t]], [val], through)[0]


def _pile_terms(column: Sequence[Operand]) -> Terms:
    """The terms of all the steps, each of which adds nothing to the others."""

    def at(t, term):
        dim = term.lanes_to_sum

        def padded(array, axes):
            array, place = jnp.asarray(array), len(axes) + dim
            widths = [(0, 0)] * (array.ndim + 1)
            widths[place] = (t, len(column) - t - 1)
            return jnp.pad(jnp.expand_dims(array, place), widths)

        deps = move(deps_of(term.val), lambda d: d + 1 if d >= dim else d)
        return term._replace(val=each_array(padded, term.val)._replace(relations=deps.relations))

    return Terms(at(t, term) for t, y in enumerate(column) for term in terms_of(y))


def _pile(eqn: Any, column: Sequence[Value], evaluation: Evaluation) -> Value:
    def through(deps):
        return [join([move(dep, lambda d: d + 1) for dep in deps])]

    return evaluation.apply(lambda *arrays: [jnp.stack(arrays)], column, through, eqn)[0]
