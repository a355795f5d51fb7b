"""The density of one lane of a site at a given value, with all that is left out cut off."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from ._bounded import Bounded
from ._cut import gated, stand_in
from ._integers import of_elements, representable
from ._law import is_a, scored
from .errors import FactorShapeError


def log_probs(site: Any, operands: Any, given: jax.Array) -> jax.Array:
    """Log densities as the distribution gives them, of an element each: scaled, masked, flagged.

    A number which is no integer has density zero at a site of integers.
    """
    masked, flags = operands.distribution, (*operands.masks, *operands.active)
    bounded = isinstance(masked, Bounded)
    masked = masked.distribution if bounded else masked
    while is_a(masked, "MaskedDistribution"):
        masked, flags = masked.base_dist, (*flags, masked._mask)
    distribution = scored(gated(masked, _scalars(flags)))
    distribution = Bounded(distribution) if bounded else distribution
    whole = None if given.dtype == site.out.dtype else representable(given, site.out.dtype)
    observed = operands.obs is not None
    value = _scorable(site, distribution, given, whole, flags, observed)
    logp = jnp.asarray(distribution.log_prob(value))
    for factor in (*operands.scales, *flags):
        _check_factor(factor, logp.shape, site)
    for scale in operands.scales:
        logp = scale * logp
    if whole is not None:
        logp = jnp.where(of_elements(whole, logp.shape), logp, -jnp.inf)
    for flag in flags:
        logp = jnp.where(flag, logp, 0.0)
    return logp


def _scorable(
    site: Any, distribution: Any, given: Any, whole: Any, flags: Sequence[Any], observed: bool
) -> jax.Array:
    """The value, where it counts; elsewhere something that has a density and no derivative."""
    value, each = site.returned(given), [flag for flag in flags if jnp.ndim(flag)]
    needed = each or (observed and flags) or whole is not None
    other = stand_in(distribution, value) if needed else None
    if other is None:
        return gated(value, _scalars(flags))
    counts = jnp.ones(value.shape, bool) if whole is None else whole
    for flag in _scalars(flags):
        counts = counts & flag
    if each:
        shape = jax.eval_shape(distribution.log_prob, value).shape
        for flag in each:
            _check_factor(flag, shape, site)
            counts = counts & _spread(flag, shape, value.shape)
    return jnp.where(counts, value, jnp.asarray(other, value.dtype))


def _scalars(flags: Sequence[Any]) -> list:
    return [flag for flag in flags if jnp.ndim(flag) == 0]


def _spread(flag: Any, batch: tuple, shape: tuple) -> jax.Array | bool:
    """A flag of each element of a batch, over the dimensions of the events too."""
    if shape[: len(batch)] != batch:
        return True
    return jnp.broadcast_to(flag, batch).reshape(batch + (1,) * (len(shape) - len(batch)))


def _check_factor(factor: Any, batch: tuple, site: Any) -> None:
    shape = jnp.shape(factor)
    try:
        fits = jnp.broadcast_shapes(shape, batch) == batch
    except ValueError:
        fits = False
    if not fits:
        raise FactorShapeError(
            f"A factor of ppl.scale or flag of ppl.mask has shape {shape}, which does not "
            f"broadcast against the log density of site {site.address!r} at {site.where}, of "
            f"shape {batch}. Give a scalar, or put the program in jax.vmap to have one for "
            "each lane."
        )
