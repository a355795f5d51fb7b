"""Where the first NaN of a run comes from."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from .._ir.site import SITE_LABEL
from .._jax import equations, source
from .._jax.control_flow import Call, bodies, form
from .._jax.run import run

_MOVES = {
    *("broadcast_in_dim", "concatenate", "convert_element_type", "copy", "dynamic_slice"),
    *("gated", "gather", "reshape", "rev", "slice", "squeeze", "stop_gradient", "transpose"),
}
"""Equations that only hand on what they read."""


class Cause(NamedTuple):
    """The equation that first gave a NaN; `given`, the array with NaN that it read, if it did."""

    eqn: Any
    given: Any = None


class Tracked(NamedTuple):
    """A value, and the cause of the NaN that it holds."""

    value: Any
    cause: Cause | None = None


def origin(closed: Any, args: Sequence[Any]) -> str:
    """A sentence on where the NaN among the outputs of a jaxpr comes from; empty if none is there.

    The jaxpr is run equation by equation, and each NaN followed back to the equation that made it.
    """
    consts = [Tracked(const) for const in closed.consts]
    outs = run(closed.jaxpr, consts, [Tracked(arg) for arg in args], _step)
    causes = [out.cause for out in outs if isinstance(out, Tracked) and out.cause]
    return _told(causes[0]) if causes else ""


def _step(eqn: Any, operands: Sequence[Any]) -> list[Tracked]:
    tracked = [x if isinstance(x, Tracked) else Tracked(x) for x in operands]
    found = form(eqn)
    if isinstance(found, Call):
        consts = map(Tracked, found.body.consts)
        return run(found.body.jaxpr, list(consts), tracked, _step)
    given = [x for x in tracked if _holds_nan(x.value)]
    known = [x.cause for x in given if x.cause]
    made = None if equations.kind(eqn) in _MOVES else Cause(eqn, given[0].value if given else None)
    cause = known[0] if known else made
    outs = equations.bind(eqn, [x.value for x in tracked])
    return [Tracked(out, cause if _holds_nan(out) else None) for out in outs]


def _holds_nan(x: Any) -> bool:
    inexact = jnp.issubdtype(jnp.result_type(x), jnp.inexact)
    return inexact and bool(jnp.isnan(x).any())


def _told(cause: Cause) -> str:
    found = sorted({f"{a!r} ({line})" for a, line in _sites(cause.eqn)})
    where = f"the log density of site {' or '.join(found)}" if found else _line(cause.eqn)
    if cause.given is None:
        return f"The first NaN arises in {where}, from values that are none."
    bad = int(np.isnan(np.asarray(cause.given, np.float64)).sum())
    return (
        f"The first NaN is read in {where}: {bad} of {np.size(cause.given)} entries of its data or "
        "of an array that it is computed from. Leave them out (ppl.mask), or model them."
    )


def _line(eqn: Any) -> str:
    return f"{eqn.primitive.name!r} at {source.source_line(eqn)}"


def _sites(eqn: Any) -> Iterator[tuple[str, str]]:
    """Address and line of the sites whose density an equation belongs to, or has inside."""
    found = SITE_LABEL.findall(source.scopes(eqn))
    if found:
        yield found[-1]
        return
    for body in bodies(eqn):
        for inner in body.eqns:
            yield from _sites(inner)
