"""The registry: which families of distributions each estimator is for."""

from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import pytest

from ppl import Reparameterized, ScoreFunction
from stdlib.estimators import (
    Arm,
    DisArm,
    Enumerate,
    ImplicitReparameterized,
    LeaveOneOut,
    MeasureValued,
    Rebar,
    RejectionReparam,
    Relax,
    StochasticTriple,
    WithoutReplacement,
)
from tests.stdlib.families import FAMILIES, Family


class Pair(NamedTuple):
    """An estimator (None: the default one), and a family that it is for."""

    estimator: Any
    name: str
    family: Family

    @property
    def id(self) -> str:
        """The name of its tests."""
        settings = str(getattr(self.estimator, "num_draws", ""))
        name = self.name.replace(", ", "-").replace(" ", "-")
        return f"{type(self.estimator).__name__}{settings}-{name}"

    @property
    def varies(self) -> bool:
        """Whether the particles differ from draw to draw."""
        if isinstance(self.estimator, WithoutReplacement):
            support = self.family.make(self.family.theta).enumerate_support(expand=False)
            return len(support) > self.estimator.num_draws
        return not getattr(self.estimator, "exact", False)

    @property
    def key(self) -> jax.Array:
        """A random key of its own."""
        return jax.random.key(sum(map(ord, self.id)))


def wiggle(x):
    """A control variate for `Relax`: any function will do."""
    return jnp.sum(jnp.sin(2.0 * x + 0.3)) * jnp.cos(jnp.sum(x))


COINS = ["bernoulli", "bernoulli, logits", "bernoulli, batch", "bernoulli, event"]
FLOAT_COINS = ["float bernoulli", "float bernoulli, batch", "float bernoulli, event"]
RELAXED = ["float bernoulli, logits", "one-hot", "one-hot, batch"]
FINITE = [
    *("bernoulli", "bernoulli, batch", "bernoulli, logits", "float bernoulli, batch"),
    *("categorical", "categorical, three", "categorical, probs", "one-hot"),
    *("binomial", "binomial, logits", "beta-binomial", "discrete uniform"),
]
COUNTABLE = ["poisson", "geometric", "geometric, logits", "negative binomial"]
EVENTS = ["bernoulli, event", "float bernoulli, event", "gamma, event"]
LOCATED = ["normal", "log-normal", "student-t", "laplace", "gumbel"]
POSITIVE = ["half-normal", "exponential", "gamma", "chi2", "weibull"]
VECTORS = ["multivariate normal", "dirichlet"]
SCORED = [
    *(*FINITE, *COUNTABLE, *EVENTS, *LOCATED, *POSITIVE, *VECTORS),
    *("beta", "uniform, fixed", "von mises", "mixture", "mixture of families"),
]
REGISTRY = [
    (
        Reparameterized(),
        [*LOCATED, *POSITIVE, *VECTORS, "normal, batch", "beta", "uniform, moving", "gamma, event"],
    ),
    (ScoreFunction(), SCORED),
    (LeaveOneOut(2), ["normal"]),
    (LeaveOneOut(3), SCORED),
    (Enumerate(), FINITE),
    (WithoutReplacement(2), [*FINITE, "categorical, batch"]),
    (WithoutReplacement(3), ["binomial", "categorical", "categorical, extreme"]),
    (WithoutReplacement(4), ["categorical"]),
    (
        MeasureValued(),
        [
            *("bernoulli, batch", "bernoulli, expanded", "bernoulli, logits"),
            *("categorical", "categorical, probs", "categorical, expanded"),
            *("binomial", "binomial, logits", "poisson, batch", "geometric", "geometric, logits"),
            *("normal, batch", "exponential", "gamma, batch", "weibull"),
        ],
    ),
    (
        StochasticTriple(),
        [
            *FINITE,
            *("categorical, batch", "categorical, one", "one-hot, batch"),
            *("poisson", "poisson, expanded", "geometric", "geometric, logits"),
            "beta-binomial, expanded",
        ],
    ),
    *((estimator, [*COINS, *FLOAT_COINS]) for estimator in (Arm(), DisArm())),
    *((estimator, [*FLOAT_COINS, *RELAXED]) for estimator in (Rebar(0.4, 0.8), Relax(wiggle, 0.4))),
    (
        ImplicitReparameterized(),
        [
            *("normal", "log-normal", "laplace", "gumbel", "half-normal", "exponential", "gamma"),
            *("chi2", "gamma, event", "weibull", "weibull, small", "uniform, moving"),
            *("mixture", "mixture, batch", "mixture of families", "von mises", "von mises, batch"),
        ],
    ),
    (
        RejectionReparam(),
        [
            *("gamma", "gamma, small", "gamma, three", "gamma, event", "chi2"),
            *("beta", "beta, batch", "dirichlet"),
        ],
    ),
    (RejectionReparam(1), ["gamma"]),
]
PAIRS = [
    Pair(estimator, name, FAMILIES[name])
    for estimator, names in REGISTRY
    for name in dict.fromkeys(names)
]
BY_DEFAULT = [
    Pair(None, name, FAMILIES[name]) for name in ("gamma", "dirichlet", "bernoulli, expanded")
]
ESTIMATORS = list({type(estimator): estimator for estimator, _ in REGISTRY}.values())
OF_TRACED_SIZE = [
    pair
    for pair in PAIRS
    if pair.name == "binomial, logits"
    and isinstance(pair.estimator, Enumerate | WithoutReplacement)
]
"""A batch of NumPyro's Binomial keeps its number of trials as an array, which a loop traces."""
IN_LOOPS = [pair for pair in PAIRS if pair.id not in {other.id for other in OF_TRACED_SIZE}]

MECHANISMS = {
    "no weight": ["Reparameterized-multivariate-normal", "ImplicitReparameterized-normal"],
    "one weight": [
        "ScoreFunction-bernoulli-batch",
        "ScoreFunction-bernoulli-event",
        "RejectionReparam-chi2",
    ],
    "particle axis": ["Enumerate-bernoulli-batch", "WithoutReplacement2-bernoulli"],
    "worlds": [
        *("MeasureValued-bernoulli-batch", "MeasureValued-exponential"),
        *("StochasticTriple-bernoulli", "StochasticTriple-geometric"),
    ],
    "coupled": [
        *("LeaveOneOut3-one-hot", "Arm-bernoulli-batch"),
        *("DisArm-bernoulli-event", "Rebar-float-bernoulli"),
    ],
    "control": ["Relax-float-bernoulli-event"],
}
"""How particles enter an evaluation, and the pairs that `make test` has of each.

Each estimator is there, and each mechanism with batches or events. `make law` has every pair.
"""
QUICK = {name for names in MECHANISMS.values() for name in names}


def parameters(items: Sequence[Any], quick: Collection[str]) -> list:
    """Of a law's test: `make test` takes those whose ids are `quick`, `make law` all."""
    assert set(quick) <= {item.id for item in items}
    marks = {True: pytest.mark.mechanism, False: pytest.mark.law}
    return [pytest.param(item, id=item.id, marks=marks[item.id in quick]) for item in items]
