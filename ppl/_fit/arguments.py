"""The checks of what users give to `fit`."""

import inspect
from typing import Any

import jax
import numpy as np
import optax

from .._ir.stage import program_name
from ..errors import InvalidObjective, InvalidOptimizer, InvalidSetting
from .result import FitResult

POLICIES = ("raise", "skip", "stop")
MODES = ("reverse", "forward")


def check_settings(steps: Any, num_samples: Any, mode: Any, on_nonfinite: Any) -> None:
    """Raises `InvalidSetting` where a number is not a positive integer, or a word unknown."""
    for name, value in (("steps", steps), ("num_samples", num_samples)):
        whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
        if not whole or value < 1:
            raise InvalidSetting(f"{name} must be a positive integer, got {value!r}.")
    for name, value, words in (("on_nonfinite", on_nonfinite, POLICIES), ("mode", mode, MODES)):
        if value not in words:
            raise InvalidSetting(
                f"{name} must be one of {', '.join(map(repr, words))}, got {value!r}."
            )


def check_optimizer(optimizer: Any) -> None:
    """Raises `InvalidOptimizer` where it is not an Optax gradient transformation."""
    if isinstance(optimizer, optax.GradientTransformation):
        return
    name = getattr(optimizer, "__name__", type(optimizer).__name__)
    module = getattr(optimizer, "__module__", None) or type(optimizer).__module__
    remedy = "Write, for example, optax.adam(1e-2)."
    if inspect.isfunction(optimizer) and module.startswith("optax"):
        remedy = f"Call it: optax.{name}(1e-2)."
    elif hasattr(optimizer, "gradient_transformation"):
        remedy = "Pass its optimizer.gradient_transformation()."
    raise InvalidOptimizer(
        f"The optimizer must be an optax.GradientTransformation, got {name} ({module}). {remedy}"
    )


def check_objective(objective: Any, with_batch: bool) -> None:
    """Raises `InvalidObjective` where it cannot be called as `fit` calls it."""
    call = "objective(params, batch)" if with_batch else "objective(params)"
    if not callable(objective):
        raise InvalidObjective(
            f"The objective must be a program, called as {call}; got {type(objective).__name__}. "
            "Write a function: def objective(params): ..."
        )
    try:
        signature = inspect.signature(objective)
    except (TypeError, ValueError):  # some builtins have none
        return
    if _accepts(signature, 1 + with_batch):
        return
    name = program_name(objective)
    reason = "data is given" if with_batch else "no data is given"
    if _accepts(signature, 2 - with_batch):
        remedy = f"Pass data=, or bind the other argument: functools.partial({name}, ...)."
        if with_batch:
            remedy = f"Write def {name}(params, batch), or leave data out and close over it."
    else:
        remedy = "Bind its other arguments with functools.partial or a lambda."
    raise InvalidObjective(
        f"Objective {name!r} takes {signature}, but as {reason}, ppl.fit calls {call}. {remedy}"
    )


def check_resume(resume: Any, params: Any) -> None:
    """Raises `InvalidSetting` where the result is not one of a fit of such parameters."""
    if not isinstance(resume, FitResult):
        raise InvalidSetting(f"resume must be a ppl.FitResult, got {type(resume).__name__}.")
    ours, theirs = (
        [(jax.tree_util.keystr(path), np.shape(leaf)) for path, leaf in _arrays(tree)]
        for tree in (params, resume.params)
    )
    if ours != theirs:
        one, other = next(
            ((a, b) for a, b in zip(ours, theirs, strict=False) if a != b),
            (f"{len(ours)} arrays", f"{len(theirs)} arrays"),
        )
        raise InvalidSetting(
            f"resume= holds other parameters than params: {other} instead of {one}. "
            "Pass the result of a fit of the same parameters."
        )


def _arrays(tree: Any) -> list:
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return [x for x in leaves if isinstance(x[1], float) or hasattr(x[1], "shape")]


def _accepts(signature: inspect.Signature, count: int) -> bool:
    try:
        signature.bind(*[None] * count)
    except TypeError:
        return False
    return True
