"""Second derivatives: right for the estimators that say so, and for no others."""

import re
from pathlib import Path

import jax.numpy as jnp
import numpyro.distributions as dist
import pytest

import ppl
from stdlib import estimators
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
from stdlib.testing import assert_estimator_law, assert_unbiased
from tests.stdlib.pairs import ESTIMATORS, PAIRS, parameters
from tests.stdlib.representatives import REPRESENTATIVES, in_a_row, mixed_lanes, mixed_steps

SMOOTH = (
    *(ppl.Reparameterized, ppl.ScoreFunction, Enumerate),
    *(Rebar, Relax, RejectionReparam),
)
ROUGH = (
    *(Arm, DisArm, ImplicitReparameterized, LeaveOneOut),
    *(MeasureValued, StochasticTriple, WithoutReplacement),
)
DOCUMENTATION = Path(__file__).parents[2] / "docs" / "estimators.md"


def test_documentation_says_which_are_smooth():
    rows = re.findall(r"^\| (`.*?) \|(?:.*\|){3} (.*?) \| .* \|$", DOCUMENTATION.read_text(), re.M)
    said = {name: claim for names, claim in rows for name in re.findall(r"`(\w+)\(", names)}
    assert {name for name, claim in said.items() if claim in ("unbiased", "exact")} == {
        estimator.__name__ for estimator in SMOOTH
    }
    exported = {getattr(estimators, name) for name in estimators.__all__}
    listed = {e for e in exported if isinstance(e, type) and issubclass(e, ppl.Estimator)}
    assert set(said) == {estimator.__name__ for estimator in listed}
    assert {e for e in listed if e.unbiased} == {*SMOOTH, *ROUGH} == set(map(type, ESTIMATORS))


IN_PARAMETERS = {
    "Reparameterized": ["normal", "gamma", "beta", "student-t", "uniform, moving", "dirichlet"],
    "ScoreFunction": ["bernoulli, batch", "categorical", "poisson", "normal", "mixture"],
    "Enumerate": ["bernoulli", "categorical", "one-hot", "binomial"],
    "Rebar": ["float bernoulli, event", "one-hot"],
    "Relax": ["float bernoulli, event", "one-hot"],
    "RejectionReparam": ["gamma", "gamma, small", "beta", "dirichlet"],
}


def of_types(kinds):
    return [pair for pair in PAIRS if type(pair.estimator) in kinds]


SMOOTH_PAIRS = [p for p in of_types(SMOOTH) if p.name in IN_PARAMETERS[type(p.estimator).__name__]]


@pytest.mark.parametrize(
    "pair",
    parameters(
        SMOOTH_PAIRS, ["Reparameterized-normal", "ScoreFunction-bernoulli-batch", "Rebar-one-hot"]
    ),
)
def test_smooth_estimators_have_unbiased_second_derivatives(pair):
    make, theta, measure = pair.family
    assert_estimator_law(
        pair.estimator,
        make,
        theta,
        key=pair.key,
        measure=measure,
        num_functions=1,
        num_samples=100_000 if pair.varies else 16,
        second=True,
    )


BIASED = [
    *("Arm-bernoulli-logits", "DisArm-bernoulli-logits", "ImplicitReparameterized-normal"),
    *("LeaveOneOut2-normal", "MeasureValued-geometric", "StochasticTriple-binomial-logits"),
    "WithoutReplacement2-categorical",
]


ROUGH_PAIRS = [pair for pair in PAIRS if pair.id in BIASED]


@pytest.mark.parametrize("pair", parameters(ROUGH_PAIRS, ["LeaveOneOut2-normal"]))
def test_others_are_seen_to_be_biased_in_second_derivatives_alone(pair):
    make, theta, measure = pair.family
    with pytest.raises(AssertionError, match="second derivative") as failure:
        assert_estimator_law(
            pair.estimator,
            make,
            theta,
            key=pair.key,
            measure=measure,
            num_functions=1,
            num_samples=100_000,
            second=True,
        )
    assert "'expectation'" not in str(failure.value)
    assert "['derivative'" not in str(failure.value)


SITES = [site for site in REPRESENTATIVES if isinstance(site.estimator, SMOOTH)]


@pytest.mark.parametrize("first", parameters(SITES, ["score", "enumerate"]))
def test_second_derivatives_in_programs(first):
    """Two sites in a row, lanes of a `vmap` and steps of a `scan`, at one parameter."""
    second = SITES[SITES.index(first) - 1]
    contexts = [in_a_row(first, second), mixed_lanes(first), mixed_steps(first)]

    def objective(t):
        return sum(ppl.scope(c.program, str(i))(t, 1.0) for i, c in enumerate(contexts))

    def exact(t):
        return sum(context.exact(t, 1.0) for context in contexts)

    options = {"num_samples": 100_000, "tolerance": 1e-4, "second": True}
    assert_unbiased(objective, 0.3, exact=exact, key=first.key, **options)


def test_checker_finds_a_biased_second_derivative():
    def objective(t):
        return jnp.exp(t) * ppl.sample("x", dist.Bernoulli(logits=t), LeaveOneOut())

    def exact(t):
        return jnp.exp(t) / (1 + jnp.exp(-t))

    key = REPRESENTATIVES[0].key
    with pytest.raises(AssertionError, match="second derivative"):
        assert_unbiased(objective, 0.3, exact=exact, key=key, second=True)
