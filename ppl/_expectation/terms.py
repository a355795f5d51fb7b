"""Additive cost terms: sums are kept apart by what their addends depend on, lane by lane."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp

from .context import Context
from .lanes import Deps, deps_of, joined, moved
from .value import Val, Worlds, axis_sizes, each_array, event_shape, spread_worlds, union_axes

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
    worlds = None
    if a.worlds and b.worlds:
        both = [Val(w.array[0], w.axes) for w in (a.worlds, b.worlds)]
        axes = union_axes(both)
        sizes = axis_sizes(both, axes)
        array = spread_worlds(a.worlds, axes, sizes) + spread_worlds(b.worlds, axes, sizes)
        worlds = Worlds(array, axes, a.worlds.segments)
    return a._replace(array=a.array + b.array, worlds=worlds, known=None, small=None)


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
    gone = tuple(d for d in range(pending) if d not in known)
    rest = range(pending, len(event_shape(val)))

    def rearranged(array, axes):
        lead = len(axes)
        array = jnp.sum(array, axis=tuple(lead + d for d in gone))
        now = [d for d in (*range(pending), *rest) if d not in gone]
        places = [lead + now.index(d) for d in (*kept, *rest)]
        return jnp.transpose(array, (*range(lead), *places))

    new = {d: i for i, d in enumerate((*kept, *rest))}
    deps = moved(deps_of(val), lambda d: d if d < 0 else new.get(d))
    return Term(each_array(rearranged, val)._replace(lanes=deps.lanes), len(kept))


def hidden(deps: Deps, pending: int) -> Deps:
    """A term's provenance with its pending dimensions put out of an equation's reach."""
    if not (deps.lanes and pending):
        return deps
    return moved(deps, lambda d: d if d < 0 else (d - pending if d >= pending else -_PENDING - d))


def shown(deps: Deps, pending: int) -> Deps:
    """The inverse of `hidden`."""
    if not (deps.lanes and pending):
        return deps
    return moved(
        deps, lambda d: d + pending if d >= 0 else (-_PENDING - d if d <= -_PENDING else d)
    )


def collapse(operand: Operand, context: Context) -> Val:
    """The sum as one value, over the particle axes of all its terms."""
    if isinstance(operand, Val):
        return operand
    first, *rest = (_summed(term, context) for term in operand)
    for val in rest:
        (first,) = context.apply(lambda a, b: [a + b], [first, val], _same)
    return first


def _same(deps: Sequence[Deps]) -> list[Deps]:
    return [joined(deps)]


def _summed(term: Term, context: Context) -> Val:
    val, pending = term
    if not pending:
        return val
    (val,) = context.apply(
        lambda x: [jnp.sum(x, axis=tuple(range(pending)))],
        [val],
        lambda deps: [
            moved(dep, lambda d: d if d < 0 else (d - pending if d >= pending else None))
            for dep in deps
        ],
    )
    return val


def forgotten(term: Term, number: int) -> Term:
    """The term without a site that has been summed out."""
    val = term.val
    lanes = {site: r for site, r in val.lanes.items() if site != number}
    return term._replace(val=val._replace(sites=val.sites & ~(1 << number), lanes=lanes))


def body_values(
    context: Context, jaxpr: Any, consts: Sequence[Any], args: Sequence[Val], keys: Any
) -> list[Val]:
    """The outputs of a body, as single values."""
    outs = context.evaluate(jaxpr, consts, args, keys, context)
    return [collapse(out, context) for out in outs]
