"""The search for the best combination of estimators."""

import itertools
import math
import statistics
import time
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from ppl.errors import DiscontinuousObjective, InvalidSetting, ProgramError, UnsuitableEstimator
from ppl.extend import Estimator

from .. import _gradient_noise as noise
from ._tuned import Measurement, changes

MAX_COMBINATIONS = 256
MAX_Z = 6.0
"""Standard errors by which two means may differ, a little more for long vectors."""
RUNS = 21
"""Of which the median time is taken."""

Combination = tuple[int, ...]
"""For each site, the index of one of its options."""


class Found(NamedTuple):
    """A measurement, and what it takes to compare it with others.

    `mean` and `error` are the mean gradient as one vector, and the squares of its standard errors.
    """

    row: Measurement
    value_variance: float = 0.0
    squared_value: float = 0.0
    mean: np.ndarray = np.zeros(0)
    error: np.ndarray = np.zeros(0)


class Bench(NamedTuple):
    """Where combinations are measured: the same parameters, keys and samples for all."""

    objective: Callable
    trained: Any
    rest: Any
    key: Any
    num_samples: int
    measure: str

    def measured(self, estimators: dict[str, Estimator]) -> Found:
        """The measurement of a combination, or why there is none."""
        run = noise.value_and_gradient(noise.chosen(self.objective, estimators), self.rest)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", DiscontinuousObjective)
                one = noise.compiled(run, self.key, self.trained)
                moments = noise.moments(run, self.key, self.trained, self.num_samples, one.memory)
        except (ProgramError, DiscontinuousObjective) as error:
            return Found(Measurement(estimators, reason=f"{type(error).__name__}: {error}"))
        variance, error = (sum(jax.tree.leaves(x[1])) for x in (moments.total, moments.error))
        if not np.isfinite(variance):
            return Found(Measurement(estimators, reason="the gradient is not finite"))
        cost = self._cost(one)
        row = Measurement(estimators, float(variance), float(error), cost, variance * cost)
        squared_value = float(moments.mean[0] ** 2)
        mean, spread = (_vector(x[1]) for x in (moments.mean, moments.variance))
        return Found(row, float(moments.variance[0]), squared_value, mean, spread / moments.count)

    def _cost(self, one: noise.Compiled) -> float:
        if self.measure == "time":
            return statistics.median(self._seconds(one) for _ in range(RUNS))
        if math.isnan(one.flops):
            raise InvalidSetting("XLA does not count FLOPs on this backend. Write measure='time'.")
        return one.flops

    def _seconds(self, one: noise.Compiled) -> float:
        start = time.perf_counter()
        jax.block_until_ready(one.call(self.key, self.trained))
        return time.perf_counter() - start


def _vector(tree: Any) -> np.ndarray:
    return np.concatenate([np.ravel(x) for x in jax.tree.leaves(tree)])


class Search:
    """The combinations that have been tried.

    `options` has a list for each site, of which the first is None: what the program says, which is
    a pathwise estimator at the sites `pathwise`.
    """

    def __init__(
        self, bench: Bench, options: dict[str, list[Estimator | None]], pathwise: set[str]
    ):
        self.bench, self.options, self.pathwise = bench, options, pathwise
        self.tried: dict[Combination, Found] = {}

    def greedy(self) -> None:
        """From site to site, the best option given those of the others, until none is better."""
        best, before = tuple(0 for _ in self.options), None
        self._try(best)
        while best != before:
            before = best
            for i, options in enumerate(self.options.values()):
                changed = [(*best[:i], option, *best[i + 1 :]) for option in range(len(options))]
                for combination in changed:
                    self._try(combination)
                best = min([best, *changed], key=self._rank)

    def exhaustive(self) -> None:
        """All combinations."""
        count = math.prod(len(options) for options in self.options.values())
        if count > MAX_COMBINATIONS:
            raise InvalidSetting(
                f"There are {count:,} combinations of candidates, over the limit of "
                f"{MAX_COMBINATIONS}. Write method='greedy', or give fewer candidates."
            )
        for combination in itertools.product(*(range(len(o)) for o in self.options.values())):
            self._try(combination)

    def ranked(self) -> list[Measurement]:
        """The measurements, the best first; variances below rounding are zero.

        **Raises** `UnsuitableEstimator` where there is none.
        """
        order = sorted(self.tried, key=self._rank)
        rows = [self._judged(combination) for combination in order]
        if rows[0].reason is not None:
            raise UnsuitableEstimator(
                f"None of the {len(rows)} combinations of estimators tried could be measured. "
                f"Of the program as written: {rows[0].reason} Give other candidates"
                + (", or write method='exhaustive'." if len(self.options) > 1 else ".")
            )
        return rows

    def _try(self, combination: Combination) -> None:
        if combination not in self.tried:
            picked = self._picked(combination)
            changed = {a: estimator for a, estimator in picked.items() if estimator is not None}
            self.tried[combination] = self.bench.measured(changed)

    def _picked(self, combination: Combination) -> dict[str, Estimator | None]:
        return {a: o[i] for (a, o), i in zip(self.options.items(), combination, strict=True)}

    def _paths(self, combination: Combination) -> set[str]:
        """The sites at which it needs an objective without jumps."""
        picked = self._picked(combination).items()
        return {a for a, e in picked if (a in self.pathwise if e is None else e.pathwise)}

    def _rank(self, combination: Combination) -> tuple:
        """Gradients without variance are told apart by that of the value."""
        row, found = self._judged(combination), self.tried[combination]
        exact = found.value_variance <= noise.rounding() ** 2 * found.squared_value
        value = 0.0 if exact else found.value_variance * row.cost
        return row.reason is not None, *np.nan_to_num([row.product, value, row.cost])

    def _judged(self, combination: Combination) -> Measurement:
        """Rounding is relative to the gradient, and to the noisiest one of those measured."""
        found = self.tried[combination]
        row = found.row
        if row.reason is not None:
            return row
        largest = float(np.nanmax([other.row.variance for other in self.tried.values()]))
        if row.variance <= noise.rounding() ** 2 * max(float(np.sum(found.mean**2)), largest):
            row = row._replace(variance=0.0, product=0.0)
        return row._replace(reason=self._disagreement(combination))

    def _disagreement(self, combination: Combination) -> str | None:
        """Why a pathwise gradient is wrong, as seen by one that needs fewer of its conditions."""
        paths, found = self._paths(combination), self.tried[combination]
        others = [
            other
            for at, other in self.tried.items()
            if other.row.reason is None and self._paths(at) < paths
        ]
        if not others:
            return None
        best = min(others, key=lambda other: other.row.variance)
        rounding = noise.rounding() * max(np.max(np.abs(f.mean)) for f in (found, best))
        z = np.abs(found.mean - best.mean) / np.sqrt(found.error + best.error + rounding**2)
        if not np.max(z) > (MAX_Z**2 + 2 * math.log(z.size)) ** 0.5:
            return None
        return (
            f"its mean gradient is {np.max(z):.0f} standard errors from that of "
            f"{changes(best.row)}. The objective seems to jump at a reparameterised value."
        )
