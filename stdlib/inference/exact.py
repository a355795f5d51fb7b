"""Exact inference: finite choices by variable elimination, Gaussian ones by linear algebra."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from ppl import Target

from ..estimators import Enumerate
from ._gaussian import Gaussian, addresses_of, suits
from ._integral import Integral
from ._mixture import Mixture
from ._summation import Summation


class Exact(Integral):
    """Exact evidence, densities and draws: hidden choices are finite, Gaussian, or both.

    *Finite* ones are summed out one by one: lanes of a batch at the cost of one each, a chain of T
    states in `lax.scan` by the forward recursion, T·K². A draw is one site, `"exact"`, of all the
    hidden choices together (forward filtering and backward sampling, for a chain), with a score.

    *Gaussian* are continuous ones, if the joint log density is quadratic in all of them together:
    linear regression, hierarchies with given scales, linear state-space models, and whatever else
    is linear with normal noise. It is proved so when the program is traced, by the degree of each
    operation. The evidence is a completed square: d slopes of the log density and d³ operations for
    d hidden numbers. All steps of a loop are taken at once: T steps of d numbers cost (T·d)³, where
    a Kalman filter, which gives the same number, takes T·d³. A draw is one normal site, `"exact"`,
    reparameterised. NaN where the posterior is improper. The support of an `obs=` must not move
    with hidden choices; that of a choice conditioned on is looked at.

    *Both*, if the continuous ones are Gaussian given the finite ones: one square completed for each
    joint state of these, up to 1024. A draw is of the state first, `"state"`, with a score.

    **Raises** `UnsuitableEstimator` where a hidden choice is neither, with the reason;
    `TooManyJointStates` where too many finite choices meet.

    Sources: Rabiner 1989; Frühwirth-Schnatter 1994; Bishop 2006, section 2.3.3.

    ```python
    >>> import jax, ppl, numpyro.distributions as dist
    >>> from stdlib.inference import Exact
    >>> def mixture():
    ...     z = ppl.sample("z", dist.Bernoulli(0.25))
    ...     ppl.sample("x", dist.Normal(4.0 * z, 1.0))
    >>> posterior = ppl.normalize(mixture, {"x": 4.0}, Exact())
    >>> draws = jax.vmap(ppl.seed(posterior))(jax.random.split(jax.random.key(0), 1000))
    >>> bool(draws["z"].mean() > 0.99)
    True
    >>> def line(slope):
    ...     u = ppl.sample("u", dist.Normal(0.0, 1.0))
    ...     ppl.sample("x", dist.Normal(slope * u, 1.0))
    >>> only_x = ppl.marginal(line, "x", Exact())
    >>> round(float(ppl.log_density(only_x, {"x": 1.0}, 2.0)), 4)
    -1.8237

    ```
    """

    def simulate(self, target: Target) -> tuple[Mapping[str, Any], jax.Array]:
        """A draw from the posterior, and its density."""
        return _algorithm(target).simulate(target)

    def log_evidence(self, target: Target) -> jax.Array:
        """log p(x)."""
        return _algorithm(target).log_evidence(target)


def _algorithm(target: Target) -> Integral:
    """How the hidden choices are integrated out, by what they are."""
    if not any(jnp.issubdtype(s.dtype, jnp.floating) for s in jax.tree.leaves(target.hidden)):
        return Summation()
    addresses = addresses_of(target.hidden)
    finite = [address for address in addresses if suits(target, address, Enumerate())]
    if len(finite) == len(addresses):
        return Summation()
    return Mixture(tuple(finite)) if finite else Gaussian()
