"""Variational objectives: programs, to be called inside one's own. See `docs/objectives.md`."""

from .elbo import elbo
from .iwelbo import iwelbo

__all__ = ["elbo", "iwelbo"]
