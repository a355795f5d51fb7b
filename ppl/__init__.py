"""A probabilistic programming language for JAX with programmable variational inference."""

from typing import TYPE_CHECKING, Any

# ruff: noqa: F405  (names of the star import)
if TYPE_CHECKING:
    from ._fit import FitResult, fit
    from ._language import *  # noqa: F403

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
    """Loads the language, and training, where one of their names is first asked for."""
    if name == "__version__":
        from importlib.metadata import version

        return version("programmable-vi")
    if name in ("fit", "FitResult"):
        from . import _fit as home
    elif name in __all__:
        from . import _language as home
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return globals().setdefault(name, getattr(home, name))


def __dir__() -> list[str]:
    return __all__
