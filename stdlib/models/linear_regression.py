"""Bayesian linear regression with known noise: conjugate, so everything has a closed form."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jaxtyping import Array, Float

from ppl import sample

PRIOR_SCALE, NOISE = 2.0, 0.5

Parameters = dict[str, Float[Array, "..."]]
Inputs = Float[Array, "n d"] | Float[np.ndarray, "n d"]


class Normal(NamedTuple):
    """A multivariate normal: `mean` (D,) and `covariance` (D, D)."""

    mean: np.ndarray
    covariance: np.ndarray


def data(n: int = 20, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Inputs (n, 3), a column of ones and two correlated features, and targets (n,).

    ```python
    >>> from stdlib.models import linear_regression
    >>> inputs, targets = linear_regression.data()
    >>> inputs.shape, targets.shape
    ((20, 3), (20,))

    ```
    """
    rng = np.random.default_rng(seed)
    first = rng.normal(size=n)
    second = 0.8 * first + 0.6 * rng.normal(size=n)
    inputs = np.stack([np.ones(n), first, second], axis=1)
    targets = inputs @ [0.5, -1.0, 2.0] + NOISE * rng.normal(size=n)
    return inputs.astype(np.float32), targets.astype(np.float32)


def model(inputs: Inputs) -> None:
    """Weights w ~ Normal(0, 2²), targets y ~ Normal(inputs @ w, 0.5²).

    Sites: `"w"` (d,) and `"y"` (n,). Source: Bishop 2006, section 3.3.

    ```python
    >>> import ppl
    >>> from stdlib.models import linear_regression
    >>> inputs, targets = linear_regression.data()
    >>> choices = {"w": [0.5, -1.0, 2.0], "y": targets}
    >>> log_joint = ppl.log_density(linear_regression.model, choices, inputs)

    ```
    """
    w = sample("w", dist.Normal(jnp.zeros(inputs.shape[1]), PRIOR_SCALE))
    sample("y", dist.Normal(inputs @ w, NOISE))


def mean_field(phi: Parameters) -> None:
    """Independent normals: `phi` has `mean` (d,) and `log_scale` (d,).

    Its best ELBO is `mean_field_bound`, below the log evidence as the features are correlated.
    """
    sample("w", dist.Normal(phi["mean"], jnp.exp(phi["log_scale"])))


def full_rank(phi: Parameters) -> None:
    """A multivariate normal: `mean` (d,), `log_scale` (d,), and `below` (d, d).

    Its Cholesky factor has exp(log_scale) on, and the entries of `below` under, the diagonal. The
    family contains the posterior, so its best ELBO is the log evidence.
    """
    factor = jnp.diag(jnp.exp(phi["log_scale"])) + jnp.tril(phi["below"], -1)
    sample("w", dist.MultivariateNormal(phi["mean"], scale_tril=factor))


def initial(d: int = 3) -> Parameters:
    """Standard normal: a start for either guide (`mean_field` does not read `below`).

    ```python
    >>> import jax, ppl
    >>> from functools import partial
    >>> from stdlib.models import linear_regression as lr
    >>> from stdlib.objectives import elbo
    >>> inputs, targets = lr.data()
    >>> def objective(phi):
    ...     return elbo(partial(lr.model, inputs), partial(lr.full_rank, phi), {"y": targets})
    >>> value = ppl.expectation(objective)(jax.random.key(0), lr.initial())

    ```
    """
    return {"mean": jnp.zeros(d), "log_scale": jnp.zeros(d), "below": jnp.zeros((d, d))}


def posterior(inputs: np.ndarray, targets: np.ndarray) -> Normal:
    """The exact posterior of the weights: precision XᵀX/σ² + I/τ², mean Σ Xᵀy/σ².

    ```python
    >>> from stdlib.models import linear_regression
    >>> linear_regression.posterior(*linear_regression.data()).mean.round(1)
    array([ 0.7, -0.6,  1.6])

    ```
    """
    covariance = np.linalg.inv(_precision(inputs))
    return Normal(covariance @ inputs.T.astype(float) @ targets / NOISE**2, covariance)


def log_evidence(inputs: np.ndarray, targets: np.ndarray) -> float:
    """log p(y), exactly: y is Normal(0, σ² I + τ² X Xᵀ).

    ```python
    >>> from stdlib.models import linear_regression
    >>> round(linear_regression.log_evidence(*linear_regression.data()), 3)
    -22.202

    ```
    """
    inputs, targets = np.asarray(inputs, float), np.asarray(targets, float)
    covariance = NOISE**2 * np.eye(len(targets)) + PRIOR_SCALE**2 * inputs @ inputs.T
    mahalanobis = targets @ np.linalg.solve(covariance, targets)
    return float(-0.5 * (mahalanobis + np.linalg.slogdet(2 * np.pi * covariance)[1]))


def mean_field_bound(inputs: np.ndarray, targets: np.ndarray) -> float:
    """The best ELBO of `mean_field`: log p(y) - (Σ log Λ_ii - log det Λ)/2, Λ the precision.

    The best mean-field guide has the posterior's mean, and variances 1/Λ_ii, smaller than the
    posterior's own (Bishop 2006, section 10.1.2).

    ```python
    >>> from stdlib.models import linear_regression as lr
    >>> inputs, targets = lr.data()
    >>> gap = lr.log_evidence(inputs, targets) - lr.mean_field_bound(inputs, targets)
    >>> round(gap, 2)
    0.67

    ```
    """
    precision = _precision(inputs)
    gap = 0.5 * (np.log(np.diag(precision)).sum() - np.linalg.slogdet(precision)[1])
    return log_evidence(inputs, targets) - float(gap)


def _precision(inputs: np.ndarray) -> np.ndarray:
    inputs = np.asarray(inputs, float)
    return inputs.T @ inputs / NOISE**2 + np.eye(inputs.shape[1]) / PRIOR_SCALE**2


__all__ = [
    "NOISE",
    "PRIOR_SCALE",
    "Normal",
    "data",
    "full_rank",
    "initial",
    "log_evidence",
    "mean_field",
    "mean_field_bound",
    "model",
    "posterior",
]
