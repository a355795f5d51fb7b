"""The findings about a gradient estimate, to be read and looked at."""

from typing import Any

import equinox as eqx
import numpy as np

from ppl.errors import MissingDependency

from .._tables import Table, number

INK, ACCENT = "#332288", "#CC6677"


class GradientReport(eqx.Module):
    """What `gradient_report` found of an objective's gradient estimate. Printed, it is two tables.

    - `parameters`: names of the L parameter arrays. `gradient`: the mean of the estimates, and
      `exact`: the gradient's exact value, or None; of the structure of the parameters.
    - `variance`, `variance_error`: `(L,)`, the trace of the covariance of one estimate, and its
      standard error. `total_variance` is the sum.
    - `signal_to_noise`: `(L,)`, the gradient's norm over the root of that trace.
    - `bias_z`: `(L,)`, or None where no exact gradient is known: of (mean - exact) / standard error
      that of the coordinate where it is farthest from zero. Beyond about 5, the estimate is biased.
    - `sites`, `estimators`: names of the S unobserved sites, and of their estimators.
      `site_variance`, `site_variance_error`: `(S, L)`, what is left of the variance where the noise
      of all other sites is known.
    - `flops`: of one estimate with its gradient. `work`: `(L,)`, variance times FLOPs: the lower,
      the less computation for a given accuracy.
    - `value`, `value_error`: the mean of the objective's estimates and its standard error.
    - `num_samples`: how many estimates were drawn.
    """

    objective: str
    parameters: tuple[str, ...]
    sizes: tuple[int, ...]
    gradient: Any
    exact: Any
    variance: np.ndarray
    variance_error: np.ndarray
    signal_to_noise: np.ndarray
    bias_z: np.ndarray | None
    sites: tuple[str, ...]
    estimators: tuple[str, ...]
    site_variance: np.ndarray
    site_variance_error: np.ndarray
    flops: float
    value: float
    value_error: float
    num_samples: int

    @property
    def total_variance(self) -> float:
        """The trace of the covariance of the whole gradient."""
        return float(self.variance.sum())

    @property
    def work(self) -> np.ndarray:
        """Variance times FLOPs, of each parameter array."""
        return self.variance * self.flops

    def __repr__(self) -> str:
        return "\n\n".join([self._heading(), *(table.text() for table in self._tables())])

    def _repr_html_(self) -> str:
        tables = "".join(table.html() for table in self._tables())
        return f"<p>{self._heading().replace('<', '&lt;')}</p>{tables}"

    def _heading(self) -> str:
        return (
            f"GradientReport of {self.objective}: {number(self.value, 5)} ± "
            f"{number(self.value_error)}; {self.num_samples:,} estimates of "
            f"{number(self.flops, 4)} FLOPs"
        )

    def _tables(self) -> list[Table]:
        columns = {
            "size": [f"{size:,}" for size in self.sizes],
            "variance": map(number, self.variance),
            "±": map(number, self.variance_error),
            "signal/noise": map(number, self.signal_to_noise),
            "bias z": None if self.bias_z is None else map(number, self.bias_z),
            "variance × FLOPs": map(number, self.work),
        }
        columns = {name: cells for name, cells in columns.items() if cells is not None}
        rows = zip(self.parameters, *columns.values(), strict=True)
        tables = [Table(("parameter", *columns), [*rows])]
        if self.sites:
            tables.append(Table(("site", "estimator", "variance", "±", "share"), self._by_site()))
        return tables

    def _by_site(self) -> list[tuple[str, ...]]:
        total = self.total_variance
        rows = []
        for i, (site, estimator) in enumerate(zip(self.sites, self.estimators, strict=True)):
            left = float(self.site_variance[i].sum())
            error = float(self.site_variance_error[i].sum())
            share = f"{left / total:.0%}" if total > 0 else "-"
            rows.append((site, estimator, number(left), number(error), share))
        return rows

    def plot(self, ax: Any = None) -> Any:
        """Draws the signal-to-noise ratio of each parameter array, and each site's variance.

        `ax`: two Matplotlib axes, or one for the parameters alone; new ones by default. Returns
        them. **Raises** `MissingDependency` where Matplotlib is not installed.
        """
        try:
            import matplotlib.pyplot as plt
        except ImportError as error:
            raise MissingDependency(
                "GradientReport.plot() needs Matplotlib: pip install matplotlib. "
                "The numbers are in report.signal_to_noise and report.site_variance."
            ) from error
        if ax is None:
            height = 1.5 + 0.3 * max(len(self.parameters), len(self.sites))
            ax = plt.subplots(1, 2, figsize=(10, height), layout="constrained")[1]
        ratio = np.where(np.isfinite(self.signal_to_noise), self.signal_to_noise, 0.0)
        columns = [
            (self.parameters, ratio, INK, "signal-to-noise ratio of one estimate"),
            (self.sites, self.site_variance.sum(1), ACCENT, "variance, all other noise known"),
        ]
        for axis, (names, lengths, colour, label) in zip(np.atleast_1d(ax), columns, strict=False):
            axis.barh(range(len(names)), lengths, color=colour)
            axis.set_yticks(range(len(names)), names)
            axis.invert_yaxis()
            axis.set_xlabel(label)
            axis.spines[["top", "right"]].set_visible(False)
        return ax
