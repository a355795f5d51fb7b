"""Where an equation comes from: the user's own line, past the frames of libraries."""

import itertools
import os
from collections.abc import Sequence
from typing import Any

from jax._src import source_info_util

from .control_flow import Call, form


def scopes(eqn: Any) -> str:
    """The named scopes that an equation was emitted in, outermost first."""
    return str(eqn.source_info.name_stack)


def source_line(eqn: Any) -> str:
    """Where in the user's files an equation comes from."""
    frames = _frames(eqn)
    outside = [f for f in frames if not is_library(f.file_name)]
    users = [f for f in outside if not is_stdlib(f.file_name)] or outside or frames
    if not users:
        return "an unknown line"
    return f"{users[0].file_name}:{users[0].start_line} ({users[0].function_name})"


def placed(eqn: Any, within: Sequence[Any]) -> Any:
    """The equation, or the innermost one around it, that knows which line it comes from.

    The body of a function that JAX itself compiles (`jnp.where`) is traced once and has the line of
    its first caller: there it is the call that knows.
    """
    calls = [i for i, outer in enumerate(within) if is_call_of_jax(outer)]
    around = within[: calls[0] + 1] if calls else (*within, eqn)
    return next((e for e in reversed(around) if _frames(e)), eqn)


def is_call_of_jax(eqn: Any) -> bool:
    """Whether an equation calls a function of JAX's own."""
    found = form(eqn)
    info = getattr(found.body.jaxpr, "debug_info", None) if isinstance(found, Call) else None
    return _PARTS[0] in (getattr(info, "func_src_info", None) or "")


def is_stdlib(file: str) -> bool:
    """Whether a file is one of the standard library's."""
    return file.startswith(_STDLIB)


def written_by_user(eqn: Any) -> bool:
    """Whether an equation comes from a line of the user's, not from inside a library."""
    frames = _frames(eqn)
    return bool(frames) and not is_library(frames[0].file_name)


def _frames(eqn: Any) -> list[Any]:
    """The frames outside of JAX, and of what batches control flow in JAX's place."""
    frames = source_info_util.user_frames(eqn.source_info.traceback)
    return list(itertools.dropwhile(lambda frame: _stands_between(frame.file_name), frames))


def _stands_between(file: str) -> bool:
    """Whether a file has frames between JAX's and the user's: rules for JAX, checks of types."""
    return file in _BATCHING or file.startswith("<@") or f"{os.sep}jaxtyping{os.sep}" in file


_LIBRARIES = ("jax", "equinox", "jaxtyping", "numpyro", "beartype", "optax", "flowjax")
_PARTS = tuple(os.sep + os.path.join("site-packages", name) + os.sep for name in _LIBRARIES)
_HERE = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
_BATCHING = tuple(
    os.path.join(_HERE, *path) for path in (("_jax", "batching.py"), ("_walk", "vmap.py"))
)
_STDLIB = os.path.join(os.path.dirname(os.path.dirname(_HERE)), "stdlib") + os.sep


def is_library_of_distributions(file: str) -> bool:
    """Whether a file belongs to a library whose distributions a program samples from."""
    return any(os.sep + name + os.sep in file for name in ("numpyro", "flowjax"))


def is_library(file: str) -> bool:
    """Whether a file belongs to this package or to a library below the user's code."""
    return file.startswith((_HERE, "<@")) or any(part in file for part in _PARTS)
