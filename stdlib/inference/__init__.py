"""Inference algorithms for `ppl.marginal` and `ppl.normalize`."""

from .exact import Exact
from .importance import SIR, Importance

__all__ = ["SIR", "Exact", "Importance"]
