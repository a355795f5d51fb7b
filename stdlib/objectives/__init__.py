"""Variational objectives: programs, to be called inside one's own. See `docs/objectives.md`."""

from ._analytic_kl import analytic_kl_sites
from .beta_elbo import beta_elbo
from .ciwae import ciwae
from .cubo import cubo
from .elbo import elbo
from .f_divergence import f_divergence
from .forward_kl import forward_kl
from .iwelbo import iwelbo
from .log_variance import log_variance
from .miwae import miwae
from .piwae import piwae
from .renyi import renyi
from .reweighted_wake_sleep import reweighted_wake_sleep
from .sumo import sumo
from .tail_adaptive import tail_adaptive
from .trajectory_balance import trajectory_balance
from .tvo import tvo
from .vib import vib
from .wake_sleep import sleep_phase, wake_phase, wake_sleep

__all__ = [
    "analytic_kl_sites",
    "beta_elbo",
    "ciwae",
    "cubo",
    "elbo",
    "f_divergence",
    "forward_kl",
    "iwelbo",
    "log_variance",
    "miwae",
    "piwae",
    "renyi",
    "reweighted_wake_sleep",
    "sleep_phase",
    "sumo",
    "tail_adaptive",
    "trajectory_balance",
    "tvo",
    "vib",
    "wake_phase",
    "wake_sleep",
]
