"""Judging an estimate against the exact answer."""

import linecache
import traceback
import warnings
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import ppl

from . import oracle
from .families import EXACT
from .invariant import watched
from .syntax import Block, Draw, Program, every
from .text import text

QUICK = {"xla_backend_optimization_level": 0, "xla_cpu_use_fusion_emitters": False}
SAMPLES, MORE = 10_000, 100_000
CHUNK = 2_000
TOLERANCE = 2e-4

RIGHT, REFUSED, WRONG, INTERNAL = "right", "refused", "wrong", "internal error"
RAISED = (REFUSED, INTERNAL)


class Verdict(NamedTuple):
    """An outcome, and what there is to say of it: the name of an error, or the numbers."""

    outcome: str
    detail: str = ""

    @property
    def name(self) -> str:
        """The outcome, with the name of the error."""
        error = self.detail.split(":")[0] if self.outcome in RAISED else ""
        return f"{self.outcome} {error}".strip()


def judge(program: Program, forward: bool = False) -> Verdict:
    """Whether the estimate of a program has the right mean, and the right mean gradient."""
    objective, theta = compiled(program)
    answer = oracle.exact(program)
    looping = any(isinstance(s, Block) and s.kind == "while" for s in every(program.body))
    forward = forward or looping
    try:
        with warnings.catch_warnings(), watched():
            warnings.simplefilter("error")
            return _compared(objective, theta, answer, forward, is_exact(program))
    except ppl.errors.ProgramError as error:
        return Verdict(REFUSED, f"{type(error).__name__}: {error}")
    except Exception as error:
        frames = traceback.format_tb(error.__traceback__)[-3:]
        return Verdict(INTERNAL, f"{type(error).__name__}: {error}\n{''.join(frames)}")


def compiled(program: Program) -> tuple[Any, Any]:
    """The objective and its parameters, from the program's text."""
    lines, name = text(program), "<random program>"
    linecache.cache[name] = (len(lines), None, lines.splitlines(True), name)
    module: dict = {}
    exec(compile(lines, name, "exec"), module)
    return module["objective"], module["THETA"]


def is_exact(program: Program) -> bool:
    """Whether nothing is drawn."""
    sites = [s for s in every(program.body) if isinstance(s, Draw) and s.obs is None]
    bounds = [s for s in every(program.body) if isinstance(s, Block) and s.kind == "bound"]
    models = {s for b in bounds for s in every(b.bodies[0])}
    return all(s.estimator in EXACT or s in models for s in sites)


def _compared(objective: Any, theta: Any, answer: Any, forward: bool, exact: bool) -> Verdict:
    estimate = ppl.expectation(objective)
    direction = jnp.asarray(np.linspace(0.4, 1.0, len(theta)), theta.dtype)
    wanted = np.array([answer.value, *answer.gradient])
    along = np.array([answer.value, answer.gradient @ np.asarray(direction, float)])

    def reverse(key):
        value, slope = jax.value_and_grad(lambda t: estimate(key, t))(theta)
        return jnp.concatenate([value[None], slope])

    def pushed(key):
        return jnp.stack(jax.jvp(lambda t: estimate(key, t), (theta,), (direction,)))

    if exact:
        run = lambda key: jnp.concatenate([reverse(key), pushed(key)])
        found = np.asarray(_quick(run)(jax.random.key(0)), float)
        return _within(found, np.concatenate([wanted, along]), answer.size)
    return _sampled(pushed if forward else reverse, along if forward else wanted, answer.size)


def _quick(fn: Any) -> Any:
    return jax.jit(fn, compiler_options=QUICK)


def _within(found: Any, wanted: Any, size: float) -> Verdict:
    wrong = not np.all(np.abs(found - wanted) <= TOLERANCE * (1 + size))
    return Verdict(WRONG if wrong else RIGHT, f"{found.tolist()} for {wanted.tolist()}")


def _sampled(run: Any, wanted: Any, size: float) -> Verdict:
    """By z-scores; what looks wrong is looked at again, with more samples."""

    @_quick
    def chunk(key):
        errors = jax.vmap(run)(jax.random.split(key, CHUNK)) - wanted
        return jnp.mean(errors, 0), jnp.mean(jnp.square(errors), 0)

    for count, limit in ((SAMPLES, 4.0), (MORE, 5.0), (4 * MORE, 5.0)):
        rounds = -(-count // CHUNK)
        moments = [chunk(jax.random.key(count + i)) for i in range(rounds)]
        error, square = (np.mean(np.asarray(x, float), 0) for x in zip(*moments, strict=True))
        spread = np.sqrt(np.maximum(square - error**2, 0) / (rounds * CHUNK))
        if np.all(np.abs(error) <= limit * spread + TOLERANCE * (1 + size)):
            return Verdict(RIGHT)
    return Verdict(WRONG, f"off by {error.tolist()}, s.e. {spread.tolist()}, of {wanted.tolist()}")
