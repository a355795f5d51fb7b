"""Cutting off what a mask or a branch leaves out: the two sides of a double `where`.

Zero times a derivative that is infinite or no number is no number. So what is left out is selected
away where it is left, and, where it is entered, kept from having derivatives (`gated`) or replaced
by what can be scored (`stand_in`).
"""

from collections.abc import Sequence
from functools import reduce
from operator import and_
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import Tracer

from .._jax import identities
from .integers import is_integral


def gated(tree: Any, flags: Sequence[Any]) -> Any:
    """A pytree whose numbers have a derivative only where all of some scalar flags are true."""
    if not flags:
        return tree
    flag = reduce(and_, map(jnp.asarray, flags))
    return jax.tree.map(lambda x: identities.gated(x, flag) if _is_variable(x) else x, tree)


def _is_variable(leaf: Any) -> bool:
    return isinstance(leaf, Tracer) and jnp.issubdtype(leaf.dtype, jnp.inexact)


def stand_in(distribution: Any, like: Any) -> Any | None:
    """Constants of the shape of `like` that a distribution can be scored at; None if none is known.

    By the protocol of its support (`feasible_like`), away from the ends where these are known; else
    a draw of its own.
    """
    try:
        return jax.lax.stop_gradient(_feasible(distribution.support, like))
    except (AttributeError, NotImplementedError):
        pass
    try:
        return jax.lax.stop_gradient(distribution.sample(jax.random.key(0)))
    except (AttributeError, NotImplementedError):
        return None


def _feasible(support: Any, like: Any) -> Any:
    elements = support
    while hasattr(elements, "base_constraint"):
        elements = elements.base_constraint
    low, high = (getattr(elements, name, None) for name in ("lower_bound", "upper_bound"))
    if is_integral(like.dtype):
        return support.feasible_like(like)
    if low is None:
        return support.feasible_like(like) if high is None else high - 1.0
    if high is None:
        return low + 1.0
    return (low + high) / 2.0
