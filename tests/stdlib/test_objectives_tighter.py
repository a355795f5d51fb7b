"""MIWAE, CIWAE, PIWAE and their signal-to-noise ratios; TVO; SUMO."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from jax.lax import stop_gradient

import ppl
from ppl import sample
from ppl.errors import BiasedEstimator, InvalidSetting
from stdlib.objectives import ciwae, iwelbo, miwae, piwae, sumo, tvo
from stdlib.testing import QUICK
from tests.stdlib.bounds import dry_run
from tests.stdlib.small import (
    DISCRETE,
    NORMAL,
    PROBLEMS,
    assert_all_unbiased,
    log_mean_exp,
    only_derivative,
)

BETAS = (0.0, 0.2, 0.5)


def bound_of(z):
    return log_mean_exp(z.weight)


def riemann(z, betas=BETAS):
    """The left sum, term by term."""
    total = 0.0
    for left, right in zip(betas, [*betas[1:], 1.0], strict=True):
        powers = jnp.exp(left * z.weight)
        total += (right - left) * jnp.sum(powers * z.weight) / jnp.sum(powers)
    return total


def covariances(z, betas=BETAS):
    """The sum, whose derivative is E[d log w] + Cov(log w, d log path) for constant weights."""
    total = 0.0
    for left, right in zip(betas, [*betas[1:], 1.0], strict=True):
        powers = stop_gradient(jnp.exp(left * z.weight))
        powers /= powers.sum()
        path = (1 - left) * z.guide + left * (z.prior + z.likelihood)
        value = stop_gradient(z.weight)
        covariance = powers @ (value * path) - (powers @ value) * (powers @ path)
        total += (right - left) * (powers @ z.weight + only_derivative(covariance))
    return total


def cases_of(problem, particles):
    """For PIWAE, two bounds of so many `particles` each."""
    expected = problem.expected

    def estimate(objective):
        def program(theta, phi, _):
            model, guide = partial(problem.model, theta), partial(problem.guide, phi)
            return objective(model, guide, problem.observed)

        return program

    def exact(formula, num_particles):
        return lambda theta, phi, _: expected(formula, theta, phi, num_particles)

    def partially(theta, phi, _):
        guide = expected(bound_of, stop_gradient(theta), phi, particles)
        model = expected(bound_of, theta, stop_gradient(phi), 2 * particles)
        return guide + only_derivative(model)

    def covariance(theta, phi, _):
        return expected(covariances, theta, phi, 2, stop_gradient(phi))

    options = {"gradient": "covariance", "allow_biased": True}
    return {
        "miwae": (estimate(partial(miwae, num_bounds=3, num_particles=2)), exact(bound_of, 2)),
        "ciwae": (
            estimate(partial(ciwae, num_particles=2, beta=0.3)),
            exact(lambda z: 0.3 * jnp.mean(z.weight) + 0.7 * bound_of(z), 2),
        ),
        "piwae": (estimate(partial(piwae, num_bounds=2, num_particles=particles)), partially),
        "tvo": (estimate(partial(tvo, num_particles=2, betas=BETAS)), exact(riemann, 2)),
        "tvo covariance": (
            estimate(partial(tvo, num_particles=2, betas=BETAS, **options)),
            covariance,
        ),
        "sumo": (estimate(partial(sumo, max_particles=3)), exact(bound_of, 3)),
        "sumo from two": (
            estimate(partial(sumo, max_particles=3, num_particles=2)),
            exact(bound_of, 3),
        ),
    }


@pytest.mark.parametrize(
    ("name", "particles"), [("discrete", 2), pytest.param("normal", 1, marks=pytest.mark.law)]
)
def test_values_and_gradients(name, particles):
    problem = PROBLEMS[name]
    assert_all_unbiased(problem, cases_of(problem, particles))


# --- signal-to-noise ratios, as in Rainforth et al. 2018 -----------------------------------------


FAR = {"theta": {"slope": 0.8, "mean": 0.2}, "phi": {"mean": -0.4, "log_scale": 0.1}}
GROUPS = 40


def objective_of(name, **options):
    def program(params):
        model, guide = partial(NORMAL.model, params["theta"]), partial(NORMAL.guide, params["phi"])
        return name(model, guide, NORMAL.observed, **options)

    return program


def log_ratio(objective, count=40_000):
    """Log signal-to-noise ratios of both means' gradients, and their errors (by jackknife)."""
    estimate = jax.grad(ppl.expectation(objective), argnums=1)
    keys = jax.random.split(jax.random.key(2), count)
    slopes = jax.jit(
        lambda: jax.lax.map(lambda key: estimate(key, FAR), keys, batch_size=2000),
        compiler_options=QUICK,
    )()
    both = np.asarray([slopes["theta"]["mean"], slopes["phi"]["mean"]], np.float64)
    groups = both.reshape(2, GROUPS, -1)
    first, second = groups.sum(2), (groups**2).sum(2)

    def ratio(first, second, count):
        mean = first / count
        return np.log(np.abs(mean)) - np.log(second / count - mean**2) / 2

    without = first.sum(1, keepdims=True) - first, second.sum(1, keepdims=True) - second
    left_out = ratio(*without, count * (GROUPS - 1) / GROUPS)
    return ratio(first.sum(1), second.sum(1), count), left_out.std(1) * np.sqrt(GROUPS - 1)


def growth(few, many, factor):
    """The power of `factor` by which the ratios of model and guide grow, and its standard error."""
    (low, low_error), (high, high_error) = log_ratio(few), log_ratio(many)
    return (high - low) / np.log(factor), np.hypot(low_error, high_error) / np.log(factor)


def test_more_particles_help_the_model_and_harm_the_guide():
    """A law for many particles: 0.1 is allowed for there being 16."""
    few, many = (objective_of(iwelbo, num_particles=k) for k in (16, 128))
    power, error = growth(few, many, 8)
    assert np.all(error < 0.05), error
    assert np.all(np.abs(power - [0.5, -0.5]) < 5 * error + 0.1), (power, error)


def test_more_bounds_help_both():
    few, many = (objective_of(miwae, num_bounds=m, num_particles=8) for m in (1, 8))
    power, error = growth(few, many, 8)
    assert np.all(error < 0.05), error
    assert np.all(np.abs(power - 0.5) < 5 * error), (power, error)


def test_a_partially_weighted_bound_has_the_better_of_the_two():
    """For one budget: the model's gradient of the tight bound, the guide's of the averaged one."""
    names = {"num_bounds": 8, "num_particles": 8}
    both = log_ratio(objective_of(piwae, **names))[0]
    tight, averaged = (
        log_ratio(objective)[0]
        for objective in (objective_of(iwelbo, num_particles=64), objective_of(miwae, **names))
    )
    np.testing.assert_allclose(both, [tight[0], averaged[1]], atol=1e-3)  # the same draws
    assert both[0] > averaged[0] and both[1] > tight[1] + 1.0


def test_a_part_of_the_elbo_keeps_the_signal_up():
    """Without it the ratio of the guide's falls; with it, it grows as that of the ELBO does."""
    few, many = (objective_of(ciwae, num_particles=k, beta=0.5) for k in (16, 128))
    power, error = growth(few, many, 8)
    assert abs(power[1] - 0.5) < 5 * error[1] + 0.1, (power, error)


# --- bounds and special cases --------------------------------------------------------------------


@pytest.mark.parametrize("problem", PROBLEMS.values(), ids=PROBLEMS)
def test_the_thermodynamic_bound_lies_between_the_others(problem):
    theta, phi = problem.at["theta"], problem.at["phi"]
    value = lambda formula: float(problem.expected(formula, theta, phi, 2))
    elbo, tight = value(lambda z: jnp.mean(z.weight)), value(bound_of)
    coarse, fine, finest = (
        value(partial(riemann, betas=betas))
        for betas in ((0.0, 0.5), (0.0, 0.25, 0.5, 0.75), tuple(np.arange(100) / 100))
    )
    assert elbo < coarse < fine < finest < tight < float(problem.log_evidence(theta, phi))
    assert tight - finest < 0.02 * (tight - elbo)
    assert value(partial(riemann, betas=(0.0,))) == pytest.approx(elbo, abs=1e-6)


def test_bounds_of_one_kind_are_one_another():
    """Draw for draw: betas of 0 alone; a CIWAE with all of the ELBO; one bound; no roulette."""
    estimate = lambda f: jax.value_and_grad(ppl.expectation(f), argnums=1)(jax.random.key(0), FAR)
    averaged = objective_of(ciwae, num_particles=4, beta=1.0)
    tight = objective_of(iwelbo, num_particles=4)
    pairs = {
        "tvo": (objective_of(tvo, num_particles=4, betas=(0.0,)), averaged),
        "ciwae": (objective_of(ciwae, num_particles=4, beta=0.0), tight),
        "sumo": (objective_of(sumo, num_particles=4, max_particles=4), tight),
        "piwae": (
            objective_of(piwae, num_bounds=1, num_particles=4),
            objective_of(miwae, num_bounds=1, num_particles=4),
        ),
    }
    found = jax.jit(lambda: {k: (estimate(f), estimate(g)) for k, (f, g) in pairs.items()})()
    for first, second in found.values():
        jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), first, second)


def test_the_covariance_gradient_tends_to_that_of_the_exact_path():
    """Its bias falls as one over the number of particles; without, it is an error of its own."""
    theta, phi = DISCRETE.at["theta"], DISCRETE.at["phi"]

    def path(phi):
        z = DISCRETE.points(theta, phi, phi)
        total = 0.0
        for left, right in zip(BETAS, [*BETAS[1:], 1.0], strict=True):
            weights = jax.nn.softmax(z.guide + left * z.weight)
            total += (right - left) * weights @ z.weight
        return total

    def finite(phi, count):
        return DISCRETE.expected(covariances, theta, phi, count, stop_gradient(phi))

    exact = jax.jit(jax.grad(path))(phi)
    slopes = [jax.jit(jax.grad(finite), static_argnums=1)(phi, k) for k in (2, 6)]
    distances = [float(jnp.linalg.norm(slope - exact)) for slope in slopes]
    assert distances[0] > 2.0 * distances[1] > 0


def test_sumo_costs_few_particles():
    """The guide is run by the roulette alone: a callback counts."""
    runs = []

    def guide():
        z = sample("z", dist.Normal(0.0, 1.0))
        jax.debug.callback(lambda _: runs.append(1), z)

    model = partial(NORMAL.model, NORMAL.at["theta"])
    estimate = jax.jit(ppl.expectation(lambda: sumo(model, guide, NORMAL.observed, 100)))
    for key in jax.random.split(jax.random.key(0), 200):
        estimate(key)
    jax.effects_barrier()
    harmonic = np.sum(1 / np.arange(1, 100))
    assert len(runs) / 200 == pytest.approx(1 + harmonic, rel=0.35)


# --- errors --------------------------------------------------------------------------------------


def coin():
    sample("k", dist.Bernoulli(0.3))


@pytest.mark.parametrize(
    ("objective", "text"),
    [
        (lambda: miwae(coin, coin, {}, 0, 2), r"num_bounds of miwae must be .* least 1, got 0"),
        (lambda: miwae(coin, coin, {}, 2, 0), r"num_particles of iwelbo must be .* least 1"),
        (lambda: piwae(coin, coin, {}, 0, 2), r"num_bounds of piwae must be .* at least 1"),
        (lambda: ciwae(coin, coin, {}, 0, 0.5), r"num_particles of ciwae must be .* at least 1"),
        (
            lambda: sumo(coin, coin, {}, 2, num_particles=3),
            r"max_particles of sumo must be at least num_particles, 3, got 2\.",
        ),
        (
            lambda: tvo(coin, coin, {}, 2, (0.1, 0.5)),
            r"betas of tvo must be increasing numbers from 0, below 1, got \(0\.1, 0\.5\)\. Write,",
        ),
        (lambda: tvo(coin, coin, {}, 2, (0.0, 0.5, 0.5)), r"betas of tvo must be increasing"),
        (lambda: tvo(coin, coin, {}, 2, (0.0, 1.0)), r"betas of tvo must be increasing"),
        (lambda: tvo(coin, coin, {}, 2, ()), r"betas of tvo must be increasing"),
        (
            lambda: tvo(coin, coin, {}, 2, (0.0,), gradient="score"),
            r"gradient of tvo must be 'total' or 'covariance', got 'score'\.",
        ),
    ],
)
def test_settings_out_of_range(objective, text):
    with pytest.raises(InvalidSetting, match=text):
        dry_run(objective)


def test_the_covariance_gradient_must_be_allowed():
    with pytest.raises(BiasedEstimator, match=r"Write gradient='total', or accept it: tvo\("):
        dry_run(lambda: tvo(coin, coin, {}, 2, (0.0,), gradient="covariance"))
