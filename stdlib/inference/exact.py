"""Exact inference: finite choices by variable elimination, others by integrals in closed form."""

from collections.abc import Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from ppl.errors import UnsuitableEstimator
from ppl.extend import Target

from ..estimators import Enumerate
from ._conjugate import Conjugate
from ._gaussian import Gaussian
from ._hidden import REMEDY, SUPPORTS, Fills, addresses_of, listed, suits
from ._integral import Integral
from ._mixture import Mixture
from ._scaled import Scaled
from ._summation import Summation


class Exact(Integral):
    """Exact evidence, densities and draws: hidden choices are finite, or Gaussian, or conjugate.

    *Finite* ones are summed out one by one: lanes of a batch at the cost of one each, a chain of T
    states in `lax.scan` by the forward recursion, T·K². A draw is one site, `"exact"`, of all the
    hidden choices together (forward filtering and backward sampling, for a chain), with a score.

    *Gaussian* are continuous ones, if the joint log density is quadratic in all of them together:
    linear regression, hierarchies with given scales, linear state-space models, and whatever else
    is linear with normal noise. It is proved so when the program is traced, by the degree of each
    operation. The evidence is a completed square: d slopes of the log density and d³ operations for
    d hidden numbers. A *chain* of T steps takes T·d³, as a Kalman filter and smoother do, and
    memory linear in T: hidden choices in one `lax.scan` that goes forward, over what is not hidden,
    with no site after it, and choices before it; d are the numbers that a step chooses and reads of
    hidden choices (what is carried, and coefficients drawn before the loop). All others are taken
    at once, (T·d)³. A draw is standard normal noise, `"exact"`, moved to the posterior. NaN where
    that is improper. The support of an `obs=` must not move with hidden choices; that of a choice
    conditioned on is looked at.

    *Conjugate* are continuous ones, if the joint log density is affine in statistics of each
    element: log u and log(1 - u) on the unit interval (a Beta), log u and u (a Gamma) or log u and
    1/u (an inverse Gamma) on the positive numbers, the logs of shares (a Dirichlet). That too is
    proved when the program is traced, whatever the distributions are called. The evidence is a sum
    of log normalisers. Each choice is drawn at its address under `"exact"`, reparameterised, as
    NumPyro's gradients of these distributions are. NaN where the posterior is improper. Functions
    with a derivative rule of their own are taken by their bodies where they read a hidden choice,
    so that a derivative in counts, of `xlogy` where a count is zero, is that of its body.

    *Gaussian and conjugate* together, if one number of a Gamma or an inverse Gamma, a precision or
    a variance, scales all that the log density says of the Gaussian ones: a normal with its
    variance, a regression with unknown noise (the evidence is that of Student's distribution); or
    if no statistic of the others multiplies anything that reads the Gaussian ones. A draw is of
    the conjugate ones, and then of standard normal noise, `"gaussian"`.

    *Finite and others*, if the others are so given the finite ones: one integral for each joint
    state of these, up to 1024. A draw is of the state first, `"state"`, with a score.

    **Raises** `UnsuitableEstimator` where a hidden choice is none of these, with the reason;
    `TooManyJointStates` where too many finite choices meet.

    **Arguments**

    - `parallel`: whether Gaussian chains are taken by associative scans, in a time of log T where
      there are lanes to use (several times the operations); by default, where the platform is no
      CPU.

    Sources: Rabiner 1989; Frühwirth-Schnatter 1994; Bishop 2006, sections 2.1 to 2.4; Diaconis &
    Ylvisaker 1979; Rauch, Tung & Striebel 1965; Särkkä & García-Fernández 2021.

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
    >>> def coin():
    ...     bias = ppl.sample("bias", dist.Beta(2.0, 2.0))
    ...     ppl.sample("heads", dist.Binomial(8, bias))
    >>> only_heads = ppl.marginal(coin, "heads", Exact())
    >>> round(float(ppl.log_density(only_heads, {"heads": 6})), 4)
    -2.0614

    ```
    """

    parallel: bool | None = eqx.field(static=True, default=None)

    def simulate(self, target: Target) -> tuple[Mapping[str, Any], jax.Array]:
        """A draw from the posterior, and its density."""
        return integral_for(target, self.parallel).simulate(target)

    def log_evidence(self, target: Target) -> jax.Array:
        """log p(x)."""
        return integral_for(target, self.parallel).log_evidence(target)


def integral_for(target: Target, parallel: bool | None = None) -> Integral:
    """How the hidden choices are integrated out, by what they are."""
    if not any(jnp.issubdtype(s.dtype, jnp.floating) for s in jax.tree.leaves(target.hidden)):
        return Summation()
    addresses = addresses_of(target.hidden)
    finite = [address for address in addresses if suits(target, address, Enumerate())]
    if len(finite) == len(addresses):
        return Summation()
    others = [address for address in addresses if address not in finite]
    rest = _continuous(target, others, parallel)
    return Mixture(tuple(finite), rest) if finite else rest


def _continuous(target: Target, addresses: list[str], parallel: bool | None) -> Integral:
    """How choices that are not finite are integrated out, by their supports."""
    supports = {address: _support(target, address) for address in addresses}
    unknown = [address for address, support in supports.items() if support is None]
    if unknown:
        raise UnsuitableEstimator(
            "Exact() takes finite hidden choices, Gaussian and conjugate ones. "
            f"{listed(target, unknown)} can be none of these: the support is not finite, nor all "
            "real numbers, nor the positive ones, nor those from 0 to 1, nor a simplex, as far as "
            f"is known. {REMEDY}"
        )
    real = [address for address in addresses if supports[address] == "real"]
    if len(real) == len(addresses):
        return Gaussian(parallel)
    others = tuple(str(support) for support in supports.values() if support != "real")
    return Scaled(tuple(real), others) if real else Conjugate(others)


def _support(target: Target, address: str) -> str | None:
    """The support of the elements of a hidden choice, if it is one that can be integrated over."""
    return next((name for name in SUPPORTS if suits(target, address, Fills(name))), None)
