"""What training carries by rules of its own: each `ppl.State` in the parameters."""

from typing import Any

import equinox as eqx
import jax

from .._jax.leaves import is_array
from ..errors import InvalidState
from .parameters import as_arrays, is_inexact, is_state, parameter_name, strong


def inexact(carried: Any) -> Any:
    """The leaves of the states that have a derivative, None for others."""
    return eqx.filter(carried, is_inexact)


def updated_states(carried: Any, frozen: Any, gradient: Any) -> Any:
    """The leaves of the states after a step. `gradient` has the structure of `carried`.

    **Raises** `InvalidState` where a state becomes something else.
    """

    def updated(path: Any, old: Any, static: Any, towards: Any) -> Any:
        if not jax.tree.leaves(old):
            return old
        new = eqx.combine(old, static).updated(towards)
        new = strong(eqx.filter(as_arrays(new), is_array))
        _check(path, old, new)
        return new

    def stops(node: Any) -> bool:
        return node is None or is_state(node)

    return jax.tree_util.tree_map_with_path(updated, carried, frozen, gradient, is_leaf=stops)


def _check(path: Any, old: Any, new: Any) -> None:
    before, after = _described(old), _described(new)
    if before == after:
        return
    pairs = [(a, b) for a, b in zip(before, after, strict=False) if a != b]
    one, other = pairs[0] if pairs else (f"{len(before)} arrays", f"{len(after)} arrays")
    raise InvalidState(
        f"{parameter_name(path)}.updated(gradient) must return a {type(old).__name__} of the same "
        f"structure, shapes and dtypes: {one} became {other}. Keep settings in "
        "equinox.field(static=True), and cast what changes its dtype."
    )


def _described(state: Any) -> list[str]:
    leaves = jax.tree_util.tree_flatten_with_path(state)[0]
    name = type(state).__name__
    return [f"{name}{jax.tree_util.keystr(path)} of {x.dtype}{list(x.shape)}" for path, x in leaves]
