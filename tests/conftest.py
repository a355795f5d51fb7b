"""With `RUNTIME_TYPES=1`, types and shapes are checked as programs run: slower, so once a CI.

The hooks stand before any import of the code. A wrong type is a warning, which is an error in the
tests unless one turns it off.
"""

import functools
import gc
import importlib.abc
import importlib.machinery
import os
import sys
import types
import warnings

import pytest
from jax._src.interpreters import mlir
from jaxlib.mlir import ir

RUNTIME_TYPES = os.environ.get("RUNTIME_TYPES") == "1"
SHAPES = ("stdlib.models", "stdlib.demo")
"""Packages that annotate shapes, which several arguments share."""

gc.set_threshold(50_000, 20, 50)  # traces are large and die young: collect seldom

_new_context = mlir.make_ir_context
_shared_context = functools.cache(_new_context)


def _context() -> ir.Context:
    """One context of MLIR for all programs; one of its own for a program within another's lowering.

    JAX makes one for each program. They live as long as the programs' cache entries and slow down
    all that come after: thousands of them cost more than the programs.
    """
    return _shared_context() if ir.Context.current is None else _new_context()


mlir.make_ir_context = _context


class WrongType(UserWarning):
    """A value is not of the annotated type."""


class CheckedLoader(importlib.machinery.SourceFileLoader):
    """Has the functions and classes of a module checked, as soon as it is there.

    Not the functions within functions, which would be prepared for it at each call.
    """

    def exec_module(self, module):
        super().exec_module(module)
        for name, thing in list(vars(module).items()):
            if getattr(thing, "__module__", None) == module.__name__ and _is_code(thing):
                setattr(module, name, checked(thing))


class CheckedFinder(importlib.abc.MetaPathFinder):
    """Finds the modules of `ppl` and `stdlib`."""

    def find_spec(self, name, path, target=None):
        if name.partition(".")[0] not in ("ppl", "stdlib") or name.startswith(SHAPES):
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is not None and spec.origin is not None:
            spec.loader = CheckedLoader(name, spec.origin)
        return spec


def _is_code(thing):
    """Whether it is a function or a class; trees of arrays may stand for anything."""
    is_tree = isinstance(thing, type) and issubclass(thing, tuple)
    return isinstance(thing, types.FunctionType | type) and not is_tree


if RUNTIME_TYPES:
    import numpy as np
    from beartype import BeartypeConf, FrozenDict, beartype
    from jax import export
    from jaxtyping import install_import_hook

    # sizes and dimensions, as JAX has them: an exported size is a symbol
    whole = int | np.integer | type(export.symbolic_shape("n")[0])
    checked = beartype(
        conf=BeartypeConf(
            violation_type=WrongType,
            is_pep484_tower=True,
            hint_overrides=FrozenDict({int: whole}),
        )
    )
    sys.meta_path.insert(0, CheckedFinder())
    install_import_hook(SHAPES, "beartype.beartype")


@pytest.fixture
def unchecked_types():
    """As for a user: the type checker, which runs under test only, would speak first."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", WrongType)
        yield
