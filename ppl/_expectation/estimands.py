"""Estimands: the scalars that an objective returns, each of which is estimated."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from .._ir.stage import Staged, program_name
from ..errors import NonScalarObjective


def with_scalars(objective: Callable, has_aux: bool, *args: Any, **kwargs: Any) -> Any:
    """The scalars that an objective returns, as a pytree of arrays, and its auxiliary output."""
    out = objective(*args, **kwargs)
    name = program_name(objective)
    if has_aux and not (isinstance(out, tuple) and len(out) == 2):
        raise NonScalarObjective(
            f"With has_aux=True, objective {name!r} must return (scalar, aux), "
            f"got {type(out).__name__}."
        )
    value, aux = out if has_aux else (out, None)
    if not jax.tree.leaves(value):
        raise _no_scalar(name, (), value)
    return jax.tree_util.tree_map_with_path(functools.partial(_scalar, name), value), aux


def _scalar(name: str, path: tuple, leaf: Any) -> jax.Array:
    """What is to be estimated, as an array."""
    if isinstance(leaf, bool | int | float):
        return jnp.asarray(float(leaf))
    dtype = getattr(leaf, "dtype", None)
    if dtype is None or leaf.shape != () or not jnp.issubdtype(dtype, jnp.floating):
        raise _no_scalar(name, path, leaf)
    return jnp.asarray(leaf)


def _no_scalar(name: str, path: tuple, value: Any) -> NonScalarObjective:
    place = f" at {jax.tree_util.keystr(path)} of what it returns" if path else ""
    beside = _BESIDE if path else ""
    return NonScalarObjective(
        f"Objective {name!r} must return one real scalar, or a pytree of real scalars, each of "
        f"which is estimated; got {_described(value)}{place}. {_remedy(value)}{beside}"
    )


_BESIDE = (
    " What is not to be estimated goes beside: return (scalars, aux), and write "
    "ppl.expectation(objective, has_aux=True)."
)


def _described(value: Any) -> str:
    if hasattr(value, "dtype") and hasattr(value, "shape"):
        return f"{value.dtype.name}{list(value.shape)}"
    return f"a {type(value).__name__}"


def _remedy(value: Any) -> str:
    dtype = getattr(value, "dtype", None)
    if getattr(value, "shape", ()):
        return (
            "Reduce it, for example with jnp.mean(...) or jnp.sum(...); of several estimands, "
            'return a dict or tuple of scalars, such as {"first": x[0], "second": x[1]}.'
        )
    if isinstance(value, complex) or (dtype and jnp.issubdtype(dtype, jnp.complexfloating)):
        return "Return its real part, value.real, or the square of its size, jnp.abs(value) ** 2."
    if dtype is not None:
        return "Convert it: .astype(float)."
    return "Return the value to be averaged."


def count_estimands(staged: Staged) -> int:
    """How many outputs of a program that returns `(scalars, aux)` are scalars to be estimated."""
    scalars, _ = staged.rebuild(list(staged.jaxpr.outvars))
    return len(jax.tree.leaves(scalars))
