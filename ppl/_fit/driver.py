"""The host's side of training: how many steps to ask for, and what to do between the calls."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from .loop import Inputs, Loop, Moment
from .progress import Bar
from .step import Measured

CAPACITY = 2**15  # the most steps that one call may take
PATIENCE = 0.1  # seconds that one call should take


class Run(NamedTuple):
    """What training gave: the moment after step `done - 1`, and a row for each step.

    `nonfinite` is the step that ended training by not being finite, if one did.
    """

    moment: Moment
    done: Any
    rows: Measured
    skipped: Any = 0
    seconds: float = 0.0
    interrupted: bool = False
    nonfinite: int | None = None


def train(loop: Loop, inputs: Inputs, moment: Moment, steps: range, bar: Bar) -> Run:
    """Takes steps until all are done, one is not finite (and not skipped), or Ctrl-C.

    The device is waited for once a call, which is as many steps as take a tenth of a second. A
    Ctrl-C gives up the call under way; it is raised again where there is nothing to return yet.
    """
    program = loop.compiled(CAPACITY)
    call(program, inputs, moment, steps.start, steps.start)  # compiles, and takes no step
    bar.start()
    loop.keep(CAPACITY, program)
    reached, rows, size = (moment, steps.start), [], 1
    seconds, interrupted, nonfinite = 0.0, False, None
    try:
        while reached[1] < steps.stop and nonfinite is None:
            moment, first = reached
            end = min(first + size, first + CAPACITY, steps.stop)
            began = time.perf_counter()
            after, new = call(program, inputs, moment, first, end)
            if not (loop.update.skip or finite(new).all()):
                after, new = rewind(program, inputs, moment, first, new)
                nonfinite = end = first + len(new.objective)
            elapsed = time.perf_counter() - began
            size, seconds = next_size(end - first, elapsed), seconds + elapsed
            rows.append(new)
            reached = after, end  # one assignment, which a Ctrl-C cannot part
            bar.update(new.objective)
    except KeyboardInterrupt:
        if reached[1] == steps.start:
            raise
        interrupted = True
    history = jax.tree.map(lambda *xs: np.concatenate(xs)[: reached[1] - steps.start], *rows)
    skipped = int((~finite(history)).sum())
    return Run(*reached, history, skipped, seconds, interrupted, nonfinite)


def next_size(steps: int, seconds: float) -> int:
    """How many steps to ask for, after this many took so long."""
    return max(1, min(8 * steps, int(steps * PATIENCE / seconds)))


def call(
    program: Callable, inputs: Inputs, moment: Moment, first: int, end: int
) -> tuple[Moment, Measured]:
    """Takes some steps and waits for them; the rows measured are copied to the host."""
    moment, rows = program(inputs, moment, np.int32(first), np.int32(end))
    return moment, jax.tree.map(lambda x: np.array(np.asarray(x)[: end - first]), rows)


def rewind(
    program: Callable, inputs: Inputs, moment: Moment, first: int, rows: Measured
) -> tuple[Moment, Measured]:
    """Takes steps once more, up to the one that was not finite."""
    while not finite(rows).all():  # a device may not repeat itself to the last bit
        bad = int(np.argmin(finite(rows)))
        after, rows = call(program, inputs, moment, first, first + bad)
    return after, rows


def finite(rows: Measured) -> np.ndarray:
    """Which rows of history are finite."""
    return np.isfinite(rows.objective) & np.isfinite(rows.grad_norm)


def train_in_trace(loop: Loop, inputs: Inputs, moment: Moment, first: Any, steps: int) -> Run:
    """All steps in one call, where values are tracers and the host can decide nothing.

    A step that is not finite and not skipped freezes training; the rows from it on are NaN.
    """
    loop = loop._replace(update=loop.update._replace(freeze=not loop.update.skip))
    first = jnp.asarray(first, jnp.int32)
    program = loop.compiled(steps)
    moment, rows = program(inputs, moment, first, first + steps)
    loop.keep(steps, program)
    finite = (jnp.isfinite(rows.objective) & jnp.isfinite(rows.grad_norm)).sum()
    if loop.update.skip:
        return Run(moment, first + steps, rows, steps - finite)
    return Run(moment, first + finite, rows)


def has_tracers(tree: Any) -> bool:
    """Whether a tree has leaves that stand for values not known yet."""
    return any(isinstance(x, Tracer) for x in jax.tree.leaves(tree))
