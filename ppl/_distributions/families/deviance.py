"""Logs of factorials and powers, taken together so that their large parts cancel on paper.

With x! = (x/e)ˣ exp(remainder(x)), the densities of counts, and of Gamma and Beta variables, are
made of remainders, which are small, and of deviances x·log(x/m) - x + m ≥ 0, which are zero at
x = m: the saddle-point form of Loader (2000). Written by logs of Gamma functions, they are
differences of numbers as large as x·log x, of which single precision keeps nothing.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.scipy.special import digamma, gammaln, xlogy

_LARGE = 10.0
"""From where Stirling's series is exact to rounding."""
_NEAR = 0.1
"""The relative difference below which a deviance is summed as a series in it."""


@jax.custom_jvp
def remainder(x: jax.Array) -> jax.Array:
    """log x! - x·log x + x, for x ≥ 0."""
    large = x > _LARGE
    inverse = 1.0 / jnp.where(large, x, _LARGE)
    square = jnp.square(inverse)
    series = inverse * (1 / 12 - square * (1 / 360 - square * (1 / 1260 - square / 1680)))
    small = jnp.where(large, _LARGE, x)
    near = gammaln(small + 1.0) - xlogy(small, small) + small
    near = jnp.where(x == 0.0, 0.0, near)
    return jnp.where(large, series - 0.5 * jnp.log(inverse / (2.0 * jnp.pi)), near)


@remainder.defjvp
def _remainder_jvp(primals: tuple, tangents: tuple) -> tuple[jax.Array, jax.Array]:
    (x,), (dx,) = primals, tangents
    large = x > _LARGE
    inverse = 1.0 / jnp.where(large, x, _LARGE)
    square = jnp.square(inverse)
    series = inverse * 0.5 - square * (1 / 12 - square * (1 / 120 - square / 252))
    small = jnp.where(large | (x == 0.0), _LARGE, x)
    near = digamma(small + 1.0) - jnp.log(small)
    return remainder(x), jnp.where(large, series, near) * dx


def log_gamma_step(x: jax.Array, step: Any) -> jax.Array:
    """log Γ(x + step) - log Γ(x) - step·log x."""
    powers = (x + step - 1.0) * jnp.log1p(step / x) - step
    return powers + remainder(x + step) - remainder(x)


def _log_ratio(x: jax.Array, log_mean: Any, mean: jax.Array, difference: jax.Array) -> jax.Array:
    """log(x / mean); zero at x = 0, where its factor is."""
    near = jnp.abs(difference) < _NEAR * mean
    close = jnp.log1p(jnp.where(near, difference / jnp.where(near, mean, 1.0), 0.0))
    return jnp.where(near, close, jnp.where(x > 0.0, _log(x) - log_mean, 0.0))


def _log(x: jax.Array) -> jax.Array:
    return jnp.log(jnp.where(x == 0.0, 1.0, x))


def _deviance(x: jax.Array, log_mean: Any, mean: jax.Array, difference: jax.Array) -> jax.Array:
    near = jnp.abs(difference) < _NEAR * mean
    v = jnp.where(near, difference / jnp.where(near, x + mean, 1.0), 0.0)
    w = jnp.square(v)
    tail = w * (1 / 3 + w * (1 / 5 + w * (1 / 7 + w * (1 / 9 + w * (1 / 11)))))
    far = jnp.where(x > 0.0, x * (_log(x) - log_mean), 0.0) - difference
    return jnp.where(near, v * (difference + 2.0 * x * tail), far)


def _by_mean(name: str, slope: Callable, step: float = 0.0) -> Callable:
    """The deviance as a function of the mean; `step` is what its derivative in x has besides.

    Its name is kept in the jaxpr: `stdlib.inference.Exact` reads the equation as the function that
    it is on paper.
    """

    @jax.custom_jvp
    def deviance(x, mean, difference):
        log_mean = jnp.where(mean == 0.0, -jnp.inf, _log(mean))
        return _deviance(x, log_mean, mean, difference)

    @deviance.defjvp
    def _(primals, tangents):
        x, mean, difference = primals
        none = mean == 0.0
        safe = jnp.where(none, 1.0, mean)
        by_mean = jnp.where(
            none & (x > 0.0), 0.0, slope(x, safe, jnp.where(none, -1.0, difference))
        )
        by_x = jnp.where(none, 0.0, step + _log_ratio(x, _log(safe), safe, difference))
        return deviance(*primals), by_x * tangents[0] + by_mean * tangents[1]

    return named(name, deviance)


def named(name: str, fn: Callable) -> Callable:
    """A function whose call is one equation of a jaxpr, of that name."""

    def call(*args):
        return fn(*args)

    call.__name__ = name
    return jax.jit(call)


deviance = _by_mean("ppl.deviance", lambda x, mean, difference: -difference / mean)
"""x·log(x / mean) - x + mean, of numbers x ≥ 0 and mean ≥ 0 with a difference x - mean given."""

split_deviance = _by_mean("ppl.split_deviance", lambda x, mean, difference: -difference / mean)
"""`deviance`, for the parts of a sum: the parts x have the sum of their means, whatever it is.

So x·log(x / mean) is the same, summed over the parts.
"""

simplex_deviance = _by_mean("ppl.simplex_deviance", lambda x, mean, difference: -x / mean, 1.0)
"""`split_deviance`, with the derivatives of x·log(x / mean) where the means' sum may move."""


@jax.custom_jvp
def log_deviance(x: Any, log_mean: Any, mean: Any, difference: Any) -> jax.Array:
    """`deviance`, of a mean that is given by its log too, and may underflow."""
    return _deviance(x, log_mean, mean, difference)


@log_deviance.defjvp
def _log_deviance_jvp(primals: tuple, tangents: tuple) -> tuple[jax.Array, jax.Array]:
    x, log_mean, mean, difference = primals
    by_x = _log_ratio(x, log_mean, mean, difference)
    return log_deviance(*primals), by_x * tangents[0] - difference * tangents[1]
