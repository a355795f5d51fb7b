"""Additive cost terms: sums are kept apart by what their addends depend on, lane by lane."""

from collections.abc import Collection, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ..._jax.equations import Body
from ..interpret.evaluation import Evaluation
from ..values.lanes import Deps, deps_of, join, move, renumber
from ..values.slices import mix_slices, sliced
from ..values.value import Value, each_array, event_shape, lift_worlds
from ..values.vanishing import constant

_PENDING = 1_000
"""Dimensions of a sum that is still to be taken, numbered apart while an equation is applied."""


class Term(NamedTuple):
    """A value to be summed over its first `lanes_to_sum` dimensions, where lanes are kept apart."""

    val: Value
    lanes_to_sum: int = 0


jax.tree_util.register_pytree_node(
    Term, lambda term: ((term.val,), term.lanes_to_sum), lambda lanes, vals: Term(*vals, lanes)
)


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
        lanes = frozenset(val.relations.items())
        key = (
            val.sites,
            val.axes,
            lanes,
            term.lanes_to_sum,
            event_shape(val)[: term.lanes_to_sum],
            segments,
        )
        old = self._terms.get(key)
        self._terms[key] = term if old is None else term._replace(val=_plus(old.val, val))

    def split(self, numbers: Iterable[int]) -> tuple[list[Term], list[Term]]:
        """The terms that depend on some sites, and the others."""
        bits, found = sum(1 << number for number in numbers), ([], [])
        for term in self:
            found[not term.val.sites & bits].append(term)
        return found

    def __iter__(self):
        return iter(self._terms.values())

    def __len__(self):
        return len(self._terms)


Operand = Value | Terms


def _plus(a: Value, b: Value) -> Value:
    (total,) = lift_worlds(lambda x, y: [x + y], [a, b])
    return total._replace(sites=a.sites, relations=a.relations)


def terms_of(operand: Operand) -> list[Term]:
    """The terms of an operand."""
    return [Term(operand)] if isinstance(operand, Value) else list(operand)


def addends(operand: Operand) -> list[Value]:
    """The values of the terms of an operand."""
    return [term.val for term in terms_of(operand)]


def scalar(value: Any) -> Operand:
    """An operand as it is, or a literal as a value that depends on no site."""
    return value if isinstance(value, Value | Terms) else constant(value)


def aligned_dims(val: Value) -> dict[int, tuple[int, int]]:
    """The dimensions that keep lanes apart: the first site and lane dimension of each."""
    found: dict[int, tuple[int, int]] = {}
    for site in sorted(val.relations):
        for lane, along in enumerate(val.relations[site]):
            if along is not None:
                found.setdefault(along.dim, (site, lane))
    return found


def canonical(term: Term) -> Term:
    """The term with its lanes to sum in order; those that keep nothing apart are summed."""
    val, lanes_to_sum = term
    known = aligned_dims(val)
    order = sorted((known[d], d) for d in range(lanes_to_sum) if d in known)
    kept = [d for _, d in order]
    if kept == list(range(lanes_to_sum)):
        return term
    rest = range(lanes_to_sum, len(event_shape(val)))
    return Term(rearrange(val, (*kept, *rest)), len(kept))


def rearrange(val: Value, order: Sequence[int]) -> Value:
    """The value with its dimensions in this order, summed over those that are not in it."""

    def each(array, axes):
        lead = len(axes)
        now = sorted(order)
        gone = tuple(d for d in range(lead, array.ndim) if d - lead not in now)
        array = jnp.sum(array, axis=gone)
        return jnp.transpose(array, (*range(lead), *(lead + now.index(d) for d in order)))

    new = {d: i for i, d in enumerate(order)}
    return each_array(each, val)._replace(relations=move(deps_of(val), new.get).relations)


def at_home(term: Term, evaluation: Evaluation) -> Term:
    """The term over all the lanes of which it has a slice; to the others it adds nothing."""
    for number, dims in sliced([term.val]).items():
        for dim in dims:
            along = term.val.relations[number][dim]
            lanes = evaluation[number].lane_sizes[dim]
            entries = (a for r in term.val.relations.values() for a in r)
            alone = sum(a is not None and a.dim == along.dim for a in entries) == 1
            if along.dim >= term.lanes_to_sum or not alone:
                return term._replace(val=mix_slices(evaluation, term.val))
            term = term._replace(val=_padded(term.val, number, dim, lanes))
    return term


def _padded(val: Value, number: int, dim: int, lanes: int) -> Value:
    """A value of a slice of lanes, with zeros for the others."""
    relation = list(val.relations[number])
    along = relation[dim]
    before, size = along.start, event_shape(val)[along.dim]

    def padded(array, axes):
        widths = [(0, 0)] * array.ndim
        widths[len(axes) + along.dim] = (before, lanes - before - size)
        return jnp.pad(array, widths)

    relation[dim] = along._replace(start=None)
    out = each_array(padded, val)
    return out._replace(relations={**val.relations, number: tuple(relation)})


def hide(deps: Deps, lanes_to_sum: int) -> Deps:
    """A term's provenance with its lanes to sum put out of an equation's reach."""
    if not (deps.relations and lanes_to_sum):
        return deps
    return move(deps, lambda d: d - lanes_to_sum if d >= lanes_to_sum else -_PENDING - d)


def unhide(deps: Deps, lanes_to_sum: int) -> Deps:
    """The inverse of `hide`."""
    if not (deps.relations and lanes_to_sum):
        return deps
    return renumber(
        deps, lambda d: d + lanes_to_sum if d >= 0 else (-_PENDING - d if d <= -_PENDING else d)
    )


def collapse(operand: Operand, evaluation: Evaluation) -> Value:
    """The sum as one value, over the particle axes of all its terms."""
    if isinstance(operand, Value):
        return operand
    return add_up([_sum(term, evaluation) for term in operand], evaluation)


def add_up(vals: Sequence[Value], evaluation: Evaluation) -> Value:
    """The sum of some values, over the particle axes of all."""
    total, *rest = vals
    for val in rest:
        (total,) = evaluation.apply(lambda a, b: [a + b], [total, val], lambda deps: [join(deps)])
    return total


def _sum(term: Term, evaluation: Evaluation) -> Value:
    val, lanes_to_sum = term
    if not lanes_to_sum:
        return val
    (val,) = evaluation.apply(
        lambda x: [jnp.sum(x, axis=tuple(range(lanes_to_sum)))],
        [val],
        lambda deps: [
            move(dep, lambda d: d - lanes_to_sum if d >= lanes_to_sum else None) for dep in deps
        ],
    )
    return val


def forget(term: Term, numbers: Collection[int]) -> Term:
    """The term without the sites that have been summed out."""
    val, bits = term.val, sum(1 << number for number in numbers)
    lanes = {site: r for site, r in val.relations.items() if site not in numbers}
    return term._replace(val=val._replace(sites=val.sites & ~bits, relations=lanes))


def body_values(
    evaluation: Evaluation, jaxpr: Any, consts: Sequence[Any], args: Sequence[Value], keys: Any
) -> list[Value]:
    """The outputs of a body, as single values."""
    outs = evaluation.evaluate(jaxpr, consts, args, keys, evaluation)
    return [collapse(out, evaluation) for out in outs]


def body_operands(
    evaluation: Evaluation, body: Body, args: Sequence[Value], keys: Any, wanted: Sequence[bool]
) -> list[Operand]:
    """The outputs of a body: as terms where they are `wanted` so, elsewhere as single values."""
    outs = evaluation.evaluate(*body, args, keys, evaluation, wanted)
    pairs = zip(outs, wanted, strict=True)
    return [out if apart else collapse(out, evaluation) for out, apart in pairs]
