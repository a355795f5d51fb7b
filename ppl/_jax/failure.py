"""Failures of code that is not ours: of distributions and estimators, and in making them.

JAX, NumPyro and Python say what went wrong, and know of no sites. Here it is said at which site and
line of the user's, and what to look at.
"""

import ast
import linecache
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jax

from ..errors import InvalidDistribution, ProgramError, ReverseModeLoop, SiteFailure
from . import source


@contextmanager
def told_of_site(address: str, where: str) -> Iterator[None]:
    """Whatever is raised inside by a site's distribution or estimator is a `SiteFailure`.

    It runs by JAX's standard rule of promotion: NumPyro's samplers and densities need it.
    """
    try:
        with jax.numpy_dtype_promotion("standard"):
            yield
    except ProgramError:
        raise
    except Exception as failure:
        raise SiteFailure(
            f"The distribution or the estimator of site {address!r} at {where} failed "
            f"with {_text(failure)}. {_remedy(failure)}"
        ) from failure


def _text(failure: Exception) -> str:
    lines = str(failure).strip().splitlines() or ["no message"]
    return f"{type(failure).__name__}: {lines[0].rstrip('.')}"


def _remedy(failure: Exception) -> str:
    if isinstance(failure, AttributeError):
        return (
            "A distribution is traced as a pytree, and what its registration leaves out is lost: "
            "make it an equinox.Module or, for a subclass of NumPyro's Distribution, name its "
            "arrays in pytree_data_fields and its other attributes in pytree_aux_fields."
        )
    return (
        "Check that the shapes and dtypes of its parameters, of its data and of what its estimator "
        "holds (a baseline, a network) fit each other, by calling sample(key) and log_prob(value)."
    )


@contextmanager
def told_of_reverse_mode(remedy: str) -> Iterator[None]:
    """A `while_loop` that reverse mode reaches is a `ReverseModeLoop`, which says the remedy."""
    try:
        yield
    except ReverseModeLoop as failure:
        raise ReverseModeLoop(f"{failure} Or {remedy}.") from None
    except ValueError as failure:
        if "Reverse-mode differentiation does not work" not in str(failure):
            raise
        raise ReverseModeLoop(
            "Reverse-mode differentiation reached a while_loop (or a fori_loop whose number of "
            f"steps is traced). Use lax.scan with a fixed number of steps, or {remedy}."
        ) from failure


@contextmanager
def told_of_line() -> Iterator[None]:
    """What a distribution's own constructor raises, in a program, is an `InvalidDistribution`."""
    try:
        yield
    except ProgramError:
        raise
    except (ValueError, TypeError) as failure:
        *_, last = traceback.walk_tb(failure.__traceback__)
        if not source.is_library_of_distributions(last[0].f_code.co_filename):
            raise
        frame, line = _user_frame(failure)
        file = frame.f_code.co_filename
        address = _address_at(file, line)
        named = f"The distribution of site {address!r}" if address else "A distribution"
        raise InvalidDistribution(
            f"{named} at {file}:{line} ({frame.f_code.co_name}) cannot be made: {_text(failure)}. "
            "Give it parameters within its constraints, of shapes that broadcast."
        ) from failure


def _user_frame(failure: Exception) -> tuple[Any, int]:
    """The innermost frame of the user's own, and its line."""
    frames = list(traceback.walk_tb(failure.__traceback__))
    users = [at for at in frames if not source.is_library(at[0].f_code.co_filename)]
    return (users or frames)[-1]


def _address_at(file: str, line: int) -> str | None:
    """The address of the innermost `sample` statement that a line of a file belongs to."""
    try:
        tree = ast.parse("".join(linecache.getlines(file)))
    except SyntaxError:
        return None
    found = None
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and node.lineno <= line <= (node.end_lineno or line):
            name = getattr(node.func, "attr", getattr(node.func, "id", None))
            if name == "sample" and node.args and isinstance(node.args[0], ast.Constant):
                found = str(node.args[0].value)
    return found
