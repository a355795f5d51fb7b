"""Names for those who write estimators, inference algorithms and analyses of programs.

`Estimator`, `Particles` and `box` are for gradient estimators; `Algorithm` and `Target` for
algorithms that draw hidden choices and estimate densities; `StateSpace` and `state_space` for those
that take a program apart at its loop, `log_maximum` for the likeliest choices; `check_laws` is for
what reads densities that may be estimates; `entries`, `within_events`, `split_event` and `filled`
take apart the law of what is known in part, and `same_support` compares what distributions state.
Analyses of jaxprs are instances of `Analysis`, run by `propagate` (`Scope`, `Stepping` and
`fixed_point` are its parts); `run` evaluates a jaxpr, and `control_flow` reads equations that have
bodies. What users of programs need is in `ppl` itself.
"""

from ._algorithms.algorithm import Algorithm, Target
from ._algorithms.laws import check_laws
from ._analysis.propagate import (
    Analysis,
    Scope,
    Stepping,
    fixed_point,
    propagate,
    propagate_through,
)
from ._distributions.law import same_support
from ._distributions.partly import entries, filled, split_event, within_events
from ._expectation.expectation import log_maximum
from ._ir.estimator import Estimator, Particles, box
from ._jax import control_flow
from ._jax.run import run
from ._meanings.state_space import StateSpace, state_space

__all__ = [
    "Algorithm",
    "Analysis",
    "Estimator",
    "Particles",
    "Scope",
    "StateSpace",
    "Stepping",
    "Target",
    "box",
    "check_laws",
    "control_flow",
    "entries",
    "filled",
    "fixed_point",
    "log_maximum",
    "propagate",
    "propagate_through",
    "run",
    "same_support",
    "split_event",
    "state_space",
    "within_events",
]
