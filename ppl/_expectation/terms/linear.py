"""The linear tail of an objective: the equations through which its additive terms pass apart."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from ..._analysis.dataflow import readers
from ..._ir.estimator import Reparameterized, drawn_at
from ..._jax import equations
from ..interpret.context import Context
from ..values.lanes import transfer
from ..values.value import Val, each_array, event_shape, union_sites
from ..values.vanishing import emitted
from .terms import (
    Operand,
    Term,
    Terms,
    addends,
    aligned_dims,
    collapse,
    hidden,
    rearranged,
    shown,
    terms_of,
)


def _sum(eqn, operands, context):
    shape, terms = eqn.outvars[0].aval.shape, Terms()
    for operand, negative in zip(operands, (False, equations.kind(eqn) == "sub"), strict=True):
        for term in terms_of(operand):
            term = _full(term, shape)
            if negative:
                term = term._replace(val=each_array(lambda x, _: jnp.negative(x), term.val))
            terms.add(term)
    return terms


def _each(eqn, operands, context):
    (operand,) = operands
    return Terms(_bound(eqn, [term], context) for term in terms_of(operand))


def _reduce_sum(eqn, operands, context):
    """Sums over what is not kept apart; the rest of the sum is left pending."""
    (operand,), terms = operands, Terms()
    for val, pending in terms_of(operand):
        apart = aligned_dims(val)
        axes = [pending + int(d) for d in eqn.params["axes"]]
        kept = [d for d in axes if d in apart]
        rest = [d for d in range(len(event_shape(val))) if d not in axes]
        order = [*rest[:pending], *kept, *rest[pending:]]
        terms.add(Term(rearranged(val, order), pending + len(kept)))
    return terms


def _product(eqn, operands, context):
    left, right = operands
    if not _random(right):
        factor = collapse(right, context)
        return Terms(_bound(eqn, [term, factor], context) for term in terms_of(left))
    if not _random(left) and equations.kind(eqn) == "mul":
        factor = collapse(left, context)
        return Terms(_bound(eqn, [factor, term], context) for term in terms_of(right))
    vals = [collapse(left, context), collapse(right, context)]
    return Terms([_bound(eqn, vals, context)])


def _full(term: Term, shape: tuple[Any, ...]) -> Term:
    """A term that JAX would broadcast (a scalar, dimensions of one), in the shape of the sum."""
    own = event_shape(term.val)[term.pending :]
    if own == shape:
        return term

    def filled(array, axes):
        lead = jnp.shape(array)[: len(axes) + term.pending]
        array = jnp.reshape(array, (*lead, *(1 for _ in shape[len(own) :]), *own))
        return jnp.broadcast_to(array, (*lead, *shape))

    return term._replace(val=each_array(filled, term.val))


def _random(operand: Operand) -> bool:
    return union_sites(addends(operand)) != 0


def _bound(eqn, operands: Sequence[Term | Val], context: Context) -> Term:
    """A linear equation, mapped over the pending dimensions of the one term it has."""
    pendings = [x.pending if isinstance(x, Term) else 0 for x in operands]
    vals = [x.val if isinstance(x, Term) else x for x in operands]
    pending = max(pendings)

    def fn(*arrays):
        one = emitted(eqn, vals)
        for _ in range(pending):
            one = jax.vmap(one, in_axes=tuple(0 if p else None for p in pendings))
        return one(*arrays)

    def through(deps):
        deps = [hidden(dep, p) for dep, p in zip(deps, pendings, strict=True)]
        return [shown(dep, pending) for dep in transfer(eqn, deps)]

    return Term(context.apply(fn, vals, through, eqn)[0], pending)


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
"""Rules `(eqn, operands, context) -> terms` for equations that are linear in an operand."""


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
    random = readers(jaxpr, sources, also=_weighted)
    for eqn in reversed(jaxpr.eqns):
        name = equations.kind(eqn)
        if not any(v in found for v in eqn.outvars):
            continue
        if name == "jit":
            body, _ = equations.body_of(eqn)
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


def _weighted(eqn: Any) -> bool:
    if not equations.has_sites(eqn):
        return False
    if equations.kind(eqn) != "sample":
        return True
    drawn = drawn_at(eqn)
    return drawn is not None and not isinstance(drawn[0], Reparameterized)
