"""What a branch reads, over particles: cut off from derivatives where the branch is not reached."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from jax.core import Tracer

from ..._jax import identities
from ..interpret.evaluation import Evaluation
from ..values.lanes import join, through
from ..values.value import Value


def gate(eqn: Any, vals: Sequence[Value], evaluation: Evaluation) -> list[Value]:
    """A `gated` equation."""
    kept = not isinstance(vals[0].array, Tracer) or _too_large(*vals)
    return [vals[0]] if kept else evaluation.bind(eqn, vals)


def cut_off(vals: Sequence[Value], flag: Value, evaluation: Evaluation) -> list[Value]:
    """Values that have a derivative only where a scalar flag is true."""
    return [_cut_off(val, flag, evaluation) for val in vals]


def _cut_off(val: Value, flag: Value, evaluation: Evaluation) -> Value:
    variable = isinstance(val.array, Tracer) and jnp.issubdtype(val.array.dtype, jnp.inexact)
    if not variable or _too_large(val, flag):
        return val
    bound = lambda *arrays: [identities.gated(*arrays)]  # noqa: E731
    through_flag = lambda deps: [join([deps[0], through(deps[1], None)])]  # noqa: E731
    return evaluation.apply(bound, [val, flag], through_flag)[0]


def _too_large(val: Value, flag: Value) -> bool:
    """Whether the flag would spread a large value over particles or worlds that it has not."""
    spread = not {*flag.axes} <= {*val.axes} or (flag.worlds and not val.worlds)
    return bool(spread) and jnp.size(val.array) > identities.SPREAD
