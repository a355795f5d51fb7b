"""Kullback-Leibler divergences of two distributions in closed form, by family."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from numpyro.distributions.kl import kl_divergence


def divergence(q: Any, p: Any) -> jax.Array | None:
    """KL(q ‖ p), summed over the batch; None where no closed form of it is known here.

    Both are distributions of values of one shape. Repeated (`expand`) and joined (`to_event`)
    elements are taken apart; masks, point masses and other transforms have none.
    """
    if _shape(q) is None or _shape(q) != _shape(p):
        return None
    if "gaussian" == _kind(q) == _kind(p) and "joint" in (_form(q), _form(p)):
        return _joint_gaussians(q, p)
    mine, theirs = _element(q), _element(p)
    formula = _FORMULAS.get((_kind(mine), _kind(theirs)))
    if formula is None:
        return None
    found = formula(mine, theirs)
    batch = _shape(q)[: len(_shape(q)) - len(mine.event_shape)]
    return None if found is None else jnp.sum(jnp.broadcast_to(found, batch))


def _shape(distribution: Any) -> Any:
    """The shape of a value; None of what is no distribution of NumPyro's."""
    named = hasattr(distribution, "batch_shape")
    return distribution.batch_shape + distribution.event_shape if named else None


def _kind(distribution: Any) -> str:
    """Its family in the table of formulas; a user's own class has none, whatever it extends."""
    cls = type(_element(distribution))
    known = cls.__module__.startswith("numpyro.") or cls.__module__ == "stdlib.distributions"
    return _KINDS.get(cls.__name__, "") if known else ""


def _element(distribution: Any) -> Any:
    """The distribution of which a batch is made, by repetition and as one event."""
    while type(distribution) in (dist.Independent, dist.ExpandedDistribution):
        distribution = distribution.base_dist
    return distribution


_KINDS = {
    "Normal": "gaussian",
    "MultivariateNormal": "gaussian",
    "LowRankMultivariateNormal": "gaussian",
    "LogNormal": "log-normal",
    "Laplace": "laplace",
    "Gamma": "gamma",
    "Exponential": "exponential",
    "Weibull": "weibull",
    "Beta": "beta",
    "Dirichlet": "dirichlet",
    "BernoulliProbs": "bernoulli",
    "BernoulliLogits": "bernoulli",
    "CategoricalProbs": "categorical",
    "CategoricalLogits": "categorical",
    "FloatBernoulli": "bernoulli",
    "OneHotCategorical": "one-hot",
}
"""Families by the names of classes of NumPyro and of `stdlib.distributions`."""


# --- one element at a time ------------------------------------------------------------------------


def _normals(q: Any, p: Any) -> jax.Array:
    spread, shift = (q.scale / p.scale) ** 2, ((q.loc - p.loc) / p.scale) ** 2
    return 0.5 * (spread + shift - 1.0) - jnp.log(q.scale / p.scale)


def _laplaces(q: Any, p: Any) -> jax.Array:
    shift, ratio = jnp.abs(q.loc - p.loc), q.scale / p.scale
    return shift / p.scale + ratio * jnp.exp(-shift / q.scale) - 1.0 - jnp.log(ratio)


def _gamma_of(distribution: Any) -> Any:
    exponential = type(distribution).__name__ == "Exponential"
    return dist.Gamma(1.0, distribution.rate) if exponential else distribution


def _gammas(q: Any, p: Any) -> jax.Array:
    return kl_divergence(_gamma_of(q), _gamma_of(p))


def _bernoullis(q: Any, p: Any) -> jax.Array:
    return _finite(_two_log_chances(q), _two_log_chances(p))


def _two_log_chances(distribution: Any) -> jax.Array:
    if type(distribution).__name__ != "BernoulliProbs":
        logits = jnp.asarray(distribution.logits)
        return jax.nn.log_sigmoid(jnp.stack([-logits, logits], -1))
    probs = jnp.asarray(distribution.probs)
    return jnp.stack([jnp.log1p(-probs), jnp.log(probs)], -1)


def _categoricals(q: Any, p: Any) -> jax.Array | None:
    mine, theirs = _log_chances(q), _log_chances(p)
    return _finite(mine, theirs) if mine.shape[-1] == theirs.shape[-1] else None


def _log_chances(distribution: Any) -> jax.Array:
    if type(distribution).__name__ != "CategoricalProbs":
        return jax.nn.log_softmax(distribution.logits, -1)
    return jnp.log(distribution.probs) - jnp.log(jnp.sum(distribution.probs, -1, keepdims=True))


def _finite(log_q: jax.Array, log_p: jax.Array) -> jax.Array:
    """Σ q (log q - log p) over the last axis; values of no chance under q have no term."""
    log_q, log_p = jnp.broadcast_arrays(log_q, log_p)
    possible = log_q > -jnp.inf
    log_q, log_p = jnp.where(possible, log_q, 0.0), jnp.where(possible, log_p, 0.0)
    return jnp.sum(jnp.where(possible, jnp.exp(log_q) * (log_q - log_p), 0.0), -1)


_FORMULAS: dict[tuple[str, str], Callable[[Any, Any], jax.Array | None]] = {
    ("gaussian", "gaussian"): _normals,
    ("log-normal", "log-normal"): _normals,
    ("laplace", "laplace"): _laplaces,
    **{(q, p): _gammas for q in ("gamma", "exponential") for p in ("gamma", "exponential")},
    **{
        ("weibull", p): lambda q, p: kl_divergence(q, _gamma_of(p))
        for p in ("gamma", "exponential")
    },
    ("beta", "beta"): kl_divergence,
    ("dirichlet", "dirichlet"): kl_divergence,
    ("bernoulli", "bernoulli"): _bernoullis,
    ("categorical", "categorical"): _categoricals,
    ("one-hot", "one-hot"): _categoricals,
}


# --- Gaussian vectors -----------------------------------------------------------------------------


def _form(gaussian: Any) -> str:
    """Whether the elements of an event have covariances."""
    return "elements" if type(_element(gaussian)).__name__ == "Normal" else "joint"


def _joint_gaussians(q: Any, p: Any) -> jax.Array:
    """Of vectors, at least one of them with covariances: full, of low rank, or diagonal."""
    shape = q.batch_shape + q.event_shape
    size = shape[-1]
    shift = jnp.broadcast_to(q.mean - p.mean, shape)
    if _form(p) == "elements":
        variance = jnp.broadcast_to(p.variance, shape)
        moved = (jnp.broadcast_to(q.variance, shape) + shift**2) / variance
        quadratic = jnp.sum(moved, -1)
    else:
        root = jnp.broadcast_to(_root(p), (*shape, size))
        solve = partial(jax.lax.linalg.triangular_solve, root, left_side=True, lower=True)
        spread = solve(jnp.broadcast_to(_root(q), (*shape, size)))
        away = solve(shift[..., None])
        quadratic = jnp.sum(spread**2, (-2, -1)) + jnp.sum(away**2, (-2, -1))
    volume = _log_volume(p, shape) - _log_volume(q, shape)
    return jnp.sum(0.5 * (quadratic - size) + volume)


def _root(gaussian: Any) -> jax.Array:
    """A lower triangular square root of the covariance."""
    element = _element(gaussian)
    if _form(gaussian) == "elements":
        scale = jnp.broadcast_to(element.scale, gaussian.batch_shape + gaussian.event_shape)
        return scale[..., None] * jnp.eye(scale.shape[-1])
    if type(element).__name__ == "MultivariateNormal":
        return element.scale_tril
    return jnp.linalg.cholesky(element.covariance_matrix)


def _log_volume(gaussian: Any, shape: tuple[int, ...]) -> jax.Array:
    """Half the log determinant of the covariance, by element of the batch."""
    if _form(gaussian) == "elements":
        return jnp.sum(jnp.log(jnp.broadcast_to(_element(gaussian).scale, shape)), -1)
    diagonal = jnp.diagonal(_root(gaussian), axis1=-2, axis2=-1)
    return jnp.broadcast_to(jnp.sum(jnp.log(diagonal), -1), shape[:-1])
