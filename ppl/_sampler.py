"""Whether a sampler is a continuous function of its parameters, read off its own jaxpr."""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from . import _internals as internals
from ._dataflow import flow, merged
from ._site import merge, partition

_PARAMETER, _NOISE, _COMPARED, _CHOICE = "parameter", "noise", "compared", "choice"


def chooses_by_noise(distribution: Any) -> bool:
    """Whether draws depend on a comparison of noise with parameters, as a mixture's do.

    The choice of a mixture's component jumps as the weights move, and the derivative of the draw
    does not see it. `has_rsample` may say otherwise.
    """
    return _CHOICE in _facts_of(distribution)


def is_point(distribution: Any) -> bool:
    """Whether draws depend on parameters and on no noise."""
    facts = _facts_of(distribution)
    return _PARAMETER in facts and _NOISE not in facts


def _facts_of(distribution: Any) -> frozenset:
    leaves, static, treedef = partition(distribution)
    structs = tuple(jax.ShapeDtypeStruct(x.shape, x.dtype) for x in leaves)
    try:
        return _draw_facts(structs, static, treedef)
    except TypeError:  # static parts that cannot be hashed
        return _draw_facts.__wrapped__(structs, static, treedef)


@functools.lru_cache(maxsize=1024)
def _draw_facts(structs: tuple, static: tuple, treedef: Any) -> frozenset:
    def draw(key, leaves):
        return merge(leaves, static, treedef).sample(key)

    key = jax.eval_shape(lambda: jax.random.key(0))
    jaxpr = jax.make_jaxpr(draw)(key, list(structs)).jaxpr
    noise, parameter = frozenset({_NOISE}), frozenset({_PARAMETER})
    ins = [noise, *(parameter if _inexact(v) else frozenset() for v in jaxpr.invars[1:])]
    return merged(flow(jaxpr, ins, _transfer))


def _transfer(eqn, ins, within, control):
    if internals.kind(eqn) == "select_n" and _CHOICE not in ins[0]:
        ins = ins[1:]  # pieces of one function, as a numerical library writes it
    facts = merged([control, *ins])
    both = facts >= {_PARAMETER, _NOISE}
    return [facts | ({_fact(v, facts)} if both else set()) for v in eqn.outvars]


def _fact(out: Any, facts: frozenset) -> str:
    """What a value is, beside what it is made from: an integer is a choice, so is a cast bool."""
    if out.aval.dtype == bool:
        return _COMPARED
    return _CHOICE if _COMPARED in facts or not _inexact(out) else _NOISE


def _inexact(atom: Any) -> bool:
    return jnp.issubdtype(atom.aval.dtype, jnp.inexact)
