"""Sums and choices by weight, of particles along a leading axis."""

from typing import Any

import jax
import jax.numpy as jnp

from ppl import log_sum_exp


def taken(particles: Any, index: Any) -> Any:
    """Some of the particles, or one."""
    return jax.tree.map(lambda x: x[index], particles)


def with_first(particles: Any, first: Any) -> Any:
    """The particles with one put before them."""
    return jax.tree.map(lambda x, y: jnp.concatenate([y[None], x]), particles, first)


def with_last(particles: Any, last: Any) -> Any:
    """The particles with one put after them."""
    return jax.tree.map(lambda x, y: jnp.concatenate([x, y[None]]), particles, last)


def effective_size(log_weights: jax.Array) -> jax.Array:
    """The effective sample size of normalised log weights (Kong et al. 1994)."""
    return jnp.exp(-log_sum_exp(2.0 * log_weights))
