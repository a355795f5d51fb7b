"""What training gives back."""

import math
from typing import Any, Generic, TypeVar

import equinox as eqx
import numpy as np
from jax.core import Tracer

from ..errors import MissingDependency

Params = TypeVar("Params")

RAW = 5000  # steps of which a plot shows each


class FitResult(eqx.Module, Generic[Params]):
    """Trained parameters and how they came about; a pytree.

    - `params`: the parameters, of the structure that was given. Frozen leaves are the very objects
      that were given; trained Python floats have become arrays.
    - `history`: for each step an entry of the arrays `objective` (the average of the step's
      estimates, before its update) and `grad_norm` (the Euclidean norm of the gradient).
    - `opt_state`: the optimizer's state. `ppl.fit(..., resume=result)` goes on from here.
    - `steps`: how many steps were taken, since the first run; `skipped`: how many of them were not
      finite and left out.
    - `interrupted`: whether Ctrl-C ended training; `nonfinite`: the step that ended it by not being
      finite, or None.
    - `seconds` and `steps_per_second`: how long the last run took and its speed, compiling not
      counted (0 and NaN under `jax.vmap` or `jax.jit`).
    - `sizes`: how many numbers were trained, in how many arrays, and how many arrays were frozen.

    ```python
    >>> import jax, jax.numpy as jnp, optax, ppl
    >>> result = ppl.fit(lambda x: -(x - 2.0) ** 2, jnp.zeros(()), optax.sgd(0.1),
    ...                  key=jax.random.key(0), steps=100, progress=False)
    >>> print(f"{result.params:.3f}, {result.history['objective'][-1]:.3f}, {result.steps}")
    2.000, -0.000, 100

    ```
    """

    params: Params
    history: dict[str, Any]
    opt_state: Any
    steps: Any
    skipped: Any = 0
    interrupted: Any = False
    nonfinite: Any = None
    seconds: Any = 0.0
    steps_per_second: Any = math.nan
    sizes: tuple[Any, Any, Any] = (0, 0, 0)

    def __repr__(self) -> str:
        numbers, arrays, frozen = self.sizes
        trained = f"{_one(numbers):,} trained in {_count(_one(arrays), 'array')}"
        frozen = _one(frozen)
        lines = [
            f"  objective   {_ends(self.history['objective'])}",
            f"  grad norm   {_ends(self.history['grad_norm'])}",
            f"  params      {trained}" + (f", {_count(frozen, 'array')} frozen" if frozen else ""),
        ]
        return "\n".join([f"FitResult: {self._summary()}", *lines])

    def _summary(self) -> str:
        if isinstance(self.steps, Tracer):
            return "being traced"
        if np.ndim(self.steps):
            return f"{np.size(self.steps):,} runs at once"
        parts = [_count(int(self.steps), "step")]
        if self.seconds:
            parts[0] += f" in {self.seconds:.3g} s, {self.steps_per_second:,.0f} steps/s"
        if self.skipped:
            parts.append(f"{int(self.skipped)} skipped as not finite")
        if self.interrupted:
            parts.append("INTERRUPTED")
        if self.nonfinite is not None:
            parts.append(f"STOPPED: step {self.nonfinite} was not finite")
        return "; ".join(parts)

    def plot(self, ax: Any = None) -> Any:
        """Draws the objective and the gradient norm over the steps, and bold their medians.

        `ax`: two Matplotlib axes, or one for the objective alone; new ones by default. Returns
        them. **Raises** `MissingDependency` where Matplotlib is not installed.
        """
        try:
            import matplotlib.pyplot as plt
        except ImportError as error:
            raise MissingDependency(
                "FitResult.plot() needs Matplotlib: pip install matplotlib. "
                "The numbers are in result.history."
            ) from error
        if ax is None:
            ax = plt.subplots(2, 1, sharex=True, figsize=(7, 5), layout="constrained")[1]
        axes = np.atleast_1d(ax)
        names = (("objective", "objective"), ("grad_norm", "gradient norm (Euclidean)"))
        for axis, (name, label) in zip(axes, names, strict=False):
            _draw(axis, np.asarray(self.history[name], float), label)
        axes[-1].set_xlabel("step")
        axes[0].legend(frameon=False, fontsize="small")
        return ax


def _one(number: Any) -> int:
    """A number that many runs have in common."""
    return 0 if isinstance(number, Tracer) else int(np.max(number))


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def _ends(values: Any) -> str:
    """The first and last values, averaged over a twentieth of the steps."""
    if isinstance(values, Tracer) or np.ndim(values) != 1 or not np.size(values):
        return f"array of shape {np.shape(values)}"
    values = np.asarray(values, float)
    window = max(1, len(values) // 20)
    first, last = (_mean(values[part]) for part in (slice(window), slice(-window, None)))
    return f"{first:.6g} → {last:.6g}" + (f" (means of {window:,} steps)" if window > 1 else "")


def _mean(values: np.ndarray) -> float:
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if finite.size else math.nan


def _quantiles(values: np.ndarray) -> np.ndarray:
    finite = values[np.isfinite(values)]
    return np.percentile(finite, [5, 50, 95]) if finite.size else np.full(3, np.nan)


def _draw(axis: Any, values: np.ndarray, label: str) -> None:
    """Values light, or of many steps the middle nine tenths; medians of 200 windows bold."""
    runs = values.reshape(-1, values.shape[-1])  # runs side by side have a colour each
    steps = np.arange(runs.shape[1])
    windows = [part for part in np.array_split(steps, 200) if len(part)]
    centres = [part.mean() for part in windows]
    for number, run in enumerate(runs):
        color = f"C{number % 10}"
        bands = np.array([_quantiles(run[part]) for part in windows]).T
        if len(steps) <= RAW:
            axis.plot(steps, run, color=color, alpha=0.3, lw=0.6)
        else:
            axis.fill_between(centres, bands[0], bands[2], color=color, alpha=0.2, lw=0)
        label_once = f"median of {len(windows[0]):,} steps" if number == 0 else None
        axis.plot(centres, bands[1], color=color, lw=2, label=label_once)
    finite = runs[np.isfinite(runs)]
    if finite.size:
        low, high = np.percentile(finite, [1, 99])
        margin = 0.1 * (high - low) or 1.0
        axis.set_ylim(low - margin, high + margin)
        if low > 0 and high > 30 * low:
            axis.set_yscale("log")
            axis.set_ylim(0.8 * low, 1.25 * high)
    axis.set_ylabel(label)
    axis.spines[["top", "right"]].set_visible(False)
