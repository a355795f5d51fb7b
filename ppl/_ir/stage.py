"""Staging: from a Python program to the traced IR, by JAX's own tracer."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, ParamSpec, TypeVar

import jax

from .._jax.failure import told_of_line
from .._jax.leaves import merge, partition
from .foreign import no_foreign_statements, refuse_handlers

P = ParamSpec("P")
"""The arguments of a program, and `T` what it returns: transformations keep them."""
T = TypeVar("T")


class Staged(NamedTuple):
    """A program with its arguments, traced: a jaxpr with `sample` equations and its constants.

    Whatever the program closes over, tracers of an outer transformation included, is a constant.
    """

    jaxpr: Any
    consts: list
    rebuild: Callable[[list], Any]
    name: str


def program_name(program: Any) -> str:
    """What messages call a program."""
    program = getattr(program, "func", program)
    return getattr(program, "__name__", None) or type(program).__name__


def stage(program: Callable, *args: Any, **kwargs: Any) -> Staged:
    """Traces `program(*args, **kwargs)`. Non-array outputs are kept as they are.

    Under `jax.disable_jit()` too its loops and branches are equations: run as Python, their sites
    would be several of one address.
    """
    shape: list = []

    def thunk():
        leaves, static, treedef = partition(program(*args, **kwargs))
        shape[:] = [static, treedef]
        return leaves

    refuse_handlers(f"program {program_name(program)!r}", program)
    with no_foreign_statements(), told_of_line(), jax.disable_jit(False):
        closed = jax.make_jaxpr(thunk)()
    static, treedef = shape
    return Staged(
        closed.jaxpr,
        list(closed.consts),
        lambda leaves: merge(leaves, static, treedef),
        program_name(program),
    )


def standing_for(program: Callable) -> Callable[[Callable], Callable]:
    """Names a function after the program that it runs, of the same arguments."""

    def decorate(function: Callable) -> Callable:
        function = functools.wraps(program, updated=())(function)
        function.__name__ = program_name(program)  # a partial application has none
        return function

    return decorate


def keyed(program: Callable) -> Callable[[Callable], Callable]:
    """Names a function `(key, *args)` after the program it runs; its signature is its own."""

    def decorate(function: Callable) -> Callable:
        function = standing_for(program)(function)
        del function.__wrapped__
        return function

    return decorate
