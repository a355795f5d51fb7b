"""`canonical`: NumPyro's families, with one law for their draws, weights and scores.

NumPyro draws from normalised probabilities and scores unnormalised ones, clips them at zero and
one, which cuts derivatives, and has densities that lose their digits in single precision. A family
of the table is replaced by a subclass of its own with other methods. So it is what it was to
`isinstance`, to a dispatch on types and to its user, and the same to every estimator and analysis.
"""

import copy
import functools
from typing import Any

import jax
import jax.numpy as jnp

from . import continuous, counts, mixtures, probabilities, truncated

_NUMPYRO = "numpyro.distributions."
MODULES = {
    "conjugate": (
        counts.BetaBinomial,
        counts.BetaNegativeBinomial,
        counts.DirichletMultinomial,
        counts.GammaPoisson,
        counts.NegativeBinomialLogits,
        counts.NegativeBinomialProbs,
    ),
    "continuous": (
        continuous.Beta,
        continuous.Cauchy,
        continuous.Dirichlet,
        continuous.Gamma,
        continuous.Kumaraswamy,
        continuous.LKJCholesky,
        continuous.MultivariateStudentT,
        continuous.StudentT,
        continuous.Weibull,
    ),
    "directional": (continuous.VonMises,),
    "discrete": (
        counts.BinomialLogits,
        counts.BinomialProbs,
        counts.GeometricProbs,
        counts.HurdleProbs,
        counts.MultinomialLogits,
        counts.MultinomialProbs,
        counts.Poisson,
        counts.ZeroInflatedLogits,
        counts.ZeroInflatedProbs,
        probabilities.BernoulliLogits,
        probabilities.BernoulliProbs,
        probabilities.CategoricalLogits,
        probabilities.CategoricalProbs,
        probabilities.OrderedLogistic,
    ),
    "mixtures": (mixtures._MixtureBase,),
    "truncated": (
        continuous.DoublyTruncatedPowerLaw,
        truncated.LeftTruncatedDistribution,
        truncated.RightTruncatedDistribution,
        truncated.TwoSidedTruncatedDistribution,
    ),
}
FAMILIES = {
    f"{_NUMPYRO}{module}.{family.__name__}": family
    for module, families in MODULES.items()
    for family in families
}
"""What replaces methods of a class, by the class's full name."""


def canonical(distribution: Any) -> Any:
    """The same distribution, with each family of the table in it replaced."""
    if not any(map(_known, jax.tree.leaves(distribution, is_leaf=_known))):
        return distribution
    return jax.tree.map(_replaced, distribution, is_leaf=_known)


def _known(node: Any) -> bool:
    return _mended(type(node)) is not None


def _replaced(node: Any) -> Any:
    mended = _mended(type(node))
    if mended is None:
        return node
    new = copy.copy(node)
    new.__class__ = mended
    for name, part in vars(node).items():
        if not isinstance(part, jax.Array | float | int | str | tuple):
            setattr(new, name, canonical(part))
    new.prepare()
    return new


@functools.cache
def _mended(cls: type) -> type | None:
    """A subclass with the methods of the table, but for those that a user's own class overrides."""
    if hasattr(cls, "family"):
        return None
    for base in cls.__mro__:
        family = FAMILIES.get(f"{base.__module__}.{base.__qualname__}")
        if family is not None:
            return type(cls)(cls.__name__, (cls,), _methods(cls, base, family))
    return None


def _methods(cls: type, base: type, family: type) -> dict[str, Any]:
    found: dict[str, Any] = {"prepare": lambda self: None, "family": cls}
    for name, method in vars(family).items():
        own = getattr(cls, name, None)
        if callable(method) and own is getattr(base, name, None):
            found[name] = _within_support(method) if name == "log_prob" else method
    return found | {"__module__": cls.__module__, "__qualname__": cls.__qualname__}


def _within_support(log_prob: Any) -> Any:
    """Minus infinity outside of the support, where the distribution is told to look."""

    @functools.wraps(log_prob)
    def checked(self, value, intermediates=None):
        found = log_prob(self, value)
        if not self._validate_args:
            return found
        return jnp.where(self._validate_sample(value), found, -jnp.inf)

    return checked
