"""Folding a loop: its terms meet the weights of all the paths that its particles take."""

from collections.abc import Sequence

import jax.numpy as jnp

from ..interpret.evaluation import Evaluation
from ..terms.terms import Term, add_up, rearrange
from ..values.dimensions import Along
from ..values.value import LAST, Value
from .factors import sum_up
from .forward import AT_END, Chain, chain_of, rows_of
from .semiring import Semiring
from .weigh import multiply, total_over


def fold(terms: Sequence[Term], sites: range, evaluation: Evaluation, ring: Semiring) -> list[Term]:
    """Terms that depend on sites of a loop, summed over all the paths of their particles.

    The states passed on are the rows α_t = α_{t-1} M_t, `(*lanes, K)`: in numbers, the
    probabilities of step t's particles (of a hidden Markov model, the forward algorithm). Costs of
    the steps, which have been summed over their own step's particles, meet the row before their
    step: Σ_t Σ_i α_{t-1}[i] c_t[i]. Where terms are factors, those of the steps are factors of M_t.
    What reads the last step's particles meets the last row.
    """
    chain = chain_of(terms, sites, evaluation, ring)
    costs = chain.unit()
    if not ring.linear:
        costs, terms = _factors(terms, costs, chain)
    before, last = rows_of(costs, chain)
    return [_meet(term, before, last, chain) for term in terms]


def _factors(terms: Sequence[Term], one: Value, chain: Chain) -> tuple[Value, list[Term]]:
    """The factors of the steps as one, `(T, *lanes)`; and those of the last step's particles."""
    rank = len(chain.sizes)
    stacked = [term for term in terms if chain.places(term.val)[0] is not None]
    finals = [term for term in terms if chain.places(term.val)[0] is None]
    joint = any(a.site in chain.sites and a.step != LAST for t in finals for a in t.val.axes)
    if joint or not all(_whole(term, rank, chain) for term in stacked):
        raise chain.mixed()
    costs = add_up([one, *(_in_order(term, chain) for term in stacked)], chain.evaluation)
    return costs, [_last_factor(finals, one, chain)]


def _whole(term: Term, rank: int, chain: Chain) -> bool:
    """Whether a term has as many of a chain's lanes apart, and no others to sum."""
    return term.lanes_to_sum == rank == len(_lanes_of(term, chain))


def _in_order(term: Term, chain: Chain) -> Value:
    """The value of a term of a chain's lanes, with these in the order of the chain's."""
    return rearrange(term.val, _lanes_of(term, chain))


def _lanes_of(term: Term, chain: Chain) -> list[int]:
    return [place for place in chain.places(term.val) if place is not None]


def _last_factor(finals: Sequence[Term], one: Value, chain: Chain) -> Term:
    """The factors that read the last step's particles as one, `(*lanes,)`."""
    evaluation, lanes = chain.evaluation, range(len(chain.sizes) - 1)
    ending = one._replace(
        array=jnp.full(chain.sizes[1:], chain.ring.one),
        relations={chain.sites.start: chain.relation([None, *map(Along, lanes)])} if lanes else {},
    )
    if all(_whole(term, len(lanes), chain) for term in finals):
        vals = [ending, *(_in_order(term, chain) for term in finals)]
        return Term(add_up(vals, evaluation), len(lanes))
    if lanes:
        raise chain.mixed()
    return Term(sum_up([Term(ending), *finals], evaluation))


def _meet(term: Term, before: Value, last: Value, chain: Chain) -> Term:
    """The term times the row of its states, and summed over them."""
    step, *lanes = places = chain.places(term.val)
    if step is None:
        return term._replace(val=_meet_row(term.val, last, lanes, chain))
    if chain.looks_back(term.val):
        return term._replace(val=_meet_row(term.val, before, places, chain))
    return term


def _meet_row(val: Value, row: Value, places: Sequence[int | None], chain: Chain) -> Value:
    if None in places:
        raise chain.mixed()
    relation = tuple(Along(place) for place in places if place is not None)
    axes = [axis for axis in row.axes if chain.has(axis)]
    rings = {axis: chain.ring.at(axis.site, AT_END) for axis in axes}
    for axis in axes:
        if axis not in val.axes:
            row = total_over(row, axis, rings[axis])
    val = multiply(val, row, relation, chain.evaluation, chain.ring)
    for axis in axes:
        if axis in val.axes:
            val = total_over(val, axis, rings[axis])
    return val
