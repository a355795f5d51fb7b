"""Distributions of NumPyro and FlowJAX go through every meaning unchanged."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from numpyro.distributions import transforms

import ppl
from ppl import sample
from ppl._distributions.families import canonical

KEY = jax.random.key(5)
M, V = jnp.array([0.5, -1.0, 2.0]), jnp.array([0.3, 1.0, 2.5])
P = jnp.array([0.2, 0.5, 0.3])
COV = jnp.array([[2.0, 0.3, 0.0], [0.3, 1.0, -0.2], [0.0, -0.2, 0.5]])
FLAGS = jnp.array([True, False, True])

DISTRIBUTIONS = {
    "normal": lambda: dist.Normal(0.5, 2.0),
    "normal of python ints": lambda: dist.Normal(0, 1),
    "batch of normals": lambda: dist.Normal(M, V),
    "broadcast normals": lambda: dist.Normal(M[:, None], V),
    "beta": lambda: dist.Beta(V, 2.0),
    "cauchy": lambda: dist.Cauchy(M, V),
    "chi2": lambda: dist.Chi2(V),
    "exponential": lambda: dist.Exponential(V),
    "gamma": lambda: dist.Gamma(V, 2.0),
    "gumbel": lambda: dist.Gumbel(M, V),
    "half normal": lambda: dist.HalfNormal(V),
    "half cauchy": lambda: dist.HalfCauchy(V),
    "inverse gamma": lambda: dist.InverseGamma(V + 1.0, 2.0),
    "kumaraswamy": lambda: dist.Kumaraswamy(V, 2.0),
    "laplace": lambda: dist.Laplace(M, V),
    "log normal": lambda: dist.LogNormal(M, V),
    "logistic": lambda: dist.Logistic(M, V),
    "pareto": lambda: dist.Pareto(1.0, V),
    "student t": lambda: dist.StudentT(3.0, M, V),
    "truncated normal": lambda: dist.TruncatedNormal(M, V, low=-1.0),
    "uniform": lambda: dist.Uniform(-V, V),
    "von mises": lambda: dist.VonMises(M, V),
    "weibull": lambda: dist.Weibull(V, 2.0),
    "bernoulli": lambda: dist.Bernoulli(P),
    "bernoulli of logits": lambda: dist.Bernoulli(logits=M),
    "beta binomial": lambda: dist.BetaBinomial(V, 2.0, 10),
    "binomial": lambda: dist.Binomial(10, P),
    "categorical": lambda: dist.Categorical(P),
    "categorical of logits": lambda: dist.Categorical(logits=jnp.outer(V, M)),
    "discrete uniform": lambda: dist.DiscreteUniform(-2, 5),
    "geometric": lambda: dist.Geometric(P),
    "negative binomial": lambda: dist.NegativeBinomial2(V, 3.0),
    "poisson": lambda: dist.Poisson(V),
    "zero-inflated poisson": lambda: dist.ZeroInflatedPoisson(0.3, V),
    "delta": lambda: dist.Delta(M, log_density=V),
    "dirichlet": lambda: dist.Dirichlet(V),
    "dirichlet multinomial": lambda: dist.DirichletMultinomial(V, 7),
    "multinomial": lambda: dist.Multinomial(7, P),
    "multivariate normal": lambda: dist.MultivariateNormal(M, COV),
    "low rank normal": lambda: dist.LowRankMultivariateNormal(M, M[:, None], V),
    "multivariate student t": lambda: dist.MultivariateStudentT(4.0, M, jnp.linalg.cholesky(COV)),
    "LKJ Cholesky": lambda: dist.LKJCholesky(3, 1.5),
    "Wishart": lambda: dist.Wishart(5.0, COV),
    "random walk": lambda: dist.GaussianRandomWalk(0.5, num_steps=4),
    "independent": lambda: dist.Normal(M, V).to_event(1),
    "expanded": lambda: dist.Normal(0.0, 1.0).expand([2, 3]),
    "expanded, then independent": lambda: dist.Gamma(V, 1.0).expand([2, 3]).to_event(2),
    "masked": lambda: dist.Normal(M, V).mask(FLAGS),
    "masked altogether": lambda: dist.Normal(M, V).mask(False),
    "folded": lambda: dist.FoldedDistribution(dist.Normal(M, V)),
    "transformed": lambda: dist.TransformedDistribution(
        dist.Normal(M, V), [transforms.AffineTransform(1.0, 2.0), transforms.ExpTransform()]
    ),
    "mixture of one family": lambda: dist.MixtureSameFamily(dist.Categorical(P), dist.Normal(M, V)),
    "mixture of several": lambda: dist.MixtureGeneral(
        dist.Categorical(P[:2] / 0.7), [dist.Normal(0.0, 1.0), dist.Cauchy(1.0, 2.0)]
    ),
}


def _flow(make):
    pytest.importorskip("flowjax")
    from flowjax import bijections, distributions, flows

    return make(bijections, distributions, flows)


FLOWS = {
    "FlowJAX normal": lambda: _flow(lambda b, d, f: d.Normal(M, V)),
    "FlowJAX transformed": lambda: _flow(
        lambda b, d, f: d.Transformed(d.Normal(M), b.Affine(M, V))
    ),
    "FlowJAX coupling flow": lambda: _flow(
        lambda b, d, f: f.coupling_flow(
            KEY, base_dist=d.Normal(jnp.zeros(3)), flow_layers=2, nn_width=8, invert=False
        )
    ),
}
each = pytest.mark.parametrize("make", [*DISTRIBUTIONS.values(), *FLOWS.values()],
                               ids=[*DISTRIBUTIONS, *FLOWS])  # fmt: skip


def hurried(run):
    """What `run()` returns, compiled in a hurry."""
    return jax.jit(run, compiler_options={"xla_backend_optimization_level": 0})()


def _one_site(distribution):
    """The draw, its densities by each meaning, then the same by the distribution alone."""
    program = lambda: sample("x", distribution)
    trace = ppl.seed(lambda: ppl.simulate(program))(KEY)
    given = trace.choices
    observed = ppl.seed(lambda: ppl.simulate(ppl.condition(program, given)))(KEY)
    found = [trace.log_density, ppl.log_density(program, given), observed.log_likelihood]
    drawn = distribution.sample(KEY)
    return given["x"], observed.value, jnp.stack(found), drawn, distribution.log_prob(drawn).sum()


def _two_lanes(distribution):
    program = lambda: jax.vmap(lambda _: sample("x", distribution))(jnp.arange(2))
    x = ppl.seed(program)(KEY)
    alone = jnp.stack([distribution.sample(key) for key in jax.random.split(KEY)])
    exact = distribution.log_prob(x[0]).sum() + distribution.log_prob(x[1]).sum()
    return x, alone, ppl.log_density(program, {"x": x}), exact


@each
def test_a_distribution_goes_through_unchanged(make):
    """One site: its draw is the distribution's own, its density the distribution's sum."""
    distribution = canonical(make())
    x, observed, found, drawn, exact = hurried(lambda: _one_site(distribution))
    assert x.dtype == drawn.dtype and np.isfinite(exact)
    np.testing.assert_array_equal(x, drawn)
    np.testing.assert_array_equal(observed, drawn)
    np.testing.assert_allclose(found, np.full(3, exact), rtol=1e-5, atol=1e-6)


LANES = [
    *("broadcast normals", "gamma", "uniform", "categorical of logits", "delta", "multinomial"),
    *("multivariate normal", "expanded", "masked", "transformed", "mixture of several"),
]


@pytest.mark.parametrize("name", LANES)
def test_lanes_of_a_distribution(name):
    """Under vmap, two independent draws and the sum of their densities."""
    distribution = canonical(DISTRIBUTIONS[name]())
    x, alone, found, exact = hurried(lambda: _two_lanes(distribution))
    np.testing.assert_allclose(x, alone, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found, exact, rtol=1e-5, atol=1e-6)


def test_parameters_of_a_distribution_may_be_traced():
    """Built inside vmap, scan and jit from mapped parameters, a distribution is itself."""

    @jax.jit
    def program(rates):
        lane = lambda rate: sample("x", dist.Gamma(rate, 2.0).mask(rate > 0.5).expand([2]))
        return jax.lax.scan(lambda _, rate: (None, jax.vmap(lane)(rate)), None, rates)[1]

    rates = jnp.outer(V, jnp.array([0.4, 1.0, 2.0, 3.0]))
    x = ppl.seed(program)(KEY, rates)
    exact = dist.Gamma(rates[..., None], 2.0).log_prob(x)
    exact = jnp.where(rates[..., None] > 0.5, exact, 0.0).sum()
    np.testing.assert_allclose(ppl.log_density(program, {"x": x}, rates), exact, rtol=1e-5)


def test_constraints_are_compared_while_tracing():
    """By their numbers, as far as these are known; a bound that is traced equals no other."""
    above = dist.constraints.greater_than

    def verdicts(t):
        pairs = [(above(1.0), above(1.0)), (above(1.0), above(2.0)), (above(t), above(t + 1.0))]
        return [ppl.extend.same_support(*pair) for pair in pairs]

    seen = []
    jax.jit(lambda t: seen.extend(verdicts(t)) or t)(1.0)
    assert seen == [True, False, False]
