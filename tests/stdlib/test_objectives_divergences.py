"""Rényi, CUBO, f-divergences, forward KL, log-variance, trajectory balance, tail-adaptive."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from jax.lax import stop_gradient

import ppl
from ppl import sample
from ppl.errors import BiasedEstimator, InvalidSetting, UnsuitableEstimator
from stdlib.estimators import Enumerate
from stdlib.inference import Exact
from stdlib.objectives import (
    cubo,
    elbo,
    f_divergence,
    forward_kl,
    iwelbo,
    log_variance,
    renyi,
    tail_adaptive,
    trajectory_balance,
)
from stdlib.objectives._particles import check_count
from stdlib.objectives.tail_adaptive import _shares as tail_shares
from stdlib.testing import assert_unbiased
from tests.stdlib.bounds import KEY, dry_run
from tests.stdlib.small import (
    DISCRETE,
    NORMAL,
    PROBLEMS,
    assert_all_unbiased,
    log_mean_exp,
    only_derivative,
)

SHIFT = -1.5
"""Near the log evidences."""
F = {
    "hellinger": lambda t: (jnp.sqrt(t) - 1.0) ** 2,
    "forward": lambda t: t * jnp.log(t),
}


def power_mean(alpha):
    return lambda z: log_mean_exp((1 - alpha) * z.weight) / (1 - alpha)


def mean_weight(z):
    return jnp.mean(z.weight)


def cases_of(problem):
    """Objectives of (theta, phi), and their exact values; draws that are constant at sg(phi)."""
    expected, observed = problem.expected, problem.observed

    def bound(objective):
        def program(theta, phi, extra):
            model, guide = partial(problem.model, theta), partial(problem.guide, phi)
            return objective(model, guide, observed, **extra)

        return program

    def exact(formula, num_particles=1):
        return lambda theta, phi, _: expected(formula, theta, phi, num_particles)

    def weighted(z):
        weights = stop_gradient(jax.nn.softmax(z.weight))
        return weights @ (z.guide - stop_gradient(z.prior + z.likelihood))

    def inclusive(theta, phi, _):
        return expected(weighted, theta, phi, 2, stop_gradient(phi))

    def inclusive_unnormalised(theta, phi, _):
        def formula(z):
            log_p = stop_gradient(z.prior + z.likelihood)[0]
            return stop_gradient(jnp.exp(z.weight[0] - SHIFT)) * (z.guide[0] - log_p)

        return expected(formula, theta, phi, 1, stop_gradient(phi))

    def variance(theta, phi, _):
        """Its gradient in phi is the ELBO's."""
        value = expected(
            lambda z: -((z.weight[0] - z.weight[1]) ** 2) / 4, theta, stop_gradient(phi), 2
        )
        return value + only_derivative(expected(mean_weight, stop_gradient(theta), phi))

    def balance(theta, phi, extra):
        """Its gradient in phi is the ELBO's; in the log evidence, the ELBO less it."""
        log_z, theta_only = stop_gradient(extra["log_evidence"]), stop_gradient(phi)
        value = expected(lambda z: -((log_z - z.weight[0]) ** 2) / 2, theta, theta_only)
        bound = expected(mean_weight, stop_gradient(theta), phi)
        slope = stop_gradient(bound - log_z)
        return value + only_derivative(bound + slope * extra["log_evidence"])

    plain = {
        "renyi 0.5": (bound(partial(renyi, alpha=0.5, num_particles=2)), exact(power_mean(0.5), 2)),
        "renyi 2": (bound(partial(renyi, alpha=2.0, num_particles=2)), exact(power_mean(2.0), 2)),
        "renyi 1": (bound(partial(renyi, alpha=1.0, num_particles=2)), exact(mean_weight)),
        "cubo": (
            bound(partial(cubo, log_evidence=SHIFT)),
            exact(lambda z: -jnp.exp(2 * (z.weight[0] - SHIFT))),
        ),
        "hellinger": (
            bound(partial(f_divergence, f=F["hellinger"], log_evidence=SHIFT)),
            exact(lambda z: -F["hellinger"](jnp.exp(z.weight[0] - SHIFT))),
        ),
        "forward": (
            bound(partial(forward_kl, num_particles=2, allow_biased=True)),
            inclusive,
        ),
        "forward, unnormalised": (
            bound(partial(forward_kl, num_particles=2, log_evidence=SHIFT)),
            inclusive_unnormalised,
        ),
        "log-variance": (bound(partial(log_variance, num_particles=2)), variance),
    }
    drop = lambda f: lambda theta, phi, extra: f(theta, phi, {})
    return {
        **{name: (drop(f), g) for name, (f, g) in plain.items()},
        "trajectory balance": (bound(trajectory_balance), balance),
    }


@pytest.mark.parametrize(
    "problem",
    [
        pytest.param(problem, id=name, marks=() if problem is DISCRETE else pytest.mark.law)
        for name, problem in PROBLEMS.items()
    ],
)
def test_values_and_gradients(problem):
    assert_all_unbiased(problem, cases_of(problem), extra={"log_evidence": -1.2})


def test_with_enumerated_choices_they_are_exact():
    enumerated = lambda program: ppl.with_estimators(program, {"*": Enumerate()})
    cases, extra = cases_of(DISCRETE), {"log_evidence": -1.2}
    assert_all_unbiased(DISCRETE, cases, extra, transform=enumerated, num_samples=4)


# --- bounds and special cases --------------------------------------------------------------------


def exact_value(problem, formula, num_particles=1):
    theta, phi = problem.at["theta"], problem.at["phi"]
    return float(problem.expected(formula, theta, phi, num_particles))


@pytest.mark.parametrize("problem", PROBLEMS.values(), ids=PROBLEMS)
def test_directions_of_the_bounds(problem):
    """Of the exact values that the estimates are held against above."""
    evidence = float(problem.log_evidence(problem.at["theta"], problem.at["phi"]))
    bound = exact_value(problem, mean_weight)
    tight = exact_value(problem, log_mean_exp_of_weight, 2)
    half, double = (exact_value(problem, power_mean(a), 2) for a in (0.5, 2.0))
    assert double < bound < half < tight < evidence
    upper = np.log(exact_value(problem, lambda z: jnp.exp(2 * z.weight[0]))) / 2
    assert upper > evidence
    ratio = lambda z: jnp.exp(z.weight[0] - SHIFT)
    for f in F.values():
        assert exact_value(problem, lambda z, f=f: f(ratio(z))) > f(jnp.exp(evidence - SHIFT))


def log_mean_exp_of_weight(z):
    return log_mean_exp(z.weight)


def same_draws(first, second):
    """Two objectives of phi for the normal problem, valued and differentiated with one key."""
    model = partial(NORMAL.model, NORMAL.at["theta"])

    def run(objective):
        program = lambda phi: objective(model, partial(NORMAL.guide, phi), NORMAL.observed)
        return jax.value_and_grad(ppl.expectation(program), argnums=1)(KEY, NORMAL.at["phi"])

    both = jax.jit(lambda: (run(first), run(second)))()
    jax.tree.map(partial(np.testing.assert_allclose, rtol=2e-5, atol=1e-6), *both)


@pytest.mark.parametrize("alpha", [-1.0, 0.5, 1.0])
def test_renyi_of_one_particle_is_the_elbo(alpha):
    same_draws(lambda *args: renyi(*args, alpha, 1), lambda *args: iwelbo(*args, 1))


def test_renyi_at_zero_is_the_importance_weighted_bound():
    same_draws(lambda *args: renyi(*args, 0.0, 5), lambda *args: iwelbo(*args, 5))


def test_renyi_tends_to_the_elbo():
    def distance(alpha):
        return abs(exact_value(NORMAL, power_mean(alpha), 2) - exact_value(NORMAL, mean_weight))

    def program(alpha):
        model, guide = (
            partial(f, NORMAL.at[k]) for f, k in ((NORMAL.model, "theta"), (NORMAL.guide, "phi"))
        )
        return renyi(model, guide, NORMAL.observed, alpha, 2)

    near, at = (float(ppl.expectation(program)(KEY, a)) for a in (0.99, 1.0))
    assert abs(near - at) < 0.02
    assert distance(0.99) < 0.02 < distance(0.5)


def test_f_of_minus_log_is_the_elbo():
    def objective(*args):
        return f_divergence(*args, lambda t: -jnp.log(t), log_evidence=0.0)

    same_draws(objective, elbo)


def test_forward_kl_from_the_exact_posterior_has_no_bias():
    """Drawn from the posterior all weights are equal: the divergence and log p(x), exactly."""

    def objective(phi):
        model = partial(DISCRETE.model, DISCRETE.at["theta"])
        posterior = ppl.normalize(model, DISCRETE.observed, Exact())
        guide = partial(DISCRETE.guide, phi)
        options = {"proposal": posterior, "allow_biased": True}
        return forward_kl(model, guide, DISCRETE.observed, 3, **options)

    def exact(phi):
        points = DISCRETE.points(DISCRETE.at["theta"], phi, phi)
        joint = points.prior + points.likelihood
        posterior = jax.nn.softmax(joint)
        divergence = posterior @ (jnp.log(posterior) - points.guide)
        return -(divergence + jax.nn.logsumexp(joint))

    assert_unbiased(objective, DISCRETE.at["phi"], exact=exact, key=KEY)


def test_a_reference_replaces_the_guide_as_sampler():
    """Both divergences from the uniform distribution, against sums over the three states."""
    uniform = lambda: sample("k", dist.Categorical(probs=jnp.full(3, 1 / 3)))

    def arguments(params):
        theta, phi = (
            partial(DISCRETE.model, params["theta"]),
            partial(DISCRETE.guide, params["phi"]),
        )
        return theta, phi, DISCRETE.observed

    def objective(params):
        variance = log_variance(*arguments(params), 3, reference=uniform)
        return variance + 0.7 * trajectory_balance(*arguments(params), -1.0, reference=uniform)

    def exact(params):
        logs = DISCRETE.points(params["theta"], params["phi"], params["phi"]).weight
        return -jnp.var(logs) / 2 - 0.7 * jnp.mean((1.0 + logs) ** 2) / 2

    assert_unbiased(objective, DISCRETE.at, exact=exact, key=KEY, tolerance=1e-4)


def test_vargrad_has_less_variance_than_the_score():
    model = partial(DISCRETE.model, DISCRETE.at["theta"])

    def variance(objective):
        program = lambda phi: objective(model, partial(DISCRETE.guide, phi), DISCRETE.observed)
        estimate = jax.grad(ppl.expectation(program), argnums=1)
        slopes = jax.jit(jax.vmap(estimate, (0, None)))
        return jnp.var(slopes(jax.random.split(KEY, 2000), DISCRETE.at["phi"]), axis=0).sum()

    averaged = lambda *args: jnp.mean(jax.vmap(lambda _: elbo(*args))(jnp.arange(8)))
    assert variance(lambda *args: log_variance(*args, 8)) < 0.5 * variance(averaged)


# --- tail-adaptive -------------------------------------------------------------------------------


def tail_adaptive_pair(phi, exponent):
    """For two particles: the heavier has share 1/2, the other 1. By sorting a quadrature."""
    noise = jnp.linspace(-7.0, 7.0, 4001)
    mass = jnp.exp(-(noise**2) / 2)
    mass = mass / mass.sum()

    def log_weight(noise, phi):
        z = phi["mean"] + jnp.exp(phi["log_scale"]) * noise
        constant = stop_gradient(phi)
        theta = NORMAL.at["theta"]
        log_p = dist.Normal(theta["mean"], 1.0).log_prob(z)
        log_p += dist.Normal(theta["slope"] * z, 0.9).log_prob(1.2)
        return log_p - dist.Normal(constant["mean"], jnp.exp(constant["log_scale"])).log_prob(z)

    logs = log_weight(noise, phi)
    order = jnp.argsort(stop_gradient(logs))
    below = jnp.zeros_like(mass).at[order].set(jnp.cumsum(mass[order]) - mass[order] / 2)
    heavy = 0.5**exponent / (0.5**exponent + 1.0)
    share = heavy * below + (1.0 - heavy) * (1.0 - below)
    return 2 * jnp.sum(mass * share * logs)


def test_tail_adaptive_weights_by_rank():
    model = partial(NORMAL.model, NORMAL.at["theta"])

    def objective(params, f=tail_adaptive):
        guides = [partial(NORMAL.guide, params[name]) for name in ("default", "steep")]
        options = {"num_particles": 2, "allow_biased": True}
        first = f(model, guides[0], NORMAL.observed, **options)
        return first + f(model, guides[1], NORMAL.observed, exponent=-2.0, **options)

    def exact(params):
        pairs = (("default", -1.0), ("steep", -2.0))
        return sum(tail_adaptive_pair(params[name], exponent) for name, exponent in pairs)

    at = dict.fromkeys(("default", "steep"), NORMAL.at["phi"])
    assert_unbiased(objective, at, exact=exact, key=KEY, tolerance=1e-3)


@pytest.mark.parametrize("level", [0, 3])
def test_tail_adaptive_weights_are_finite_and_ties_have_one_share(level):
    """However XLA arranges the floats: every particle is at least as large as itself."""

    def objective(mean, spread):
        def guide():
            sample("z", dist.Normal(mean, 2.0))
            sample("same", dist.Normal(0.0, 1.0))

        def model():
            sample("z", dist.Normal(0.0, 1.0 + spread))
            sample("same", dist.Normal(0.0, 1.0))

        return tail_adaptive(model, guide, {}, 4, allow_biased=True)

    slope = jax.vmap(jax.grad(ppl.expectation(objective), 1), (0, None, None))
    options = {"xla_backend_optimization_level": level}
    found = jax.jit(slope, compiler_options=options)(jax.random.split(KEY, 4_000), 1.0, 0.0)
    assert jnp.all(jnp.isfinite(found))
    ties = jax.jit(tail_shares, compiler_options=options)(jnp.array([0.3, -1.0, 0.3, 2.0]))
    assert ties.tolist() == [0.75, 1.0, 0.75, 0.25]


def test_tail_adaptive_with_exponent_zero_sticks_the_landing_and_leaves_the_model():
    def objective(theta):
        guide = partial(NORMAL.guide, NORMAL.at["phi"])
        model = partial(NORMAL.model, theta)
        return tail_adaptive(model, guide, NORMAL.observed, 4, allow_biased=True)

    slopes = jax.grad(ppl.expectation(objective), argnums=1)(KEY, NORMAL.at["theta"])
    assert all(slope == 0 for slope in slopes.values())
    same_draws(
        lambda *args: tail_adaptive(*args, 1, exponent=0.0, allow_biased=True),
        lambda *args: iwelbo(*args, 1, gradient="sticking-the-landing"),
    )


# --- errors --------------------------------------------------------------------------------------


def coin():
    sample("k", dist.Bernoulli(0.3))


@pytest.mark.parametrize(
    ("objective", "text"),
    [
        (
            lambda: renyi(coin, coin, {}, 0.5, 0),
            r"num_particles of renyi must be .* least 1, got 0",
        ),
        (lambda: iwelbo(coin, coin, {}, 0), r"num_particles of iwelbo must be .* at least 1"),
        (lambda: cubo(coin, coin, {}, 0.5), r"above 1, got 0\.5\. For a lower bound write renyi\("),
        (
            lambda: f_divergence(coin, coin, {}, lambda t: jnp.ones(2), log_evidence=0.0),
            r"for the ratio p/q, .*; it returned float32\[2\]\.",
        ),
        (
            lambda: log_variance(coin, coin, {}, 1),
            "of log_variance must be an .* at least 2, got 1",
        ),
    ],
)
def test_settings_out_of_range(objective, text):
    with pytest.raises(InvalidSetting, match=text):
        dry_run(objective)


def test_a_number_of_particles_is_an_integer():
    with pytest.raises(InvalidSetting, match=r"must be an integer of at least 1, got 2\.5\."):
        check_count("num_particles", 2.5, "renyi")


def test_biased_ones_must_be_allowed():
    with pytest.raises(
        BiasedEstimator, match=r"forward_kl\(\.\.\., allow_biased=True\), or give lo"
    ):
        dry_run(lambda: forward_kl(coin, coin, {}, 2))
    with pytest.raises(
        BiasedEstimator, match=r"tail_adaptive\(\.\.\., allow_biased=True\), or wri"
    ):
        dry_run(lambda: tail_adaptive(coin, coin, {}, 2))


def test_tail_adaptive_refuses_discrete_choices():
    text = (
        r"tail_adaptive needs a guide whose choices all move.*Write f_divergence where .* site 'k'"
    )
    with pytest.raises(UnsuitableEstimator, match=text):
        dry_run(lambda: tail_adaptive(coin, coin, {}, 2, allow_biased=True))
