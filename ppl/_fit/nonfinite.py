"""What is said of a step that is not finite."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from ..errors import NonFiniteUpdate
from .carried import inexact
from .loop import Inputs, Loop, Moment
from .origin import origin
from .parameters import parameter_name


def nonfinite_update(loop: Loop, inputs: Inputs, moment: Moment, step: int) -> NonFiniteUpdate:
    """The error for a step, found by taking its gradient once more."""
    objective, gradient = jax.jit(loop.gradient)(inputs, moment, np.int32(step))
    told = _origin(loop, inputs, moment, step) if np.isnan(objective) else ""
    return NonFiniteUpdate(
        f"Step {step} of ppl.fit is not finite: {_culprit(objective, gradient, moment)}. {told}"
        "The parameters before this step are returned with on_nonfinite='stop'; 'skip' leaves "
        "such steps out. Often a smaller learning rate, gradient clipping "
        "(optax.clip_by_global_norm), or log-scales instead of scales cure it."
    )


def _origin(loop: Loop, inputs: Inputs, moment: Moment, step: int) -> str:
    """What is said of where the objective's NaN comes from, by a plain run of the step."""
    args = (inputs, moment, np.int32(step))
    told = origin(jax.make_jaxpr(loop.plain_run)(*args), jax.tree.leaves(args))
    return f"{told} " if told else ""


def _culprit(objective: Any, gradient: Any, moment: Moment) -> str:
    found = f"the objective is {float(objective):.6g}"
    state = moment.state
    parameter = _first_bad(eqx.combine(state.trained, inexact(state.carried)))
    if parameter:
        return f"after the update before it, parameter {parameter}; {found}"
    derivative = _first_bad(gradient)
    if derivative:
        return f"the gradient of {derivative}; {found}"
    if not np.isfinite(objective):
        return f"{found}, though its gradient is finite"
    return f"the norm of the gradient overflows, though its entries are finite; {found}"


def _first_bad(tree: Any) -> str | None:
    """The first leaf that is not finite, and how much of it."""
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        bad = ~np.asarray(jnp.isfinite(leaf))
        if bad.any():
            example = f"{np.asarray(leaf)[bad].ravel()[0]}"
            part = f" in {bad.sum()} of {bad.size} entries" if bad.size > 1 else ""
            return f"{parameter_name(path)} is {example}{part}"
    return None
