"""When two Python objects mean the same computation, so that a compiled program may serve again.

JAX compiles anew for a new function object, and keeps stale values for an old one. Here two
functions are the same if their code is, and their defaults, their closures and, for code that is
not a library's, the globals they name. So `optax.adam(1e-2)` or a lambda written twice is compiled
once, and a model that was defined again in a notebook is compiled again. Lists and dicts are the
same if they are one object with the content it had. Not seen is what changes inside an array or an
object of another kind.
"""

import enum
import functools
import os
import sys
import sysconfig
import types
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
from jax.core import Tracer

_SIMPLE = (bool, int, float, complex, str, bytes, type(None), type(Ellipsis), enum.Enum)
_HERE = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
_LIBRARIES = (
    _HERE,
    *{sysconfig.get_path(name) + os.sep for name in ("stdlib", "purelib", "platlib")},
    os.sep + "site-packages" + os.sep,
)


class Same:
    """A pytree that equals another if their leaves mean the same computation.

    `holds_tracers` says that it has some, so that it must not outlive their trace.
    """

    def __init__(self, value: Any):
        self.value = value
        marks = _Marks()
        self.mark = marks.of_leaves(value, None)
        self.holds_tracers = marks.tracers
        self._hash = hash(self.mark)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Same) and self.mark == other.mark

    def __hash__(self) -> int:
        return self._hash


class _Partial(NamedTuple):
    """A `functools.partial` as a pytree."""

    func: Any
    args: tuple
    keywords: dict


class _Method(NamedTuple):
    """A bound method as a pytree."""

    function: Any
    instance: Any


def parts(function: Callable) -> Any:
    """A callable as a pytree: what it binds is opened, anything else is as it is."""
    if isinstance(function, functools.partial):
        return _Partial(parts(function.func), function.args, function.keywords)
    if isinstance(function, types.MethodType):
        return _Method(function.__func__, function.__self__)
    return function


def whole(tree: Any) -> Callable:
    """The inverse of `parts`."""
    if isinstance(tree, _Partial):
        return functools.partial(whole(tree.func), *tree.args, **tree.keywords)
    if isinstance(tree, _Method):
        return types.MethodType(tree.function, tree.instance)
    return tree


class _Identity:
    """Equal to nothing but the same object, which it keeps alive so that its id is not reused."""

    def __init__(self, value):
        self.value = value

    def __eq__(self, other):
        return isinstance(other, _Identity) and self.value is other.value

    def __hash__(self):
        return id(self.value)


class _Marks:
    """Makes a hashable mark of a value; a value met again is marked by the order of meeting."""

    def __init__(self):
        self.seen: dict[int, int] = {}
        self.kept: list = []
        self.tracers = False

    def of(self, value: Any) -> Any:
        if isinstance(value, _SIMPLE):
            return type(value), repr(value)
        if id(value) in self.seen:
            return "again", self.seen[id(value)]
        self.seen[id(value)] = len(self.seen)
        self.kept.append(value)
        if isinstance(value, Tracer):
            self.tracers = True
            return _Identity(value)
        if isinstance(value, types.FunctionType):
            return self._function(value)
        if isinstance(value, types.MethodType):
            return "method", self.of(value.__func__), self.of(value.__self__)
        if isinstance(value, functools.partial):
            return "partial", self.of(value.func), self.of(value.args), self._items(value.keywords)
        if isinstance(value, list | dict):
            return _Identity(value), self._node(value)
        return self._node(value)

    def _items(self, mapping: dict | None) -> Any:
        return tuple((name, self.of(value)) for name, value in (mapping or {}).items())

    def _function(self, function: types.FunctionType) -> Any:
        read = [function.__defaults__, *_closure(function)]
        if not _in_library(sys.modules.get(function.__module__ or "", function)):
            read += _named(function)
        keywords = self._items(function.__kwdefaults__)
        return "function", function.__code__, tuple(map(self.of, read)), keywords

    def _node(self, value: Any) -> Any:
        """Of a pytree node and what hangs from it, or else of an object as itself."""
        return self.of_leaves(value, lambda x: x is not value)

    def of_leaves(self, tree: Any, is_leaf: Callable | None) -> Any:
        """Of a pytree, whose containers need not be the same objects."""
        leaves, treedef = jax.tree.flatten(tree, is_leaf)
        try:
            hash(treedef)
        except TypeError:
            return _Identity(tree)
        alone = len(leaves) == 1 and leaves[0] is tree
        return treedef, tuple(map(_Identity if alone and is_leaf else self.of, leaves))


def _closure(function: types.FunctionType) -> Iterator[Any]:
    for cell in function.__closure__ or ():
        try:
            yield cell.cell_contents
        except ValueError:  # not yet assigned
            yield Ellipsis


def _names(code: types.CodeType) -> list[str]:
    """The names that code, and the functions written inside it, may look up."""
    inner = [const for const in code.co_consts if isinstance(const, types.CodeType)]
    return [*code.co_names, *(name for each in inner for name in _names(each))]


def _named(function: types.FunctionType) -> list[Any]:
    """The globals that a function names, and the attributes of modules among them."""
    names = _names(function.__code__)
    found = [function.__globals__.get(name) for name in names]
    modules = [x for x in found if isinstance(x, types.ModuleType) and not _in_library(x)]
    return found + [vars(module).get(name) for module in modules for name in names]


def _in_library(module: Any) -> bool:
    path = getattr(module, "__file__", None) or ""
    return any(part in path for part in _LIBRARIES)
