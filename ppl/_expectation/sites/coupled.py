"""Coupled particles: those of one index go together, in the sites of one name too.

Each index is a run of the program, with a constant weight that all share.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from ..._jax.leaves import partition
from ...errors import UnsuitableEstimator
from ..interpret.evaluation import Evaluation
from ..values.value import Axis, Value
from .ledger import Coupled
from .measure import Kind
from .weighted_site import WeightedSite


def open_coupled(
    evaluation: Evaluation, constants: Value, kind: Kind, estimator: Any = None
) -> Axis:
    """A new axis of runs, with its constant weights."""
    if constants.sites:
        raise UnsuitableEstimator(
            f"The shared weights of {_name(kind)} depend on other choices. Compute "
            "them (such as the eta of Rebar) from what is not random, or under no site's value."
        )
    scope, ledger = evaluation.scope, evaluation.ledger
    axis = Axis(ledger.next)
    weight = Value(constants.array, (axis,))
    ledger.open(
        WeightedSite(None, weight, scope.lengths, axis=True, normalized=True, loops=scope.loops)
    )
    if kind.shared is not None:
        ledger.couple(Coupled(axis, kind, estimator))
    return axis


def coupled_axis(evaluation: Evaluation, kind: Kind, estimator: Any = None) -> Axis | None:
    """The axis of the sites that this one shares its particles with, if there are any.

    Constants that are traced are not compared: they are the same where the estimators are.
    """
    if kind.shared is None:
        return None
    for other in evaluation.ledger.coupled(kind.shared):
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
            f"S{_name(mine)[1:]} and {_name(other)} share their particles by the name "
            f"{mine.shared!r}, and have {_particles(mine)} and {_particles(other)}. Give them the "
            "same, or put what they differ in into the name (Particles.shared)."
        )


def _name(kind: Kind) -> str:
    assert kind.site is not None
    return f"site {kind.site.address!r} at {kind.site.where}"


def _particles(kind: Kind) -> str:
    known = "" if kind.constants is None else f" ({kind.constants.tolist()})"
    return f"{kind.particles} particles{known}"


def _same(one: Any, other: Any) -> bool:
    (mine, *static), (theirs, *others) = partition(one), partition(other)
    return static == others and all(map(_same_array, mine, theirs))


def _same_array(one: Any, other: Any) -> bool:
    known = not any(isinstance(x, Tracer) for x in (one, other))
    return one is other or (known and bool(jnp.array_equal(one, other)))
