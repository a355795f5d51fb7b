"""Inference algorithms for `ppl.marginal` and `ppl.normalize`."""

from .exact import Exact
from .importance import SIR, Importance
from .smc import SMC

__all__ = ["SIR", "SMC", "Exact", "Importance"]
