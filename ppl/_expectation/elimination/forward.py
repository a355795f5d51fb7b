"""The forward recursion: summing out a loop whose particles meet those of the step before."""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from ..interpret.evaluation import Evaluation
from ..sites.weighted_site import Scan
from ..terms.terms import Term, add_up
from ..values.dimensions import EXACT, Along
from ..values.expansion import MixedSteps
from ..values.lanes import Relation, deps_of, join, move
from ..values.value import BEFORE, LAST, NOW, Axis, Value, each_array, union_axes
from .factors import sum_up, unit
from .layout import Layout, layout
from .semiring import Semiring
from .weigh import identity, multiply, own_weight, total_over

_WITHIN, _OF_ROWS, _AT_END = range(3)
"""Where totals are taken, for their noise: within steps, of the rows, and at the end."""


class Chain(NamedTuple):
    """The sites of a loop whose particles meet those of the step before.

    With K the number of joint states of the sites `kept`, whose particles a step hands on, all is
    made of matrices M_t: the product of the weights of step t, `(T, *lanes, K, K)` over the
    particles i of the step before and j of its own, other sites of the step summed out.

    - `sites`: their numbers; all have the lanes `sizes`, `(T, *lanes)`.
    - `weights`: those of each site, over particles of its own step and the one before.
    """

    sites: range
    kept: tuple[int, ...]
    loop: Scan
    sizes: tuple[int, ...]
    weights: dict[int, Value]
    evaluation: Evaluation
    ring: Semiring

    def has(self, axis: Axis) -> bool:
        """Whether an axis is of particles of these sites that meet another step."""
        return axis.site in self.sites and axis.step != NOW

    def places(self, val: Value) -> tuple[int | None, ...]:
        """Where a value has the lanes of these sites, `(step, *lanes)`; None where it mixes them.

        A value that mixes the steps is one of the last step's particles.
        """
        found = {tuple(None if a is None else a.dim for a in r) for r in self._relations(val)}
        if len(found) != 1:
            raise MixedSteps(self.loop)
        return found.pop()

    def looks_back(self, val: Value) -> bool:
        """Whether a value of the steps depends on particles of earlier ones."""
        past = any(r[0] is None or r[0].how != EXACT for r in self._relations(val))
        return past or any(a.step == BEFORE and a.site in self.sites for a in val.axes)

    def _relations(self, val: Value) -> list[Relation]:
        """Those to the sites of the chain that a value depends on."""
        mixed = (None,) * len(self.sizes)
        return [val.relations.get(n, mixed) for n in self.sites if val.sites >> n & 1]


def fold(terms: Sequence[Term], sites: range, evaluation: Evaluation, ring: Semiring) -> list[Term]:
    """Terms that depend on sites of a loop, summed over all the paths of their particles.

    The states passed on are the rows α_t = α_{t-1} M_t, `(*lanes, K)`: in numbers, the
    probabilities of step t's particles (of a hidden Markov model, the forward algorithm). Costs of
    the steps, which have been summed over their own step's particles, meet the row before their
    step: Σ_t Σ_i α_{t-1}[i] c_t[i]. Where terms are factors, those of the steps are factors of M_t.
    What reads the last step's particles meets the last row.
    """
    chain = _chain(terms, sites, evaluation, ring)
    costs = unit(sites.start, evaluation, ring).val
    if not ring.linear:
        costs, terms = _factors(terms, costs, chain)
    before, last = _rows(costs, chain)
    return [_meet(term, before, last, chain) for term in terms]


def _chain(terms: Sequence[Term], sites: range, evaluation: Evaluation, ring: Semiring) -> Chain:
    loop, sizes = evaluation[sites.start].loops[0], evaluation[sites.start].lane_sizes
    vals = [*(term.val for term in terms), *(evaluation[n].weight for n in sites)]
    alike = all(evaluation[n].lane_sizes == sizes for n in sites)
    if not alike or any(val.worlds for val in vals):
        raise MixedSteps(loop)
    meeting = {a.site for a in union_axes(vals) if a.site in sites and a.step != NOW}
    weights = _own_weights(sites, evaluation, ring)
    return Chain(sites, tuple(sorted(meeting)), loop, sizes, weights, evaluation, ring)


def _own_weights(sites: range, evaluation: Evaluation, ring: Semiring) -> dict[int, Value]:
    """The weights of the sites of a loop, over the particles of their own step.

    They count as depending on their site, lane by lane, also where its steps are independent.
    Where all is exact, a site without particles is certain.
    """
    weights = {}
    for n in sites:
        site, weight = evaluation[n], own_weight(n, Axis(n), evaluation, ring)
        if site.axis:
            own = {n: identity(len(site.lane_sizes)), **weight.relations}
            weights[n] = weight._replace(sites=weight.sites | 1 << n, relations=own)
        elif not evaluation.all_exact:
            weights[n] = weight
    return weights


# --- terms ---------------------------------------------------------------------------------------


def _factors(terms: Sequence[Term], one: Value, chain: Chain) -> tuple[Value, list[Term]]:
    """The factors of the steps as one, `(T, *lanes)`; and those of the last step's particles."""
    rank = len(chain.sizes)
    stacked = [term for term in terms if chain.places(term.val)[0] is not None]
    finals = [term for term in terms if chain.places(term.val)[0] is None]
    if not all(_whole(term, tuple(range(rank)), chain) for term in stacked):
        raise MixedSteps(chain.loop)
    costs = add_up([one, *(term.val for term in stacked)], chain.evaluation)
    return costs, [_last_factor(finals, one, chain)]


def _whole(term: Term, places: tuple[int | None, ...], chain: Chain) -> bool:
    """Whether a term has the lanes of a chain at these places, and no others to sum."""
    lanes = [place for place in places if place is not None]
    return term.lanes_to_sum == len(lanes) and chain.places(term.val) == places


def _last_factor(finals: Sequence[Term], one: Value, chain: Chain) -> Term:
    """The factors that read the last step's particles as one, `(*lanes,)`."""
    evaluation, lanes = chain.evaluation, range(len(chain.sizes) - 1)
    ending = one._replace(
        array=jnp.full(chain.sizes[1:], chain.ring.one),
        relations={chain.sites.start: (None, *map(Along, lanes))} if lanes else {},
    )
    if all(_whole(term, (None, *lanes), chain) for term in finals):
        vals = [ending, *(term.val for term in finals)]
        return Term(add_up(vals, evaluation), len(lanes))
    if lanes:
        raise MixedSteps(chain.loop)
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
        raise MixedSteps(chain.loop)
    relation = tuple(Along(place) for place in places if place is not None)
    axes = [axis for axis in row.axes if chain.has(axis)]
    rings = {axis: chain.ring.at(axis.site, _AT_END) for axis in axes}
    for axis in axes:
        if axis not in val.axes:
            row = total_over(row, axis, rings[axis])
    val = multiply(val, row, relation, chain.evaluation, chain.ring)
    for axis in axes:
        if axis in val.axes:
            val = total_over(val, axis, rings[axis])
    return val


# --- rows ----------------------------------------------------------------------------------------


class _Part(NamedTuple):
    """Steps that are summed out in one go, and weights that are the same at all of them."""

    index: int
    steps: slice
    alike: dict[int, Value]


def _parts(chain: Chain) -> list[_Part]:
    """In the order of the loop: the first step, and the others, where these share weights."""
    alike = {
        n: later
        for n in chain.kept
        if (later := chain.evaluation[n].later) is not None
        and not any(a.site in chain.sites and a.site not in chain.kept for a in later.axes)
    }
    if not alike:
        return [_Part(0, slice(None), {})]
    first, rest = (slice(-1, None), slice(-1)) if chain.loop.reverse else (slice(1), slice(1, None))
    return [_Part(0, first, {}), _Part(1, rest, alike)]


def _rows(costs: Value, chain: Chain) -> tuple[Value, Value]:
    """The rows before each step, `(T, *lanes, K)`, and the one after the last, `(*lanes, K)`.

    Where terms are factors, those of the steps are `costs`, and only the last row is read.
    """
    laid = layout([costs, *chain.weights.values()], chain.kept, chain.sites)
    row, pieces, ring = laid.start(chain.ring), [], chain.ring
    for part in _parts(chain):
        steps, shared = _matrices(costs, part, laid, chain)
        numbers = jnp.arange(chain.loop.length)[part.steps]

        def advance(row, at, shared=shared):
            number, step = at
            step = step if shared is None else ring.times(shared, step)
            after = laid.after(row, step, ring.at(chain.sites.start, _OF_ROWS, number))
            return after, row if ring.linear else None

        row, before = jax.lax.scan(advance, row, (numbers, steps), reverse=chain.loop.reverse)
        pieces.append(before)
    deps = join([deps_of(val) for val in (costs, *chain.weights.values())])
    last = laid.named(row, LAST, move(deps, lambda d: d - 1 if d else None))
    if not ring.linear:
        return last, last
    before = jnp.concatenate(pieces[::-1] if chain.loop.reverse else pieces)
    return laid.named(before, BEFORE, deps, lead=1), last


def _matrices(
    costs: Value, part: _Part, laid: Layout, chain: Chain
) -> tuple[jax.Array, jax.Array | None]:
    """The matrices of some steps, laid out, and the factor that is the same at all of them."""
    own = {n: _at(w, part.steps) for n, w in chain.weights.items() if n not in part.alike}
    val = _at(costs, part.steps)
    for n, weight in reversed(own.items()):
        val = multiply(val, weight, identity(len(chain.sizes)), chain.evaluation, chain.ring)
        if n not in chain.kept:
            val = total_over(val, Axis(n), chain.ring.at(n, _WITHIN, part.index))
    alike = [laid.array(weight)[0] for weight in part.alike.values()]
    shared = functools.reduce(chain.ring.times, alike) if alike else None
    return laid.array(val), shared


def _at(steps: Value, at: slice) -> Value:
    """Some steps of a value whose first dimension they are."""
    if at == slice(None):
        return steps
    return each_array(lambda array, axes: array[(slice(None),) * len(axes) + (at,)], steps)
