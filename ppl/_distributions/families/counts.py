"""Families of counts, in the saddle-point form: see `deviance`."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.nn import log_sigmoid, sigmoid

from .deviance import deviance, log_deviance, remainder, split_deviance
from .probabilities import floats, log_not, log_of, normalized, probability, times


class Poisson:
    """Of a rate."""

    def log_prob(self: Any, value: Any) -> jax.Array:
        value, rate = floats(value, self.rate)
        return -deviance(value, rate, value - rate) - remainder(value)


class GeometricProbs:
    """Failures before the first success of probability p."""

    def prepare(self: Any) -> None:
        self.probs = probability(self.probs)

    def log_prob(self: Any, value: Any) -> jax.Array:
        value, p = floats(value, self.probs)
        return times(value, log_not(p)) + log_of(p)


class BinomialProbs:
    """Of n trials of probability p."""

    def prepare(self: Any) -> None:
        self.probs = probability(self.probs)

    def log_prob(self: Any, value: Any) -> jax.Array:
        count, value, p = floats(self.total_count, value, self.probs)
        return _binomial(count, value, p)

    def enumerate_probs(self: Any) -> jax.Array:
        values = self.enumerate_support(expand=True)
        count, value, p = floats(self.total_count, values, self.probs)
        end = (p == 0.0) | (p == 1.0)
        inside = jnp.exp(_binomial(count, value, jnp.where(end, 0.5, p)))
        few = jnp.where(p == 0.0, _few(count, value, p), _few(count, count - value, 1.0 - p))
        return jnp.where(end, few, inside)


def _binomial(count: jax.Array, value: jax.Array, p: jax.Array) -> jax.Array:
    rest, q = count - value, 1.0 - p
    excess = value * q - rest * p
    split = split_deviance(value, count * p, excess) + split_deviance(rest, count * q, -excess)
    return _log_ways(count, value) - split


def _log_ways(count: jax.Array, value: jax.Array) -> jax.Array:
    return remainder(count) - remainder(value) - remainder(count - value)


def _few(count: jax.Array, value: jax.Array, p: jax.Array) -> jax.Array:
    """The probability of a few successes, up to terms of order p³."""
    one, pair = count * p, 0.5 * count * (count - 1.0) * p * p
    found = jnp.where(value == 0.0, 1.0 - one + pair, jnp.where(value == 2.0, pair, 0.0))
    return jnp.where(value == 1.0, one - 2.0 * pair, found)


class BinomialLogits:
    """Of n trials of given log odds."""

    def log_prob(self: Any, value: Any) -> jax.Array:
        count, value, logits = floats(self.total_count, value, self.logits)
        rest, p, q = count - value, sigmoid(logits), sigmoid(-logits)
        excess = value * q - rest * p
        split = _at_share(count, value, logits, excess) + _at_share(count, rest, -logits, -excess)
        return _log_ways(count, value) - split


def _at_share(count: jax.Array, value: jax.Array, logits: jax.Array, excess: jax.Array) -> Any:
    log_mean = log_of(count) + log_sigmoid(logits)
    return log_deviance(value, log_mean, count * sigmoid(logits), excess)


class MultinomialProbs:
    """Of n trials of probabilities up to a factor."""

    def prepare(self: Any) -> None:
        self.probs = normalized(floats(self.probs))

    def log_prob(self: Any, value: Any) -> jax.Array:
        count, value, p = floats(self.total_count, value, self.probs)
        mean = count[..., None] * p
        terms = remainder(value) + split_deviance(value, mean, value - mean)
        return remainder(count) - jnp.sum(terms, -1)


class MultinomialLogits:
    """Of n trials of log probabilities up to a constant."""

    def log_prob(self: Any, value: Any) -> jax.Array:
        count, value, logits = floats(self.total_count, value, self.logits)
        log_p = jax.nn.log_softmax(logits, -1)
        mean = count[..., None] * jnp.exp(log_p)
        log_mean = log_of(count)[..., None] + log_p
        terms = remainder(value) + log_deviance(value, log_mean, mean, value - mean)
        return remainder(count) - jnp.sum(terms, -1)


# --- of a random rate or probability --------------------------------------------------------------


def _pairs(a: jax.Array, value: jax.Array) -> jax.Array:
    """log of Γ(value + a) / (Γ(a)·value!), without its powers."""
    ways = remainder(a + value) - remainder(a) - remainder(value)
    return ways - _log_sum_over(value, a)


@jax.custom_jvp
def _log_sum_over(value: jax.Array, a: jax.Array) -> jax.Array:
    """log((value + a) / a), whose derivative does not square a small a."""
    return jnp.log1p(value / a)


@_log_sum_over.defjvp
def _log_sum_over_jvp(primals: tuple, tangents: tuple) -> tuple[jax.Array, jax.Array]:
    value, a = primals
    by_a = -(value / (value + a)) / a
    return _log_sum_over(value, a), tangents[0] / (value + a) + by_a * tangents[1]


class GammaPoisson:
    """A Poisson variable of Gamma rate."""

    def log_prob(self: Any, value: Any) -> jax.Array:
        a, rate, value = floats(self.concentration, self.rate, value)
        total, excess = a + value, (value * rate - a) / (1.0 + rate)
        split = split_deviance(a, total * (rate / (1.0 + rate)), -excess)
        split = split + split_deviance(value, total / (1.0 + rate), excess)
        return _pairs(a, value) - split


class NegativeBinomialProbs:
    """Successes of probability p before a number of failures."""

    def prepare(self: Any) -> None:
        self.probs = probability(self.probs)

    def log_prob(self: Any, value: Any) -> jax.Array:
        a, p, value = floats(self.total_count, self.probs, value)
        total, q = a + value, 1.0 - p
        excess = value * q - a * p
        split = split_deviance(a, total * q, -excess) + split_deviance(value, total * p, excess)
        return _pairs(a, value) - split


class NegativeBinomialLogits:
    """Successes of given log odds before a number of failures."""

    def log_prob(self: Any, value: Any) -> jax.Array:
        a, logits, value = floats(self.total_count, self.logits, value)
        total, excess = a + value, value * sigmoid(-logits) - a * sigmoid(logits)
        split = _at_share(total, a, -logits, -excess) + _at_share(total, value, logits, excess)
        return _pairs(a, value) - split


def _polya(value: jax.Array, a: jax.Array) -> jax.Array:
    """Log probability of counts, along the last axis, of Dirichlet-multinomial parameters a."""
    count, total = jnp.sum(value, -1, keepdims=True), jnp.sum(a, -1, keepdims=True)
    both, share = value + a, count / (count + total)
    excess = (value * total - a * count) / (count + total)
    split = split_deviance(value, both * share, excess)
    split = split + split_deviance(a, both * (total / (count + total)), -excess)
    ratio = remainder(count) - remainder(count + total) + remainder(total)
    ratio = ratio + _log_sum_over(count, total)
    return ratio[..., 0] + jnp.sum(_pairs(a, value) - split, -1)


def _two(a: Any, b: Any) -> jax.Array:
    return jnp.stack(jnp.broadcast_arrays(a, b), -1)


class BetaBinomial:
    """A binomial variable of Beta probability."""

    def log_prob(self: Any, value: Any) -> jax.Array:
        a, b = floats(self.concentration1, self.concentration0)
        count, value = floats(self.total_count, value)
        return _polya(_two(value, count - value), _two(a, b))


class BetaNegativeBinomial:
    """A negative binomial variable of Beta probability."""

    def log_prob(self: Any, value: Any) -> jax.Array:
        a, b = floats(self.concentration1, self.concentration0)
        count, value = floats(self.n, value)
        return _polya(_two(value, count), _two(a, b)) - jnp.log1p(value / count)


class DirichletMultinomial:
    """A multinomial variable of Dirichlet probabilities."""

    def log_prob(self: Any, value: Any) -> jax.Array:
        return _polya(*floats(value, self.concentration))


# --- with zeros of their own ----------------------------------------------------------------------


class ZeroInflatedProbs:
    """Zero with the probability of a gate, else a count."""

    def prepare(self: Any) -> None:
        self.gate = probability(self.gate)

    def log_prob(self: Any, value: Any) -> jax.Array:
        gate, base = self.gate, self.base_dist.log_prob(value)
        counted = log_not(gate) + base
        return jnp.where(jnp.asarray(value) == 0, _either(gate, base, counted), counted)

    def enumerate_probs(self: Any) -> jax.Array:
        values = self.enumerate_support(expand=True)
        base = getattr(self.base_dist, "enumerate_probs", None)
        counted = jnp.exp(self.base_dist.log_prob(values)) if base is None else base()
        return jnp.where(values == 0, self.gate, 0.0) + (1.0 - self.gate) * counted


def _either(gate: jax.Array, base: jax.Array, counted: jax.Array) -> jax.Array:
    """log(gate + (1 - gate)·exp(base)), with its derivative at gates of zero and one."""
    large = (gate > 0.0) & (log_of(gate) > counted)
    log_gate = jnp.log(jnp.where(large, gate, 1.0))
    by_gate = log_gate + jnp.log1p((1.0 - gate) * jnp.exp(base - log_gate))
    closed, lower = jnp.where(large, 0.0, gate), jnp.where(large, 0.0, base)
    most = jnp.log(jnp.finfo(lower.dtype).max) - 1.0
    odds = closed / (1.0 - closed) * jnp.exp(jnp.minimum(-lower, most))
    return jnp.where(large, by_gate, log_not(closed) + lower + jnp.log1p(odds))


class ZeroInflatedLogits:
    """Zero with a probability of given log odds, else a count."""

    prepare = ZeroInflatedProbs.prepare
    enumerate_probs = ZeroInflatedProbs.enumerate_probs

    def log_prob(self: Any, value: Any) -> jax.Array:
        logits, base = floats(self.gate_logits, self.base_dist.log_prob(value))
        counted = log_sigmoid(-logits) + base
        zero = jnp.logaddexp(log_sigmoid(logits), counted)
        return jnp.where(jnp.asarray(value) == 0, zero, counted)


class HurdleProbs:
    """Zero with the probability of a gate, else a count above zero."""

    def prepare(self: Any) -> None:
        self.gate = probability(self.gate)

    def _log_gate(self: Any) -> jax.Array:
        return log_of(self.gate)

    def _log_one_minus_gate(self: Any) -> jax.Array:
        return log_not(self.gate)
