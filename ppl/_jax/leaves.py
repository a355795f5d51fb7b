"""The array leaves of a pytree, which are traced, and the rest, which is static."""

import dataclasses
from collections.abc import Sequence
from typing import Any, Generic, TypeVar

import jax
import numpy as np


class _Dynamic:
    """Stands for an array leaf among the static ones."""

    def __repr__(self):
        return "·"


DYNAMIC = _Dynamic()

T = TypeVar("T")


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True, eq=False)
class Static(Generic[T]):
    """What is known while tracing, as a pytree without leaves: a function may return it traced."""

    value: T


def is_array(x: Any) -> bool:
    """Whether a leaf is dynamic: an array, or what stands for one. Everything else is static."""
    return isinstance(x, jax.Array | np.ndarray) or (hasattr(x, "shape") and hasattr(x, "dtype"))


def partition(tree: Any) -> tuple[list, tuple, Any]:
    """The array leaves of a tree, its static leaves and its structure."""
    leaves, treedef = jax.tree.flatten(tree)
    static = tuple(DYNAMIC if is_array(x) else x for x in leaves)
    return [x for x in leaves if is_array(x)], static, treedef


def merge(leaves: Sequence[Any], static: tuple, treedef: Any) -> Any:
    """The inverse of `partition`."""
    rest = iter(leaves)
    return jax.tree.unflatten(treedef, [next(rest) if s is DYNAMIC else s for s in static])


def of_form(cached: Any, tree: Any) -> Any:
    """What a function cached by `lru_cache` says of a tree: of its arrays' shapes and all the rest.

    `cached(structs, static, treedef)` is asked anew where static parts cannot be hashed.
    """
    leaves, static, treedef = partition(tree)
    structs = tuple(jax.ShapeDtypeStruct(x.shape, x.dtype) for x in leaves)
    try:
        return cached(structs, static, treedef)
    except TypeError:
        return cached.__wrapped__(structs, static, treedef)
