"""What estimators by perturbation share: infinitesimal weights, and parameters at full shape."""

from typing import Any

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jax.lax import stop_gradient

from ppl.extend import Particles


def alive(x: Any) -> jax.Array:
    """Zero in value, x in derivative."""
    return jnp.asarray(x) - stop_gradient(x)


def relative(parameter: Any) -> jax.Array:
    """Zero in value, the derivative of the parameter's logarithm."""
    return alive(parameter) / stop_gradient(parameter)


def perturbed(
    draw: jax.Array,
    values: jax.Array,
    weights: Any,
    event_shape: tuple[int, ...] = (),
    chances: Any = None,
) -> Particles:
    """The draw, then its perturbations: `(L, *batch, *event)` values, infinitesimal weights."""
    weights = jnp.broadcast_to(weights, values.shape[: values.ndim - len(event_shape)])
    rest = 1 - jnp.sum(weights, axis=0, keepdims=True)
    values = stop_gradient(jnp.concatenate([draw[None], values]))
    weights = jnp.concatenate([rest, weights])
    return Particles(values, weights, normalized=True, perturbed=True, chances=chances)


def kind(distribution: Any) -> type:
    """The distribution's own family, or that of the one that `.expand` was called on."""
    expanded = isinstance(distribution, dist.ExpandedDistribution)
    inner = type(distribution.base_dist if expanded else distribution)
    return getattr(inner, "family", inner)


def unexpanded(distribution: Any) -> Any:
    """A distribution of family `kind(distribution)`, its parameters at full shape."""
    if not isinstance(distribution, dist.ExpandedDistribution):
        return distribution
    base = distribution.base_dist

    def expanded(name: str, constraint: Any) -> jax.Array:
        parameter = jnp.asarray(getattr(base, name))
        own_shape = parameter.shape[parameter.ndim - constraint.event_dim :]
        return jnp.broadcast_to(parameter, distribution.batch_shape + own_shape)

    return type(base)(**{name: expanded(name, c) for name, c in base.arg_constraints.items()})
