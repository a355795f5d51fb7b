"""NumPyro's families at a site: one law for draws, weights and scores, and all their digits."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
import scipy.stats as st
from scipy.special import digamma, erfcx

import ppl
from ppl import sample
from tests.ppl.densities import DENSITIES


def log_density(distribution, value):
    return ppl.log_density(lambda: sample("x", distribution), {"x": value})


def slopes(reference, rows):
    """Richardson's extrapolation of central differences, a column for each entry of the rows."""

    def at(column, step):
        moved = rows.copy()
        moved[:, column] += step
        return np.array([reference(*row) for row in moved]).reshape(-1)

    def central(column, step):
        return (at(column, step) - at(column, -step)) / (2 * step)

    sizes = np.where(rows == 0.0, 1.0, np.abs(rows)) * 1e-4
    room = np.where((rows < 1.0) & (rows > 0.0), (1.0 - rows) * 0.01, np.inf)
    sizes = np.minimum(sizes, room)
    found = [(4 * central(j, h / 2) - central(j, h)) / 3 for j, h in enumerate(sizes.T)]
    return np.stack(found, axis=1)


@pytest.mark.parametrize("name", DENSITIES)
def test_density_and_slopes(name):
    density = DENSITIES[name]
    rows = np.array(density.rows, np.float32)
    last = rows.shape[1] - 1
    whole = {*density.integers, last} if density.count else set(density.integers)

    def one(row):
        *parameters, value = (x.astype(int) if j in whole else x for j, x in enumerate(row))
        return log_density(density.make(*parameters), value)

    value, slope = jax.jit(jax.vmap(jax.value_and_grad(one)))(rows)
    rows = rows.astype(np.float64)
    right = np.array([density.reference(*row) for row in rows]).reshape(-1)
    np.testing.assert_array_less(np.abs(value - right), 1e-5 * (1.0 + np.abs(right)))
    real = [j for j in range(last + 1) if j not in whole]
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        right = slopes(density.reference, rows)[:, real]
    size = np.abs(right) + 1e-3 / np.maximum(np.abs(rows[:, real]), 1e-3)
    error = np.abs(np.asarray(slope)[:, real] - right)
    np.testing.assert_array_less(error, 1e-3 * size + 1e-10)


def test_vectors_of_many_counts():
    counts = jnp.array([300_300, 199_800, 499_900])
    p = np.array([0.3, 0.2, 0.5])
    right = st.multinomial.logpmf(np.asarray(counts), 1_000_000, p)

    @jax.jit
    def both(p):
        by_probs = log_density(dist.Multinomial(1_000_000, 4.0 * p), counts)
        by_logits = log_density(dist.Multinomial(1_000_000, logits=3.0 + jnp.log(p)), counts)
        return by_probs, by_logits

    np.testing.assert_allclose(both(p.astype(np.float32)), right, rtol=1e-3)
    a = np.array([3e5, 2e5, 5e5])
    few = np.array([3, 1, 2])
    right = st.dirichlet_multinomial.logpmf(few, a, 6)
    found = log_density(dist.DirichletMultinomial(jnp.array(a), 6), jnp.array(few))
    np.testing.assert_allclose(found, right, rtol=1e-5)


def test_vectors_of_large_parameters():
    x = np.array([0.25, 0.25, 0.5])
    for a in (np.array([2.0, 0.5, 3.0]), np.array([250_100.0, 250_000.0, 499_800.0])):
        found = log_density(dist.Dirichlet(jnp.array(a)), jnp.array(x))
        np.testing.assert_allclose(found, st.dirichlet.logpdf(x, a), rtol=1e-5)
        slope = jax.grad(log_density, argnums=1)(dist.Dirichlet(jnp.array(a)), jnp.array(x))
        np.testing.assert_allclose(slope, (a - 1) / x, rtol=1e-5)
        by_a = lambda a: log_density(dist.Dirichlet(a), jnp.array(x))
        right = digamma(a.sum()) - digamma(a) + np.log(x)
        for derivative in (jax.grad, jax.jacfwd):
            np.testing.assert_allclose(derivative(by_a)(jnp.array(a)), right, rtol=1e-4, atol=1e-5)
    tril, y = np.array([[1.0, 0.0], [0.5, 2.0]]), np.array([0.3, -1.0])
    for df in (3.0, 1e8):
        found = log_density(dist.MultivariateStudentT(df, jnp.zeros(2), jnp.array(tril)), y)
        right = st.multivariate_t.logpdf(y, np.zeros(2), tril @ tril.T, df)
        np.testing.assert_allclose(found, right, rtol=1e-5)


@pytest.mark.parametrize("form", ["covariance_matrix", "precision_matrix", "scale_tril"])
def test_forms_of_a_multivariate_normal(form):
    tril, y = np.array([[1.0, 0.0], [0.5, 2.0]]), np.array([0.3, -1.0])
    covariance = tril @ tril.T
    given = {"scale_tril": tril, "precision_matrix": np.linalg.inv(covariance)}
    matrix = jnp.array(given.get(form, covariance))
    found = log_density(dist.MultivariateNormal(jnp.zeros(2), **{form: matrix}), y)
    np.testing.assert_allclose(found, st.multivariate_normal.logpdf(y, None, covariance), rtol=1e-5)


def test_correlations_of_any_concentration():
    """The density of the correlation of two: (1 - r²)^(c - 1), as of a Beta variable."""
    for c in (0.5, 1.0, 3.0, 100.0):
        r = 0.3 / np.sqrt(c)
        tril = jnp.array([[1.0, 0.0], [r, np.sqrt(1 - r * r)]])
        right = st.beta.logpdf((1 + r) / 2, c, c) - np.log(2)
        np.testing.assert_allclose(log_density(dist.LKJCholesky(2, c), tril), right, rtol=1e-4)


def test_wishart_and_its_inverse():
    tril, x = np.array([[1.0, 0.0], [0.5, 2.0]]), np.array([[3.0, 0.4], [0.4, 2.0]])
    scale = tril @ tril.T
    found = log_density(dist.Wishart(5.0, scale_tril=jnp.array(tril)), jnp.array(x))
    np.testing.assert_allclose(found, st.wishart.logpdf(x, 5.0, scale), rtol=1e-4)


def test_an_end_of_a_truncation_at_infinity():
    """Of some elements alone, where it is not known while tracing."""
    for family in (dist.Cauchy, dist.Laplace, dist.Logistic, dist.Normal):

        def both(loc, ends, family=family):
            left = dist.LeftTruncatedDistribution(family(loc, 1.0), low=ends)
            right = dist.RightTruncatedDistribution(family(-loc, 1.0), high=-ends)
            return log_density(left, jnp.ones(2)), log_density(right, -jnp.ones(2))

        ends = jnp.array([-jnp.inf, 0.0])
        right = 2.0 * family(0.0, 1.0).log_prob(1.0) + np.log(2.0)
        np.testing.assert_allclose(jax.jit(both)(0.0, ends), (right, right), rtol=1e-5)
        assert np.all(np.isfinite(jax.jit(jax.jacfwd(both))(0.0, ends)))


# --- probabilities at their ends ------------------------------------------------------------------


def test_curvature_of_a_truncation_far_out():
    """Of log Φ, far below its mean, where differences of logs have no digits left."""
    shift = jnp.array([-3.0, -100.0, -3000.0])

    def score(shift):
        return log_density(dist.TruncatedNormal(shift, 1.0, low=0.0), 0.01)

    found = jax.vmap(jax.grad(jax.grad(score)))(shift)
    hazard = np.sqrt(2 / np.pi) / erfcx(3.0 / np.sqrt(2))
    far = [-1e-4 + 6e-8, -1 / 9e6]  # -1 + h(h - t), with h = t + 1/t - 2/t³ + 10/t⁵
    np.testing.assert_allclose(found, [-1 + hazard * (hazard - 3.0), *far], rtol=1e-2, atol=2e-7)


def test_a_gate_that_never_closes():
    def score(gate, value=0):
        return log_density(dist.ZeroInflatedPoisson(gate, 200.0), value)

    np.testing.assert_allclose(score(0.0), -200.0)
    assert jax.grad(score)(0.0) > 1e37  # exp(200) - 1 has no place in single precision
    slope = jax.grad(lambda r: log_density(dist.ZeroInflatedPoisson(0.0, r), 0))(200.0)
    np.testing.assert_allclose(slope, -1.0)


def test_impossible_values():
    """Their log density is minus infinity, its derivative finite; that of certain ones is zero."""
    cases = [
        (lambda t: dist.Bernoulli(t), 0.0, 1, 0),
        (lambda t: dist.Bernoulli(t), 1.0, 0, 1),
        (lambda t: dist.Binomial(4, t), 0.0, 2, 0),
        (lambda t: dist.Binomial(4, t), 1.0, 3, 4),
        (lambda t: dist.Categorical(jnp.stack([t, 1 - t])), 0.0, 0, 1),
        (lambda t: dist.Geometric(t), 1.0, 2, 0),
        (lambda t: dist.NegativeBinomial(3.0, t), 0.0, 2, 0),
        (lambda t: dist.ZeroInflatedPoisson(t, 2.0), 1.0, 2, 0),
        (lambda t: dist.Poisson(t), 0.0, 2, 0),
    ]
    for make, end, impossible, certain in cases:
        at = lambda t, x: log_density(make(t), x)  # noqa: B023
        value, slope = jax.value_and_grad(at)(end, impossible)
        assert value == -jnp.inf and jnp.isfinite(slope)
        value, slope = jax.value_and_grad(at)(end, certain)
        assert abs(value) < 1e-6
        inner = end + 1e-3 * (1 - 2 * end)
        np.testing.assert_allclose(slope, jax.grad(at)(inner, certain), rtol=1e-2)


def test_a_weight_of_zero_in_a_mixture():
    """Its derivative is the ratio of that component's density."""

    def mixture(t):
        weights = jnp.stack([t, 1.0 - t])
        same = dist.MixtureSameFamily(dist.Categorical(weights), dist.Normal(jnp.array([0.0, 1.0])))
        parts = [dist.Normal(0.0, 1.0), dist.Normal(1.0, 1.0)]
        return log_density(same, 0.2) + log_density(
            dist.Mixture(dist.Categorical(weights), parts), 0.2
        )

    value, slope = jax.value_and_grad(mixture)(0.0)
    densities = st.norm.pdf(0.2, [0.0, 1.0])
    np.testing.assert_allclose(value, 2 * np.log(densities[1]), rtol=1e-5)
    np.testing.assert_allclose(slope, 2 * (densities[0] / densities[1] - 1.0), rtol=1e-5)


def test_what_is_no_probability_is_nan():
    for make in (
        lambda t: dist.Bernoulli(t),
        lambda t: dist.Binomial(3, t),
        lambda t: dist.Geometric(t),
        lambda t: dist.Categorical(jnp.stack([-t, 1.0, 0.5])),
    ):
        found = jax.jit(lambda t: jnp.stack([log_density(make(t), k) for k in (0, 1)]))(1.5)  # noqa: B023
        assert jnp.isnan(found[0])


def test_a_family_stays_what_it_is():
    """To `isinstance`, to its user, inside of wrappers, and in a class of the user's own."""

    class Mine(dist.Gamma):
        def log_prob(self, value):
            return -value

    assert log_density(Mine(2.0, 1.0), 3.0) == -3.0

    class Plain(dist.Gamma):
        pass

    np.testing.assert_allclose(
        log_density(Plain(1e6, 1e3), 1001.0), st.gamma.logpdf(1001.0, 1e6, scale=1e-3), rtol=1e-4
    )
    wrapped = dist.Poisson(1e6).expand([2]).to_event(1)
    right = 2 * st.poisson.logpmf(1_001_000, 1e6)
    np.testing.assert_allclose(log_density(wrapped, jnp.full(2, 1_001_000)), right, rtol=1e-5)
    program = lambda: sample("x", dist.Categorical(jnp.array([0.5, 0.5])))
    found = ppl.replay(program, {"x": 0}).sites["x"].distribution
    assert isinstance(found, dist.CategoricalProbs)
    assert type(found).__name__ == "CategoricalProbs"


@pytest.mark.law
def test_draws_in_the_tail():
    """Rare values of mass 0.01 together have that mass; with coarse noise they have half."""
    rare = jnp.full(99_999, jnp.log(0.01 / 99_999))
    logits = jnp.concatenate([jnp.log(0.99)[None], rare])
    one = jax.jit(ppl.seed(lambda: sample("k", dist.Categorical(logits=logits).expand([20]))))
    hits = sum(int(jnp.sum(one(jax.random.key(i)) > 0)) for i in range(100))
    assert abs(hits - 20) < 5 * np.sqrt(20)


def test_derivatives_in_concentrations_whose_square_underflows():
    """Near zero, log p(16 | 1, b) has the slope -H(16), whatever b is."""

    def log_density(b):
        return ppl.log_density(lambda: ppl.sample("y", dist.BetaBinomial(1.0, b, 16), obs=16), {})

    small = jnp.array([1e-30, 1e-25, 1e-20, 1e-12])
    slopes = jax.jit(jax.vmap(jax.grad(log_density)))(small)
    np.testing.assert_allclose(slopes, -sum(1.0 / k for k in range(1, 17)), rtol=1e-5)
