"""The training loop.

`fit` what users call; `arguments` their checks; `parameters` what is trained and what is frozen;
`carried` states, which update themselves;
`minibatches` random reshuffling; `sameness` when a compiled loop may be used again; `step` one
update; `ahead` random numbers drawn ahead of the steps; `loop` many steps in one XLA program;
`driver` the host's side of it; `nonfinite` what is said of a step that is not finite; `progress`
the bar; `result` what comes back.
"""

from .fit import fit
from .result import FitResult

__all__ = ["FitResult", "fit"]
