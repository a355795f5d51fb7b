"""Second derivatives: right for the estimators that say so, and for no others."""

import re
from pathlib import Path

import jax
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
    listed = {e for e in exported if isinstance(e, type) and issubclass(e, ppl.extend.Estimator)}
    assert set(said) == {estimator.__name__ for estimator in listed}
    assert {e for e in listed if e.unbiased} == {*SMOOTH, *ROUGH} == set(map(type, ESTIMATORS))
    assert {e for e in listed if e.second_order} == set(SMOOTH)
    refused = {name for name, claim in said.items() if claim == "refused"}
    assert refused == {estimator.__name__ for estimator in ROUGH}


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


@pytest.mark.parametrize("first", parameters(SITES, ["score"]))
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
        assert_unbiased(objective, 0.3, exact=exact, key=key, second=True, allow_biased=True)


def twice(first, second):
    """A second derivative in the first argument after the key."""
    return lambda estimate: first(second(estimate, argnums=1), argnums=1)


MODES = {
    "reverse": twice(jax.grad, jax.grad),
    "forward": twice(jax.jacfwd, jax.jacfwd),
    "forward over reverse": twice(jax.jacfwd, jax.grad),
    "reverse over forward": twice(jax.grad, jax.jacfwd),
}
COINS = (
    *(Arm(), DisArm(), LeaveOneOut(), LeaveOneOut(3)),
    *(MeasureValued(), StochasticTriple(), WithoutReplacement()),
)


def toss(t, estimator):
    return 1.0 * ppl.sample("x", dist.Bernoulli(t), estimator)


def in_scan(t, estimator):
    steps = lambda total, _: (total + t * toss(t, estimator), total * toss_again(t, estimator))
    total, products = jax.lax.scan(steps, 0.0, length=2)
    return total + jnp.sum(products)


def toss_again(t, estimator):
    return 1.0 * ppl.sample("again", dist.Bernoulli(t), estimator)


def in_branch(t, estimator):
    return jax.lax.cond(t > 0.1, lambda: toss(t, estimator) * toss_again(t, estimator), lambda: t)


def in_lanes(t, estimator):
    lanes = jax.vmap(lambda shift: toss(t + shift, estimator))(jnp.array([0.0, 0.1]))
    return jnp.prod(lanes + t)


def kept(t, estimator):
    return jax.checkpoint(lambda t: jnp.exp(t * toss(t, estimator) + toss_again(t, estimator)))(t)


PROGRAMS = [in_scan, in_branch, in_lanes, kept]


@pytest.mark.parametrize("place", range(len(COINS)), ids=map(repr, COINS))
def test_second_derivatives_that_are_not_promised_are_refused(place):
    estimator, program = COINS[place], PROGRAMS[place % len(PROGRAMS)]
    estimate = ppl.expectation(lambda t: program(t, estimator))
    for second in MODES.values():
        with pytest.raises(ppl.errors.BiasedEstimator, match=r"site '(x|again)', .*second deriv"):
            jax.eval_shape(second(estimate), jax.random.key(0), 0.3)
    allowed = ppl.expectation(lambda t: program(t, estimator), allow_biased=True)
    jax.eval_shape(jax.hessian(allowed, argnums=1), jax.random.key(0), 0.3)


@pytest.mark.parametrize("mode", MODES)
def test_those_of_one_pathwise_site_are_refused(mode):
    def cube(t):
        return ppl.sample("x", dist.Normal(t, 1.0), ImplicitReparameterized()) ** 3

    with pytest.raises(ppl.errors.BiasedEstimator, match="ImplicitReparameterized at site 'x'"):
        jax.eval_shape(MODES[mode](ppl.expectation(cube)), jax.random.key(0), 0.3)


def both(t, u, estimator):
    """Of two sites, each with its own parameter."""
    x = ppl.sample("x", dist.Bernoulli(t), estimator)
    return jnp.exp(0.5 * x * ppl.sample("y", dist.Bernoulli(u), estimator))


@pytest.mark.parametrize("order", [(1, 2), (2, 1)])
@pytest.mark.parametrize("modes", [(jax.grad, jax.grad), (jax.jacfwd, jax.jacfwd)])
def test_perturbations_of_two_sites_have_no_mixed_derivative(modes, order):
    estimate = ppl.expectation(lambda t, u: both(t, u, StochasticTriple()))
    mixed = modes[0](modes[1](estimate, order[0]), order[1])
    with pytest.raises(ppl.errors.BiasedEstimator):
        jax.eval_shape(mixed, jax.random.key(0), 0.3, 0.4)


def weighed(t, c, estimator):
    """A cost with a parameter of its own, which meets two sites."""
    x, y = toss(t, estimator), toss_again(t, estimator)
    return jnp.exp(c * (x + x * y)) + c**3


@pytest.mark.parametrize("estimator", [LeaveOneOut(), DisArm(), WithoutReplacement()], ids=repr)
def test_mixed_derivatives_in_a_cost_and_a_distribution_are_unbiased(estimator):
    def slope_in_cost(estimate, key):
        return jax.grad(lambda t: jax.grad(estimate, 2)(key, t, 0.4))(0.3)

    estimate = ppl.expectation(lambda t, c: weighed(t, c, estimator))
    exact = ppl.expectation(lambda t, c: weighed(t, c, Enumerate()))
    draws = jax.jit(jax.vmap(lambda key: slope_in_cost(estimate, key)))(
        jax.random.split(jax.random.key(1), 20_000)
    )
    wanted = slope_in_cost(exact, jax.random.key(0))
    assert abs(draws.mean() - wanted) < 5 * draws.std() / len(draws) ** 0.5 + 1e-5


@pytest.mark.parametrize("estimator", COINS, ids=repr)
def test_second_derivatives_in_what_no_distribution_depends_on_are_had(estimator):
    def cost(t, c):
        return jnp.exp(c * toss(t, estimator)) + c**3

    second = jax.grad(jax.grad(ppl.expectation(cost), 2), 2)
    each = jax.jit(jax.vmap(second, (0, None, None)))
    draws = each(jax.random.split(jax.random.key(2), 4000), 0.3, 0.4)
    wanted = 0.3 * jnp.exp(0.4) + 6 * 0.4
    assert abs(draws.mean() - wanted) < 5 * draws.std() / len(draws) ** 0.5 + 1e-5


def test_a_sum_over_a_whole_support_keeps_its_second_derivative():
    def cost(t):
        return jnp.exp(t * toss(t, MeasureValued()))

    slopes = [second(ppl.expectation(cost)) for second in MODES.values()]
    for found in jax.jit(lambda: [second(jax.random.key(0), 0.3) for second in slopes])():
        assert abs(found - 2.3 * jnp.exp(0.3)) < 1e-4  # of t exp(t) + 1 - t


def test_promises_cost_no_operation():
    def flops(allow_biased):
        estimate = ppl.expectation(lambda t: kept(t, LeaveOneOut()), allow_biased=allow_biased)
        lowered = jax.jit(jax.grad(estimate, argnums=1)).lower(jax.random.key(0), 0.3)
        return lowered.compile().cost_analysis()["flops"]

    assert flops(False) == flops(True)
