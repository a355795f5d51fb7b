"""The text of a program in Python: what is run, and what a failure prints."""

import textwrap
from typing import Any

from .families import TABLE as FAMILIES
from .operations import TABLE as OPERATIONS
from .syntax import Block, Body, Control, Draw, Let, Program

HEADER = """\
import jax, jax.numpy as jnp, numpyro.distributions as dist, ppl
from ppl import sample
from stdlib.distributions import FloatBernoulli
from stdlib.estimators import *
from stdlib.objectives import elbo, iwelbo, renyi
from tests.random_programs.estimators import Signed, Split, guess

"""


def text(program: Program) -> str:
    """A module with the function `objective` and its parameters `THETA`."""
    (result,) = program.body.results
    lines = [*map(_statement, program.body.statements), f"return {result}"]
    theta = f"THETA = jnp.array({list(program.theta)})"
    return f"{HEADER}{_function('objective', 'theta', lines)}\n\n\n{theta}\n"


def _function(name: str, params: str, lines: list[str]) -> str:
    return f"def {name}({params}):\n" + textwrap.indent("\n".join(lines), "    ")


def _tuple(names: Any) -> str:
    return "(" + "".join(f"{name}, " for name in names) + ")"


def _body(name: str, body: Body) -> str:
    lines = [*map(_statement, body.statements), f"return {_tuple(body.results)}"]
    return _function(name, ", ".join(body.params), lines)


def _statement(statement: Any) -> str:
    match statement:
        case Let():
            call = OPERATIONS[statement.op].text.format(*statement.args, s=statement.static)
            return f"{statement.out} = {call}"
        case Draw():
            family = FAMILIES[statement.family].text.format(*statement.args)
            last = statement.estimator if statement.obs is None else f"obs={statement.obs}"
            inside = ", ".join(filter(None, [f'"{statement.address}"', family, last]))
            return f"{statement.out} = sample({inside})"
        case Control():
            return f'ppl.control_variate("{statement.address}", {statement.value})'
    return _block(statement)


def _block(block: Block) -> str:
    names = [f"f_{block.outs[0]}_{i}" for i in range(len(block.bodies))]
    functions = [_body(name, body) for name, body in zip(names, block.bodies, strict=True)]
    called = CALLS[block.kind](block, *names)
    return "\n".join([*functions, f"{_tuple(block.outs)} = {called}"])


def _call(transformation: str) -> Any:
    return lambda block, f: f"{transformation}({f})({', '.join(block.args)})"


def _scan(block: Block, f: str) -> str:
    """The function takes and returns what is carried first."""
    length, carried = block.static
    carry, xs = _tuple(block.args[:carried]), _tuple(block.args[carried:])
    step = f"lambda c, x: (lambda out: (out[:{carried}], out[{carried}:]))({f}(*c, *x[0], x[1]))"
    scan = f"jax.lax.scan({step}, {carry}, ({xs}, jnp.arange({length})))"
    return f"(lambda c, ys: (*c, *ys))(*{scan})"


def _while(block: Block, f: str) -> str:
    (limit,) = block.static
    start = f"(0, jnp.asarray(1), {', '.join(block.args)})"
    step = f"lambda c: (c[0] + 1, *{f}(*c[2:]))"
    return f"jax.lax.while_loop(lambda c: (c[0] < {limit}) & (c[1] > 0), {step}, {start})[2:]"


def _simulate(block: Block, f: str) -> str:
    (factor,) = block.static
    program = f if factor is None else f"ppl.scale({f}, {factor})"
    program = f"ppl.mask({program}, {block.args[0]} > 0)" if block.args else program
    return f"(lambda q: (*q.value, q.log_density))(ppl.simulate({program}))"


def _bound(block: Block, model: str, guide: str) -> str:
    return f"({block.static[0].format(f'{model}, {guide}, {{}}')},)"


CALLS = {
    "jit": _call("jax.jit"),
    "checkpoint": _call("jax.checkpoint"),
    "vmap": lambda b, f: f"jax.vmap({f})({', '.join([*b.args, f'jnp.arange({b.static[0]})'])})",
    "map": lambda b, f: (
        f"jax.lax.map(lambda x: {f}(*x), {_tuple([*b.args, f'jnp.arange({b.static[0]})'])})"
    ),
    "fori": lambda b, f: (
        f"jax.lax.fori_loop(0, {b.static[0]}, lambda i, c: {f}(*c, i), {_tuple(b.args)})"
    ),
    "scan": _scan,
    "while": _while,
    "cond": lambda b, f, g: f"jax.lax.cond({b.args[0]} > 0, {f}, {g})",
    "switch": lambda b, *fs: f"jax.lax.switch({b.args[0]}, [{', '.join(fs)}])",
    "simulate": _simulate,
    "bound": _bound,
}
