"""`scan` with sites inside, or over the particles of sites that were in one.

The steps are lanes: their sites' weights and particles stay apart, step by step. What is carried
depends on the steps before; where it holds particles of the step that made it, the next step's body
is evaluated over those and its own.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from ..._jax import equations, source
from ..._walk.walker import placed_sites
from ...errors import TooManyJointStates
from ..sites.measure import kinds_within
from ..sites.runs import open_runs, shared_runs
from ..terms.terms import body_values
from ..values.lanes import joined, moved
from ..values.value import Val
from .context import Context
from .steps import Steps

UNROLLED_STEPS = 64
"""The most steps of a loop that are written out."""


def steps_meet(eqn: Any, vals: Sequence[Val]) -> bool:
    """Whether a scan goes along the steps of particles of another one."""
    _, _, xs = equations.scan_split(eqn, vals)
    return any(
        along is not None and along.dim == 0
        for x in xs
        for axis in x.axes
        for along in x.lanes.get(axis.site, ())
    )


def scan(eqn: Any, vals: Sequence[Val], keys: Any, context: Context) -> list[Val]:
    """The rule of a `scan` equation."""
    if eqn.params["length"] == 0:
        return _no_steps(eqn, vals)
    jaxpr, _ = equations.body_of(eqn)
    kinds = kinds_within(jaxpr, context.allow_biased)
    perturbed = any(kind.perturbed for kind in kinds)
    shared = [kind for kind in kinds if kind.shared is not None]
    several = any(kind.particles > 1 and kind.shared is None for kind in kinds)
    unknown = any(kind.constants is None for kind in shared)
    if id(eqn) in context.written_out or perturbed or unknown or (several and context.loops):
        return _written_out(eqn, vals, keys, context)
    for kind in shared:
        if shared_runs(context, kind) is None:
            open_runs(context, Val(jnp.asarray(kind.constants)), kind)
    return Steps(eqn, vals, keys, context).outputs()


def _no_steps(eqn: Any, vals: Sequence[Val]) -> list[Val]:
    """What a loop of no steps leaves: the carry as it came, and outputs without elements."""
    _, carry, _ = equations.scan_split(eqn, vals)
    avals = [v.aval for v in eqn.outvars[len(carry) :]]
    return [*carry, *(Val(jnp.zeros(aval.shape, aval.dtype)) for aval in avals)]


# --- written out ---------------------------------------------------------------------------------


def _written_out(eqn: Any, vals: Sequence[Val], keys: Any, context: Context) -> list[Val]:
    """Step after step, each site of each step a site of its own."""
    jaxpr, closed = equations.body_of(eqn)
    length = eqn.params["length"]
    if length > UNROLLED_STEPS:
        raise too_long(eqn)
    consts, carry, xs = equations.scan_split(eqn, vals)
    feeds = keys.steps((), length)
    ys: list = [None] * length
    for t in reversed(range(length)) if eqn.params["reverse"] else range(length):
        now = [_slice(x, t, context) for x in xs]
        feed = jax.tree.map(lambda k, t=t: k[t], feeds)
        outs = body_values(context, jaxpr, closed, [*consts, *carry, *now], feed)
        carry, ys[t] = outs[: len(carry)], outs[len(carry) :]
    return [*carry, *(_pile(eqn, column, context) for column in zip(*ys, strict=True))]


def too_long(eqn: Any) -> TooManyJointStates:
    """The error for a loop that would have to be written out."""
    placed = next(placed_sites(equations.body_of(eqn)[0]), None)
    length = eqn.params["length"]
    named = (
        f"Site {placed.site.address!r} at {placed.site.where} has several particles in each of"
        if placed
        else f"The scan at {source.source_line(eqn)} reads a site of several particles in"
    )
    return TooManyJointStates(
        f"{named} {length} scan steps, and what it carries, or what is made of it, depends on "
        "more than one step's particles; such loops are written out, of at most "
        f"{UNROLLED_STEPS} steps. "
        "Carry the state alone (costs as stacked outputs), use a one-particle estimator for it "
        "(ppl.ScoreFunction()), or a shorter loop."
    )


def _slice(val: Val, t: int, context: Context) -> Val:
    def through(deps):
        return [moved(dep, lambda d: d - 1 if d else None) for dep in deps]

    return context.apply(lambda x: [x[t]], [val], through)[0]


def _pile(eqn: Any, column: Sequence[Val], context: Context) -> Val:
    def through(deps):
        return [joined([moved(dep, lambda d: d + 1) for dep in deps])]

    return context.apply(lambda *arrays: [jnp.stack(arrays)], column, through, eqn)[0]
