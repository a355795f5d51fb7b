"""Whether a sampler is a continuous function of its parameters, read off its own jaxpr."""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from .._jax import equations
from .._jax.leaves import merge, of_form
from .dataflow import flow, merged

_STEPS = {"ceil", "floor", "rem", "round"}
_PARAMETER, _KEY, _COMPARED, _CHOICE = "parameter", "key", "compared", "choice"
_SIGN = "sign"


def chooses_by_noise(distribution: Any) -> bool:
    """Whether draws depend on a comparison of noise with parameters, as a mixture's do.

    The choice of a mixture's component jumps as the weights move, and the derivative of the draw
    does not see it. `has_rsample` may say otherwise.
    """
    return bool({_CHOICE, _SIGN} & _facts_of(distribution))


def is_point(distribution: Any) -> bool:
    """Whether draws depend on parameters and on no noise."""
    facts = _facts_of(distribution)
    return _PARAMETER in facts and not _noises(facts)


def _facts_of(distribution: Any) -> frozenset:
    try:
        return of_form(_draw_facts, distribution)
    except (AttributeError, NotImplementedError):  # no sampler
        return frozenset()


@functools.lru_cache(maxsize=1024)
def _draw_facts(structs: tuple, static: tuple, treedef: Any) -> frozenset:
    def draw(key, leaves):
        return merge(leaves, static, treedef).sample(key)

    key = jax.eval_shape(lambda: jax.random.key(0))
    jaxpr = jax.make_jaxpr(draw)(key, list(structs)).jaxpr
    noise, parameter = frozenset({_KEY}), frozenset({_PARAMETER})
    ins = [noise, *(parameter if _inexact(v) else frozenset() for v in jaxpr.invars[1:])]
    return merged(flow(jaxpr, ins, _transfer))


def _transfer(eqn, ins, within, control):
    if equations.kind(eqn) == "select_n" and not _picks(ins[0], merged(ins[1:])):
        ins = ins[1:]  # pieces of one function, as a numerical library writes it
    if equations.kind(eqn) == "mul" and _noises(ins[0]) & _noises(ins[1]):
        ins = [facts - {_SIGN} for facts in ins]
    facts = merged([control, *ins])
    return [_of_result(eqn, out, facts) for out in eqn.outvars]


def _picks(chosen: frozenset, cases: frozenset) -> bool:
    """Whether a choice is one between values that are not made of the noise that is compared."""
    return _CHOICE in chosen or (_COMPARED in chosen and not _noises(chosen) & _noises(cases))


def _of_result(eqn: Any, out: Any, facts: frozenset) -> frozenset:
    """What a value is made from: an integer of noise and parameters is a choice."""
    kind = equations.kind(eqn)
    keyed = jnp.issubdtype(out.aval.dtype, jax.dtypes.prng_key) or kind == "random_unwrap"
    if _KEY in facts and not keyed:
        facts = facts - {_KEY} | {id(eqn)}
    if _PARAMETER not in facts or not _noises(facts):
        return facts
    if out.aval.dtype == bool:
        return facts | {_COMPARED}
    if kind == "sign":
        return facts | {_SIGN}
    stepped = kind in _STEPS or not _inexact(out)
    return facts | {_CHOICE} if _COMPARED in facts or stepped else facts


def _noises(facts: frozenset) -> set[int]:
    """The noises that something is made from: each is known by the equation that draws it."""
    return {fact for fact in facts if isinstance(fact, int)}


def _inexact(atom: Any) -> bool:
    return jnp.issubdtype(atom.aval.dtype, jnp.inexact)
