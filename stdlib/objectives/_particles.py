"""What the objectives of several particles share."""

import operator
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from ppl.errors import InvalidSetting

from .elbo import log_weight


def log_weights(
    model: Callable, guide: Callable, observed: Mapping[str, Any], num_particles: int
) -> jax.Array:
    """log p(x, z_k) - log q(z_k) for independent z_k from the guide, `(num_particles,)`."""
    return jax.vmap(lambda _: log_weight(model, guide, observed))(jnp.arange(num_particles))


def unless_impossible(f: Callable, logs: jax.Array) -> jax.Array:
    """`f(logs)`; minus infinity, without derivatives, where one of the logs is that."""
    impossible = jnp.any(logs == -jnp.inf)
    return jnp.where(impossible, -jnp.inf, f(jnp.where(impossible, 0.0, logs)))


def check_count(name: str, count: Any, objective: str, least: int = 1) -> None:
    """Raises where a number of particles is not an integer, or is too small."""
    try:
        enough = operator.index(count) >= least
    except TypeError:
        enough = False
    if not enough:
        raise InvalidSetting(
            f"{name} of {objective} must be an integer of at least {least}, got {count!r}."
        )
