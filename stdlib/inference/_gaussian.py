"""Gaussian hidden choices: where the log density is quadratic in them, by completing the square."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jax.flatten_util import ravel_pytree
from jax.scipy.linalg import cho_solve

from ppl import sample
from ppl.errors import UnsuitableEstimator
from ppl.extend import Target

from ._degree import BEYOND, culprits, degree_in
from ._hidden import REMEDY, addresses_of, check_deterministic, check_fixed_supports, listed
from ._integral import Integral, zeros_of


class Gaussian(Integral):
    """Exact where the joint log density is quadratic in all the hidden choices together."""

    def simulate(self, target: Target) -> tuple[Mapping[str, Any], jax.Array]:
        """A reparameterised draw from the posterior, and its density."""
        log_joint, zeros, rebuild = _proved(target)
        square = completed_square(log_joint, zeros)
        posterior = dist.MultivariateNormal(square.mean, precision_matrix=square.precision)
        drawn = sample("exact", posterior)
        return rebuild(drawn), log_joint(drawn) - square.log_mass

    def log_evidence(self, target: Target) -> jax.Array:
        """log p(x)."""
        log_joint, zeros, _ = _proved(target)
        return completed_square(log_joint, zeros).log_mass

    def most_likely(self, target: Target) -> Mapping[str, Any]:
        """The mean of the posterior, which is its mode."""
        log_joint, zeros, rebuild = _proved(target)
        return rebuild(completed_square(log_joint, zeros).mean)


class Square(NamedTuple):
    """exp(f) for a quadratic f, as a mass times a normal density."""

    log_mass: jax.Array
    mean: jax.Array
    precision: jax.Array


def completed_square(f: Callable[[jax.Array], jax.Array], start: jax.Array) -> Square:
    """The square of a quadratic f completed; NaN where exp(f) has no finite integral.

    With P = -f'', that integral is exp(f(m) + gᵀP⁻¹g/2) (2π)^(d/2) |P|^(-1/2), about every point m
    where the slope is g. About the mean, where g is next to nothing, rounding errors are smallest.
    """
    slope = jax.grad(f)
    units = jnp.eye(start.size, dtype=start.dtype)
    precision = -jax.vmap(lambda unit: jax.jvp(slope, (start,), (unit,))[1])(units)
    factor = jnp.linalg.cholesky(precision)
    about = start + cho_solve((factor, True), slope(start))
    rest = slope(about)
    step = cho_solve((factor, True), rest)
    log_volume = 0.5 * start.size * jnp.log(2.0 * jnp.pi) - jnp.sum(jnp.log(jnp.diag(factor)))
    return Square(f(about) + 0.5 * rest @ step + log_volume, about + step, precision)


# --- the proof -----------------------------------------------------------------------------------


def _proved(target: Target) -> tuple[Callable, jax.Array, Callable]:
    """The log density of flat hidden choices, known to be quadratic; zeros; what shapes them."""
    zeros = zeros_of(target)
    log_joint = eqx.filter_closure_convert(target.log_density, zeros)
    check_fixed_supports(target, zeros)
    check_deterministic(log_joint, zeros)
    _check_quadratic(target, log_joint, zeros)
    flat, rebuild = ravel_pytree(zeros)
    return lambda u: log_joint(rebuild(u)), flat, rebuild


def _check_quadratic(target: Target, log_joint: Callable, zeros: Mapping[str, Any]) -> None:
    addresses = addresses_of(zeros)
    in_those = degree_in(jax.make_jaxpr(log_joint)(zeros).jaxpr, addresses)
    spoilers, degree = culprits(in_those, addresses, lambda degree: degree.power < BEYOND)
    if spoilers:
        raise UnsuitableEstimator(
            f"Exact() cannot integrate {listed(target, spoilers)} out: the joint log density is "
            f"not quadratic in {'them together' if len(spoilers) > 1 else 'it'}, because of "
            f"`{degree.through}` on the way. {REMEDY}"
        )
