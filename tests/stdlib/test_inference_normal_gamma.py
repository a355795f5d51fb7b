"""Gaussian choices and the number that scales them, integrated out together by `Exact()`."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from jax import lax

import ppl
from ppl import errors, sample
from ppl.extend import Target
from stdlib.inference import Exact
from stdlib.testing import assert_unbiased
from tests.stdlib.evidence import assert_evidence

KEY = jax.random.key(3)
INPUTS = jax.random.normal(jax.random.key(0), (8, 2))
DATA = jax.random.normal(jax.random.key(1), (8,))
CENTRE = jnp.array([0.3, -1.0])


def by_precision(t):
    u = sample("u", dist.Gamma(2.0, 1.5))
    w = sample("w", dist.Normal(CENTRE, t / jnp.sqrt(u)).to_event(1))
    sample("x", dist.Normal(INPUTS @ w, u**-0.5))


def by_variance(t):
    """Row by row, in a loop."""
    u = ppl.scope(lambda: sample("u", dist.InverseGamma(2.0, 1.5).expand([1])), "in")()
    w = sample("w", dist.Normal(CENTRE, t * jnp.sqrt(u)))
    step = lambda _, row: (None, sample("x", dist.Normal(row @ w, jnp.sqrt(u[0]))))
    lax.scan(step, None, INPUTS)


def student(t, x):
    """The data's own distribution."""
    spread = t**2 * INPUTS @ INPUTS.T + jnp.eye(8)
    tril = jnp.sqrt(1.5 / 2.0) * jnp.linalg.cholesky(spread)
    return dist.MultivariateStudentT(4.0, INPUTS @ CENTRE, tril).log_prob(x)


@pytest.mark.parametrize("model", [by_precision, by_variance])
def test_evidence_is_that_of_students_distribution(model):
    assert_evidence(model, student, DATA, atol=1e-4)


def groups(t):
    """Means of groups about one mean, half weights, a coin and a rate beside, and a mask."""
    kind = sample("kind", dist.Bernoulli(0.3))
    u = sample("u", dist.Gamma(3.0, 2.0))
    top = sample("top", dist.Normal(1.0 * kind, 2.0 / jnp.sqrt(u)))
    bias = sample("bias", dist.Beta(t, 2.0))
    sample("coins", dist.Binomial(5, bias), obs=2)
    sample("gap", dist.Exponential(u), obs=0.4)

    def group(seen):
        mean = sample("mean", dist.Normal(0.5 * top, t / jnp.sqrt(u)))
        x = lambda: sample("x", dist.Normal(mean * jnp.ones(2), 0.5 / jnp.sqrt(u)))
        ppl.scale(ppl.mask(x, seen), 0.5)()

    jax.vmap(group)(jnp.array([True, True, False]))


def by_quadrature(t, x):
    """The same given u, integrated over log u by the rule of rectangles."""
    logs = jnp.linspace(-5.0, 4.0, 120)
    given = lambda log: Exact().log_evidence(Target(lambda: groups(t), {"x": x, "u": jnp.exp(log)}))
    values = lax.map(lambda log: given(log) + log, logs)
    return jax.nn.logsumexp(values) + jnp.log(logs[1] - logs[0])


def test_evidence_beside_other_choices():
    assert_evidence(groups, by_quadrature, jnp.arange(6.0).reshape(3, 2) / 3, atol=1e-4)


def posterior_of(t):
    """Shape and rate of u, mean and precision (over u) of w."""
    precision = jnp.eye(2) / t**2 + INPUTS.T @ INPUTS
    mean = jnp.linalg.solve(precision, CENTRE / t**2 + INPUTS.T @ DATA)
    off = DATA - INPUTS @ mean
    rate = 1.5 + 0.5 * (off @ off + (mean - CENTRE) @ (mean - CENTRE) / t**2)
    return 2.0 + 4.0, rate, mean, precision


@pytest.mark.parametrize("model", [by_precision, pytest.param(by_variance, marks=pytest.mark.law)])
def test_draws_and_their_gradients(model):
    """E of draws in closed form, and the density of each draw."""

    def objective(t):
        program = ppl.normalize(model, {"x": DATA}, Exact())
        trace = ppl.simulate(program, t)
        choices = trace.choices
        u = choices["u"] if model is by_precision else 1.0 / choices["in"]["u"][0]
        again = ppl.log_density(program, choices, t) - trace.log_density
        return u * choices["w"][0] ** 2 + jnp.sqrt(u) * choices["w"][1] + u + again

    def exact(t):
        shape, rate, mean, precision = posterior_of(t)
        log_root = jax.scipy.special.gammaln(shape + 0.5) - jax.scipy.special.gammaln(shape)
        root = jnp.exp(log_root) / jnp.sqrt(rate)
        squares = shape / rate * mean[0] ** 2 + jnp.linalg.inv(precision)[0, 0]
        return squares + root * mean[1] + shape / rate

    assert_unbiased(objective, 0.8, exact=exact, key=KEY, num_samples=20_000)


def test_density_of_draws():
    program = ppl.normalize(by_precision, {"x": DATA}, Exact())
    shape, rate, mean, precision = posterior_of(0.8)

    @jax.jit
    def both(u, w):
        law = dist.MultivariateNormal(mean, precision_matrix=u * precision)
        exact = dist.Gamma(shape, rate).log_prob(u) + law.log_prob(w)
        return ppl.log_density(program, {"u": u, "w": w}, 0.8), exact

    np.testing.assert_allclose(*both(1.3, jnp.array([0.2, 0.4])), atol=1e-4)


def test_evidence_in_lanes():
    at = jnp.array([0.5, 1.1])
    each = jax.jit(
        jax.vmap(lambda t: Exact().log_evidence(Target(lambda: by_precision(t), {"x": DATA})))
    )
    np.testing.assert_allclose(each(at), jax.vmap(lambda t: student(t, DATA))(at), rtol=1e-4)


def test_improper_posteriors_are_not_a_number():
    def flat():
        u = sample("u", dist.Gamma(2.0, 1.0))
        w = ppl.mask(lambda: sample("w", dist.Normal(jnp.zeros(2), 1.0 / jnp.sqrt(u))), False)()
        sample("x", dist.Normal(w[0], 1.0 / jnp.sqrt(u)))

    assert jnp.isnan(Exact().log_evidence(Target(flat, {"x": 1.0})))


# --- refusals ------------------------------------------------------------------------------------


def known_noise():
    u = sample("u", dist.Gamma(2.0, 1.0))
    v = sample("v", dist.Normal(0.0, 1.0))
    sample("x", dist.Normal(v, 1.0 / jnp.sqrt(u)))


def two_scales():
    u, r = sample("u", dist.Gamma(2.0, 1.0)), sample("r", dist.Gamma(2.0, 1.0))
    v = sample("v", dist.Normal(0.0, 1.0 / jnp.sqrt(u)))
    sample("x", dist.Normal(v, 1.0 / jnp.sqrt(r)))


def two_numbers():
    u = sample("u", dist.Gamma(2.0, jnp.ones(2)))
    v = sample("v", dist.Normal(0.0, 1.0 / jnp.sqrt(u)))
    sample("x", dist.Normal(v[0], 1.0 / jnp.sqrt(u[0])))


def rate_of_counts():
    u = sample("u", dist.Gamma(2.0, 1.0))
    v = sample("v", dist.Normal(0.0, 1.0 / jnp.sqrt(u)))
    sample("x", dist.Exponential(u * v**2))


def bent():
    u = sample("u", dist.Gamma(2.0, 1.0))
    v = sample("v", dist.Normal(0.0, 1.0 / jnp.sqrt(u)))
    sample("x", dist.Normal(jnp.sin(v), 1.0 / jnp.sqrt(u)))


def mean_is_scaled():
    u = sample("u", dist.Gamma(2.0, 1.0))
    v = sample("v", dist.Normal(0.0, 1.0 / jnp.sqrt(u)))
    sample("x", dist.Normal(u * v, 1.0 / jnp.sqrt(u)))


SINGLE = r"(?s)'u' \(Gamma at .*given, it reads 'v' \(Normal at .*that no such number scales"
REFUSED = {
    "known noise": (known_noise, SINGLE),
    "two scales": (
        two_scales,
        r"(?s)'r' \(Gamma .*'u' \(Gamma .*'v' \(Normal .*that no such number",
    ),
    "two numbers": (two_numbers, SINGLE),
    "a log": (rate_of_counts, r"(?s)not quadratic in 'v' \(Normal .*`log`"),
    "bent": (bent, r"(?s)not quadratic in 'v' \(Normal .*`sin`"),
    "scaled mean": (mean_is_scaled, r"(?s)'u' \(Gamma .*not affine"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_others_are_refused_by_name(name):
    program, words = REFUSED[name]
    with pytest.raises(errors.UnsuitableEstimator, match=words):
        jax.eval_shape(lambda x: Exact().log_evidence(Target(program, {"x": x})), 1.0)
