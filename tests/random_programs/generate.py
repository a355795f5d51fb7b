"""Drawing a random program: the same one for the same seed."""

import numpy as np

from . import oracle
from .blocks import Blocks
from .bounds import bound
from .statements import Scope
from .syntax import Block, Body, Draw, Program, Type, outs

PARAMETERS = 3
LARGEST = 300.0
"""The most that the size of an expectation may be, lest single precision lose its digits."""


def program(seed: int) -> Program:
    """The program of a seed, whose expectation is finite and a sum of not too many states."""
    for attempt in range(1000):
        found = _drawn(Blocks(np.random.default_rng([seed, attempt])))
        try:
            size = oracle.exact(found).size
        except oracle.TooManyStates:
            continue
        if np.isfinite(size) and size < LARGEST:
            return found
    raise AssertionError(f"no program was found for seed {seed}")


def _drawn(draw: Blocks) -> Program:
    scope: Scope = [("theta", Type((PARAMETERS,)))]
    statements: list = []
    for i in range(PARAMETERS):
        draw.let(statements, scope, "element", ["theta"], (i,))
    if draw.coin(0.1):
        bound(draw, statements, scope)
    draw.grow(statements, scope, draw.count(3, 8), depth=3)
    if not any(isinstance(s, Draw | Block) for s in statements):
        draw.draw(statements, scope)
    result = _result(draw, statements, scope)
    theta = tuple(round(float(x), 2) for x in draw.rng.uniform(-0.9, 0.9, PARAMETERS))
    return Program(Body(("theta",), tuple(statements), (result,)), theta)


def _result(draw: Blocks, statements: list, scope: Scope) -> str:
    """A real scalar made of several of the values that depend on a choice."""
    made = [name for s in statements for name, _ in outs(s)]
    random = [name for name in made if name in draw.random] or made[-1:]
    kept = [random[i] for i in sorted(draw.rng.permutation(len(random))[:4])]
    total, *others = (draw.scalar(statements, scope, name) for name in kept)
    for other in others:
        total = draw.let(statements, scope, draw.pick(["add", "add", "multiply"]), [total, other])
    return total
