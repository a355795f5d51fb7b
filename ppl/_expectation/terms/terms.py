"""Additive cost terms: sums are kept apart by what their addends depend on, lane by lane."""

from collections.abc import Collection, Iterable, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp

from ..interpret.context import Context
from ..values.lanes import Deps, deps_of, joined, moved, renumbered
from ..values.value import Val, each_array, event_shape, lifted

_PENDING = 1_000
"""Dimensions of a sum that is still to be taken, numbered apart while an equation is applied."""


class Term(NamedTuple):
    """A value to be summed over its first `pending` dimensions, where lanes are kept apart."""

    val: Val
    pending: int = 0


class Terms:
    """A sum of terms; those that depend on the same sites in the same way are merged."""

    def __init__(self, terms: Iterable[Term] = ()):
        self._terms: dict[Any, Term] = {}
        for term in terms:
            self.add(term)

    def add(self, term: Term) -> None:
        """Adds one term."""
        term = canonical(term)
        val = term.val
        segments = val.worlds.segments if val.worlds else ()
        lanes = frozenset(val.lanes.items())
        key = (val.sites, val.axes, lanes, term.pending, event_shape(val)[: term.pending], segments)
        old = self._terms.get(key)
        self._terms[key] = term if old is None else term._replace(val=_plus(old.val, val))

    def __iter__(self):
        return iter(self._terms.values())

    def __len__(self):
        return len(self._terms)


Operand = Val | Terms


def _plus(a: Val, b: Val) -> Val:
    (total,) = lifted(lambda x, y: [x + y], [a, b])
    return total._replace(sites=a.sites, lanes=a.lanes)


def terms_of(operand: Operand) -> list[Term]:
    """The terms of an operand."""
    return [Term(operand)] if isinstance(operand, Val) else list(operand)


def addends(operand: Operand) -> list[Val]:
    """The values of the terms of an operand."""
    return [term.val for term in terms_of(operand)]


def scalar(value: Any) -> Operand:
    """An operand as it is, or a literal as a value that depends on no site."""
    return value if isinstance(value, Val | Terms) else Val(value)


def aligned_dims(val: Val) -> dict[int, tuple[int, int]]:
    """The dimensions that keep lanes apart: the first site and lane dimension of each."""
    found: dict[int, tuple[int, int]] = {}
    for site in sorted(val.lanes):
        for lane, along in enumerate(val.lanes[site]):
            if along is not None:
                found.setdefault(along.dim, (site, lane))
    return found


def canonical(term: Term) -> Term:
    """The term with its pending dimensions in order; those that keep nothing apart are summed."""
    val, pending = term
    known = aligned_dims(val)
    order = sorted((known[d], d) for d in range(pending) if d in known)
    kept = [d for _, d in order]
    if kept == list(range(pending)):
        return term
    rest = range(pending, len(event_shape(val)))
    return Term(rearranged(val, (*kept, *rest)), len(kept))


def rearranged(val: Val, order: Sequence[int]) -> Val:
    """The value with its dimensions in this order, summed over those that are not in it."""

    def each(array, axes):
        lead = len(axes)
        now = sorted(order)
        gone = tuple(d for d in range(lead, array.ndim) if d - lead not in now)
        array = jnp.sum(array, axis=gone)
        return jnp.transpose(array, (*range(lead), *(lead + now.index(d) for d in order)))

    new = {d: i for i, d in enumerate(order)}
    return each_array(each, val)._replace(lanes=moved(deps_of(val), new.get).lanes)


def hidden(deps: Deps, pending: int) -> Deps:
    """A term's provenance with its pending dimensions put out of an equation's reach."""
    if not (deps.lanes and pending):
        return deps
    return moved(deps, lambda d: d - pending if d >= pending else -_PENDING - d)


def shown(deps: Deps, pending: int) -> Deps:
    """The inverse of `hidden`."""
    if not (deps.lanes and pending):
        return deps
    return renumbered(
        deps, lambda d: d + pending if d >= 0 else (-_PENDING - d if d <= -_PENDING else d)
    )


def collapse(operand: Operand, context: Context) -> Val:
    """The sum as one value, over the particle axes of all its terms."""
    if isinstance(operand, Val):
        return operand
    return added([_summed(term, context) for term in operand], context)


def added(vals: Sequence[Val], context: Context) -> Val:
    """The sum of some values, over the particle axes of all."""
    total, *rest = vals
    for val in rest:
        (total,) = context.apply(lambda a, b: [a + b], [total, val], lambda deps: [joined(deps)])
    return total


def _summed(term: Term, context: Context) -> Val:
    val, pending = term
    if not pending:
        return val
    (val,) = context.apply(
        lambda x: [jnp.sum(x, axis=tuple(range(pending)))],
        [val],
        lambda deps: [moved(dep, lambda d: d - pending if d >= pending else None) for dep in deps],
    )
    return val


def forgotten(term: Term, numbers: Collection[int]) -> Term:
    """The term without the sites that have been summed out."""
    val, bits = term.val, sum(1 << number for number in numbers)
    lanes = {site: r for site, r in val.lanes.items() if site not in numbers}
    return term._replace(val=val._replace(sites=val.sites & ~bits, lanes=lanes))


def body_values(
    context: Context, jaxpr: Any, consts: Sequence[Any], args: Sequence[Val], keys: Any
) -> list[Val]:
    """The outputs of a body, as single values."""
    outs = context.evaluate(jaxpr, consts, args, keys, context)
    return [collapse(out, context) for out in outs]
