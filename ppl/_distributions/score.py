"""The density of one lane of a site at a given value, with all that is left out cut off."""

from collections.abc import Sequence
from functools import reduce
from operator import and_, mul
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ..errors import FactorShapeError
from .bounded import Bounded
from .cut import gated, stand_in
from .elements import counted, is_masked, without
from .integers import of_elements, representable
from .law import is_a, scored


class Score(NamedTuple):
    """The log densities of one lane, of an element of the batch each.

    - `terms`: what counts, scaled, masked, and zero where the lane is not reached.
    - `log_probs`: the same before scales and masks.
    - `factor`: scales times masks, of the same shape; None for one.
    """

    terms: jax.Array
    log_probs: jax.Array
    factor: Any


def score(site: Any, operands: Any, given: jax.Array, drawn: Any = None) -> Score:
    """Log densities as the distribution gives them, with and without the site's factors.

    What a mask leaves out is scored a second time, at its own value. `drawn` has the log densities
    that were drawn along with the value, if they were.
    """
    terms, unscaled = _log_probs(site, operands, given, drawn)
    bare, masks = _unmasked(operands)
    if masks:
        _, unscaled = _log_probs(site, bare, given, drawn)
    factors = [*operands.scales, *(jnp.asarray(mask, terms.dtype) for mask in masks)]
    if not factors:
        return Score(terms, unscaled, None)
    factor = jnp.broadcast_to(jnp.asarray(reduce(mul, factors), terms.dtype), terms.shape)
    return Score(terms, unscaled, factor)


def _unmasked(operands: Any) -> tuple[Any, list]:
    """The operands without their masks, and these."""
    distribution, masks = operands.distribution, [*operands.masks]
    bounded = isinstance(distribution, Bounded)
    distribution = distribution.distribution if bounded else distribution
    while is_a(distribution, "MaskedDistribution"):
        masks.append(distribution._mask)
        distribution = distribution.base_dist
    distribution = Bounded(distribution) if bounded else distribution
    return operands._replace(distribution=distribution, masks=()), masks


def log_probs(site: Any, operands: Any, given: jax.Array) -> jax.Array:
    """Log densities as the distribution gives them, of an element each: scaled, masked, flagged.

    A number which is no integer has density zero at a site of integers.
    """
    return _log_probs(site, operands, given)[0]


def _log_probs(
    site: Any, operands: Any, given: jax.Array, drawn: Any = None
) -> tuple[jax.Array, jax.Array]:
    """The log densities of the elements, and the same before they are scaled."""
    flags = (*operands.masks, *operands.active)
    found = _given(site, operands, given) if drawn is None else _Density(drawn, True, flags)
    logp, whole, flags = found
    for factor in (*operands.scales, *flags):
        _check_factor(factor, logp.shape, site)
    scaled = reduce(lambda log, scale: scale * log, operands.scales, logp)
    terms = _left_out(scaled, whole, flags)
    return terms, _left_out(logp, whole, flags) if operands.scales else terms


class _Density(NamedTuple):
    """Log densities of elements, which of these have numbers that they can have, and all flags."""

    logp: jax.Array
    whole: Any
    flags: tuple


def _given(site: Any, operands: Any, given: jax.Array) -> _Density:
    """The density at a given value, or an error that names the site where there is none."""
    try:
        return _density(site, operands, given)
    except NotImplementedError as failure:
        distribution = operands.distribution
        bounded = isinstance(distribution, Bounded)
        raise site.unscorable(distribution.distribution if bounded else distribution) from failure


def _density(site: Any, operands: Any, given: jax.Array) -> _Density:
    """The density at a given value: what is left out is cut off from it."""
    masked, flags = operands.distribution, (*operands.masks, *operands.active)
    bounded = isinstance(masked, Bounded)
    masked = masked.distribution if bounded else masked
    while is_a(masked, "MaskedDistribution"):
        masked, flags = masked.base_dist, (*flags, masked._mask)
    if not hasattr(masked, "log_prob"):
        raise NotImplementedError
    value, scalars = site.returned(given), [flag for flag in flags if jnp.ndim(flag) == 0]
    distribution = gated(masked, scalars)
    distribution, kept = _of_elements(site, distribution, value, flags)
    distribution = Bounded(scored(distribution)) if bounded else scored(distribution)
    whole = True if given.dtype == site.out.dtype else representable(given, site.out.dtype)
    counts = reduce(and_, (kept, whole, *scalars))
    needed = kept is not True or whole is not True or (operands.obs is not None and flags)
    logp = jnp.asarray(
        distribution.log_prob(_scorable(distribution, value, counts, scalars, needed))
    )
    if whole is not True:
        whole = jnp.broadcast_to(whole | jnp.logical_not(kept), value.shape)
        whole = of_elements(whole, logp.shape)
    return _Density(logp, whole, flags)


def _left_out(logp: jax.Array, whole: Any, flags: Sequence[Any]) -> jax.Array:
    """Log densities that are minus infinity where a value is no integer, zero where flagged."""
    if whole is not True:
        logp = jnp.where(whole, logp, -jnp.inf)
    for flag in flags:
        logp = jnp.where(flag, logp, 0.0)
    return logp


def _of_elements(
    site: Any, distribution: Any, value: jax.Array, flags: Sequence[Any]
) -> tuple[Any, Any]:
    """The distribution and which numbers of the value count, by the flags of single elements."""
    each, flag = [flag for flag in flags if jnp.ndim(flag)], None
    if each:
        shape = jax.eval_shape(distribution.log_prob, value).shape
        for one in each:
            _check_factor(one, shape, site)
        flag = jnp.broadcast_to(reduce(and_, each), shape)
    elif not is_masked(distribution):
        return distribution, True
    return without(distribution, flag), counted(distribution, flag, value.shape)


def _scorable(
    distribution: Any, value: jax.Array, counts: Any, scalars: Sequence[Any], needed: Any
) -> jax.Array:
    """The value, where it counts; elsewhere something that has a density and no derivative."""
    other = stand_in(distribution, value) if needed else None
    if other is None:
        return gated(value, scalars)
    return jnp.where(counts, value, jnp.asarray(other, value.dtype))


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
