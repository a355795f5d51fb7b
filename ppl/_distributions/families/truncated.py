"""Truncated families, with the log of the mass between two ends however far out they are."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.nn import log_sigmoid
from jax.scipy.special import log_ndtr

from .probabilities import floats, log_not_exp

End = jax.Array | float
"""Where a distribution is cut off, infinity included."""


class LeftTruncatedDistribution:
    """Above `low`."""

    def log_prob(self: Any, value: Any) -> jax.Array:
        return _one_sided(self.base_dist, self.low, -1.0, value)


class RightTruncatedDistribution:
    """Below `high`."""

    def log_prob(self: Any, value: Any) -> jax.Array:
        return _one_sided(self.base_dist, self.high, 1.0, value)


class TwoSidedTruncatedDistribution:
    """Between `low` and `high`."""

    def log_prob(self: Any, value: Any) -> jax.Array:
        return _truncated(self.base_dist, self.low, self.high, value)


def _one_sided(base: Any, end: Any, side: float, value: Any) -> jax.Array:
    """Of a symmetric family: the mass above an end is that below its mirror image."""
    end, loc, scale = floats(end, base.loc, base.scale)
    below = side * jnp.where(jnp.isinf(end), end, (_finite(end) - loc) / scale)
    log_mass = _named(base, LOG_BELOW) or (lambda end: _log_mass(base)(-jnp.inf, end))
    return base.log_prob(value) - log_mass(below)


def _truncated(base: Any, low: Any, high: Any, value: Any) -> jax.Array:
    low, high, loc, scale = floats(low, high, base.loc, base.scale)
    ends = (jnp.where(jnp.isinf(x), x, (_finite(x) - loc) / scale) for x in (low, high))
    return base.log_prob(value) - _log_mass(base)(*ends)


def _finite(x: jax.Array) -> jax.Array:
    return jnp.where(jnp.isinf(x), 0.0, x)


def _log_mass(base: Any) -> Any:
    return _named(base, LOG_MASSES) or (lambda low, high: _by_cdf(base, low, high))


def _named(base: Any, table: dict[str, Any]) -> Any:
    names = [cls.__name__ for cls in type(base).__mro__]
    return next((entry for name, entry in table.items() if name in names), None)


def _by_cdf(base: Any, low: End, high: End) -> jax.Array:
    """By the distribution function of a symmetric family, on the side of its smaller values."""
    low, high = _left(low, high)
    ends = (base.cdf(base.loc + base.scale * end) for end in (high, low))
    return jnp.log(next(ends) - next(ends))


def _left(low: End, high: End) -> tuple[jax.Array, jax.Array]:
    """An interval or its mirror image, whichever lies to the left."""
    right = low + high > 0.0
    return jnp.where(right, -high, low), jnp.where(right, -low, high)


@jax.custom_jvp
def _log_normal_below(x: jax.Array) -> jax.Array:
    """log Φ(x), with derivatives of all orders that keep their digits in the tail."""
    return log_ndtr(x)


@_log_normal_below.defjvp
def _log_normal_below_jvp(primals: tuple, tangents: tuple) -> tuple[jax.Array, jax.Array]:
    (x,), (dx,) = primals, tangents
    value = _log_normal_below(x)
    return value, _hazard(x, value) * dx


def _hazard(x: jax.Array, log_below: jax.Array) -> jax.Array:
    """φ(x) / Φ(x), in the tail by the continued fraction of Mills' ratio (Laplace, 1805)."""
    tail = x < -_TAIL
    t = jnp.where(tail, -x, _TAIL)
    fraction = t
    for k in range(_TERMS, 0, -1):
        fraction = t + k / fraction
    density = -0.5 * (jnp.square(x) + jnp.log(2.0 * jnp.pi))
    return jnp.where(tail, fraction, jnp.exp(jnp.where(tail, 0.0, density - log_below)))


_TAIL = 6.0
"""From how many standard deviations on the tail is a continued fraction."""
_TERMS = 12
"""Of the fraction: enough for all digits in double precision from there on."""


def _normal(low: End, high: End) -> jax.Array:
    low, high = _left(low, high)
    middle, width = 0.5 * (low + high), high - low
    narrow = width * jnp.maximum(1.0, jnp.abs(middle)) < 0.1
    m, w = (jnp.square(jnp.where(narrow, x, 0.1)) for x in (middle, width))
    series = (m - 1.0) * w / 24 + (jnp.square(m) - 6.0 * m + 3.0) * jnp.square(w) / 1920
    height = -0.5 * (m + jnp.log(2.0 * jnp.pi) - jnp.log(w)) + jnp.log1p(series)
    below, above = jnp.where(narrow, -jnp.inf, low), jnp.where(narrow, 0.0, high)
    whole = _log_normal_below(above)
    none = jnp.isneginf(below)
    ratio = _log_normal_below(jnp.where(none, -1.0, below)) - jnp.where(none, 0.0, whole)
    return jnp.where(narrow, height, whole + jnp.where(none, 0.0, log_not_exp(ratio)))


def _cauchy(low: End, high: End) -> jax.Array:
    """The angle under which the interval is seen, from a distance of one."""
    left, right = jnp.isneginf(low), jnp.isposinf(high)
    a, b = jnp.where(left, 0.0, low), jnp.where(right, 0.0, high)
    across = jnp.where(left & right, 0.0, jnp.where(left | right, 1.0, b - a))
    along = jnp.where(left, jnp.where(right, -1.0, -b), jnp.where(right, a, 1.0 + a * b))
    return jnp.log(jnp.arctan2(across, along) / jnp.pi)


def _laplace(low: End, high: End) -> jax.Array:
    low, high = _left(low, high)
    apart = high <= 0.0
    near, far = jnp.where(apart, high, 0.0), jnp.where(apart, low, -1.0)
    one_side = near + log_not_exp(far - near)
    a, b = jnp.where(apart, 0.0, low), jnp.where(apart, 0.0, high)
    both = jnp.log(jnp.where(apart, 1.0, -jnp.expm1(a) - jnp.expm1(-b)))
    return jnp.where(apart, one_side, both) - jnp.log(2.0)


def _logistic(low: End, high: End) -> jax.Array:
    return log_sigmoid(high) + log_sigmoid(-low) + log_not_exp(jnp.asarray(low - high))


LOG_MASSES = {"Cauchy": _cauchy, "Laplace": _laplace, "Logistic": _logistic, "Normal": _normal}
"""The log of the mass of a standard distribution between two ends."""

LOG_BELOW = {"Logistic": log_sigmoid, "Normal": _log_normal_below}
"""The log of the mass below an end alone, where it is simpler."""
