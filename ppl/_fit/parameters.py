"""Which leaves of a parameter pytree are trained, which carried, and which stay as they are."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .._ir.state import State
from .._jax.leaves import is_array
from ..errors import NotTrainable


def split_parameters(params: Any, trainable: Any = None) -> tuple[Any, Any, Any]:
    """The trained, the carried and the frozen part: the structure of `params`, None for the others.

    Trained are the floating-point arrays. Carried are the arrays of each `ppl.State`. `trainable`
    narrows both down: a function from a floating-point leaf to a bool, or a pytree prefix of bools.

    **Raises** `NotTrainable` where nothing is left to train, or a complex leaf would be.
    """
    chosen = _chosen(params, trainable)
    trains = jax.tree.map(
        lambda x, flag: flag and not is_state(x), params, chosen, is_leaf=is_state
    )
    leaves = jax.tree_util.tree_flatten_with_path(params, is_leaf=is_state)[0]
    for (path, leaf), flag in zip(leaves, jax.tree.leaves(trains), strict=True):
        if flag and jnp.issubdtype(leaf.dtype, jnp.complexfloating):
            raise NotTrainable(
                f"{parameter_name(path)} is {leaf.dtype}. Train its real and its imaginary part as "
                "two arrays, or freeze it with trainable=."
            )
    if not any(jax.tree.leaves(trains)):
        raise NotTrainable(_nothing(leaves, trainable))
    trained, others = eqx.partition(params, trains)
    carried, frozen = eqx.partition(
        others, jax.tree.map(_carries, params, chosen, is_leaf=is_state)
    )
    return strong(trained), strong(carried), frozen


def chosen_leaves(frozen: Any, trainable: Any) -> Any:
    """For each leaf that is frozen, whether a pytree `trainable` is silent of it, or says True."""
    if trainable is None or _is_rule(trainable):
        return jax.tree.map(lambda _: True, frozen)
    below = lambda flag, part: jax.tree.map(lambda _: bool(flag), part)  # noqa: E731
    return jax.tree.map(below, trainable, frozen)


def as_arrays(params: Any) -> Any:
    """The parameters, with numbers that may change as arrays.

    These are Python floats outside of `equinox.Module`s (in a module they are settings, such as a
    dropout rate), and all numbers in a `ppl.State`.
    """

    def converted(node):
        if is_state(node):
            return jax.tree.map(_as_array, node)
        if isinstance(node, eqx.Module):
            return jax.tree.map(
                lambda x: converted(x) if is_state(x) else x, node, is_leaf=is_state
            )
        return _as_array(node) if type(node) is float else node

    return jax.tree.map(converted, params, is_leaf=lambda node: isinstance(node, eqx.Module))


def strong(tree: Any) -> Any:
    """Every leaf as an array with a dtype of its own, not one that adapts to its surroundings."""
    return jax.tree.map(lambda x: x if _is_key(x) else jnp.asarray(x, jnp.result_type(x)), tree)


def parameter_name(path: Any) -> str:
    """The leaf at a path, as an expression a user can evaluate."""
    return "params" + jax.tree_util.keystr(path)


def _is_key(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def is_state(node: Any) -> bool:
    """Whether a node is a `ppl.State`, which is carried and not trained."""
    return isinstance(node, State)


def _as_array(leaf: Any) -> Any:
    number = isinstance(leaf, bool | int | float)
    return jnp.asarray(leaf, jnp.result_type(type(leaf))) if number else leaf


def _carries(node: Any, flag: Any) -> Any:
    """Which leaves of a node are carried: the arrays of a state that is not frozen."""
    if is_state(node) and any(jax.tree.leaves(flag)):
        return jax.tree.map(is_array, node)
    return False


def is_inexact(leaf: Any) -> bool:
    """Whether a leaf is an array of real (or complex) numbers."""
    array = isinstance(leaf, jax.Array | np.ndarray | np.generic)
    return array and jnp.issubdtype(leaf.dtype, jnp.inexact)


def _chosen(params: Any, trainable: Any) -> Any:
    """A flag for each leaf, and each state."""
    if trainable is None:
        return jax.tree.map(_changes, params, is_leaf=is_state)
    if _is_rule(trainable):

        def chooses(node):
            own = [leaf for leaf in jax.tree.leaves(node) if is_inexact(leaf)]
            return _changes(node) and (any(map(trainable, own)) or not own)

        return jax.tree.map(chooses, params, is_leaf=is_state)
    try:
        return jax.tree_util.tree_map_with_path(_below, trainable, params)
    except ValueError as error:
        raise NotTrainable(
            "`trainable` must be a function from a leaf to a bool, or a pytree of bools that is "
            f"params or a prefix of it: {error}"
        ) from error


def _is_rule(trainable: Any) -> bool:
    return isinstance(trainable, Callable) and not isinstance(trainable, eqx.Module)


def _changes(node: Any) -> bool:
    return is_state(node) or is_inexact(node)


def _below(path: Any, flag: Any, subtree: Any) -> Any:
    if not isinstance(flag, bool | np.bool_):
        raise NotTrainable(
            f"`trainable` has {flag!r} at {jax.tree_util.keystr(path) or 'its root'}, where it "
            "must have True or False."
        )
    chosen = jax.tree.map(lambda x: bool(flag) and _changes(x), subtree, is_leaf=is_state)
    if flag and not any(jax.tree.leaves(chosen)):
        raise NotTrainable(
            f"`trainable` is True for {parameter_name(path)}, which has no floating-point array: "
            f"{_kinds(jax.tree_util.tree_flatten_with_path(subtree)[0], path)}."
        )
    return chosen


def _nothing(leaves: list, trainable: Any) -> str:
    if trainable is not None and any(is_inexact(leaf) for _, leaf in leaves):
        return "`trainable` freezes every parameter. Make it True for at least one."
    return (
        f"The parameters have no floating-point array to train: {_kinds(leaves) or 'no leaves'}. "
        "Integers, booleans and what is not an array stay frozen, and so do Python floats in an "
        "equinox.Module; make what shall be trained a float array, as in jnp.asarray(0.0)."
    )


def _kinds(leaves: list, root: Any = (), limit: int = 6) -> str:
    kinds = [f"{parameter_name((*root, *path))} is {_kind(leaf)}" for path, leaf in leaves]
    more = [f"and {len(kinds) - limit} more"] if len(kinds) > limit else []
    return ", ".join(kinds[:limit] + more)


def _kind(leaf: Any) -> str:
    if hasattr(leaf, "dtype") and hasattr(leaf, "shape"):
        return f"{leaf.dtype}{list(leaf.shape)}"
    return f"a {type(leaf).__name__}"
