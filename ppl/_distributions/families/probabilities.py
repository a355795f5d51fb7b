"""Families of probabilities: one law for draws, weights and scores, at zero and one included.

Where a support can be enumerated, `enumerate_probs` gives the probabilities of its values, which
have derivatives where they are zero and their logarithms have none.
"""

from typing import Any

import jax
import jax.numpy as jnp

from .deviance import named


def floats(*xs: Any) -> Any:
    """Numbers in the one floating type that they have together."""
    dtype = jnp.result_type(float, *xs)
    arrays = [jnp.asarray(x, dtype) for x in xs]
    return arrays if len(arrays) > 1 else arrays[0]


def log_of(p: Any) -> jax.Array:
    """log p, with derivative zero where p is zero."""
    p = jnp.asarray(p)
    return jnp.where(p == 0.0, -jnp.inf, jnp.log(jnp.where(p == 0.0, 1.0, p)))


def log_not(p: Any) -> jax.Array:
    """log(1 - p), with derivative zero where p is one."""
    p = jnp.asarray(p)
    return jnp.where(p == 1.0, -jnp.inf, jnp.log1p(-jnp.where(p == 1.0, 0.0, p)))


def log_not_exp(x: jax.Array) -> jax.Array:
    """log(1 - exp(x)), for x < 0."""
    near = x > -0.7
    small = jnp.log(-jnp.expm1(jnp.where(near, x, -1.0)))
    return jnp.where(near, small, jnp.log1p(-jnp.exp(jnp.where(near, -1.0, x))))


def times(count: jax.Array, logs: jax.Array) -> jax.Array:
    """count·logs, zero where the count is."""
    none = count == 0.0
    return jnp.where(none, 0.0, count * jnp.where(none, 0.0, logs))


def probability(p: Any) -> jax.Array:
    """p, or NaN outside of [0, 1]."""
    p = floats(p)
    return jnp.where((p < 0.0) | (p > 1.0), jnp.nan, p)


def _normalized(p: jax.Array) -> jax.Array:
    return jnp.where(p < 0.0, jnp.nan, p) / jnp.sum(p, -1, keepdims=True)


normalized = named("ppl.normalized", _normalized)
"""Probabilities of sum one along the last axis; NaN where one is negative."""


def chosen(table: jax.Array, value: Any, batch_shape: tuple[int, ...]) -> jax.Array:
    """The entry along the last axis that a value names, for each element."""
    shape = jnp.broadcast_shapes(jnp.shape(value), batch_shape)
    index = jnp.broadcast_to(jnp.expand_dims(value, -1), (*shape, 1))
    table = jnp.broadcast_to(table, (*shape, table.shape[-1]))
    return jnp.take_along_axis(table, index, -1)[..., 0]


class BernoulliProbs:
    """Of probability p."""

    def prepare(self: Any) -> None:
        self.probs = probability(self.probs)

    def log_prob(self: Any, value: Any) -> jax.Array:
        return jnp.where(jnp.asarray(value) == 1, log_of(self.probs), log_not(self.probs))

    def enumerate_probs(self: Any) -> jax.Array:
        return jnp.stack([1.0 - self.probs, self.probs])


class BernoulliLogits:
    """Of log odds; the derivative has no kink at zero."""

    def log_prob(self: Any, value: Any) -> jax.Array:
        logits = floats(self.logits)
        return jax.nn.log_sigmoid(jnp.where(jnp.asarray(value) == 1, logits, -logits))

    def enumerate_probs(self: Any) -> jax.Array:
        logits = floats(self.logits)
        return jax.nn.sigmoid(jnp.stack([-logits, logits]))


class CategoricalProbs:
    """Of probabilities up to a factor."""

    def prepare(self: Any) -> None:
        self.probs = normalized(floats(self.probs))

    def log_prob(self: Any, value: Any) -> jax.Array:
        return log_of(chosen(self.probs, value, self.batch_shape))

    def enumerate_probs(self: Any) -> jax.Array:
        return jnp.moveaxis(self.probs, -1, 0)


class CategoricalLogits:
    """Of log probabilities up to a constant; draws are exact in the tails too."""

    def sample(self: Any, key: jax.Array, sample_shape: tuple[int, ...] = ()) -> jax.Array:
        shape = (*sample_shape, *self.batch_shape)
        return jax.random.categorical(key, self.logits, shape=shape, mode="high")

    def enumerate_probs(self: Any) -> jax.Array:
        log_mass = jax.nn.logsumexp(self.logits, axis=-1, keepdims=True)
        return jnp.moveaxis(jnp.exp(self.logits - log_mass), -1, 0)


class OrderedLogistic:
    """Differences of logistic functions, without the difference."""

    def prepare(self: Any) -> None:
        self.probs = jnp.exp(_log_intervals(self.predictor, self.cutpoints))

    def log_prob(self: Any, value: Any) -> jax.Array:
        table = _log_intervals(self.predictor, self.cutpoints)
        return chosen(table, value, self.batch_shape)

    def enumerate_probs(self: Any) -> jax.Array:
        return jnp.moveaxis(self.probs, -1, 0)


def _log_intervals(predictor: Any, cutpoints: Any) -> jax.Array:
    """log(σ(b) - σ(a)) = log σ(b) + log σ(-a) + log(1 - exp(a - b)), of all intervals."""
    predictor, cutpoints = floats(predictor, cutpoints)
    ends = cutpoints - predictor[..., None]
    below, above = jax.nn.log_sigmoid(ends), jax.nn.log_sigmoid(-ends)
    widths = jnp.broadcast_to(jnp.diff(cutpoints, axis=-1), (*ends.shape[:-1], ends.shape[-1] - 1))
    inner = log_not_exp(-widths) + below[..., 1:] + above[..., :-1]
    return jnp.concatenate([below[..., :1], inner, above[..., -1:]], -1)
