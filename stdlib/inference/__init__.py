"""Inference algorithms for `ppl.marginal` and `ppl.normalize`, and Markov kernels."""

from .ais import AIS
from .exact import Exact
from .importance import SIR, Importance
from .kernels import HMC, MALA, Kernel, RandomWalk, chain
from .particle_gibbs import ParticleGibbs
from .smc import SMC

__all__ = [
    "AIS",
    "HMC",
    "MALA",
    "SIR",
    "SMC",
    "Exact",
    "Importance",
    "Kernel",
    "ParticleGibbs",
    "RandomWalk",
    "chain",
]
