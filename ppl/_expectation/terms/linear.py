"""The linear tail of an objective: the equations through which its additive terms pass apart."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from ..._analysis.dataflow import readers
from ..._ir.estimator import Reparameterized, drawn_at
from ..._jax import equations
from ..._jax.control_flow import Call, form
from ..interpret.evaluation import Evaluation
from ..values.lanes import transfer
from ..values.value import Value, each_array, event_shape, union_sites
from ..values.vanishing import emit, unbounded
from .terms import (
    Operand,
    Term,
    Terms,
    addends,
    aligned_dims,
    collapse,
    hide,
    rearrange,
    terms_of,
    unhide,
)


def _sum(eqn, operands, evaluation):
    shape, terms = eqn.outvars[0].aval.shape, Terms()
    for operand, negative in zip(operands, (False, equations.kind(eqn) == "sub"), strict=True):
        for term in terms_of(operand):
            term = _full(term, shape)
            if negative:
                term = term._replace(val=each_array(lambda x, _: jnp.negative(x), term.val))
            terms.add(term)
    return terms


def _each(eqn, operands, evaluation):
    (operand,) = operands
    return Terms(_bound(eqn, [term], evaluation) for term in terms_of(operand))


def _reduce_sum(eqn, operands, evaluation):
    """Sums over what is not kept apart; the rest of the sum is left to be taken."""
    (operand,), terms = operands, Terms()
    for val, lanes_to_sum in terms_of(operand):
        apart = aligned_dims(val)
        axes = [lanes_to_sum + int(d) for d in eqn.params["axes"]]
        kept = [d for d in axes if d in apart]
        rest = [d for d in range(len(event_shape(val))) if d not in axes]
        order = [*rest[:lanes_to_sum], *kept, *rest[lanes_to_sum:]]
        terms.add(Term(rearrange(val, order), lanes_to_sum + len(kept)))
    return terms


def _product(eqn, operands, evaluation):
    left, right = operands
    if not _random(right):
        factor = collapse(right, evaluation)
        return Terms(_bound(eqn, [term, factor], evaluation) for term in terms_of(left))
    if not _random(left) and equations.kind(eqn) == "mul":
        factor = collapse(left, evaluation)
        return Terms(_bound(eqn, [factor, term], evaluation) for term in terms_of(right))
    vals = [collapse(left, evaluation), collapse(right, evaluation)]
    return Terms([_bound(eqn, vals, evaluation)])


def _full(term: Term, shape: tuple[Any, ...]) -> Term:
    """A term that JAX would broadcast (a scalar, dimensions of one), in the shape of the sum."""
    own = event_shape(term.val)[term.lanes_to_sum :]
    if own == shape:
        return term

    def filled(array, axes):
        lead = jnp.shape(array)[: len(axes) + term.lanes_to_sum]
        array = jnp.reshape(array, (*lead, *(1 for _ in shape[len(own) :]), *own))
        return jnp.broadcast_to(array, (*lead, *shape))

    return term._replace(val=each_array(filled, term.val))


def _random(operand: Operand) -> bool:
    return union_sites(addends(operand)) != 0


def _bound(eqn, operands: Sequence[Term | Value], evaluation: Evaluation) -> Term:
    """A linear equation, mapped over the lanes to sum of the one term it has."""
    to_sum = [x.lanes_to_sum if isinstance(x, Term) else 0 for x in operands]
    vals = [x.val if isinstance(x, Term) else x for x in operands]
    lanes_to_sum = max(to_sum)

    def fn(*arrays):
        one = emit(eqn, vals)
        for _ in range(lanes_to_sum):
            one = jax.vmap(one, in_axes=tuple(0 if p else None for p in to_sum))
        return one(*arrays)

    def through(deps):
        deps = [hide(dep, p) for dep, p in zip(deps, to_sum, strict=True)]
        return [unhide(dep, lanes_to_sum) for dep in transfer(eqn, deps)]

    (val,), infinite = evaluation.apply(fn, vals, through, eqn), unbounded(eqn, vals)
    return Term(val._replace(unbounded=infinite), lanes_to_sum)


LINEAR: Mapping[str, Callable] = {
    "add": _sum,
    "add_any": _sum,
    "sub": _sum,
    "mul": _product,
    "div": _product,
    "neg": _each,
    "reduce_sum": _reduce_sum,
    "convert_element_type": _each,
    "broadcast_in_dim": _each,
    "reshape": _each,
    "squeeze": _each,
    "transpose": _each,
    "copy": _each,
}
"""Rules `(eqn, operands, evaluation) -> terms` for equations that are linear in an operand."""


def linear_rule(eqn: Any) -> Callable | None:
    """The rule of an equation that is linear: on integers, casts and quotients are not."""
    dtypes = [v.aval.dtype for v in (*eqn.invars, *eqn.outvars)]
    real = all(jnp.issubdtype(dtype, jnp.inexact) for dtype in dtypes)
    return LINEAR.get(equations.kind(eqn)) if real else None


def tail(jaxpr: Any, wanted: Sequence[bool], inputs: Sequence[bool]) -> set:
    """The variables of a jaxpr that reach the wanted outputs through linear equations alone.

    `inputs` says which arguments may depend on weighted sites: in a product, only the other
    factor of one that does not is worth keeping apart.
    """
    found = {v for v, w in zip(jaxpr.outvars, wanted, strict=True) if w and not _literal(v)}
    if not found:
        return found
    sources = (v for v, r in zip(jaxpr.invars, inputs, strict=True) if r)
    random = readers(jaxpr, sources, also=_weigh)
    for eqn in reversed(jaxpr.eqns):
        name = equations.kind(eqn)
        if not any(v in found for v in eqn.outvars):
            continue
        call = form(eqn)
        if isinstance(call, Call):
            body = call.body.jaxpr
            flags = [not _literal(v) and v in random for v in eqn.invars]
            inner = tail(body, [v in found for v in eqn.outvars], flags)
            pairs = zip(eqn.invars, body.invars, strict=True)
            found |= {v for v, w in pairs if w in inner and not _literal(v)}
        elif linear_rule(eqn) is _product:
            left, right = eqn.invars
            if not _literal(left) and (_literal(right) or right not in random):
                found.add(left)
            elif not _literal(right) and name == "mul" and (_literal(left) or left not in random):
                found.add(right)
        elif linear_rule(eqn) is not None:
            found |= {v for v in eqn.invars if not _literal(v)}
    return found


def _literal(atom: Any) -> bool:
    return equations.is_literal(atom)


def _weigh(eqn: Any) -> bool:
    if not equations.has_sites(eqn):
        return False
    if equations.kind(eqn) != "sample":
        return equations.kind(eqn) != "fresh_key"
    drawn = drawn_at(eqn)
    return drawn is not None and not isinstance(drawn[0], Reparameterized)
