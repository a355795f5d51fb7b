"""Inference of what `obs_mask` leaves open: bounds, training, kernels; by normal algebra."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import optax
import pytest
import scipy.stats

import ppl
from ppl import sample
from ppl.extend import Target
from stdlib.distributions import missing_part
from stdlib.inference import HMC, Exact, Importance, chain
from stdlib.objectives import elbo, iwelbo
from stdlib.testing import assert_unbiased

KEY = jax.random.key(0)
DATA = np.array([1.0, np.nan, 2.0, np.nan])
THERE = np.isfinite(DATA)
WEIGHTS = np.array([1.0, -0.5, 0.3, 2.0])


def model(shift=0.0, there=THERE):
    """y = shift + mean + noise, and a sum of all that is seen as well."""
    mean = sample("mean", dist.Normal(0.0, 1.0))
    y = sample("y", dist.Normal(shift + mean, 1.0).expand([4]), obs=DATA, obs_mask=there)
    sample("sum", dist.Normal(jnp.dot(WEIGHTS, y), 0.5), obs=3.0)


def joint(shift):
    """Mean and covariance of (mean, y, sum), which are normal together."""
    root = np.zeros((6, 6))
    root[0, 0] = 1.0
    root[1:5, 0], root[1:5, 1:5] = 1.0, np.eye(4)
    root[5] = WEIGHTS @ root[1:5]
    root[5, 5] = 0.5
    mean = shift * np.array([0.0, 1.0, 1.0, 1.0, 1.0, WEIGHTS.sum()])
    return mean, root @ root.T


SEEN, HIDDEN = [1, 3, 5], [0, 2, 4]
VALUES = np.array([1.0, 2.0, 3.0])


def evidence(shift):
    mean, covariance = joint(shift)
    law = scipy.stats.multivariate_normal(mean[SEEN], covariance[np.ix_(SEEN, SEEN)])
    return law.logpdf(VALUES)


def posterior(shift):
    mean, covariance = joint(shift)
    cross = covariance[np.ix_(HIDDEN, SEEN)]
    gain = np.linalg.solve(covariance[np.ix_(SEEN, SEEN)], cross.T).T
    spread = covariance[np.ix_(HIDDEN, HIDDEN)] - gain @ cross.T
    return mean[HIDDEN] + gain @ (VALUES - mean[SEEN]), spread


CENTRE, SPREAD = posterior(0.0)


def exact_guide():
    """The posterior: of the mean, and of the missing entries given it."""
    mean = sample("mean", dist.Normal(CENTRE[0], SPREAD[0, 0] ** 0.5))
    gain = SPREAD[1:, 0] / SPREAD[0, 0]
    rest = np.linalg.cholesky(SPREAD[1:, 1:] - np.outer(gain, SPREAD[0, 1:]))
    at = jnp.zeros(4).at[jnp.array([1, 3])].set(CENTRE[1:] + gain * (mean - CENTRE[0]))
    root = np.eye(4)
    root[np.ix_([1, 3], [1, 3])] = rest
    sample("y_unobserved", dist.MultivariateNormal(at, scale_tril=root))


def test_a_bound_is_tight_where_the_guide_is_the_posterior():
    """Fillers add nothing: no gap, no variance, and the evidence's derivative in parameters."""
    bound = lambda shift: elbo(partial(model, shift), exact_guide, {})
    values = jax.jit(jax.vmap(ppl.expectation(bound), (0, None)))(jax.random.split(KEY, 20), 0.0)
    np.testing.assert_allclose(values, evidence(0.0), rtol=1e-4)
    slope = (evidence(1e-4) - evidence(-1e-4)) / 2e-4
    exact = (jnp.asarray(evidence(0.0)), jnp.asarray(slope))
    assert_unbiased(bound, 0.0, exact=exact, key=KEY, num_samples=2000)


def test_evidence_and_posterior_by_algorithms():
    target = Target(model, {})
    np.testing.assert_allclose(Exact().log_evidence(target), evidence(0.0), rtol=1e-5)
    traced = jax.jit(lambda there: Exact().log_evidence(Target(partial(model, 0.0, there), {})))
    np.testing.assert_allclose(traced(THERE), evidence(0.0), rtol=1e-5)
    estimate = ppl.seed(lambda: Importance(100).log_evidence(target))
    ratios = np.exp(jax.jit(jax.vmap(estimate))(jax.random.split(KEY, 2000)) - evidence(0.0))
    assert abs(ratios.mean() - 1.0) < 5 * ratios.std() / 2000**0.5
    draws = jax.jit(jax.vmap(ppl.seed(ppl.normalize(model, {}, Exact()))))(
        jax.random.split(KEY, 20_000)
    )
    hidden = np.column_stack([draws["mean"], np.array(draws["y_unobserved"])[:, [1, 3]]])
    np.testing.assert_allclose(np.cov(hidden.T), SPREAD, atol=0.03)
    assert np.all(np.abs(hidden.mean(0) - CENTRE) < 5 * np.sqrt(np.diag(SPREAD) / 20_000))


def test_kernels_move_what_is_missing():
    start = {"mean": jnp.zeros(()), "y_unobserved": jnp.zeros(4)}
    chains = jax.vmap(lambda key: ppl.seed(chain)(key, HMC(0.25, 6), Target(model, {}), start, 300))
    moves = jax.jit(chains)(jax.random.split(KEY, 64))
    entries = np.array(moves["y_unobserved"])[:, 50:]
    means = entries[:, :, [1, 3]].mean(1)
    error = means.std(0) / 8.0
    assert np.all(np.abs(means.mean(0) - CENTRE[1:]) < 5 * error) and np.all(error < 0.03)
    assert abs(entries[:, :, [0, 2]].mean()) < 0.1  # fillers are standard, and read by nobody


def test_a_guide_imputes():
    """Mean-field guides: the missing entries' best ones, and fillers at their law, at no cost."""

    def guide(phi):
        sample("mean", dist.Normal(phi["mean"], jnp.exp(phi["log_sd"])))
        sample("y_unobserved", dist.Normal(phi["y"], jnp.exp(phi["log_spread"])))

    start = {"mean": 0.0, "log_sd": 0.0, "y": jnp.ones(4), "log_spread": jnp.ones(4)}
    fitted = ppl.fit(
        lambda phi: elbo(model, partial(guide, phi), {}),
        start,
        optax.adam(optax.cosine_decay_schedule(0.03, 2000)),
        key=KEY,
        steps=2000,
        num_samples=4,
        progress=False,
    ).params
    precision = np.linalg.inv(SPREAD)
    np.testing.assert_allclose(fitted["mean"], CENTRE[0], atol=0.05)
    np.testing.assert_allclose(fitted["y"], [0.0, CENTRE[1], 0.0, CENTRE[2]], atol=0.06)
    best = np.array([1.0, precision[1, 1] ** -0.5, 1.0, precision[2, 2] ** -0.5])
    np.testing.assert_allclose(jnp.exp(fitted["log_spread"]), best, rtol=0.05)
    np.testing.assert_allclose(jnp.exp(fitted["log_sd"]), precision[0, 0] ** -0.5, rtol=0.05)


def test_an_amortised_guide_in_minibatches():
    """Pairs a ~ N(θ, 1), b ~ N(a, 1), half of the a missing: θ is that of greatest likelihood."""
    rng = np.random.default_rng(0)
    a = 1.5 + rng.normal(size=200)
    data = {"b": a + rng.normal(size=200), "there": rng.random(200) < 0.5}
    data["a"] = np.where(data["there"], a, np.nan)

    def row(theta, pair):
        a = sample("a", dist.Normal(theta, 1.0), obs=pair["a"], obs_mask=pair["there"])
        sample("b", dist.Normal(a, 1.0), obs=pair["b"])

    def guess(phi, pair):
        loc = phi["offset"] + phi["slope"] * pair["b"]
        d = dist.Normal(loc, jnp.exp(phi["log_sd"]))
        sample("a_unobserved", missing_part(d, pair["there"]))

    def bound(phi, batch):
        factor = 200 / 50
        rows = lambda f, p: ppl.scale(lambda: jax.vmap(f, (None, 0))(p, batch), factor)
        return elbo(rows(row, phi["theta"]), rows(guess, phi), {})

    start = {"theta": 0.0, "offset": 0.0, "slope": 0.0, "log_sd": 0.0}
    fitted = ppl.fit(
        bound, start, optax.adam(optax.cosine_decay_schedule(0.03, 1500)), key=KEY, steps=1500,
        data=data, batch_size=50, progress=False,
    ).params  # fmt: skip
    there = data["there"]
    best = (a[there].sum() + data["b"][~there].sum() / 2) / (there.sum() + (~there).sum() / 2)
    np.testing.assert_allclose(fitted["theta"], best, atol=0.05)
    np.testing.assert_allclose(fitted["slope"], 0.5, atol=0.03)
    np.testing.assert_allclose(fitted["offset"], best / 2, atol=0.07)
    np.testing.assert_allclose(jnp.exp(fitted["log_sd"]), 0.5**0.5, rtol=0.05)
    score = jax.jit(lambda phi: ppl.expectation(bound)(KEY, phi, data))
    tight = {"theta": best, "offset": best / 2, "slope": 0.5, "log_sd": -0.5 * np.log(2.0)}
    seen = scipy.stats.norm.logpdf(a[there], best) + scipy.stats.norm.logpdf(
        data["b"][there], a[there]
    )
    rest = scipy.stats.norm(best, 2.0**0.5).logpdf(data["b"][~there])
    np.testing.assert_allclose(score(tight), 4 * (seen.sum() + rest.sum()), rtol=1e-4)


def test_parts_for_guides():
    """Fillers are those of the model; missing entries of Gaussian vectors keep their marginal."""
    covariance = np.array([[2.0, 0.7, 0.2], [0.7, 1.5, -0.4], [0.2, -0.4, 1.0]])
    d = dist.MultivariateNormal(np.array([1.0, 2.0, 3.0]), covariance)
    there = np.array([False, True, False])
    rest = missing_part(d, there)
    np.testing.assert_allclose(rest.mean, [1.0, 0.0, 3.0], rtol=1e-6)
    marginal = np.array([[2.0, 0.0, 0.2], [0.0, 1.0, 0.0], [0.2, 0.0, 1.0]])
    np.testing.assert_allclose(rest.covariance_matrix, marginal, atol=1e-6)
    coins = missing_part(dist.Bernoulli(np.array([0.1, 0.2, 0.3])).to_event(1), there)
    np.testing.assert_allclose(coins.mean, [0.1, 0.5, 0.3], rtol=1e-6)
    counts = missing_part(dist.NegativeBinomial2(3.0, 2.0).expand([3]), there)  # no standard one
    np.testing.assert_allclose(counts.mean, np.full(3, 3.0), rtol=1e-5)
    skewed = dist.Categorical(np.array([0.1, 0.2, 0.7]))
    np.testing.assert_allclose(missing_part(skewed, True).probs, np.full(3, 1 / 3), rtol=1e-6)
    with pytest.raises(TypeError, match="Dirichlet"):
        missing_part(dist.Dirichlet(np.ones(3)), there)


def test_several_particles():
    """An importance-weighted bound by a guide that is wrong in its fillers too: below, and near."""
    guide = lambda: (
        sample("mean", dist.Normal(CENTRE[0], 1.0)),
        sample("y_unobserved", dist.Normal(jnp.array([0.5, *CENTRE[1:2], -0.5, CENTRE[2]]), 1.2)),
    )
    bound = ppl.expectation(lambda: iwelbo(model, guide, {}, num_particles=500))
    values = jax.jit(jax.vmap(bound))(jax.random.split(KEY, 200))
    assert -0.1 < values.mean() - evidence(0.0) < 5 * values.std() / 200**0.5
