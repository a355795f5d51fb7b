"""Divergences in closed form, by family, against sums, quadrature and dense Gaussians."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from numpyro.distributions.kl import kl_divergence

from stdlib.distributions import FloatBernoulli, OneHotCategorical
from stdlib.objectives._divergence import divergence

PROBS, OTHER = jnp.array([0.2, 0.5, 0.3]), jnp.array([0.6, 0.1, 0.3])
ROOT = jnp.array([[1.0, 0.0, 0.0], [0.4, 0.8, 0.0], [-0.3, 0.2, 0.6]])
MEAN = jnp.array([0.3, -0.2, 0.7])
FACTOR = jnp.array([[0.5], [-0.4], [0.9]])


def full(shift=0.0):
    return dist.MultivariateNormal(MEAN + shift, scale_tril=ROOT)


def low_rank(t=1.0):
    return dist.LowRankMultivariateNormal(t * MEAN, FACTOR, jnp.array([0.5, 0.7, 0.9]))


def diagonal(t=1.0):
    return dist.Normal(t * MEAN[::-1], jnp.array([0.8, 1.1, 0.6])).to_event(1)


def dense(gaussian):
    """The same law by its whole covariance, for NumPyro's own formula."""
    if isinstance(gaussian, dist.Independent):
        covariance = jnp.diag(gaussian.variance)
    else:
        covariance = gaussian.covariance_matrix
    return dist.MultivariateNormal(gaussian.mean, covariance)


GAUSSIANS = {"full": full, "low rank": low_rank, "diagonal": diagonal}


@pytest.mark.parametrize("q", GAUSSIANS)
@pytest.mark.parametrize("p", GAUSSIANS)
def test_gaussian_vectors(q, p):
    def known(t):
        return divergence(GAUSSIANS[q](t), GAUSSIANS[p](0.4))

    def wanted(t):
        return kl_divergence(dense(GAUSSIANS[q](t)), dense(GAUSSIANS[p](0.4))).sum()

    found, exact = jax.jit(lambda t: [jax.value_and_grad(f)(t) for f in (known, wanted)])(0.9)
    np.testing.assert_allclose(found, exact, rtol=2e-4, atol=2e-5)


def test_batches_of_gaussian_vectors():
    """Broadcast, repeated, and joined further: each vector counts once."""
    one = float(divergence(full(), diagonal(0.4)))
    batch = dist.MultivariateNormal(jnp.tile(MEAN, (2, 1)), scale_tril=ROOT).to_event(1)
    for p in (diagonal(0.4).expand((2,)), diagonal(0.4).expand((2,)).to_event(1)):
        np.testing.assert_allclose(divergence(batch, p), 2 * one, rtol=1e-4)
        np.testing.assert_allclose(divergence(full().expand((2,)), p), 2 * one, rtol=1e-4)


FINITE = {
    "bernoulli": (dist.BernoulliProbs(0.3), dist.BernoulliLogits(0.7)),
    "bernoulli, other way": (dist.BernoulliLogits(-0.4), dist.BernoulliProbs(0.8)),
    "bernoulli, logits": (dist.BernoulliLogits(-0.4), dist.BernoulliLogits(1.1)),
    "categorical": (dist.CategoricalProbs(PROBS), dist.CategoricalProbs(OTHER)),
    "categorical, mixed": (dist.CategoricalProbs(PROBS), dist.CategoricalLogits(OTHER + 2)),
    "categorical, logits": (dist.CategoricalLogits(PROBS), dist.CategoricalLogits(OTHER)),
    "float bernoulli": (FloatBernoulli(0.4), FloatBernoulli(-1.0)),
    "one-hot": (OneHotCategorical(PROBS), OneHotCategorical(OTHER)),
    "a chance of zero": (
        dist.CategoricalProbs(jnp.array([0.0, 0.4, 0.6])), dist.CategoricalLogits(OTHER)
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FINITE)
def test_finite_families_against_sums(name):
    q, p = FINITE[name]
    values = q.enumerate_support()
    chances = jnp.exp(q.log_prob(values))
    logs = jnp.where(chances > 0, q.log_prob(values) - p.log_prob(values), 0.0)
    np.testing.assert_allclose(divergence(q, p), jnp.sum(chances * logs), rtol=1e-5)
    twice = divergence(q.expand((2, 3)).to_event(1), p.expand((2, 3)).to_event(1))
    np.testing.assert_allclose(twice, 6 * jnp.sum(chances * logs), rtol=1e-5)


POINTS = jnp.linspace(-30.0, 30.0, 60_001)
CONTINUOUS = {
    "normal": (lambda t: dist.Normal(t, 0.7), dist.Normal(0.0, 1.0)),
    "log-normal": (lambda t: dist.LogNormal(t, 0.7), dist.LogNormal(0.0, 1.0)),
    "laplace": (lambda t: dist.Laplace(t, 0.7), dist.Laplace(0.0, 1.3)),
    "gamma": (lambda t: dist.Gamma(jnp.exp(t), 1.5), dist.Gamma(2.0, 1.0)),
    "exponential, gamma": (lambda t: dist.Exponential(jnp.exp(t)), dist.Gamma(2.0, 1.0)),
    "gamma, exponential": (lambda t: dist.Gamma(3.0, jnp.exp(t)), dist.Exponential(0.7)),
    "weibull, exponential": (lambda t: dist.Weibull(jnp.exp(t), 1.5), dist.Exponential(0.7)),
    "beta": (lambda t: dist.Beta(jnp.exp(t) + 1.0, 1.5), dist.Beta(2.0, 1.3)),
}


@pytest.mark.parametrize("name", CONTINUOUS)
def test_continuous_families_against_quadrature(name):
    """Value and derivative, on a fine grid of the support's free coordinate."""
    make, p = CONTINUOUS[name]
    to = dist.biject_to(p.support)

    def quadrature(t):
        x = to(POINTS)
        log_q = make(t).log_prob(x)
        mass = jnp.exp(log_q + to.log_abs_det_jacobian(POINTS, x)) * (POINTS[1] - POINTS[0])
        inside = mass > 1e-30
        return jnp.sum(jnp.where(inside, mass * (log_q - p.log_prob(x)), 0.0))

    ways = (lambda t: divergence(make(t), p), quadrature)
    found, exact = jax.jit(lambda t: [jax.value_and_grad(f)(t) for f in ways])(0.4)
    rtol = 8e-3 if name == "laplace" else 1e-3  # the grid takes the kink's derivative so far
    np.testing.assert_allclose(found, exact, rtol=rtol, atol=1e-4)


def test_dirichlet():
    q, p = dist.Dirichlet(jnp.array([2.0, 3.0, 0.7])), dist.Dirichlet(jnp.array([1.0, 1.5, 2.0]))
    draws = q.sample(jax.random.key(0), (40_000,))
    logs = q.log_prob(draws) - p.log_prob(draws)
    error = float(jnp.std(logs)) / 200.0
    assert abs(float(divergence(q, p)) - float(logs.mean())) < 5 * error


class Mine(dist.Normal):
    def log_prob(self, value, intermediates=None):
        return -jnp.abs(value)


def test_what_has_none():
    """A user's own class, masks, point masses, truncated series, other numbers of states."""
    normal = dist.Normal(0.0, 1.0)
    pairs = [
        (Mine(0.0, 1.0), normal),
        (normal.mask(False), normal),
        (dist.Delta(0.0), normal),
        (dist.Kumaraswamy(2.0, 3.0), dist.Beta(2.0, 2.0)),
        (dist.CategoricalProbs(PROBS), dist.CategoricalProbs(jnp.ones(4) / 4)),
        (dist.Cauchy(0.0, 1.0), dist.Cauchy(1.0, 1.0)),
        (dist.HalfNormal(1.0), dist.HalfNormal(2.0)),
    ]
    assert all(divergence(q, p) is None for q, p in pairs)
