"""Eight schools: a hierarchical normal model, non-centred."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jaxtyping import Array, Float

from ppl import sample

EFFECTS = np.array([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0], np.float32)
STANDARD_ERRORS = np.array([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0], np.float32)

OBSERVED = {"y": EFFECTS}
"""The data: estimated effects of coaching at eight schools (Rubin 1981)."""

Parameters = dict[str, Float[Array, "..."]]


class Moments(NamedTuple):
    """Posterior means and standard deviations: of `mu`, `tau` () and `theta` (8,)."""

    mean: dict[str, np.ndarray]
    sd: dict[str, np.ndarray]


REFERENCE = Moments(
    mean={
        "mu": np.array(4.4105),
        "tau": np.array(3.6021),
        "theta": np.array([6.1505, 4.9396, 3.9059, 4.7960, 3.6144, 4.0511, 6.3172, 4.8840]),
    },
    sd={
        "mu": np.array(3.3093),
        "tau": np.array(3.1985),
        "theta": np.array([5.6159, 4.6456, 5.2807, 4.7709, 4.6147, 4.7962, 5.0029, 5.3177]),
    },
)
"""Moments of 10,000 reference draws: posteriordb, eight_schools-eight_schools_noncentered."""


def model() -> None:
    """School j's effect is theta_j = mu + tau * theta_trans_j, measured with a known error.

    Sites: `"mu"`, `"tau"`, `"theta_trans"` (8,), and `"y"` (8,), the measured effects. Source:
    Rubin 1981; Gelman et al., Bayesian Data Analysis, section 5.5; priors as in posteriordb.

    ```python
    >>> import jax, ppl
    >>> from stdlib.models import eight_schools
    >>> trace = ppl.seed(lambda: ppl.simulate(eight_schools.model))(jax.random.key(0))
    >>> trace.choices["theta_trans"].shape
    (8,)

    ```
    """
    mu = sample("mu", dist.Normal(0.0, 5.0))
    tau = sample("tau", dist.HalfCauchy(5.0))
    theta_trans = sample("theta_trans", dist.Normal(jnp.zeros(8), 1.0))
    sample("y", dist.Normal(mu + tau * theta_trans, STANDARD_ERRORS))


def guide(phi: Parameters) -> None:
    """Mean field: normals, and a log-normal for tau.

    `phi` has arrays `mean` and `log_scale` of shape (10,): mu, log tau, theta_trans.
    """
    mean, scale = phi["mean"], jnp.exp(phi["log_scale"])
    sample("mu", dist.Normal(mean[0], scale[0]))
    sample("tau", dist.LogNormal(mean[1], scale[1]))
    sample("theta_trans", dist.Normal(mean[2:], scale[2:]))


def initial() -> Parameters:
    """A start for the guide: all locations 0, all scales 1.

    ```python
    >>> import jax, ppl
    >>> from functools import partial
    >>> from stdlib.models.eight_schools import OBSERVED, guide, initial, model
    >>> from stdlib.objectives import elbo
    >>> objective = lambda phi: elbo(model, partial(guide, phi), OBSERVED)
    >>> value = ppl.expectation(objective)(jax.random.key(0), initial())

    ```
    """
    return {"mean": jnp.zeros(10), "log_scale": jnp.zeros(10)}


def fitted_moments(phi: Parameters) -> Moments:
    """The moments of a guide, in closed form, beside which to put `posterior` or `REFERENCE`.

    ```python
    >>> from stdlib.models import eight_schools
    >>> moments = eight_schools.fitted_moments(eight_schools.initial())
    >>> moments.mean["theta"].shape
    (8,)

    ```
    """
    mean, variance = (np.asarray(x, float) for x in (phi["mean"], jnp.exp(2 * phi["log_scale"])))
    tau = np.exp(mean[1] + variance[1] / 2)
    square_of_tau = np.exp(2 * mean[1] + 2 * variance[1])
    square_of_trans = mean[2:] ** 2 + variance[2:]
    spread = square_of_tau * square_of_trans - (tau * mean[2:]) ** 2
    return Moments(
        {"mu": mean[0], "tau": tau, "theta": mean[0] + tau * mean[2:]},
        {
            "mu": np.sqrt(variance[0]),
            "tau": np.sqrt(square_of_tau - tau**2),
            "theta": np.sqrt(variance[0] + spread),
        },
    )


def log_evidence() -> float:
    """log p(y), exactly: mu and theta integrate in closed form, tau by quadrature.

    ```python
    >>> from stdlib.models import eight_schools
    >>> round(eight_schools.log_evidence(), 3)
    -31.311

    ```
    """
    log_weights, _ = _over_tau()
    return float(np.logaddexp.reduce(log_weights))


def posterior() -> Moments:
    """The exact posterior moments, by the same quadrature over tau.

    ```python
    >>> from stdlib.models import eight_schools
    >>> round(float(eight_schools.posterior().mean["mu"]), 2)
    4.4

    ```
    """
    log_weights, tau = _over_tau()
    weights = np.exp(log_weights - np.logaddexp.reduce(log_weights))[:, None]
    mu, mu_variance = (x[:, None] for x in _mu_given(tau))
    # theta_j given tau: a mean of y_j and mu, weighted by their precisions
    shrinkage = STANDARD_ERRORS**2 / (STANDARD_ERRORS**2 + tau[:, None] ** 2)
    theta = (1 - shrinkage) * EFFECTS + shrinkage * mu
    theta_variance = tau[:, None] ** 2 * shrinkage + shrinkage**2 * mu_variance

    def moments(mean, variance):
        average = (weights * mean).sum(0)
        return average, np.sqrt((weights * (variance + mean**2)).sum(0) - average**2)

    pairs = {
        "mu": [x[0] for x in moments(mu, mu_variance)],
        "tau": [x[0] for x in moments(tau[:, None], 0.0)],
        "theta": moments(theta, theta_variance),
    }
    return Moments(*({name: pair[i] for name, pair in pairs.items()} for i in range(2)))


def _over_tau() -> tuple[np.ndarray, np.ndarray]:
    """Log quadrature weights, p(tau, y) dtau, at values of tau: a substitution tau = sinh(u)^2."""
    u = np.linspace(0.0, 6.0, 20_001)[1:]
    tau, step = np.sinh(u) ** 2, np.sinh(2 * u) * (u[1] - u[0])
    mu, mu_variance = _mu_given(tau)
    variance = STANDARD_ERRORS.astype(float) ** 2 + tau[:, None] ** 2
    # p(y | tau) = p(mu) p(y | mu, tau) / p(mu | y, tau) at any mu, here the posterior mean
    log_prior = -0.5 * mu**2 / 25 - 0.5 * np.log(2 * np.pi * 25)
    residual = (EFFECTS - mu[:, None]) ** 2 / variance + np.log(2 * np.pi * variance)
    log_posterior = -0.5 * np.log(2 * np.pi * mu_variance)
    log_tau = np.log(2 / (5 * np.pi)) - np.log1p((tau / 5) ** 2)
    return log_tau + log_prior - 0.5 * residual.sum(1) - log_posterior + np.log(step), tau


def _mu_given(tau: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance of mu given tau and y."""
    precisions = 1 / (STANDARD_ERRORS.astype(float) ** 2 + tau[:, None] ** 2)
    variance = 1 / (1 / 25 + precisions.sum(1))
    return variance * (precisions * EFFECTS).sum(1), variance


__all__ = [
    "EFFECTS",
    "OBSERVED",
    "REFERENCE",
    "STANDARD_ERRORS",
    "Moments",
    "fitted_moments",
    "guide",
    "initial",
    "log_evidence",
    "model",
    "posterior",
]
