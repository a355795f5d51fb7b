"""The mask of a site that is observed in part: checked, and what becomes of the two parts."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from .._distributions import partly
from .._distributions.law import is_of_its_draws
from .._distributions.protocol import Value
from .._jax.failure import told_of_site
from ..errors import InvalidMask, PartialObservation


def parts_of(
    distribution: Any, obs_mask: Any, value: Value, address: str, where: str
) -> partly.Parts:
    """What is observed of a site, and what is not; or an error that names the site."""
    flags = _flags(obs_mask, address, where)
    try:
        with told_of_site(address, where):
            found = partly.parts(distribution, flags, value.struct)
    except InvalidMask as misfit:
        raise InvalidMask(f"The obs_mask of {address!r} at {where}: {misfit}") from None
    if found is None:
        raise PartialObservation(
            f"The obs_mask of {address!r} at {where} has shape {flags.shape}: events are observed "
            f"in part, and {type(distribution).__name__} cannot say what the rest of one is. Those "
            f"that can are {', '.join(partly.SPLIT)}, and whatever has a `split_event(mask)`. Give "
            f"one flag an event, of shape {partly.batch_of(distribution, value.struct)}, or a "
            "distribution whose entries are independent, such as dist.Normal(loc, scale)."
        )
    reason = None if found.conditional else _why_improper(distribution, value)
    if reason is not None:
        raise PartialObservation(
            f"sample({address!r}, ...) at {where} has an obs_mask, and "
            f"{type(distribution).__name__} {reason}. Write two sites, one of what is there and "
            "one of what is not."
        )
    return found


def _why_improper(distribution: Any, value: Value) -> str | None:
    """Why the density of what is missing, and of fillers, may not integrate to one."""
    if not value.drawable:
        return (
            "has no sampler: nothing draws what is missing, and its density may not be normalised; "
            "give it a `sample(key)`"
        )
    if not is_of_its_draws(distribution):
        return (
            "has a density that is not that of its draws, as it or a part of it is masked, "
            "censored, a point or a factor (a mask goes around the program: ppl.mask)"
        )
    return None


def _flags(obs_mask: Any, address: str, where: str) -> np.ndarray | jax.Array:
    """The mask as booleans; NumPy's where they are known, so that they are while tracing."""
    traced = any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(obs_mask))
    flags = jnp.asarray(obs_mask) if traced else np.asarray(obs_mask)
    if flags.dtype != np.bool_:
        raise InvalidMask(
            f"The obs_mask of {address!r} at {where} has dtype {flags.dtype}: it says which data "
            "are there, true or false. Write obs_mask != 0, or ~jnp.isnan(data)."
        )
    return flags
