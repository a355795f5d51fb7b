"""Inference algorithms for `ppl.marginal` and `ppl.normalize`, and Markov kernels."""

from .ais import AIS
from .exact import Exact
from .importance import SIR, Importance
from .kernels import HMC, MALA, Kernel, RandomWalk, chain
from .most_likely import most_likely
from .nuts import NUTS
from .particle_gibbs import ParticleGibbs
from .smc import SMC

__all__ = [
    "AIS",
    "HMC",
    "MALA",
    "NUTS",
    "SIR",
    "SMC",
    "Exact",
    "Importance",
    "Kernel",
    "ParticleGibbs",
    "RandomWalk",
    "chain",
    "most_likely",
]
