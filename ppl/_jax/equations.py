"""Equations of a jaxpr: what kind they are, their bodies, and how to run one again.

Names and parameters differ between releases of JAX; here they are the same in all.
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import jax
from jax._src import core, source_info_util

from .primitives import SampleEffect

_ALIASES = {
    "pjit": "jit",
    "closed_call": "jit",
    "core_call": "jit",
    "remat2": "checkpoint",
    "remat": "checkpoint",
    "custom_vjp_call_jaxpr": "custom_vjp_call",
}


def kind(eqn: Any) -> str:
    """What sort of equation it is: its primitive's name, the same in every supported JAX."""
    name = str(eqn.primitive.name)
    return _ALIASES.get(name, name)


def has_sites(thing: Any) -> bool:
    """Whether an equation or a jaxpr contains a site.

    An equation has the effects of its bodies, but for a few (`reduce`) that JAX lets hide them.
    """
    if any(isinstance(effect, SampleEffect) for effect in thing.effects):
        return True
    inside = getattr(thing, "params", {}).values()
    return any(has_sites(opened(p)[0]) for p in inside if hasattr(opened(p)[0], "eqns"))


def live(jaxpr: Any) -> list[Any]:
    """The equations of a jaxpr that its outputs read, and those with effects (sites)."""
    read = {atom for atom in jaxpr.outvars if not is_literal(atom)}
    kept = []
    for eqn in reversed(jaxpr.eqns):
        if eqn.effects or has_sites(eqn) or any(v in read for v in eqn.outvars):
            kept.append(eqn)
            read |= {atom for atom in eqn.invars if not is_literal(atom)}
    return kept[::-1]


def is_literal(atom: Any) -> bool:
    """Whether an operand of an equation is a literal."""
    return isinstance(atom, core.Literal)


def literal(atom: Any) -> jax.Array:
    """The value of a literal as an array; JAX holds some as Python scalars."""
    return jax.numpy.asarray(atom.val, atom.aval.dtype)


def opened(jaxpr: Any) -> tuple[Any, Sequence[Any]]:
    """A closed or open jaxpr as the open one and its constants."""
    return getattr(jaxpr, "jaxpr", jaxpr), getattr(jaxpr, "consts", ())


def body_of(eqn: Any) -> tuple[Any, Sequence[Any]]:
    """The body of a call-like or scan equation, opened."""
    params = eqn.params
    for name in ("jaxpr", "call_jaxpr", "fun_jaxpr"):
        if name in params:
            return opened(params[name])
    raise KeyError(f"{eqn.primitive} has no body")


def bodies(eqn: Any) -> list[Any]:
    """The open jaxprs inside an equation."""
    params = eqn.params
    names = ("jaxpr", "call_jaxpr", "fun_jaxpr", "cond_jaxpr", "body_jaxpr")
    found = [params[name] for name in names if name in params]
    return [opened(body)[0] for body in (*found, *params.get("branches", ()))]


REPLACEABLE = frozenset(("jit", "checkpoint", "scan", "cond"))
"""Equations whose bodies `with_bodies` replaces."""


def with_bodies(eqn: Any, run_of: Callable) -> Any:
    """The equation with other bodies: `run_of(jaxpr, consts)` is a function that does the same."""

    def again(body):
        jaxpr, consts = opened(body)
        structs = [
            jax.ShapeDtypeStruct(v.aval.shape, v.aval.dtype, weak_type=v.aval.weak_type)
            for v in jaxpr.invars
        ]
        closed = jax.make_jaxpr(run_of(jaxpr, consts))(*structs)
        return closed if hasattr(body, "jaxpr") else closed.jaxpr

    params = dict(eqn.params)
    if "branches" in params:
        params["branches"] = tuple(map(again, params["branches"]))
    else:
        params["jaxpr"] = again(params["jaxpr"])
    return eqn.replace(params=params)


def scan_split(eqn: Any, operands: Sequence[Any]) -> tuple[list, list, list]:
    """The operands of a `scan` equation as constants, initial carry and scanned inputs."""
    params = eqn.params
    if "num_consts" in params:
        consts, carry = params["num_consts"], params["num_carry"]
    else:
        consts, carry, _ = (len(part) for part in params["ft_in"].unpack())
    return (
        list(operands[:consts]),
        list(operands[consts : consts + carry]),
        list(operands[consts + carry :]),
    )


def bind(eqn: Any, operands: Sequence[Any]) -> list[Any]:
    """Runs one equation on new operands, keeping custom derivative rules and source lines."""
    params = eqn.primitive.get_bind_params(eqn.params)
    if isinstance(params, tuple):
        subfuns, params = params
        operands = [*subfuns, *operands]
    info = eqn.source_info
    stack = source_info_util.current_name_stack() + info.name_stack
    with ExitStack() as context:
        context.enter_context(source_info_util.user_context(info.traceback, name_stack=stack))
        context.enter_context(eqn.ctx.manager)
        out = eqn.primitive.bind(*operands, **params)
    return list(out) if eqn.primitive.multiple_results else [out]
