"""Gaussian hidden choices: where the log density is quadratic in them, by completing the square.

All choices at once; or step by step, where they are those of a chain.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jax.flatten_util import ravel_pytree
from jax.scipy.linalg import cho_solve, solve_triangular

from ppl import sample
from ppl.errors import UnsuitableEstimator
from ppl.extend import Target

from ._chain import chain_of
from ._degree import BEYOND, culprits, degree_in
from ._hidden import REMEDY, addresses_of, check_deterministic, check_fixed_supports, listed
from ._integral import Integral, zeros_of
from ._smoother import Paths, completed_along


class Gaussian(Integral):
    """Exact where the joint log density is quadratic in all the hidden choices together.

    A chain of steps is taken step by step, or, if `parallel`, by associative scans.
    """

    parallel: bool | None = eqx.field(static=True, default=None)

    def simulate(self, target: Target) -> tuple[Mapping[str, Any], jax.Array]:
        """A reparameterised draw from the posterior, and its density."""
        square = self._square(target)
        noise = sample("exact", dist.Normal(jnp.zeros(square.size), 1.0).to_event(1))
        choices = square.at(noise)
        return choices, target.log_density(choices) - square.log_mass

    def log_evidence(self, target: Target) -> jax.Array:
        """log p(x)."""
        return self._square(target).log_mass

    def most_likely(self, target: Target) -> Mapping[str, Any]:
        """The mean of the posterior, which is its mode."""
        square = self._square(target)
        return square.at(jnp.zeros(square.size))

    def _square(self, target: Target) -> "Square | Paths":
        """The square completed, once it is proved to be one."""
        zeros = zeros_of(target)
        check_fixed_supports(target, zeros)
        check_deterministic(target.log_density, zeros)
        chain = chain_of(target)
        if chain is None:
            return completed_square(*_proved(target, zeros))
        parallel = jax.default_backend() != "cpu" if self.parallel is None else self.parallel
        return completed_along(chain, parallel)


class Square(NamedTuple):
    """exp(f) for a quadratic f of flat choices, as a mass times a normal density.

    `peak` is f at its highest, and `log_volume` what the integral adds to it; `factor` is the
    Cholesky factor of the precision, and `rebuild` shapes choices.
    """

    peak: jax.Array
    log_volume: jax.Array
    mean: jax.Array
    factor: jax.Array
    rebuild: Callable[[jax.Array], Mapping[str, Any]]

    @property
    def log_mass(self) -> jax.Array:
        """The log of the integral."""
        return self.peak + self.log_volume

    @property
    def size(self) -> int:
        """How many numbers are hidden."""
        return self.mean.size

    def at(self, noise: jax.Array) -> Mapping[str, Any]:
        """The choices that flat standard normal noise is moved to; those of zeros are the mean."""
        return self.rebuild(self.mean + solve_triangular(self.factor, noise, lower=True, trans=1))


def completed_square(f: Callable, start: jax.Array, rebuild: Callable) -> Square:
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
    return Square(f(about) + 0.5 * rest @ step, log_volume, about + step, factor, rebuild)


# --- the proof -----------------------------------------------------------------------------------


def _proved(target: Target, zeros: Mapping[str, Any]) -> tuple[Callable, jax.Array, Callable]:
    """The log density of flat hidden choices, known to be quadratic; zeros; what shapes them."""
    log_joint = eqx.filter_closure_convert(target.log_density, zeros)
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
