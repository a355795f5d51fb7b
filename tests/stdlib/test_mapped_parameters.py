"""Every NumPyro family under `vmap`, each of its parameters mapped or not.

The static shape of a distribution is that of one lane; the arrays that a site keeps have all lanes.
"""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

import ppl
from ppl import Reparameterized, ScoreFunction, sample
from stdlib.testing import assert_unbiased

PAIR = np.array([[1.0, 0.2], [0.2, 1.5]])
TRIPLE = np.array([0.2, 0.5, 0.3])
RING = np.array([[0.0, 1, 1], [1, 0, 1], [1, 1, 0]])


def of(family, **parameters):
    """How to make a distribution of some parameters, and values for these."""
    return family, {name: np.asarray(x, np.float32) for name, x in parameters.items()}


def wrapped(family, wrap):
    return lambda **parameters: wrap(family(**parameters))


def with_base(family, **static):
    return lambda loc, **parameters: family(dist.Normal(loc, 1.0), **parameters, **static)


def counting(family, total_count, **parameters):
    return of(lambda **given: family(total_count=total_count, **given), **parameters)


def mixture(logits, loc):
    return dist.MixtureSameFamily(dist.Categorical(logits=logits), dist.Normal(loc, 1.0))


def mixture_of_families(logits, loc):
    parts = [dist.Normal(loc, 1.0), dist.Gumbel(loc, 1.0)]
    return dist.MixtureGeneral(dist.Categorical(logits=logits), parts)


def copula(loc, correlation):
    matrix = jnp.eye(2) + correlation * (1 - jnp.eye(2))
    return dist.GaussianCopula(dist.Gumbel(loc * jnp.ones(2)), correlation_matrix=matrix)


def lognormal_of(loc, scale):
    steps = [dist.transforms.AffineTransform(loc, scale), dist.transforms.ExpTransform()]
    return dist.TransformedDistribution(dist.Normal(0.0, 1.0), steps)


def sticks(loc):
    base = dist.Normal(loc, 1.0).to_event(1)
    return dist.TransformedDistribution(base, dist.transforms.StickBreakingTransform())


def walk(scale):
    return dist.EulerMaruyama(jnp.arange(3.0), lambda x, t: (-x, x), dist.Normal(0.0, scale))


NUMPYRO = {
    # continuous
    "AsymmetricLaplace": of(dist.AsymmetricLaplace, loc=0.3, scale=0.8, asymmetry=1.2),
    "AsymmetricLaplaceQuantile": of(dist.AsymmetricLaplaceQuantile, loc=0.3, quantile=0.4),
    "Beta": of(dist.Beta, concentration1=1.6, concentration0=2.5),
    "BetaProportion": of(dist.BetaProportion, mean=0.4, concentration=3.0),
    "CAR": of(
        lambda **given: dist.CAR(adj_matrix=RING, **given),
        loc=np.zeros(3),
        correlation=0.3,
        conditional_precision=1.2,
    ),
    "Cauchy": of(dist.Cauchy, loc=0.3, scale=0.8),
    "Chi2": of(dist.Chi2, df=3.0),
    "CirculantNormal": of(
        dist.CirculantNormal, loc=np.zeros(4), covariance_row=[1.0, 0.2, 0.1, 0.2]
    ),
    "Dagum": of(dist.Dagum, concentration=1.3, sharpness=2.0, scale=0.9),
    "Delta": of(dist.Delta, v=0.3),
    "Dirichlet": of(dist.Dirichlet, concentration=[2.0, 3.0, 2.5]),
    "DoublyTruncatedPowerLaw": of(dist.DoublyTruncatedPowerLaw, alpha=1.5, low=0.5, high=3.0),
    "EulerMaruyama": of(walk, scale=0.7),
    "Exponential": of(dist.Exponential, rate=1.3),
    "FoldedDistribution": of(with_base(dist.FoldedDistribution), loc=0.4),
    "Gamma": of(dist.Gamma, concentration=2.3, rate=1.4),
    "GaussianCopula": of(copula, loc=0.3, correlation=0.3),
    "GaussianRandomWalk": of(lambda scale: dist.GaussianRandomWalk(scale, 3), scale=0.7),
    "GaussianStateSpace": of(
        lambda **given: dist.GaussianStateSpace(3, **given),
        transition_matrix=0.5 * np.eye(2),
        covariance_matrix=PAIR,
    ),
    "Gompertz": of(dist.Gompertz, concentration=1.3, rate=0.8),
    "Gumbel": of(dist.Gumbel, loc=0.3, scale=0.8),
    "HalfCauchy": of(dist.HalfCauchy, scale=0.8),
    "HalfNormal": of(dist.HalfNormal, scale=0.8),
    "HurdleGamma": of(dist.HurdleGamma, gate=0.3, concentration=2.0, rate=1.4),
    "HurdleLogNormal": of(dist.HurdleLogNormal, gate=0.3, loc=0.1, scale=0.7),
    "InverseGamma": of(dist.InverseGamma, concentration=2.3, rate=1.4),
    "InverseWishart": of(dist.InverseWishart, concentration=4.0, scale_matrix=PAIR),
    "InverseWishartCholesky": of(dist.InverseWishartCholesky, concentration=4.0, scale_matrix=PAIR),
    "Kumaraswamy": of(dist.Kumaraswamy, concentration1=1.6, concentration0=2.5),
    "LKJ": of(lambda concentration: dist.LKJ(3, concentration), concentration=1.5),
    "LKJCholesky": of(lambda concentration: dist.LKJCholesky(3, concentration), concentration=1.5),
    "Laplace": of(dist.Laplace, loc=0.3, scale=0.8),
    "LeftCensoredDistribution": of(with_base(dist.LeftCensoredDistribution), loc=0.4),
    "LeftTruncatedDistribution": of(with_base(dist.LeftTruncatedDistribution), loc=0.4, low=-0.5),
    "LeftTruncatedGamma": of(dist.TruncatedGamma, concentration=2.0, rate=1.1, low=0.4),
    "Levy": of(dist.Levy, loc=0.3, scale=0.8),
    "LogNormal": of(dist.LogNormal, loc=0.3, scale=0.8),
    "LogUniform": of(dist.LogUniform, low=0.5, high=3.0),
    "Logistic": of(dist.Logistic, loc=0.3, scale=0.8),
    "LowRankMultivariateNormal": of(
        dist.LowRankMultivariateNormal,
        loc=np.zeros(2),
        cov_factor=np.ones((2, 1)),
        cov_diag=np.ones(2),
    ),
    "LowerTruncatedPowerLaw": of(dist.LowerTruncatedPowerLaw, alpha=-2.5, low=0.5),
    "MatrixNormal": of(
        dist.MatrixNormal,
        loc=np.zeros((2, 2)),
        scale_tril_row=np.eye(2),
        scale_tril_column=np.eye(2),
    ),
    "MixtureGeneral": of(mixture_of_families, logits=[0.3, -0.2], loc=0.4),
    "MixtureSameFamily": of(mixture, logits=[0.3, -0.2], loc=[-1.0, 1.5]),
    "MultivariateNormal": of(dist.MultivariateNormal, loc=np.zeros(2), covariance_matrix=PAIR),
    "MultivariateStudentT": of(
        dist.MultivariateStudentT, df=5.0, loc=np.zeros(2), scale_tril=np.eye(2)
    ),
    "Normal": of(dist.Normal, loc=0.3, scale=0.8),
    "Pareto": of(dist.Pareto, scale=0.8, alpha=3.0),
    "ProjectedNormal": of(dist.ProjectedNormal, concentration=[0.4, 0.7]),
    "RelaxedBernoulli": of(dist.RelaxedBernoulli, temperature=0.5, logits=0.3),
    "RightTruncatedDistribution": of(with_base(dist.RightTruncatedDistribution), loc=0.4, high=1.0),
    "RightTruncatedGamma": of(dist.TruncatedGamma, concentration=2.0, rate=1.1, high=2.4),
    "SineBivariateVonMises": of(
        dist.SineBivariateVonMises,
        phi_loc=0.1,
        psi_loc=0.2,
        phi_concentration=3.0,
        psi_concentration=2.0,
        correlation=0.5,
    ),
    "SineSkewed": of(
        lambda loc, skewness: dist.SineSkewed(dist.VonMises(loc, 2.0).to_event(1), skewness),
        loc=[0.1, 0.4],
        skewness=[0.2, -0.1],
    ),
    "SoftLaplace": of(dist.SoftLaplace, loc=0.3, scale=0.8),
    "StudentT": of(dist.StudentT, df=5.0, loc=0.3, scale=0.8),
    "TransformedDistribution": of(lognormal_of, loc=0.3, scale=0.8),
    "TransformedDistribution, vectors": of(sticks, loc=[0.3, 0.8]),
    "TruncatedCauchy": of(dist.TruncatedCauchy, loc=0.3, scale=0.8, low=-1.0),
    "TruncatedNormal": of(dist.TruncatedNormal, loc=0.3, scale=0.8, low=-1.0, high=2.0),
    "TwoSidedTruncatedGamma": of(
        dist.TruncatedGamma, concentration=2.0, rate=1.1, low=0.4, high=2.4
    ),
    "Uniform": of(dist.Uniform, low=-0.5, high=1.2),
    "VonMises": of(dist.VonMises, loc=0.4, concentration=1.2),
    "Weibull": of(dist.Weibull, scale=1.2, concentration=1.7),
    "Wishart": of(dist.Wishart, concentration=4.0, scale_matrix=PAIR),
    "WishartCholesky": of(dist.WishartCholesky, concentration=4.0, scale_matrix=PAIR),
    "ZeroSumNormal": of(lambda scale: dist.ZeroSumNormal(scale, (3,)), scale=0.7),
    # discrete
    "BernoulliLogits": of(dist.BernoulliLogits, logits=0.3),
    "BernoulliProbs": of(dist.BernoulliProbs, probs=0.3),
    "BetaBinomial": counting(dist.BetaBinomial, 5, concentration1=1.6, concentration0=2.5),
    "BetaNegativeBinomial": of(
        dist.BetaNegativeBinomial, concentration1=4.0, concentration0=2.5, n=3.0
    ),
    "BinomialLogits": counting(dist.BinomialLogits, 5, logits=0.3),
    "BinomialProbs": counting(dist.BinomialProbs, 5, probs=0.3),
    "CategoricalLogits": of(dist.CategoricalLogits, logits=TRIPLE),
    "CategoricalProbs": of(dist.CategoricalProbs, probs=TRIPLE),
    "DirichletMultinomial": counting(dist.DirichletMultinomial, 5, concentration=TRIPLE),
    "GammaPoisson": of(dist.GammaPoisson, concentration=2.0, rate=1.1),
    "GeometricLogits": of(dist.GeometricLogits, logits=0.3),
    "GeometricProbs": of(dist.GeometricProbs, probs=0.3),
    "HurdlePoisson": of(dist.HurdlePoisson, gate=0.3, rate=1.5),
    "MultinomialLogits": counting(dist.MultinomialLogits, 5, logits=TRIPLE),
    "MultinomialProbs": counting(dist.MultinomialProbs, 5, probs=TRIPLE),
    "NegativeBinomial2": of(dist.NegativeBinomial2, mean=2.0, concentration=1.5),
    "NegativeBinomialLogits": of(dist.NegativeBinomialLogits, total_count=2.0, logits=0.3),
    "NegativeBinomialProbs": of(dist.NegativeBinomialProbs, total_count=2.0, probs=0.3),
    "OrderedLogistic": of(dist.OrderedLogistic, predictor=0.3, cutpoints=[-0.5, 0.6]),
    "Poisson": of(dist.Poisson, rate=1.3),
    "ZeroInflatedNegativeBinomial2": of(
        dist.ZeroInflatedNegativeBinomial2, gate=0.3, mean=2.0, concentration=1.5
    ),
    "ZeroInflatedPoisson": of(dist.ZeroInflatedPoisson, gate=0.3, rate=1.5),
}
OTHER_NAMES = {
    *("Bernoulli", "Binomial", "Categorical", "Geometric", "Multinomial", "NegativeBinomial"),
    *("HurdleDistribution", "HurdleLogits", "HurdleProbs", "ZeroInflatedDistribution"),
    *("ZeroInflatedLogits", "ZeroInflatedProbs", "Mixture", "RelaxedBernoulliLogits"),
    *("TruncatedDistribution", "TwoSidedTruncatedDistribution", "TruncatedGamma"),
    *("Distribution", "ExpandedDistribution", "Independent", "MaskedDistribution"),
    *("GaussianCopulaBeta", "HurdleNegativeBinomial2"),
    *("RightCensoredDistribution", "IntervalCensoredDistribution"),
    *("DiscreteUniform", "ImproperUniform", "TruncatedPolyaGamma", "Unit"),
}
"""Functions that make one of those above, wrappers, and what has no parameter or is not drawn: the
copula of Beta needs another package, a hurdle cannot be rebuilt from its arrays."""


def test_the_table_has_every_family():
    exported = {n for n in dist.__all__ if inspect.isclass(getattr(dist, n)) or n in OTHER_NAMES}
    assert {name.split(",")[0] for name in NUMPYRO} | OTHER_NAMES >= exported


def total(make, given, flags):
    """A sum over two lanes, in which the flagged parameters are mapped."""

    def objective(parameters):
        axes = {name: 0 if flag else None for name, flag in flags.items()}

        def lane(given):
            return jnp.sum(1.0 * sample("x", make(**given)))

        return jnp.sum(jax.vmap(lane, (axes,), axis_size=2)(parameters))

    return objective, {
        n: jnp.stack([x, x]) if flags[n] else jnp.asarray(x) for n, x in given.items()
    }


def every_mapping(given):
    for name in given:
        yield {other: other == name for other in given}
    yield dict.fromkeys(given, True)


@pytest.mark.parametrize("name", NUMPYRO)
def test_every_parameter_is_mapped_or_not(name):
    make, given = NUMPYRO[name]
    key = jax.random.key(0)
    for flags in every_mapping(given):
        objective, parameters = total(make, given, flags)
        assert jax.eval_shape(ppl.expectation(objective), key, parameters).shape == ()
    same = ppl.with_estimators(objective, {"x": lambda own: own})
    assert jax.eval_shape(ppl.expectation(same), key, parameters).shape == ()


def test_what_cannot_be_rebuilt_from_its_arrays_is_refused():
    made = dist.HurdleNegativeBinomial2(gate=0.3, mean=2.0, concentration=1.5)
    with pytest.raises(ppl.errors.InvalidDistribution, match=r"'x', .*cannot be rebuilt"):
        ppl.expectation(lambda: 1.0 * sample("x", made))(jax.random.key(0))


FAMILIES = {
    "gamma": lambda a: dist.Gamma(a, 1.3),
    "beta": lambda a: dist.Beta(a, 1.0),
    "dirichlet": lambda a: dist.Dirichlet(a * jnp.ones(3)),
    "expanded": lambda a: dist.Gamma(a, 1.3).expand([2]),
    "event": lambda a: dist.Beta(a, jnp.ones(2)).to_event(1),
    "both": lambda a: dist.Gamma(a, jnp.ones((2, 1))).expand([2, 3]).to_event(1),
}


@pytest.mark.parametrize("name", FAMILIES)
def test_the_default_is_the_estimator_written_out(name):
    def program(estimator):
        lane = lambda a: jnp.sum(jnp.sin(sample("x", FAMILIES[name](a), estimator)))
        return lambda c: jnp.sum(jax.vmap(jax.vmap(lane))(c))

    c = jnp.array([[0.7, 1.0, 2.5], [1.4, 3.0, 0.9]])
    one = lambda e: jax.jit(jax.value_and_grad(ppl.expectation(program(e)), argnums=1))
    found, right = (one(e)(jax.random.key(1), c) for e in (None, Reparameterized()))
    np.testing.assert_array_equal(found[0], right[0])
    np.testing.assert_array_equal(found[1], right[1])


def test_an_estimator_chosen_by_address_meets_one_lane():
    """E x = a for Gamma(a, 1), in lanes of lanes with one parameter mapped by the outer alone."""

    def objective(c):
        lane = lambda a, rate: jnp.sum(sample("x", dist.Gamma(a, rate).expand([2])))
        inner = jax.vmap(lane, (None, 0))
        return jnp.sum(jax.vmap(inner, (0, None))(c, jnp.array([1.0, 2.0])))

    scored = ppl.with_estimators(objective, {"x": lambda own: ScoreFunction()})
    exact = lambda c: 2 * jnp.sum(c) * 1.5
    c, key = jnp.array([1.2, 2.0]), jax.random.key(3)
    assert_unbiased(scored, c, exact=exact, key=key, num_samples=20_000)
