"""Runs of the program: particles that go together, shared by the sites of one name."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from ..._jax.leaves import partition
from ...errors import UnsuitableEstimator
from ..interpret.context import Context, Opened, Runs
from ..values.value import Axis, Val
from .measure import Kind


def open_runs(context: Context, constants: Val, kind: Kind, estimator: Any = None) -> Axis:
    """A new axis of runs, with its constant weights."""
    if constants.sites:
        raise UnsuitableEstimator(
            f"The runs of {_named(kind)} have constants that depend on other choices. Compute "
            "them (such as the eta of Rebar) from what is not random, or under no site's value."
        )
    axis = Axis(context.next)
    weight = Val(constants.array, (axis,))
    context.open(
        Opened(None, weight, context.lengths, axis=True, normalized=True, loops=context.loops)
    )
    if kind.shared is not None:
        runs = Runs(axis, kind, estimator)
        context.runs[kind.shared] = (*context.runs.get(kind.shared, ()), runs)
    return axis


def shared_runs(context: Context, kind: Kind, estimator: Any = None) -> Axis | None:
    """The axis of the sites that this one shares its particles with, if there are any.

    Constants that are traced are not compared: they are the same where the estimators are.
    """
    if kind.shared is None:
        return None
    for other in context.runs.get(kind.shared, ()):
        known = kind.constants is not None and other.kind.constants is not None
        _check_same(kind, other.kind, known)
        if known or (estimator is not None and _same(estimator, other.estimator)):
            return other.axis
    return None


def _check_same(mine: Kind, other: Kind, known: bool) -> None:
    same = mine.particles == other.particles
    constants: Any = (mine.constants, other.constants)
    if not same or (known and not np.array_equal(*constants)):
        raise UnsuitableEstimator(
            f"S{_named(mine)[1:]} and {_named(other)} share their particles by the name "
            f"{mine.shared!r}, and have other runs: {_runs(mine)} and {_runs(other)}. Give them "
            "the same, or put what they differ in into the name (Particles.shared)."
        )


def _named(kind: Kind) -> str:
    assert kind.site is not None
    return f"site {kind.site.address!r} at {kind.site.where}"


def _runs(kind: Kind) -> str:
    known = "" if kind.constants is None else f" ({kind.constants.tolist()})"
    return f"{kind.particles} particles{known}"


def _same(one: Any, other: Any) -> bool:
    (mine, *static), (theirs, *others) = partition(one), partition(other)
    return static == others and all(map(_same_array, mine, theirs))


def _same_array(one: Any, other: Any) -> bool:
    known = not any(isinstance(x, Tracer) for x in (one, other))
    return one is other or (known and bool(jnp.array_equal(one, other)))
