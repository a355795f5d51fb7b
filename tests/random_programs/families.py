"""Families of sites: their text, their support, and the probability of each of its values."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from .syntax import Type

EXACT = ("Enumerate()", "Split()")
SCORES = ("ScoreFunction()", "ScoreFunction(0.4)", "LeaveOneOut(2)", "Signed()")
PERTURBED = ("MeasureValued()", "StochasticTriple()")
NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(7)
SCALE = 0.3


class Family(NamedTuple):
    """A family with one parameter.

    `chances(x)` are the probabilities, `(K, *batch, states)`, of the numbers 0 to K - 1 (of the
    nodes of a quadrature, for a real variable). `parameter` is the operation that makes a parameter
    of a real; with `last` its last dimension is that of the values. A `real` family draws reals; a
    `smooth` one wants a program without jumps.
    """

    text: str
    size: int
    chances: Callable[[Any], Any]
    estimators: tuple[str, ...]
    parameter: str | None = None
    last: bool = False
    real: bool = False
    smooth: bool = False

    def batch(self, x: Type) -> tuple[int, ...] | None:
        """The batch shape for a parameter of a type, or None."""
        if not x.real or len(x.shape) > 1 + self.last:
            return None
        if self.last:
            return x.shape[:-1] if x.shape and x.shape[-1] == self.size else None
        return x.shape


def coin(p: Any) -> Any:
    return np.stack([1 - p, p])


def tosses(p: Any) -> Any:
    return np.stack([(1 - p) ** 2, 2 * p * (1 - p), p * p])


def logistic(x: Any) -> Any:
    return 1 / (1 + np.exp(-x))


def first(x: Any) -> Any:
    """The categories in front of the batch."""
    return np.moveaxis(x, -2, 0)


def shares(x: Any) -> Any:
    powers = np.exp(first(x))
    return powers / np.sum(powers, 0)


def nodes(x: Any) -> Any:
    weights = (WEIGHTS / np.sum(WEIGHTS)).reshape(-1, *(1 for _ in x.shape))
    return weights + 0 * x


COINS = (*EXACT, *SCORES, *PERTURBED, "Arm()", "DisArm()", "WithoutReplacement(2)")
FINITE = (*EXACT, *SCORES, *PERTURBED, "WithoutReplacement(2)")
RELAXED = ("Enumerate()", "ScoreFunction()", "Rebar(0.6, 0.8)", "Relax(guess, 0.4)")

TABLE: dict[str, Family] = {
    "coin": Family("dist.Bernoulli({0})", 2, coin, COINS, "sigmoid"),
    "coin, logits": Family("dist.Bernoulli(logits={0})", 2, lambda x: coin(logistic(x)), COINS),
    "classes": Family("dist.Categorical({0})", 3, first, FINITE, "softmax", last=True),
    "two classes": Family("dist.Categorical({0})", 2, first, FINITE, "softmax", last=True),
    "classes, logits": Family("dist.Categorical(logits={0})", 3, shares, FINITE, last=True),
    "tosses": Family("dist.Binomial(2, {0})", 3, tosses, (*SCORES, *PERTURBED), "sigmoid"),
    "real coin": Family("FloatBernoulli({0})", 2, coin, RELAXED, "sigmoid", real=True, smooth=True),
    "normal": Family(
        f"dist.Normal({{0}}, {SCALE})", len(NODES), nodes, ("",), real=True, smooth=True
    ),
}


def value(family: str, index: Any, x: Any) -> Any:
    """The value whose number is `index`, state by state."""
    if family == "normal":
        return x + SCALE * NODES[index]
    return index + 0j if TABLE[family].real else index


def normal_log_density(y: Any, mean: Any) -> Any:
    return -0.5 * ((y - mean) / SCALE) ** 2 - np.log(SCALE * np.sqrt(2 * np.pi))
