"""The models' exact answers by independent routes, and what training reaches."""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.optimize import minimize

import ppl
from stdlib.models import digit_vae, eight_schools, hidden_markov, linear_regression, noisy_cone
from stdlib.objectives import elbo


def importance_estimate(model, proposal, observed, draws, seed=0):
    """log p(observed) by importance sampling from a proposal, and its standard error."""

    def log_weight(key):
        q = ppl.seed(lambda: ppl.simulate(proposal))(key)
        return ppl.log_density(ppl.condition(model, observed), q.choices) - q.log_density

    keys = jax.random.split(jax.random.key(seed), draws)
    logs = np.asarray(jax.jit(jax.vmap(log_weight))(keys), float)
    weights = np.exp(logs - logs.max())
    return logs.max() + np.log(weights.mean()), weights.std() / weights.mean() / draws**0.5


def fitted(objective, start, *, steps, num_samples, rate=0.05):
    optimizer = optax.adam(optax.cosine_decay_schedule(rate, steps))
    return ppl.fit(
        objective,
        start,
        optimizer,
        key=jax.random.key(0),
        steps=steps,
        num_samples=num_samples,
        progress=False,
    ).params


def value(objective, params, draws, seed=1):
    """The mean of an objective, and its standard error."""
    keys = jax.random.split(jax.random.key(seed), draws)
    run = jax.jit(jax.vmap(ppl.expectation(objective), in_axes=(0, None)))
    values = np.asarray(run(keys, params), float)
    return values.mean(), values.std() / draws**0.5


def normal_log_density(x, mean, sd):
    return -0.5 * ((x - mean) / sd) ** 2 - np.log(sd) - 0.5 * np.log(2 * np.pi)


# the noisy cone


def test_noisy_cone_log_evidence_in_cartesian_coordinates():
    grid = np.linspace(-4.0, 4.0, 2001)
    x, y = np.meshgrid(grid, grid)
    r = x**2 + y**2
    log_joint = normal_log_density(x, 0.0, 10.0) + normal_log_density(y, 0.0, 10.0)
    log_joint += normal_log_density(5.0, r, 0.1 + r / 100)
    riemann = np.log(np.exp(log_joint).sum() * (grid[1] - grid[0]) ** 2)
    assert abs(noisy_cone.log_evidence() - riemann) < 1e-6
    assert abs(noisy_cone.log_evidence() + 5.323) < 5e-4
    ours = noisy_cone.log_joint(jnp.asarray(x[::400, ::400]), jnp.asarray(y[::400, ::400]))
    np.testing.assert_allclose(ours, log_joint[::400, ::400], rtol=2e-4)


def test_noisy_cone_log_evidence_by_importance_sampling():
    wide = {"mx": 0.0, "my": 0.0, "sx": jnp.log(2.0), "sy": jnp.log(2.0)}
    wide = {name: jnp.asarray(x) for name, x in wide.items()}
    estimate, error = importance_estimate(
        noisy_cone.model, partial(noisy_cone.guide, wide), noisy_cone.OBSERVED, 200_000
    )
    assert error < 0.02
    assert abs(estimate - noisy_cone.log_evidence()) < 4 * error


def exact_elbo_of_cone(phi, nodes=80):
    """The ELBO by Gauss-Hermite quadrature in x and in y."""
    t, weights = np.polynomial.hermite_e.hermegauss(nodes)
    weights = weights / weights.sum()
    mx, my, sx, sy = (float(phi[name]) for name in ("mx", "my", "sx", "sy"))
    x, y = mx + np.exp(sx) * t[:, None], my + np.exp(sy) * t[None, :]
    r = x**2 + y**2
    log_joint = normal_log_density(x, 0.0, 10.0) + normal_log_density(y, 0.0, 10.0)
    log_joint = log_joint + normal_log_density(5.0, r, 0.1 + r / 100)
    return weights @ log_joint @ weights + sx + sy + np.log(2 * np.pi * np.e)


def test_noisy_cone_best_elbo_by_quadrature():
    """Training is tested with the demonstration."""
    start = {name: float(x) for name, x in noisy_cone.initial().items()}

    def loss(values):
        return -exact_elbo_of_cone(dict(zip(start, values, strict=True)))

    best = minimize(loss, list(start.values()))
    assert abs(-best.fun - noisy_cone.OPTIMA["ELBO"]) < 1e-4

    def objective(phi):
        return elbo(noisy_cone.model, partial(noisy_cone.guide, phi), noisy_cone.OBSERVED)

    phi = dict(zip(start, map(jnp.float32, best.x), strict=True))
    estimate, error = value(objective, phi, 200_000)
    assert error < 0.005
    assert abs(estimate + best.fun) < 4 * error


# eight schools


def test_eight_schools_quadrature_agrees_with_posteriordb():
    """Reference moments carry the error of 10,000 draws; an sd's is bounded by a kurtosis of 12."""
    ours, reference = eight_schools.posterior(), eight_schools.REFERENCE
    for name in ("mu", "tau", "theta"):
        error = ours.sd[name] / 100
        np.testing.assert_array_less(np.abs(ours.mean[name] - reference.mean[name]), 4 * error)
        error = ours.sd[name] * np.sqrt(11 / 4) / 100
        np.testing.assert_array_less(np.abs(ours.sd[name] - reference.sd[name]), 4 * error)


@pytest.fixture(scope="module")
def schools():
    def objective(phi):
        guide = partial(eight_schools.guide, phi)
        return elbo(eight_schools.model, guide, eight_schools.OBSERVED)

    return objective, fitted(objective, eight_schools.initial(), steps=2000, num_samples=32)


@pytest.mark.claims
def test_eight_schools_log_evidence_by_importance_sampling(schools):
    _, phi = schools
    wider = {"mean": phi["mean"], "log_scale": phi["log_scale"] + 0.2}
    estimate, error = importance_estimate(
        eight_schools.model, partial(eight_schools.guide, wider), eight_schools.OBSERVED, 200_000
    )
    assert error < 0.02
    assert abs(estimate - eight_schools.log_evidence()) < 4 * error


@pytest.mark.claims
def test_eight_schools_mean_field_moments(schools):
    """Mean field finds the locations to a tenth of an sd or so, and tau and mu a little narrow."""
    objective, phi = schools
    bound, error = value(objective, phi, 50_000)
    gap = eight_schools.log_evidence() - bound
    assert 0.0 < gap < 0.5 and error < 0.01
    ours, reference = eight_schools.fitted_moments(phi), eight_schools.REFERENCE
    for name, tolerance in {"mu": 0.15, "theta": 0.25, "tau": 0.3}.items():
        off = np.abs(ours.mean[name] - reference.mean[name]) / reference.sd[name]
        np.testing.assert_array_less(off, tolerance, err_msg=name)
        ratio = ours.sd[name] / reference.sd[name]
        assert np.all((ratio > 0.6) & (ratio < 1.3)), (name, ratio)


@pytest.mark.claims
def test_eight_schools_moments_of_the_guide_by_sampling(schools):
    _, phi = schools
    draw = jax.vmap(ppl.seed(lambda: ppl.simulate(eight_schools.guide, phi).choices))
    draws = jax.jit(draw)(jax.random.split(jax.random.key(0), 100_000))
    theta = np.asarray(draws["mu"][:, None] + draws["tau"][:, None] * draws["theta_trans"], float)
    moments = eight_schools.fitted_moments(phi)
    error = theta.std(0) / 100_000**0.5
    np.testing.assert_array_less(np.abs(theta.mean(0) - moments.mean["theta"]), 4.5 * error)
    np.testing.assert_allclose(theta.std(0), moments.sd["theta"], rtol=0.03)


# linear regression


def regression_objective(guide):
    inputs, targets = linear_regression.data()
    model = partial(linear_regression.model, inputs)
    return lambda phi: elbo(model, partial(guide, phi), {"y": targets})


def test_linear_regression_closed_forms_by_the_program():
    """log p(w, y) - log p(w | y) is the log evidence at every w."""
    inputs, targets = linear_regression.data()
    mean, covariance = linear_regression.posterior(inputs, targets)
    for w in np.random.default_rng(0).multivariate_normal(mean, 4 * covariance, size=5):
        log_joint = ppl.log_density(
            partial(linear_regression.model, inputs), {"w": w, "y": targets}
        )
        off = w - mean
        log_posterior = -0.5 * (
            off @ np.linalg.solve(covariance, off) + np.linalg.slogdet(2 * np.pi * covariance)[1]
        )
        evidence = linear_regression.log_evidence(inputs, targets)
        assert abs(float(log_joint) - log_posterior - evidence) < 1e-4


def test_linear_regression_posterior_by_least_squares():
    """The posterior mean is ridge regression: least squares with the prior as extra rows."""
    inputs, targets = linear_regression.data()
    ratio = linear_regression.NOISE / linear_regression.PRIOR_SCALE
    rows = np.concatenate([inputs, ratio * np.eye(3)])
    ridge = np.linalg.lstsq(rows, np.concatenate([targets, np.zeros(3)]), rcond=None)[0]
    mean, covariance = linear_regression.posterior(inputs, targets)
    np.testing.assert_allclose(mean, ridge, rtol=1e-6)
    precision = np.linalg.inv(covariance) * linear_regression.NOISE**2
    np.testing.assert_allclose(precision, rows.T @ rows, rtol=1e-6)


@pytest.mark.claims
def test_linear_regression_full_rank_reaches_the_posterior():
    inputs, targets = linear_regression.data()
    objective = regression_objective(linear_regression.full_rank)
    phi = fitted(objective, linear_regression.initial(), steps=2000, num_samples=32)
    exact = linear_regression.posterior(inputs, targets)
    factor = np.diag(np.exp(phi["log_scale"])) + np.tril(phi["below"], -1)
    np.testing.assert_allclose(phi["mean"], exact.mean, atol=0.01)
    np.testing.assert_allclose(factor @ factor.T, exact.covariance, atol=4e-3)
    bound, error = value(objective, phi, 2_000)
    assert abs(bound - linear_regression.log_evidence(inputs, targets)) < 2e-3 + 4 * error


@pytest.mark.claims
def test_linear_regression_mean_field_reaches_its_bound():
    inputs, targets = linear_regression.data()
    objective = regression_objective(linear_regression.mean_field)
    phi = fitted(objective, linear_regression.initial(), steps=2000, num_samples=32)
    exact = linear_regression.posterior(inputs, targets)
    sds = np.diag(np.linalg.inv(exact.covariance)) ** -0.5
    np.testing.assert_allclose(phi["mean"], exact.mean, atol=0.01)
    np.testing.assert_allclose(np.exp(phi["log_scale"]), sds, rtol=0.03)
    bound, error = value(objective, phi, 50_000)
    assert abs(bound - linear_regression.mean_field_bound(inputs, targets)) < 2e-3 + 4 * error


# the hidden Markov model


LENGTH, STATES = 5, 3


@pytest.fixture(scope="module")
def hmm():
    chain = hidden_markov.chain(jax.random.key(3), STATES, symbols=4)
    return chain, jnp.array([0, 3, 1, 1, 2])


def path_log_densities(program, choices):
    """The log density of a program at each path of states."""
    paths = jnp.array(list(itertools.product(range(STATES), repeat=LENGTH)))
    score = jax.vmap(lambda path: ppl.log_density(program, {"state": path, **choices}))
    return np.asarray(jax.jit(score)(paths), float)


def test_hidden_markov_forward_algorithm_by_enumeration_of_paths(hmm):
    chain, symbols = hmm
    joint = path_log_densities(partial(hidden_markov.model, chain, LENGTH), {"symbol": symbols})
    brute_force = np.logaddexp.reduce(joint)
    assert abs(float(hidden_markov.log_evidence(chain, symbols)) - brute_force) < 1e-5
    guide = partial(hidden_markov.guide, hidden_markov.posterior(chain, symbols))
    np.testing.assert_allclose(path_log_densities(guide, {}), joint - brute_force, atol=1e-4)


def test_hidden_markov_symbols_of_one_length_are_exhaustive(hmm):
    chain, _ = hmm
    symbols = jnp.array(list(itertools.product(range(4), repeat=4)))
    logs = jax.vmap(partial(hidden_markov.log_evidence, chain))(symbols)
    assert abs(np.exp(np.asarray(logs, float)).sum() - 1) < 1e-5


@pytest.mark.claims
def test_hidden_markov_elbo_optimum_is_the_log_evidence(hmm):
    """Enumerated, so the objective has no variance and training is deterministic."""
    chain, symbols = hmm
    model = partial(hidden_markov.model, chain, LENGTH)

    def objective(phi):
        return elbo(model, partial(hidden_markov.guide, phi), {"symbol": symbols})

    evidence = float(hidden_markov.log_evidence(chain, symbols))
    bound = jax.jit(partial(ppl.expectation(objective), jax.random.key(0)))
    start = hidden_markov.initial(LENGTH, STATES)
    phi = fitted(objective, start, steps=800, num_samples=1, rate=0.3)
    assert abs(float(bound(hidden_markov.posterior(chain, symbols))) - evidence) < 1e-5
    assert float(bound(start)) < evidence - 0.5
    assert evidence - 2e-3 < float(bound(phi)) < evidence + 1e-5


# the digit VAE


def test_digit_vae_bound_is_that_of_the_densities():
    """The objective at one image, beside the same written out with the networks alone."""
    vae = digit_vae.VAE(jax.random.key(0))
    image = jnp.asarray(digit_vae.data()[0].images[0])
    key = jax.random.key(1)
    trace = jax.jit(ppl.seed(lambda: ppl.simulate(digit_vae.guide, vae, image)))(key)
    z = trace.choices["z"]
    mean, log_sd = np.split(np.asarray(vae.encoder(image / 16), float), 2)
    log_guide = normal_log_density(np.asarray(z), mean, np.exp(log_sd)).sum()
    assert abs(float(trace.log_density) - log_guide) < 1e-3
    model = partial(digit_vae.model, vae)
    log_joint = float(jax.jit(partial(ppl.log_density, model))({"z": z, "image": image}))
    log_prior = normal_log_density(np.asarray(z), 0.0, 1.0).sum()
    a, b = np.split(np.log1p(np.exp(np.asarray(vae.decoder(z), float))), 2)
    assert abs(log_joint - log_prior - beta_binomial(np.asarray(image), a, b).sum()) < 1e-2


def beta_binomial(counts, a, b, total=16):
    """log C(n, k) B(k + a, n - k + b) / B(a, b), as products of rising factorials."""

    def log_rising(x, n):
        return np.array([np.log(x[i] + np.arange(n[i])).sum() for i in range(len(x))])

    def log_factorial(n):
        return log_rising(np.ones(len(n)), n)

    every = np.full(len(counts), total)
    choose = log_factorial(every) - log_factorial(counts) - log_factorial(every - counts)
    rising = log_rising(a, counts) + log_rising(b, every - counts)
    return choose + rising - log_rising(a + b, every)


def test_digit_vae_data_is_split_without_overlap():
    train, test = digit_vae.data(held_out=300)
    assert train.images.shape == (1497, 64) and test.images.shape == (300, 64)
    assert train.images.min() == 0 and train.images.max() == 16
    counts = np.bincount(test.labels)
    assert len(counts) == 10 and counts.min() >= 28  # stratified
