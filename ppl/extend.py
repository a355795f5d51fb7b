"""Names for those who write estimators, inference algorithms and analyses of programs.

`Estimator`, `Particles` and `box` are for gradient estimators; `Algorithm` and `Target` for
algorithms that draw hidden choices and estimate densities; `StateSpace` and `state_space` for those
that take a program apart at its loop. What users of programs need is in `ppl` itself.
"""

from ._algorithms.algorithm import Algorithm, Target
from ._ir.estimator import Estimator, Particles, box
from ._meanings.state_space import StateSpace, state_space

__all__ = [
    "Algorithm",
    "Estimator",
    "Particles",
    "StateSpace",
    "Target",
    "box",
    "state_space",
]
