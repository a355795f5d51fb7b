"""A probabilistic programming language for JAX with programmable variational inference."""

from typing import TYPE_CHECKING, Any

from . import errors, extend
from ._algorithms.marginal import marginal, normalize
from ._distributions.log_sum_exp import log_sum_exp
from ._expectation import expectation, log_expectation
from ._ir.address import flatten_choices, nest_choices
from ._ir.control_variate import control_variate
from ._ir.estimator import Reparameterized, ScoreFunction
from ._ir.fresh_key import fresh_key
from ._ir.sample import sample
from ._ir.state import State
from ._meanings.counterfactual import counterfactual
from ._meanings.rewrite import (
    bounded,
    condition,
    frozen,
    intervene,
    mask,
    scale,
    scope,
    uncondition,
    with_estimators,
)
from ._meanings.seed import seed
from ._meanings.show import show
from ._meanings.sites import SiteInfo, sites
from ._meanings.trace import Trace, log_density, replay, simulate, within_support
from ._walk import vmap as _vmap  # noqa: F401  (installs the batching of sites in control flow)
from ._walk.site_record import SiteRecord

if TYPE_CHECKING:
    from ._fit.fit import fit
    from ._fit.result import FitResult

__all__ = [
    "FitResult",
    "Reparameterized",
    "ScoreFunction",
    "SiteInfo",
    "SiteRecord",
    "State",
    "Trace",
    "bounded",
    "condition",
    "control_variate",
    "counterfactual",
    "errors",
    "expectation",
    "extend",
    "fit",
    "flatten_choices",
    "fresh_key",
    "frozen",
    "intervene",
    "log_density",
    "log_expectation",
    "log_sum_exp",
    "marginal",
    "mask",
    "nest_choices",
    "normalize",
    "replay",
    "sample",
    "scale",
    "scope",
    "seed",
    "show",
    "simulate",
    "sites",
    "uncondition",
    "with_estimators",
    "within_support",
]


def __getattr__(name: str) -> Any:
    """Loads what takes long to import (Optax, package metadata) where it is first asked for."""
    if name in ("fit", "FitResult"):
        from . import _fit

        globals().update(fit=_fit.fit, FitResult=_fit.FitResult)
        return globals()[name]
    if name == "__version__":
        from importlib.metadata import version

        return version("programmable-vi")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
