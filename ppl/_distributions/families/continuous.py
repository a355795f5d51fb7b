"""Continuous families whose densities lose digits in NumPyro's form."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.lax import stop_gradient
from jax.scipy.special import betaln, i0e, xlog1py, xlogy

from .deviance import deviance, log_gamma_step, remainder, simplex_deviance, split_deviance
from .probabilities import floats, log_not_exp


class Gamma:
    """The density a/x·P(a), where P is that of a Poisson count of mean rate·x."""

    def log_prob(self: Any, value: Any) -> jax.Array:
        a, rate, value = floats(self.concentration, self.rate, value)
        mean = rate * value
        return jnp.log(a) - jnp.log(value) - deviance(a, mean, a - mean) - remainder(a)


class Beta:
    """The density a·b/((a + b)·x·(1 - x)) times that of a binomial count a of a + b."""

    def log_prob(self: Any, value: Any) -> jax.Array:
        a, b, value = floats(self.concentration1, self.concentration0, value)
        end = (value == 0.0) | (value == 1.0)
        inside = _beta(a, b, jnp.where(end, 0.5, value))
        at_end = xlogy(a - 1.0, value) + xlog1py(b - 1.0, -value) - betaln(a, b)
        return jnp.where(end, stop_gradient(at_end), inside)


def _beta(a: jax.Array, b: jax.Array, x: jax.Array) -> jax.Array:
    total, y = a + b, 1.0 - x
    excess = a * y - b * x
    split = split_deviance(a, total * x, excess) + split_deviance(b, total * y, -excess)
    ways = remainder(total) - remainder(a) - remainder(b)
    return jnp.log(a) - jnp.log1p(a / b) - jnp.log(x) - jnp.log(y) + ways - split


class Dirichlet:
    """As of Beta variables, of several parts."""

    def log_prob(self: Any, value: Any) -> jax.Array:
        a, value = floats(self.concentration, value)
        total = jnp.sum(a, -1, keepdims=True)
        mean = total * value
        parts = jnp.log(a) - jnp.log(value) - remainder(a)
        parts = parts - simplex_deviance(a, mean, a - mean)
        return jnp.sum(parts, -1) + (remainder(total) - jnp.log(total))[..., 0]


class StudentT:
    """Of df degrees of freedom, however many."""

    def log_prob(self: Any, value: Any) -> jax.Array:
        df, loc, scale, value = floats(self.df, self.loc, self.scale, value)
        square = jnp.square((value - loc) / scale)
        return _student(df, square, 1.0) - jnp.log(scale)


class MultivariateStudentT:
    """Of df degrees of freedom, however many."""

    def log_prob(self: Any, value: Any) -> jax.Array:
        df, loc, tril, value = floats(self.df, self.loc, self.scale_tril, value)
        shape = jnp.broadcast_shapes((value - loc).shape[:-1], tril.shape[:-2])
        right = jnp.broadcast_to(value - loc, (*shape, tril.shape[-1]))[..., None]
        left = jnp.broadcast_to(tril, (*shape, *tril.shape[-2:]))
        whitened = jax.lax.linalg.triangular_solve(left, right, left_side=True, lower=True)
        square = jnp.sum(jnp.square(whitened[..., 0]), -1)
        log_det = jnp.sum(jnp.log(jnp.diagonal(tril, axis1=-2, axis2=-1)), -1)
        return _student(df, square, float(tril.shape[-1])) - log_det


def _student(df: jax.Array, square: jax.Array, size: float) -> jax.Array:
    """log Γ(h + d/2) - log Γ(h) - d/2·log(df·π) - (h + d/2)·log(1 + square/df), of h = df/2."""
    half, step = 0.5 * df, 0.5 * size
    normaliser = log_gamma_step(half, step) - step * jnp.log(2.0 * jnp.pi)
    return normaliser - (half + step) * jnp.log1p(square / df)


class Cauchy:
    """With tails that reach as far as numbers do."""

    def log_prob(self: Any, value: Any) -> jax.Array:
        loc, scale, value = floats(self.loc, self.scale, value)
        z = (value - loc) / scale
        far = jnp.abs(z) > 1e8
        tail = 2.0 * jnp.log(jnp.where(far, jnp.abs(z), 1.0))
        near = jnp.log1p(jnp.square(jnp.where(far, 0.0, z)))
        return -jnp.log(jnp.pi) - jnp.log(scale) - jnp.where(far, tail, near)


class VonMises:
    """With 1 - cos as a square."""

    def log_prob(self: Any, value: Any) -> jax.Array:
        loc, concentration, value = floats(self.loc, self.concentration, value)
        square = jnp.square(jnp.sin(0.5 * (value - loc)))
        return -2.0 * concentration * square - _log_bessel(concentration)


def _log_bessel(concentration: jax.Array) -> jax.Array:
    """log(2π·exp(-x)·I₀(x)), by its asymptotic series where x is large."""
    large = concentration > 50.0
    inverse = 1.0 / jnp.where(large, concentration, 50.0)
    terms = inverse * (1 / 8 + inverse * (9 / 128 + inverse * (75 / 1024 + inverse * 3675 / 32768)))
    far = 0.5 * jnp.log(2.0 * jnp.pi * inverse) + jnp.log1p(terms)
    near = jnp.log(2.0 * jnp.pi * i0e(jnp.where(large, 50.0, concentration)))
    return jnp.where(large, far, near)


class Kumaraswamy:
    """With 1 - xᵃ not rounded."""

    def log_prob(self: Any, value: Any) -> jax.Array:
        a, b, value = floats(self.concentration1, self.concentration0, value)
        log_x = jnp.log(value)
        rest = log_not_exp(a * log_x)
        return jnp.log(a) + jnp.log(b) + (a - 1.0) * log_x + (b - 1.0) * rest


class Weibull:
    """With powers of x/scale alone."""

    def log_prob(self: Any, value: Any) -> jax.Array:
        scale, a, value = floats(self.scale, self.concentration, value)
        near = jnp.abs(value - scale) < 0.1 * scale
        close = jnp.log1p(jnp.where(near, (value - scale) / scale, 0.0))
        log_ratio = jnp.where(near, close, jnp.log(value / scale))
        return jnp.log(a) + a * log_ratio - jnp.log(value) - jnp.exp(a * log_ratio)


class LKJCholesky:
    """With ratios of Gamma functions of any concentration."""

    def log_prob(self: Any, value: Any) -> jax.Array:
        concentration, value = floats(self.concentration, value)
        size = self.dimension
        places = jnp.arange(1, size, dtype=value.dtype)
        order = 2.0 * concentration[..., None] - (3 - size) - places
        diagonal = jnp.diagonal(value, axis1=-2, axis2=-1)[..., 1:]
        top, steps = concentration[..., None] + 0.5 * (size - 1), 0.5 * places
        ratios = log_gamma_step(top - steps, steps) + steps * jnp.log((top - steps) / jnp.pi)
        return jnp.sum(order * jnp.log(diagonal) + ratios, -1)


class DoublyTruncatedPowerLaw:
    """With the integral as an exponential of the ratio of its ends."""

    def log_prob(self: Any, value: Any) -> jax.Array:
        power, low, high, value = floats(self.alpha, self.low, self.high, value)
        span = jnp.log(high / low)
        half = 0.5 * (1.0 + power) * span
        mass = jnp.log(span) + half + _log_sinhc(half)
        return power * jnp.log(value / low) - jnp.log(low) - mass


def _log_sinhc(x: jax.Array) -> jax.Array:
    """log(sinh(x) / x)."""
    small, square = jnp.abs(x) < 0.5, jnp.square(x)
    series = square * (1 / 6 - square * (1 / 180 - square * (1 / 2835 - square / 37800)))
    size = jnp.where(small, 1.0, jnp.abs(x))
    far = size + jnp.log1p(-jnp.exp(-2.0 * size)) - jnp.log(2.0 * size)
    return jnp.where(small, series, far)
