"""Distributions as the language scores and draws them: see `canonical`."""

from .canonical import canonical as canonical
