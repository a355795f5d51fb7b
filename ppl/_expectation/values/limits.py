"""The limit to exact expansion, and what is said past it."""

import math
from collections.abc import Callable, Mapping
from typing import Any

from ..._jax import equations
from ..._jax.control_flow import departs
from ...errors import TooManyJointStates

JOINT_STATES = 16_384
"""The most joint states that exact expansion goes to."""

_PARTS = (
    "Where parts of a batch are read, draw each part at a site of its own; where elements further "
    "apart than neighbours meet, draw them in a lax.scan that carries those before."
)
_ORDER = (
    "Draw the batch in the shape and order in which it is read, or each part at a site of its own."
)
_INSIDE = "Put the site itself into the function that jax.vmap maps, beside what reads it there."
_CHAINS = (
    "For several chains, map outside: jnp.sum(jax.vmap(one)(sequences)), where one(sequence) is "
    "the expectation or the log evidence of a single chain."
)
_REWRITINGS: Mapping[str, str] = {
    **dict.fromkeys(("slice", "gather", "dynamic_slice", "split"), _PARTS),
    **dict.fromkeys(("reshape", "rev", "concatenate", "pad", "scatter", "sort", "top_k"), _ORDER),
}
"""By the equation that mixes the elements of a batch: how to write it so that they stay apart."""


def check_expansion(
    opened: Any, particles: int, dims: set[int], eqn: Any, place: Callable[[Any], str]
) -> None:
    """Raises where the elements of a site along `dims` have too many joint states.

    `place(eqn)` says where the equation that mixes them is.
    """
    count = math.prod(opened.lane_sizes[d] for d in dims)
    if particles**count <= JOINT_STATES:
        return
    where = f" by {eqn.primitive.name!r} {place(eqn)}" if eqn else ""
    rewriting = _CHAINS if opened.loops else _rewriting(eqn)
    raise TooManyJointStates(
        f"The {count} elements of site {opened.site.address!r} at {opened.site.where}, of "
        f"{particles} particles each, are mixed{where}: {particles}**{count} joint states, over "
        f"the limit of {JOINT_STATES}. {rewriting + ' Or use' if rewriting else 'Use'} another "
        "estimator for it (ppl.ScoreFunction(), or one of stdlib.estimators whose cost does not "
        "multiply), or take the elements apart with jax.vmap outside ppl.expectation."
    )


def _rewriting(eqn: Any) -> str:
    if eqn is None:
        return ""
    return _INSIDE if departs(eqn) else _REWRITINGS.get(equations.kind(eqn), "")


def check_joint(states: int, eqn: Any, place: Callable[[Any], str]) -> None:
    """Raises where an equation would mix too many particles."""
    if states <= JOINT_STATES:
        return
    where = f"{eqn.primitive.name!r} {place(eqn)}" if eqn else "The result"
    raise TooManyJointStates(
        f"{where} mixes sites of several particles: {states} joint states, over the limit of "
        f"{JOINT_STATES}. Give some of these sites a one-particle estimator (ppl.ScoreFunction()) "
        "with ppl.with_estimators, or take independent elements apart with jax.vmap outside "
        f"ppl.expectation. {_CHAINS}"
    )
