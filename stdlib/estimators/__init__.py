"""Gradient estimators: what stands in for a site's distribution. See `docs/estimators.md`."""

from ppl import Reparameterized, ScoreFunction

from .baselines import MovingAverage
from .disarm import Arm, DisArm
from .enumerate import Enumerate
from .gumbel_softmax import GumbelSoftmax
from .implicit import ImplicitReparameterized
from .leave_one_out import LeaveOneOut
from .measure_valued import MeasureValued
from .rebar import Rebar
from .rejection import RejectionReparam
from .relax import Relax
from .stochastic_triple import StochasticTriple
from .straight_through import StraightThrough
from .tune import Measurement, Tuned, tune
from .variance import gradient_variance
from .without_replacement import WithoutReplacement

__all__ = [
    "Arm",
    "DisArm",
    "Enumerate",
    "GumbelSoftmax",
    "ImplicitReparameterized",
    "LeaveOneOut",
    "MeasureValued",
    "Measurement",
    "MovingAverage",
    "Rebar",
    "RejectionReparam",
    "Relax",
    "Reparameterized",
    "ScoreFunction",
    "StochasticTriple",
    "StraightThrough",
    "Tuned",
    "WithoutReplacement",
    "gradient_variance",
    "tune",
]
