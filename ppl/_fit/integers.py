"""Integers among the parameters: those that were meant to be trained are warned of."""

import operator
import warnings
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .._analysis.dataflow import flow, merged
from ..errors import IntegerParameter
from .gradient import Mode
from .loop import Inputs, Loop, Moment
from .parameters import chosen_leaves, is_state, parameter_name


def warn_integers(loop: Loop, inputs: Inputs, moment: Moment, trainable: Any) -> None:
    """Warns of integers that stay as they are, where a gradient would reach them.

    They are integer arrays, and Python integers outside of `equinox.Module`s (in a module they are
    settings), that a pytree `trainable` does not freeze by name.
    """
    frozen, objective, batch = loop.problem(inputs, moment.shuffle, 0)
    leaves, treedef = jax.tree_util.tree_flatten_with_path(frozen)
    flags = jax.tree.leaves(_integers(frozen, trainable))
    for i, ((path, leaf), flag) in enumerate(zip(leaves, flags, strict=True)):
        if not flag:
            continue

        def loss(number, i=i):
            values = [number if j == i else x for j, (_, x) in enumerate(leaves)]
            params = jax.tree.unflatten(treedef, values)
            estimate = loop.update.loss(inputs.step_key, params, objective, batch)
            return estimate(moment.state.trained, moment.state.carried)

        if _reached(loss, leaf, loop.update.mode):
            warnings.warn(_text(parameter_name(path), leaf), IntegerParameter, stacklevel=3)


def _integers(frozen: Any, trainable: Any) -> Any:
    """Which leaves of the frozen parameters may be integers by mistake."""

    def in_module(node):
        return jax.tree.map(lambda _: False, node) if is_state(node) else _is_integer_array(node)

    def found(node):
        if isinstance(node, eqx.Module):
            return jax.tree.map(in_module, node, is_leaf=is_state)
        return _is_integer_array(node) or type(node) is int

    integers = jax.tree.map(found, frozen, is_leaf=lambda node: isinstance(node, eqx.Module))
    return jax.tree.map(operator.and_, integers, chosen_leaves(frozen, trainable))


def _is_integer_array(leaf: Any) -> bool:
    array = isinstance(leaf, jax.Array | np.ndarray | np.generic)
    return array and jnp.issubdtype(leaf.dtype, jnp.integer)


def _reached(loss: Callable, leaf: Any, mode: Mode) -> bool:
    """Whether the loss, as a function of reals in place of integers, has a derivative in them.

    Where they are an index, a length, or something else that reals cannot be, it has none.
    """
    number = float(leaf) if type(leaf) is int else jnp.asarray(leaf, float)

    def pulled(number, cotangent):
        return jax.vjp(loss, number)[1](cotangent)

    def pushed(number, tangent):
        return jax.jvp(loss, (number,), (tangent,))[1]

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if mode == "forward":
                jaxpr = jax.make_jaxpr(pushed)(number, number).jaxpr
            else:
                value = jax.eval_shape(loss, number)
                jaxpr = jax.make_jaxpr(pulled)(number, jnp.ones(value.shape, value.dtype)).jaxpr
    except Exception:  # whatever the objective raises of a real
        return False
    return bool(merged(flow(jaxpr, [frozenset(), frozenset({"reached"})], _spread)))


def _spread(eqn: Any, ins: list, within: tuple, control: frozenset) -> list:
    return [merged([control, *ins])] * len(eqn.outvars)


def _text(name: str, leaf: Any) -> str:
    integer = type(leaf) is int
    kind = f"the integer {leaf}" if integer else f"{leaf.dtype}{list(leaf.shape)}"
    instead = f"{leaf}.0" if integer else "a float array, as by .astype(float)"
    return (
        f"{name} is {kind}, so ppl.fit leaves it as it is, though the objective's gradient would "
        f"reach it. To train it, write {instead}. If it is to stay, say so: close over it, give it "
        "False in a pytree of bools as trainable=, or read it under jax.lax.stop_gradient."
    )
