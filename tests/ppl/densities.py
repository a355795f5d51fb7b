"""Densities of NumPyro's families by SciPy or on paper, in double precision, at many parameters.

A row has the parameters and the value. Parameters are those of `make`, in order.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import scipy.special as sp
import scipy.stats as st

TINY, BELOW_ONE = 1e-20, 1 - 2.0**-20


class Density(NamedTuple):
    """A family, its log density, and where to compare the two.

    `count` says that values are whole numbers, `integers` which of the parameters are.
    """

    make: Callable
    reference: Callable
    rows: list
    count: bool = False
    integers: tuple = ()


def log_expit(x):
    return -np.logaddexp(0.0, -x)


def log_choose(n, k):
    return sp.gammaln(n + 1) - sp.gammaln(k + 1) - sp.gammaln(n - k + 1)


def negative_binomial(mean, a, k):
    pairs = sp.gammaln(k + a) - sp.gammaln(a) - sp.gammaln(k + 1)
    return pairs - a * np.log1p(mean / a) + k * (np.log(mean) - np.log(a + mean))


def beta_binomial(a, b, n, k):
    return log_choose(n, k) + sp.betaln(k + a, n - k + b) - sp.betaln(a, b)


def beta_negative_binomial(a, b, n, k):
    pairs = sp.gammaln(n + k) - sp.gammaln(n) - sp.gammaln(k + 1)
    return pairs + sp.betaln(a + k, b + n) - sp.betaln(a, b)


def soft_laplace(m, s, x):
    z = (x - m) / s
    return np.log(2 / np.pi) - np.log(s) - np.logaddexp(z, -z)


def kumaraswamy(a, b, x):
    logs = np.log(a) + np.log(b) + (a - 1) * np.log(x)
    return logs + (b - 1) * np.log(-np.expm1(a * np.log(x)))


def dagum(c, a, s, x):
    z = a * np.log(x / s)
    return np.log(a) + np.log(c) - np.log(x) + c * z - (c + 1) * np.logaddexp(0.0, z)


def zero_inflated(log_gate, log_rest, rate, k):
    zero = np.logaddexp(log_gate, log_rest - rate)
    return np.where(k == 0, zero, log_rest + st.poisson.logpmf(k, rate))


def zero_inflated_by_gate(g, r, k):
    return zero_inflated(np.log(g), np.log1p(-g), r, k)


def hurdle(g, r, k):
    counted = np.log1p(-g) + st.poisson.logpmf(k, r) - np.log(-np.expm1(-r))
    return np.where(k == 0, np.log(g), counted)


def relaxed_bernoulli(t, logits, x):
    z = logits - t * sp.logit(x)
    return np.log(t) + z - 2 * np.logaddexp(0.0, z) - np.log(x) - np.log1p(-x)


def power_law(a, low, high, x):
    mass = (high ** (1 + a) - low ** (1 + a)) / (1 + a)
    return a * np.log(x) - np.log(mass)


def truncated(logpdf, log_mass):
    def reference(m, s, low, high, x):
        return logpdf((x - m) / s) - np.log(s) - log_mass((low - m) / s, (high - m) / s)

    return reference


def cauchy_mass(a, b):
    return np.log(np.arctan2(b - a, 1 + a * b) / np.pi)


def logistic_mass(a, b):
    return log_expit(b) + log_expit(-a) + np.log(-np.expm1(a - b))


def laplace_mass(a, b):
    a, b = np.where(a + b > 0, -b, a), np.where(a + b > 0, -a, b)
    both = -np.expm1(np.minimum(a, 0)) - np.expm1(-np.maximum(b, 0))
    return np.where(b > 0, np.log(both), b + np.log(-np.expm1(a - b))) - np.log(2)


def gated_by_logits(g, r):
    return dist.ZeroInflatedDistribution(dist.Poisson(r), gate_logits=g)


def between(family):
    return lambda m, s, low, high: dist.TruncatedDistribution(family(m, s), low=low, high=high)


def above(family):
    return lambda m, s, low: dist.TruncatedDistribution(family(m, s), low=low)


def below(family):
    return lambda m, s, high: dist.TruncatedDistribution(family(m, s), high=high)


def ordered(x, first, step):
    return dist.OrderedLogistic(x, jnp.stack([first, first + step, first + 2.0 * step]))


def ordered_reference(x, first, step, k):
    ends = np.concatenate([[-np.inf], first + step * np.arange(3) - x, [np.inf]])
    low, high = ends[int(k)], ends[int(k) + 1]
    return logistic_mass(low, high)


CONTINUOUS = {
    "Normal": Density(
        dist.Normal,
        lambda m, s, x: st.norm.logpdf(x, m, s),
        [(0, 1, 0.3), (1e6, 1, 1e6 + 1), (3, 1e-3, 3.004), (0, 1, 1e4)],
    ),
    "StudentT": Density(
        dist.StudentT,
        lambda d, m, s, x: st.t.logpdf(x, d, m, s),
        [
            *[(3, 0, 1, 0.3), (0.1, 0, 1, 100), (1e4, 0, 1, 2), (1e6, 0, 1, 2), (1e8, 0, 1, 2)],
            *[(1e10, 0, 1, -1), (1, 0, 1e-3, 5), (5, 0, 1, 1e15)],
        ],
    ),
    "Cauchy": Density(
        dist.Cauchy,
        lambda m, s, x: st.cauchy.logpdf(x, m, s),
        [(0, 1, 0.3), (0, 1e-3, 1e5), (0, 1, 1e25), (0, 1e20, 1)],
    ),
    "HalfCauchy": Density(
        dist.HalfCauchy,
        lambda s, x: st.halfcauchy.logpdf(x, scale=s),
        [(1, 0.3), (1, 1e20), (1e-5, 1)],
    ),
    "Laplace": Density(
        dist.Laplace,
        lambda m, s, x: -np.abs(x - m) / s - np.log(2 * s),
        [(0, 1, 0.3), (0, 1e-3, 5), (0, 1e20, 1)],
    ),
    "AsymmetricLaplace": Density(
        dist.AsymmetricLaplace,
        lambda m, s, k, x: st.laplace_asymmetric.logpdf(x, k, m, s),
        [(0, 1, 2, 0.3), (0, 1, 2, -0.3), (0, 1e-3, 0.5, 0.1)],
    ),
    "Gamma": Density(
        dist.Gamma,
        lambda a, r, x: st.gamma.logpdf(x, a, scale=1 / r),
        [
            *[(2, 1, 0.3), (1e-3, 1, 1e-10), (0.5, 1, TINY), (9.5, 2, 4), (10.5, 2, 4)],
            *[(20, 1, 15), (1e4, 1, 1.01e4), (1e6, 1e3, 1001), (1e6, 1e3, 2000)],
        ],
    ),
    "InverseGamma": Density(
        dist.InverseGamma,
        lambda a, r, x: st.invgamma.logpdf(x, a, scale=r),
        [(2, 1, 0.3), (1e-3, 1, 1e10), (1e6, 1e3, 1.001e-3)],
    ),
    "Chi2": Density(
        dist.Chi2,
        lambda d, x: st.chi2.logpdf(x, d),
        [(3, 1), (1e6, 1e6 + 1000), (0.1, 0.01)],
    ),
    "Beta": Density(
        dist.Beta,
        lambda a, b, x: st.beta.logpdf(x, a, b),
        [
            *[(2, 3, 0.3), (0.01, 0.02, 0.5), (1e-3, 1e-3, 1e-10), (1e6, 1e6, 0.5005)],
            *[(1e8, 2, 1 - 2.0**-23), (2, 1e8, 2e-8), (1e3, 5, 0.99), (0.5, 1e6, 1e-6)],
        ],
    ),
    "BetaProportion": Density(
        dist.BetaProportion,
        lambda m, c, x: st.beta.logpdf(x, m * c, (1 - m) * c),
        [(0.3, 4, 0.2), (0.5, 1e6, 0.5005)],
    ),
    "Kumaraswamy": Density(
        dist.Kumaraswamy,
        kumaraswamy,
        [(2, 3, 0.3), (1e-4, 2, 0.5), (0.01, 0.5, BELOW_ONE), (1e4, 2, BELOW_ONE), (2, 1e6, 1e-3)],
    ),
    "Exponential": Density(
        dist.Exponential,
        lambda r, x: st.expon.logpdf(x, scale=1 / r),
        [(1, 0.3), (1e10, 1e-9), (1e-10, 1e9)],
    ),
    "Weibull": Density(
        dist.Weibull,
        lambda s, c, x: st.weibull_min.logpdf(x, c, scale=s),
        [
            *[(1, 2, 0.3), (1e10, 2, 1e10), (1e-10, 0.5, 1e-9), (3, 50, 3.05)],
            *[(1e3, 1e3, 1000.5), (1, 0.1, 1e-6)],
        ],
    ),
    "Gompertz": Density(
        dist.Gompertz,
        lambda c, r, x: st.gompertz.logpdf(x * r, c) + np.log(r),
        [(1, 2, 0.3), (1e-3, 1, 5), (1e6, 1e-3, 1e-4)],
    ),
    "Gumbel": Density(
        dist.Gumbel,
        lambda m, s, x: st.gumbel_r.logpdf(x, m, s),
        [(0, 1, 0.3), (0, 1, -4), (0, 1, 30), (0, 1e-3, 0.1)],
    ),
    "Logistic": Density(
        dist.Logistic,
        lambda m, s, x: st.logistic.logpdf(x, m, s),
        [(0, 1, 0), (0, 1, 0.3), (0, 1, -200), (0, 1, 200), (0, 1e-3, 1)],
    ),
    "SoftLaplace": Density(
        dist.SoftLaplace, soft_laplace, [(0, 1, 0), (0, 1, 0.3), (0, 1, -200), (0, 1, 200)]
    ),
    "LogNormal": Density(
        dist.LogNormal,
        lambda m, s, x: st.lognorm.logpdf(x, s, scale=np.exp(m)),
        [(0, 1, 0.3), (0, 3, TINY), (5, 0.1, 150), (0, 1, 1e20)],
    ),
    "HalfNormal": Density(
        dist.HalfNormal, lambda s, x: st.halfnorm.logpdf(x, scale=s), [(1, 0.3), (1e-5, 2e-5)]
    ),
    "Pareto": Density(
        dist.Pareto,
        lambda s, a, x: st.pareto.logpdf(x, a, scale=s),
        [(1, 2, 1.3), (1, 0.01, 1e10), (1, 1e6, 1 + 2.0**-20)],
    ),
    "Uniform": Density(
        dist.Uniform,
        lambda low, high, x: st.uniform.logpdf(x, low, high - low),
        [(0, 1, 0.3), (1e6, 1e6 + 1, 1e6 + 0.5)],
    ),
    "LogUniform": Density(
        dist.LogUniform,
        lambda low, high, x: st.loguniform.logpdf(x, low, high),
        [(1, 2, 1.5), (1e-10, 1e10, 1)],
    ),
    "Levy": Density(
        dist.Levy,
        lambda m, s, x: st.levy.logpdf(x, m, s),
        [(0, 1, 0.3), (0, 1e10, 1e9), (0, 1e-10, 1)],
    ),
    "Dagum": Density(
        dist.Dagum, dagum, [(1, 2, 3, 0.3), (1, 2, 1, 1), (3, 50, 2, 2), (2, 1e3, 1e3, 1001)]
    ),
    "VonMises": Density(
        dist.VonMises,
        lambda m, k, x: st.vonmises.logpdf(x, k, loc=m),
        [
            *[(0, 1, 0.3), (0, 1e-6, 1), (0, 49, 0.1), (0, 51, 0.1), (0, 1e4, 0.01)],
            *[(0, 1e6, 1e-3), (0, 1e8, 1e-4), (3, 1e6, 3.001), (0, 1e6, -1e-3)],
        ],
    ),
    "RelaxedBernoulli": Density(
        dist.RelaxedBernoulliLogits,
        relaxed_bernoulli,
        [(1, 0, 0.5), (0.5, 0.3, 0.2), (0.1, 0, TINY), (2, 5, BELOW_ONE)],
    ),
    "DoublyTruncatedPowerLaw": Density(
        lambda a, low, high: dist.DoublyTruncatedPowerLaw(a, low=low, high=high),
        power_law,
        [(-2, 1, 10, 3), (2, 1, 10, 3), (-1.0001, 1, 10, 3), (-50, 1, 10, 1.1)],
    ),
    "LowerTruncatedPowerLaw": Density(
        lambda a, low: dist.LowerTruncatedPowerLaw(a, low=low),
        lambda a, low, x: a * np.log(x) + np.log(-1 - a) - (1 + a) * np.log(low),
        [(-2, 1, 3), (-1e3, 2, 2.001), (-1.001, 1, 1e5)],
    ),
    "Normal, between": Density(
        between(dist.Normal),
        lambda m, s, low, high, x: st.truncnorm.logpdf(x, (low - m) / s, (high - m) / s, m, s),
        [
            *[(0, 1, -1, 1, 0.3), (0, 1, 5, 6, 5.3), (0, 1, 8, 9, 8.05), (0, 1, -9, -8, -8.1)],
            *[(0, 0.01, -1, 1, 0.005), (2, 1, 0, 1, 0.9)],
        ],
    ),
    "Normal, above": Density(
        above(dist.Normal),
        lambda m, s, low, x: st.truncnorm.logpdf(x, (low - m) / s, np.inf, m, s),
        [(0, 1, -1, 0.3), (0, 1, 5, 5.3), (0, 1, 10, 10.05), (0, 1, -50, 1), (20, 1, 0, 19)],
    ),
    "Normal, below": Density(
        below(dist.Normal),
        lambda m, s, high, x: st.truncnorm.logpdf(x, -np.inf, (high - m) / s, m, s),
        [(0, 1, 1, 0.3), (0, 1, -5, -5.3), (0, 1, -10, -10.05), (0, 1, 50, 1)],
    ),
    "Cauchy, between": Density(
        between(dist.Cauchy),
        truncated(st.cauchy.logpdf, cauchy_mass),
        [(0, 1, -1, 1, 0.3), (0, 1, 1e3, 2e3, 1.5e3), (0, 1, -1e7, -1e6, -2e6)],
    ),
    "Cauchy, above": Density(
        above(dist.Cauchy),
        lambda m, s, low, x: st.cauchy.logpdf(x, m, s) - st.cauchy.logsf(low, m, s),
        [(0, 1, -1, 0.3), (0, 1, 1e3, 2e3), (0, 1, 1e6, 1e7), (0, 1, -1e6, 3)],
    ),
    "Laplace, between": Density(
        between(dist.Laplace),
        truncated(st.laplace.logpdf, laplace_mass),
        [(0, 1, -1, 1.5, 0.3), (0, 1, 30, 32, 31), (1, 2, -1, 0, -0.5)],
    ),
    "Laplace, above": Density(
        above(dist.Laplace),
        lambda m, s, low, x: st.laplace.logpdf(x, m, s) - st.laplace.logsf(low, m, s),
        [(0, 1, -1, 0.3), (0, 1, 50, 52)],
    ),
    "Logistic, between": Density(
        between(dist.Logistic),
        truncated(st.logistic.logpdf, logistic_mass),
        [(0, 1, -1, 1.5, 0.3), (0, 1, 30, 32, 31)],
    ),
    "Logistic, below": Density(
        below(dist.Logistic),
        lambda m, s, high, x: st.logistic.logpdf(x, m, s) - st.logistic.logcdf(high, m, s),
        [(0, 1, -1, -2), (0, 1, -50, -52)],
    ),
}

COUNTS = {
    "Poisson": Density(
        dist.Poisson,
        lambda r, k: st.poisson.logpmf(k, r),
        [
            *[(2, 3), (1e-10, 0), (1e-10, 3), (50, 40), (9, 9), (10, 10), (11, 11), (1e5, 5)],
            *[(1e4, 10100), (1e6, 1001000), (1e8, 1.0001e8), (1e8, 0)],
        ],
    ),
    "Bernoulli": Density(
        dist.BernoulliProbs,
        lambda p, k: st.bernoulli.logpmf(k, p),
        [(0.3, 0), (0.3, 1), (1e-30, 1), (1e-30, 0), (1 - 2.0**-24, 1), (1 - 2.0**-24, 0)],
    ),
    "Bernoulli, logits": Density(
        dist.BernoulliLogits,
        lambda x, k: np.where(k == 1, log_expit(x), log_expit(-x)),
        [(0, 0), (0, 1), (200, 1), (200, 0), (-200, 1), (-200, 0), (1e-3, 1)],
    ),
    "Binomial": Density(
        lambda n, p: dist.Binomial(n, p),
        lambda n, p, k: st.binom.logpmf(k, n, p),
        [
            *[(5, 0.3, 2), (5, TINY, 2), (5, 0.3, 0), (5, 0.3, 5), (1e4, 0.5, 5050)],
            *[(1e6, 0.5, 500500), (1e6, 1e-5, 12), (1e6, 0.99999, 1e6 - 12), (1e6, 0.5, 0)],
        ],
        integers=(0,),
    ),
    "Binomial, logits": Density(
        lambda n, x: dist.Binomial(n, logits=x),
        lambda n, x, k: log_choose(n, k) + k * log_expit(x) + (n - k) * log_expit(-x),
        [
            *[(5, 0.3, 2), (5, 0, 2), (5, -200, 2), (5, 200, 2), (5, -200, 0), (5, 200, 5)],
            *[(1e4, 0, 5050), (1e6, 0, 500500), (1e6, 0.2, 550500), (1e6, -12, 7)],
        ],
        integers=(0,),
    ),
    "Geometric": Density(
        dist.GeometricProbs,
        lambda p, k: k * np.log1p(-p) + np.log(p),
        [(0.3, 2), (1e-10, 5), (1e-6, 1e5), (1 - 2.0**-24, 1), (0.5, 0)],
    ),
    "Geometric, logits": Density(
        dist.GeometricLogits,
        lambda x, k: log_expit(x) + k * log_expit(-x),
        [(0, 0), (0, 3), (-20, 1e6), (200, 0), (200, 1), (-200, 5), (0.3, 2)],
    ),
    "GammaPoisson": Density(
        dist.GammaPoisson,
        lambda a, r, k: negative_binomial(a / r, a, k),
        [
            *[(2, 1, 3), (1e8, 1e8 / 290, 300), (1e4, 1e2, 110), (1e6, 1, 1001000)],
            *[(0.01, 0.01, 1000), (0.5, 1e-6, 1e6), (1e6, 1e6, 0), (1e-6, 1e-6, 5)],
        ],
    ),
    "NegativeBinomial2": Density(
        dist.NegativeBinomial2,
        negative_binomial,
        [
            *[(2, 1, 3), (290, 1e8, 300), (290, 1e4, 300), (1e6, 1e6, 1001000), (1, 1e10, 0)],
            *[(1e6, 0.5, 100), (1e6, 0.5, 3e6), (3, 1e-5, 7)],
        ],
    ),
    "NegativeBinomial": Density(
        dist.NegativeBinomialProbs,
        lambda n, p, k: negative_binomial(n * p / (1 - p), n, k),
        [(2, 0.3, 3), (1e8, 2.9e-6, 300), (1e4, 0.5, 10050), (0.5, BELOW_ONE, 1e6)],
    ),
    "NegativeBinomial, logits": Density(
        dist.NegativeBinomialLogits,
        lambda n, x, k: negative_binomial(n * np.exp(x), n, k),
        [
            *[(2, 0.3, 3), (2, 0, 3), (2, 0, 0), (1e8, -12.75, 300), (1e4, 0, 10050)],
            *[(1e4, 0.5, 17000), (2, -200, 3), (0.5, 14, 1e6)],
        ],
    ),
    "BetaBinomial": Density(
        dist.BetaBinomial,
        beta_binomial,
        [
            *[(2, 3, 6, 2), (1e-3, 1e-3, 6, 0), (1e6, 1e6, 10, 4), (2, 3, 1e6, 4e5)],
            *[(1e4, 1e4, 1e4, 5050), (1e8, 1, 10, 10), (0.5, 0.5, 6, 6), (30, 40, 50, 0)],
        ],
        integers=(2,),
    ),
    "BetaNegativeBinomial": Density(
        dist.BetaNegativeBinomial,
        beta_negative_binomial,
        [(2, 3, 4, 5), (1e6, 1e6, 4, 5), (2, 3, 1e6, 5e5), (1e4, 1e4, 1e4, 10050)],
    ),
    "ZeroInflatedPoisson": Density(
        dist.ZeroInflatedPoisson,
        zero_inflated_by_gate,
        [
            *[(0.3, 2, 0), (0.3, 2, 3), (TINY, 60, 0), (1e-30, 200, 0), (0.5, 1e6, 1001000)],
            *[(0.3, 100, 0), (0.99, 100, 0)],
        ],
    ),
    "ZeroInflatedPoisson, logits": Density(
        gated_by_logits,
        lambda g, r, k: zero_inflated(log_expit(g), log_expit(-g), r, k),
        [
            *[(0, 2, 0), (0, 2, 3), (-100, 60, 0), (-2, 2, 0), (100, 2, 0), (100, 2, 3)],
            *[(-100, 2, 3), (-1e8, 60, 0), (-2e10, 2, 0)],
        ],
    ),
    "HurdlePoisson": Density(
        dist.HurdlePoisson, hurdle, [(0.3, 2, 0), (0.3, 2, 3), (0.3, 1e-3, 1), (0.01, 1e4, 10050)]
    ),
    "OrderedLogistic": Density(
        ordered,
        ordered_reference,
        [(0, -1, 1, 0), (0, -1, 1, 1), (0.3, -1, 1, 3), (30, -1, 1, 1), (-50, -1, 1, 3)],
    ),
}
COUNTS = {name: density._replace(count=True) for name, density in COUNTS.items()}
DENSITIES = CONTINUOUS | COUNTS
