"""Discrete draws as functions of real noise, and the continuous values that relax them."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.lax import stop_gradient

from ..distributions import FloatBernoulli, OneHotCategorical
from ._elements import Elements, elements


class Relaxation(NamedTuple):
    """A discrete draw and the real variable z that decides it, by its sign or its largest entry.

    - `hard`: the discrete draw b(z).
    - `latent`: z, differentiable in the parameters with its noise fixed.
    - `conditional`: a draw of z given b, differentiable with b and its own noise fixed. That noise
      makes it equal z in value: the two differ in derivative alone.
    - `log_prob`: of the discrete draw, summed over each event.
    """

    hard: jax.Array
    latent: jax.Array
    conditional: jax.Array
    log_prob: jax.Array


def relaxation(key: jax.Array, distribution: Any) -> Relaxation:
    """Draws z by logistic or Gumbel noise."""
    inside = elements(distribution)
    draw = _bernoulli if isinstance(inside.base, FloatBernoulli) else _one_hot
    hard, latent, conditional = draw(key, inside)
    log_prob = inside.joint(inside.base.log_prob(hard))
    return Relaxation(hard, latent, conditional, log_prob)


def relaxed(latent: jax.Array, temperature: Any, distribution: Any) -> jax.Array:
    """The value that stands for the discrete one, which it tends to as the temperature falls."""
    if isinstance(elements(distribution).base, FloatBernoulli):
        return jax.nn.sigmoid(latent / temperature)
    return jax.nn.softmax(latent / temperature, -1)


def why_not_relaxable(distribution: Any) -> str | None:
    """Why a distribution's draws cannot be relaxed."""
    if isinstance(elements(distribution).base, FloatBernoulli | OneHotCategorical):
        return None
    return (
        "its draws cannot be relaxed to real values; write stdlib.distributions.FloatBernoulli for "
        "a Bernoulli site, OneHotCategorical for a categorical one"
    )


def _bernoulli(key: jax.Array, inside: Elements) -> tuple[jax.Array, jax.Array, jax.Array]:
    logits = inside.parameter(inside.base.logits)
    latent = logits + jax.random.logistic(key, inside.shape, logits.dtype)
    positive = latent > 0
    # |z| given its sign is softplus(logistic noise + softplus(±logits))
    spread = jax.nn.softplus(jnp.where(positive, logits, -logits))
    size = stop_gradient(jnp.abs(latent))
    noise = stop_gradient(size + jnp.log(-jnp.expm1(-size)) - spread)
    conditional = jnp.where(positive, 1, -1) * jax.nn.softplus(noise + spread)
    return positive.astype(logits.dtype), latent, conditional


def _one_hot(key: jax.Array, inside: Elements) -> tuple[jax.Array, jax.Array, jax.Array]:
    log_probs = jax.nn.log_softmax(inside.base.logits, -1)
    shape = (*inside.shape, *inside.base.event_shape)
    latent = log_probs + jax.random.gumbel(key, shape, log_probs.dtype, mode="high")
    top = stop_gradient(jnp.max(latent, -1, keepdims=True))
    hard = jax.nn.one_hot(jnp.argmax(latent, -1), shape[-1], dtype=log_probs.dtype)
    # given the top, whose law does not depend on the parameters, the others are below it:
    # exp(-z) = exp(-top) + exponential noise / p
    below = stop_gradient(jnp.minimum(latent - top, 0.0))
    noise = stop_gradient(-latent + jnp.log(-jnp.expm1(below)) + log_probs)
    conditional = -jnp.logaddexp(noise - log_probs, -top)
    return hard, latent, conditional
