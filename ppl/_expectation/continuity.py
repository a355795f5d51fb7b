"""Where a reparameterised value jumps: derivatives along its path do not see the jump."""

import warnings
from typing import Any, NamedTuple

import jax.numpy as jnp

from .. import _internals as internals
from .._dataflow import flow, merged
from .._estimator import drawn_at
from .._site import Site
from ..errors import DiscontinuousObjective


class Reads(NamedTuple):
    """That a value reads a reparameterised site; `jumps` where only by comparing or rounding it."""

    site: Site
    jumps: bool


_STEPS = {"floor", "ceil", "round"}


def warn_jumps(jaxpr: Any) -> None:
    """Warns of each reparameterised site whose value is rounded, counted or branched upon.

    So is one that chooses between values that do not read it. Libraries (a distribution's
    `log_prob`) are trusted to be continuous where they should be.
    """
    found: dict[Site, Any] = {}

    def transfer(eqn, ins, within, control):
        kind, reads = internals.kind(eqn), merged(ins)
        if kind == "sample":
            return [_drawn(eqn, reads)]
        if kind in ("cond", "while"):
            chosen = ins[0] if kind == "cond" else ()
            found.update({r.site: (eqn, eqn) for r in chosen if r.jumps})
            return [frozenset()] * len(eqn.outvars)
        if kind == "stop_gradient" or not reads:
            return [frozenset()] * len(eqn.outvars)
        real = all(_inexact(v) for v in eqn.outvars)
        line = internals.placed(eqn, within)
        if real and internals.written_by_user(line):
            rounded, counted = kind in _STEPS, kind == "convert_element_type"
            found.update({r.site: (eqn, line) for r in reads if rounded or (counted and r.jumps)})
            if kind == "select_n":
                cases = {r.site for case in ins[1:] for r in case}
                chosen = (r.site for r in ins[0] if r.jumps and r.site not in cases)
                found.update({site: (eqn, line) for site in chosen})
        if real:
            return [frozenset(r for r in reads if not r.jumps)] * len(eqn.outvars)
        return [frozenset(Reads(r.site, True) for r in reads)] * len(eqn.outvars)

    flow(jaxpr, [frozenset()] * len(jaxpr.invars), transfer)
    for site, (eqn, line) in found.items():
        warnings.warn(
            f"The objective may jump where {eqn.primitive.name!r} at {internals.source_line(line)} "
            f"reads site {site.address!r} ({site.where}), which is reparameterised: the gradient "
            "does not see the jump, and is biased by it. Give the site ppl.ScoreFunction(), or "
            "ignore this if the objective is continuous there.",
            DiscontinuousObjective,
            stacklevel=3,
        )


def _drawn(eqn: Any, reads: frozenset) -> frozenset:
    drawn = drawn_at(eqn)
    if drawn is None or not (drawn[0].pathwise or drawn[1].moves):
        return frozenset()
    return frozenset({Reads(eqn.params["site"], False), *(r for r in reads if not r.jumps)})


def _inexact(atom: Any) -> bool:
    return jnp.issubdtype(atom.aval.dtype, jnp.inexact)
