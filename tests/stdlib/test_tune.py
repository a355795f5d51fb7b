"""`tune` finds the known best, keeps the evidence, and says what is wrong with its arguments."""

import itertools
import re
from functools import partial
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

import ppl
from ppl import Reparameterized, ScoreFunction, sample
from ppl.errors import (
    InvalidKey,
    InvalidSetting,
    NonScalarObjective,
    NotTrainable,
    UnmatchedPattern,
    UnsuitableEstimator,
)
from stdlib.distributions import FloatBernoulli
from stdlib.estimators import (
    DisArm,
    Enumerate,
    LeaveOneOut,
    MeasureValued,
    Rebar,
    StraightThrough,
    tune,
)
from stdlib.estimators._tuned import described
from stdlib.estimators.tune import _candidates_of

KEY = jax.random.key(0)


def cost(p, kind=dist.Bernoulli, estimator=None):
    return (sample("x", kind(p), estimator) - 0.45) ** 2


def by_name(tuned):
    return {
        ", ".join(f"{a}={type(e).__name__}" for a, e in row.estimators.items()): row
        for row in tuned.evidence
    }


@pytest.fixture(scope="module")
def tuned():
    return tune(cost, 0.3, KEY)


def test_a_single_bernoulli_is_enumerated(tuned):
    assert tuned.estimators == {"x": Enumerate()}
    slope = jax.grad(ppl.expectation(tuned.program), argnums=1)(jax.random.key(1), 0.3)
    np.testing.assert_allclose(slope, 0.1, rtol=1e-4)
    rows = by_name(tuned)
    suitable = {"Enumerate", "LeaveOneOut", "WithoutReplacement", "MeasureValued"}
    suitable |= {"StochasticTriple", "Arm", "DisArm"}
    assert set(rows) == {"", *(f"x={name}" for name in suitable)}
    assert rows["x=Enumerate"].variance == rows["x=MeasureValued"].variance == 0.0
    written = rows[""]
    variance = 0.55**4 / 0.3 + 0.45**4 / 0.7 - 0.1**2
    assert abs(written.variance - variance) < 5 * written.variance_error
    assert written.product == written.variance * written.cost
    assert all(a.product <= b.product for a, b in itertools.pairwise(tuned.evidence))


def mixed(logits):
    return jnp.abs(jnp.mean(sample("x", dist.Bernoulli(logits=logits))) - 0.3)


def test_enumeration_that_is_too_large_is_evidence_and_not_fatal():
    candidates = [Enumerate(), MeasureValued(), LeaveOneOut()]
    tuned = tune(mixed, jnp.linspace(-1, 1, 20), KEY, candidates, num_samples=512)
    rows = by_name(tuned)
    assert rows["x=Enumerate"].reason.startswith("TooManyJointStates: The 20 elements of site 'x'")
    assert tuned.evidence[-1] is rows["x=Enumerate"]
    assert tuned.estimators == {"x": MeasureValued()}
    products = [rows[name].product for name in ("x=MeasureValued", "x=LeaveOneOut", "")]
    assert tuned.evidence[0].product == min(products)


def two(params):
    a = sample("part/a", dist.Bernoulli(params["a"]))
    b = sample("part/b", dist.Bernoulli(params["b"]))
    return (a * b - 0.3 * a + sample("c[0]", dist.Normal(params["a"], 1.0))) ** 2


PARAMS = {"a": 0.3, "b": 0.6}


@pytest.mark.parametrize("method", ["greedy", "exhaustive"])
def test_both_methods_find_the_best_of_all(method):
    tuned = tune(two, PARAMS, KEY, {"part/*": [Enumerate()]}, method=method, num_samples=256)
    exact = {"part/a": Enumerate(), "part/b": Enumerate(), "c[0]": Reparameterized()}
    assert tuned.estimators == exact
    assert {tuple(row.estimators) for row in tuned.evidence} == {
        (), ("part/a",), ("part/b",), ("part/a", "part/b"),
    }  # fmt: skip


def test_the_last_matching_pattern_holds_and_other_sites_are_left_alone():
    patterns = {"part/*": [Enumerate()], "*b": [LeaveOneOut()]}
    wanted = _candidates_of(patterns, ["part/a", "part/b", "c[0]"], two)
    assert wanted == {"part/a": (Enumerate(),), "part/b": (LeaveOneOut(),)}


def test_the_program_s_own_estimator_is_a_candidate_and_not_measured_twice():
    tuned = tune(partial(cost, estimator=Enumerate()), 0.3, KEY, [Enumerate(), LeaveOneOut()])
    assert tuned.estimators == {"x": Enumerate()} and tuned.evidence[0].estimators == {}
    assert len(tuned.evidence) == 2


def test_estimators_whose_settings_the_program_computes_are_left_in_it():
    def program(params):
        x = sample("x", dist.Bernoulli(params["p"]), ScoreFunction(params["b"] * 2))
        return (x - 0.45) ** 2

    tuned = tune(program, {"p": 0.3, "b": 0.1}, KEY, [LeaveOneOut()], num_samples=64)
    assert "as written" in repr(tuned) and len(tuned.evidence) == 2
    jax.grad(ppl.expectation(tuned.program), argnums=1)(KEY, {"p": 0.3, "b": 0.1})
    alone = tune(program, {"p": 0.3, "b": 0.1}, KEY, {"x": [MeasureValued()]}, num_samples=64)
    assert alone.evidence[0].estimators == alone.estimators == {"x": MeasureValued()}


# --- what must not be chosen ---------------------------------------------------------------------


class Off(ppl.extend.Estimator):
    """No variance at all, but it is biased and says so."""

    unbiased: ClassVar[bool] = False

    def particles(self, key, distribution):
        return ppl.extend.Particles(distribution.mean[None], None)


def test_biased_and_unsuitable_candidates_are_refused_with_a_reason():
    candidates = [StraightThrough(), Off(), Reparameterized(), DisArm(), Rebar()]
    tuned = tune(partial(cost, kind=FloatBernoulli), 0.3, KEY, candidates, num_samples=64)
    rows = by_name(tuned)
    assert "x=StraightThrough" in rows and rows["x=Off"].reason == "it is biased"
    assert "has_rsample" in rows["x=Reparameterized"].reason
    assert type(tuned.estimators["x"]) not in (StraightThrough, Off)
    assert "not x=Off(): it is biased" in repr(tuned)


def jump(mean):
    """A jump that no warning tells of, as both values read the site."""
    x = sample("x", dist.Normal(mean, 1.0))
    return jnp.where(x > 0, 1.0 + 0.0 * x, 0.0 * x)


def test_a_pathwise_estimator_is_not_chosen_where_the_objective_jumps():
    """Its gradient is zero, without variance, and wrong; only the mean of another tells."""
    tuned = tune(jump, 0.0, KEY, [ScoreFunction(), MeasureValued()], num_samples=256)
    reason = by_name(tuned)[""].reason
    assert re.match(r"its mean gradient is \d+ standard errors from that of x=Measure", reason)
    assert tuned.estimators == {"x": MeasureValued()}


def test_a_gradient_that_is_not_finite_is_not_chosen():
    class Broken(ppl.ScoreFunction):
        def particles(self, key, distribution):
            values, weights, *rest = super().particles(key, distribution)
            return ppl.extend.Particles(values, weights + 0 * jnp.log(weights - 1), *rest)

    tuned = tune(cost, 0.3, KEY, [Broken(), LeaveOneOut()], num_samples=64)
    assert by_name(tuned)["x=Broken"].reason == "the gradient is not finite"
    assert tuned.estimators == {"x": LeaveOneOut()}


def test_where_nothing_can_be_measured_the_reason_is_given():
    text = r"None of the 1 combinations.*DiscontinuousObjective: .*Give other candidates\."
    with pytest.raises(UnsuitableEstimator, match=re.compile(text, re.DOTALL)):
        tune(lambda m: (sample("x", dist.Normal(m, 1.0)) > 0) * 2.0, 0.0, KEY, [Reparameterized()])


# --- settings ------------------------------------------------------------------------------------


def test_time_as_the_cost():
    tuned = tune(cost, 0.3, KEY, [Enumerate()], num_samples=64, measure="time")
    assert all(0 < row.cost < 1 for row in tuned.evidence) and "seconds" in repr(tuned)


def test_it_prints_a_table_sorted_by_the_product(tuned):
    lines = repr(tuned).splitlines()
    assert lines[0] == "Tuned cost: x=Enumerate()"
    assert lines[2].split()[0] == "estimators" and lines[2].endswith("variance × FLOPs")
    assert [line.split("  ")[0] for line in (lines[3], lines[-1])] == [
        "x=Enumerate()", "as written",
    ]  # fmt: skip


def test_an_estimator_is_printed_as_the_call_that_makes_it():
    made = [LeaveOneOut(), LeaveOneOut(4), ScoreFunction(jnp.ones(2)), Rebar(0.1)]
    assert [described(estimator) for estimator in made] == [
        "LeaveOneOut()", "LeaveOneOut(num_draws=4)", "ScoreFunction(baseline=f32[2])",
        "Rebar(temperature=0.1)",
    ]  # fmt: skip


def test_more_combinations_than_the_limit_are_refused():
    def many(p):
        return sum(sample(f"x{i}", dist.Bernoulli(p)) for i in range(9)) * 1.0

    text = r"512 combinations.*limit of 256.*method='greedy'"
    with pytest.raises(InvalidSetting, match=text):
        tune(many, 0.3, KEY, [Enumerate()], method="exhaustive")


WRONG = [
    ({"candidates": Enumerate()}, InvalidSetting, r"a list of estimators.*\[ScoreFunction\(\)\]"),
    ({"candidates": []}, InvalidSetting, r"a list of estimators.*got \[\]"),
    ({"candidates": [Enumerate]}, InvalidSetting, r"instance of .*, got.*Write.*Enumerate\(\)"),
    ({"candidates": {"x": ["score"]}}, InvalidSetting, r"got 'score'.*ScoreFunction\(\)"),
    ({"candidates": {"y*": [Enumerate()]}}, UnmatchedPattern, r"'y\*' of candidates.*'cost'.*'x'"),
    ({"method": "best"}, InvalidSetting, r"'greedy' or 'exhaustive', got 'best'"),
    ({"measure": "joules"}, InvalidSetting, r"'flops' or 'time', got 'joules'"),
    ({"num_samples": 1}, InvalidSetting, r"at least 2, got 1"),
    ({"params": 3}, NotTrainable, "no floating-point array"),
    ({"key": 3}, InvalidKey, "key"),
    ({"objective": lambda p: p * jnp.ones(2)}, NonScalarObjective, "one real scalar"),
]


@pytest.mark.parametrize(("change", "error", "text"), WRONG)
def test_errors_say_what_to_write(change, error, text):
    arguments = {"objective": cost, "params": 0.3, "key": KEY, **change}
    with pytest.raises(error, match=re.compile(text, re.DOTALL)):
        tune(**arguments)
