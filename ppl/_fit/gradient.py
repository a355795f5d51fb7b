"""The gradient of a loss, by reverse or by forward mode."""

from collections.abc import Callable
from typing import Any, Literal

import jax

from .._jax.failure import told_of_reverse_mode

Mode = Literal["reverse", "forward"]

_REMEDY = (
    'write ppl.fit(..., mode="forward"), which takes the gradient by forward mode, at the cost of '
    "a derivative for each trained number"
)


def value_and_gradient(loss: Callable, mode: Mode, *args: Any) -> tuple[jax.Array, tuple]:
    """A scalar function's value, and its gradients in all its arguments (pytrees of floats).

    By forward mode a derivative is taken for each number in them, side by side: what does not
    depend on which one is computed once.
    """
    every = tuple(range(len(args)))
    if mode == "reverse":
        with told_of_reverse_mode(_REMEDY):
            return jax.value_and_grad(loss, every)(*args)

    def twice(*args):
        value = loss(*args)
        return value, value

    gradient, value = jax.jacfwd(twice, every, has_aux=True)(*args)
    return value, jax.tree.map(lambda slope, x: slope.astype(x.dtype), gradient, args)


def differentiated_by(mode: Mode, loss: Callable) -> Callable:
    """The loss of one argument, whose gradient others may take (a line search), by this mode."""
    if mode == "reverse":
        return loss

    def forwards(arg):
        value, (gradient,) = value_and_gradient(loss, mode, arg)
        return value, gradient

    def backwards(gradient, cotangent):
        return (jax.tree.map(lambda x: (cotangent * x).astype(x.dtype), gradient),)

    same = jax.custom_vjp(loss)
    same.defvjp(forwards, backwards)
    return same
