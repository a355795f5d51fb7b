"""What tuning found."""

import dataclasses
import math
from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import numpy as np

from ppl.extend import Estimator

from .._tables import Table, number


class Measurement(NamedTuple):
    """What `tune` found of one combination of estimators.

    - `estimators`: those that differ from the program's own, by address.
    - `variance`, `variance_error`: the trace of the covariance of one gradient estimate, and its
      standard error. Zero where it is below rounding.
    - `cost`: FLOPs, or seconds. `product`: variance times cost.
    - `reason`: why it could not be measured, or is not to be used; None where it was.
    """

    estimators: dict[str, Estimator]
    variance: float = math.nan
    variance_error: float = math.nan
    cost: float = math.nan
    product: float = math.nan
    reason: str | None = None


class Tuned(NamedTuple):
    """The best combination of estimators that `tune` found. Printed, it is a table of the evidence.

    - `program`: the objective with these estimators.
    - `estimators`: address -> estimator, for all unobserved sites but those left as they are whose
      estimator's settings are computed by the program.
    - `evidence`: a `Measurement` for each combination, the best first; those that could not be
      measured last.
    - `measure`: of the cost, `"flops"` or `"time"`.
    """

    program: Callable
    estimators: dict[str, Estimator]
    evidence: tuple[Measurement, ...]
    measure: str

    def __repr__(self) -> str:
        cost = {"flops": "FLOPs", "time": "seconds"}[self.measure]
        measured = [row for row in self.evidence if row.reason is None]
        rows = [(changes(row), *map(number, row[1:5])) for row in measured]
        table = Table(("estimators", "variance", "±", cost, f"variance × {cost}"), rows)
        name = getattr(self.program, "__name__", type(self.program).__name__)
        best = ", ".join(f"{a}={described(e)}" for a, e in self.estimators.items())
        refused = [f"not {changes(row)}: {row.reason}" for row in self.evidence if row.reason]
        return "\n\n".join([f"Tuned {name}: {best or 'as written'}", table.text(), *refused])


def changes(row: Measurement) -> str:
    """What a combination changes of the program."""
    return ", ".join(f"{a}={described(e)}" for a, e in row.estimators.items()) or "as written"


def described(estimator: Estimator) -> str:
    """The call that makes it, without the settings that have their defaults."""
    settings = []
    for field in dataclasses.fields(estimator):
        value = getattr(estimator, field.name)
        if not (value is field.default or (np.isscalar(value) and value == field.default)):
            text = eqx.tree_pformat(value, short_arrays=True)
            settings.append(f"{field.name}={' '.join(text.split())}")
    return f"{type(estimator).__name__}({', '.join(settings)})"
