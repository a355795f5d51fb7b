"""Families of distributions, each with parameters and a way to sum over it exactly.

What is not univariate brings its own measure: points `(M, *batch, *event)`, weights `(M, *batch)`.
"""

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist

from stdlib.distributions import FloatBernoulli, OneHotCategorical
from stdlib.testing import exact_measure


class Family(NamedTuple):
    """Distributions `make(theta)`, at one `theta`: a pytree of floats."""

    make: Callable
    theta: Any
    measure: Callable = exact_measure

    @property
    def shape(self) -> tuple:
        """Batch and event shape, and whether values are whole numbers, and finitely many."""
        made = self.make(self.theta)
        finite = getattr(made, "has_enumerate_support", False)
        return made.batch_shape, made.event_shape, made.support.is_discrete, finite


def gauss_hermite(distribution):
    """The exact measure of a bivariate normal: a product of Gauss-Hermite rules."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(24)
    grid = jnp.asarray(list(itertools.product(nodes, nodes)), jnp.float32)
    points = distribution.loc + grid @ distribution.scale_tril.T
    weights = np.outer(weights, weights).ravel() / weights.sum() ** 2
    return points, jnp.asarray(weights, jnp.float32)


def stick_breaking(distribution):
    """The exact measure of a Dirichlet of three parts: Gauss-Legendre over two sticks."""
    nodes, weights = np.polynomial.legendre.leggauss(64)
    u, v = (x.ravel() for x in np.meshgrid((nodes + 1) / 2, (nodes + 1) / 2))
    points = jnp.asarray(np.stack([u, (1 - u) * v, (1 - u) * (1 - v)], -1), jnp.float32)
    area = jnp.asarray(np.outer(weights, weights).ravel() / 4 * (1 - u), jnp.float32)
    return points, area * jnp.exp(distribution.log_prob(points))


def combinations(distribution):
    """The exact measure of independent Bernoulli variables, in one event of one dimension."""
    size, dtype = distribution.event_shape[0], distribution.base_dist.enumerate_support().dtype
    points = jnp.asarray(list(itertools.product((0, 1), repeat=size)), dtype)
    return points, jnp.exp(distribution.log_prob(points))


def log_grid(distribution):
    """The exact measure of one or two positive variables: equal steps of their logarithms."""
    size = 1 + sum(distribution.event_shape)
    logs = np.linspace(-40.0, 5.0, 4001) if size == 1 else np.linspace(-12.0, 4.0, 201)
    points = np.exp(logs)
    slopes = points * (logs[1] - logs[0])
    if size > 1:
        points = np.array(list(itertools.product(points, points)))
        slopes = np.outer(slopes, slopes).ravel()
    points = jnp.asarray(points, jnp.float32)
    return points, jnp.exp(distribution.log_prob(points)) * jnp.asarray(slopes, jnp.float32)


def mixture(t):
    parts = dist.Normal(t["means"], jnp.array([0.6, 0.9]))
    return dist.MixtureSameFamily(dist.Categorical(logits=t["logits"]), parts)


def mixture_of_families(t):
    parts = [dist.Normal(t["means"][0], 0.6), dist.Gumbel(t["means"][1], 0.9)]
    return dist.MixtureGeneral(dist.Categorical(logits=t["logits"]), parts)


def mixture_batch(t):
    parts = dist.Normal(jnp.stack([t, 1.0 - t], -1), jnp.array([0.6, 0.9]))
    return dist.MixtureSameFamily(dist.Categorical(logits=jnp.array([0.3, -0.2])), parts)


def categorical(t):
    return dist.Categorical(logits=t)


def one_hot(t):
    return OneHotCategorical(logits=t)


def joint_bernoulli(t):
    return dist.Bernoulli(logits=t).to_event(1)


def joint_float_bernoulli(t):
    return FloatBernoulli(logits=t).to_event(1)


def joint_gamma(t):
    return dist.Gamma(t, 1.2).expand([2]).to_event(1)


PROBS = np.array([0.2, 0.5, 0.3])
LOGITS = np.array([0.3, -0.2, 0.5, 1.1])
BATCH = np.array([LOGITS, [1.5, 0.1, -1.0, 0.2]])
MIXTURE = {"means": np.array([-1.0, 1.5]), "logits": np.array([0.3, -0.2])}
BIVARIATE = {"m": np.array([0.5, -0.3]), "l": np.array([[0.9, 0.0], [-0.4, 0.6]])}
DIRICHLET = np.array([2.0, 3.0, 2.5])

FAMILIES = {
    # continuous
    "normal": Family(lambda t: dist.Normal(*t), (0.3, 0.8)),
    "normal, batch": Family(lambda t: dist.Normal(*t), (np.array([0.3, -1.0]), 0.7)),
    "log-normal": Family(lambda t: dist.LogNormal(*t), (0.3, 0.5)),
    "student-t": Family(lambda t: dist.StudentT(*t), (6.0, 0.3, 0.8)),
    "laplace": Family(lambda t: dist.Laplace(*t), (0.3, 0.8)),
    "gumbel": Family(lambda t: dist.Gumbel(*t), (0.3, 0.8)),
    "half-normal": Family(dist.HalfNormal, 0.9),
    "exponential": Family(dist.Exponential, 1.3),
    "gamma": Family(lambda t: dist.Gamma(*t), (2.3, 1.4)),
    "gamma, small": Family(lambda t: dist.Gamma(*t), (0.6, 1.4), log_grid),
    "gamma, batch": Family(lambda t: dist.Gamma(*t), (np.array([1.2, 4.0]), 1.4)),
    "gamma, three": Family(lambda t: dist.Gamma(t, 1.2), np.array([1.5, 0.8, 4.0])),
    "gamma, event": Family(joint_gamma, 1.8, log_grid),
    "chi2": Family(dist.Chi2, 3.0),
    "weibull": Family(lambda t: dist.Weibull(*t), (1.2, 1.7)),
    "weibull, small": Family(lambda t: dist.Weibull(*t), (0.9, 1.6)),
    "beta": Family(lambda t: dist.Beta(*t), (1.6, 2.5)),
    "beta, batch": Family(lambda t: dist.Beta(t, 1.3), np.array([1.6, 2.5])),
    "dirichlet": Family(dist.Dirichlet, DIRICHLET, stick_breaking),
    "uniform, moving": Family(lambda t: dist.Uniform(t[0], t[0] + t[1]), (-0.5, 1.7)),
    "uniform, fixed": Family(lambda t: dist.Uniform(0.0, 1.5), 1.0),
    "von mises": Family(lambda t: dist.VonMises(*t), (0.4, 1.2)),
    "von mises, batch": Family(lambda t: dist.VonMises(t, 2.5), np.array([-2.0, 0.3])),
    "mixture": Family(mixture, MIXTURE),
    "mixture, batch": Family(mixture_batch, np.array([-0.5, 0.2, 1.0])),
    "mixture of families": Family(mixture_of_families, MIXTURE),
    "multivariate normal": Family(
        lambda t: dist.MultivariateNormal(t["m"], scale_tril=jnp.tril(t["l"])),
        BIVARIATE,
        gauss_hermite,
    ),
    # of two values
    "bernoulli": Family(dist.Bernoulli, 0.3),
    "bernoulli, batch": Family(dist.Bernoulli, PROBS),
    "bernoulli, expanded": Family(lambda t: dist.Bernoulli(t).expand([3]), 0.3),
    "bernoulli, logits": Family(lambda t: dist.Bernoulli(logits=t), -0.4),
    "bernoulli, event": Family(joint_bernoulli, LOGITS, combinations),
    "float bernoulli": Family(FloatBernoulli, 0.3),
    "float bernoulli, batch": Family(FloatBernoulli, PROBS),
    "float bernoulli, logits": Family(lambda t: FloatBernoulli(logits=t), LOGITS),
    "float bernoulli, event": Family(joint_float_bernoulli, LOGITS, combinations),
    # of several
    "categorical": Family(categorical, LOGITS),
    "categorical, three": Family(categorical, LOGITS[:3]),
    "categorical, one": Family(categorical, LOGITS[:1]),
    "categorical, batch": Family(categorical, BATCH),
    "categorical, extreme": Family(categorical, np.array([9.0, -50, 0, -200])),
    "categorical, expanded": Family(lambda t: categorical(t).expand([2]), LOGITS),
    "categorical, probs": Family(lambda t: dist.Categorical(jax.nn.softmax(t)), LOGITS),
    "one-hot": Family(one_hot, LOGITS),
    "one-hot, batch": Family(OneHotCategorical, np.stack([PROBS, PROBS[::-1]])),
    "binomial": Family(lambda t: dist.Binomial(5, t), 0.35),
    "binomial, logits": Family(lambda t: dist.Binomial(5, logits=t), np.array([0.2, -1.4])),
    "beta-binomial": Family(lambda t: dist.BetaBinomial(*t, 6), (1.6, 2.5)),
    "beta-binomial, expanded": Family(lambda t: dist.BetaBinomial(*t, 6).expand([2]), (1.6, 2.5)),
    "discrete uniform": Family(lambda t: dist.DiscreteUniform(1, 4), 1.0),
    # of infinitely many
    "poisson": Family(dist.Poisson, 1.7),
    "poisson, batch": Family(dist.Poisson, np.array([0.4, 5.0])),
    "poisson, expanded": Family(lambda t: dist.Poisson(t).expand([2]), 1.7),
    "geometric": Family(dist.Geometric, 0.4),
    "geometric, logits": Family(lambda t: dist.Geometric(logits=t), np.array([0.2, -0.9])),
    "negative binomial": Family(lambda t: dist.NegativeBinomial2(*t), (2.1, 1.5)),
}
