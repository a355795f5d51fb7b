"""Means and shares of weights that are given by their logs."""

import jax
import jax.numpy as jnp

from ppl import log_sum_exp


def log_mean_exp(logs: jax.Array) -> jax.Array:
    """The log of the mean, over the last axis, of what is given by its logs."""
    # log K inside: added at the end it would be a cost that meets no score, unlike its baseline
    return log_sum_exp(logs - jnp.log(logs.shape[-1]), -1)


def shares(logs: jax.Array) -> jax.Array:
    """What each has of the sum; of a sum of zero, none has any."""
    total = log_sum_exp(logs)
    return jnp.exp(logs - jnp.where(jnp.isneginf(total), 0.0, total))


def share_sum(shares: jax.Array, terms: jax.Array) -> jax.Array:
    """The sum of terms by their shares: what has none adds nothing, however large its term."""
    return jnp.sum(shares * jnp.where(shares == 0, 0.0, terms))
