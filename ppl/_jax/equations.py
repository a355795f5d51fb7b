"""Equations of a jaxpr: whether they contain sites, which are read, and how to run one again."""

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple

import jax
from jax._src import core, source_info_util
from jax.interpreters import partial_eval

from .primitives import SampleEffect


def kind(eqn: Any) -> str:
    """What sort of equation it is: its primitive's name."""
    return eqn.primitive.name


def has_sites(thing: Any) -> bool:
    """Whether an equation or a jaxpr contains a site.

    An equation has the effects of its bodies, but for a few (`reduce`) that JAX lets hide them.
    """
    if thing.effects and any(isinstance(effect, SampleEffect) for effect in thing.effects):
        return True
    inside = getattr(thing, "params", {}).values()
    return any(has_sites(opened(p).jaxpr) for p in inside if is_jaxpr(p))


def live(jaxpr: Any) -> list[Any]:
    """The equations of a jaxpr that its outputs read, and those with effects (sites)."""
    read = {atom for atom in jaxpr.outvars if not is_literal(atom)}
    kept = []
    for eqn in reversed(jaxpr.eqns):
        if any(v in read for v in eqn.outvars) or eqn.effects or has_sites(eqn):
            kept.append(eqn)
            read |= {atom for atom in eqn.invars if not is_literal(atom)}
    return kept[::-1]


def pruned(jaxpr: Any) -> Any:
    """A jaxpr without what its outputs do not read, in loops and branches too; sites stay."""
    if any(has_sites(eqn) and not eqn.effects for eqn in jaxpr.eqns):
        return jaxpr  # JAX does not see these sites, and would leave them out
    return with_outputs(jaxpr, [True] * len(jaxpr.outvars))


def with_outputs(jaxpr: Any, wanted: Sequence[bool]) -> Any:
    """A jaxpr with some of its outputs alone, and without what these do not read."""
    return partial_eval.dce_jaxpr(jaxpr, list(wanted), instantiate=True)[0]


def is_literal(atom: Any) -> bool:
    """Whether an operand of an equation is a literal."""
    return isinstance(atom, core.Literal)


def as_it_stands(atom: Any) -> Any:
    """The value of a literal as the jaxpr holds it."""
    return atom.val


def literal(atom: Any) -> jax.Array:
    """The value of a literal as an array; JAX holds some as Python scalars."""
    return jax.numpy.asarray(atom.val, atom.aval.dtype)


class Body(NamedTuple):
    """An open jaxpr, and its constants."""

    jaxpr: Any
    consts: Sequence[Any]


def opened(jaxpr: Any) -> Body:
    """A closed or open jaxpr as the open one and its constants."""
    return Body(getattr(jaxpr, "jaxpr", jaxpr), getattr(jaxpr, "consts", ()))


def is_jaxpr(param: Any) -> bool:
    """Whether a parameter of an equation is a jaxpr, open or closed."""
    return hasattr(param, "eqns") or hasattr(param, "jaxpr")


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
