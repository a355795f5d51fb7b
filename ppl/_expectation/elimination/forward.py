"""The forward recursion: the weights of a loop whose particles meet those of the step before."""

import functools
from collections.abc import Iterable, Sequence
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp

from ..interpret.evaluation import Evaluation
from ..terms.terms import Term, rearrange
from ..values.dimensions import EXACT, Along
from ..values.expansion import MixedSteps
from ..values.lanes import Relation, deps_of, join, move
from ..values.value import (
    BEFORE,
    LAST,
    NOW,
    Axis,
    Steps,
    Value,
    each_array,
    event_shape,
    union_axes,
)
from .layout import Layout, layout
from .semiring import Semiring
from .weigh import identity, multiply, own_weight, total_over

T = TypeVar("T")

WITHIN, OF_ROWS, AT_END = range(3)
"""Where totals are taken, for their noise: within steps, of the rows, and at the end."""


class Chain(NamedTuple):
    """The sites of a loop, or a batch, whose particles meet those of the step before.

    With K the number of joint states of the sites `kept`, whose particles a step hands on, all is
    made of matrices M_t: the product of the weights of step t, `(T, *lanes, K, K)` over the
    particles i of the step before and j of its own, other sites of the step summed out.

    - `sites`: their numbers; all have the lanes `sizes`, `(T, *lanes)`: those along which the
      `steps` go come first.
    - `weights`: those of each site, over particles of its own step and the one before.
    """

    sites: range
    kept: tuple[int, ...]
    steps: Steps
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
            raise self.mixed()
        return found.pop()

    def looks_back(self, val: Value) -> bool:
        """Whether a value of the steps depends on particles of earlier ones."""
        past = any(r[0] is None or r[0].how != EXACT for r in self._relations(val))
        return past or any(a.step == BEFORE and a.site in self.sites for a in val.axes)

    def relation(self, lanes: Sequence[Along | None]) -> Relation:
        """A relation to these sites, from that to the step and to the other lanes."""
        return _inserted(lanes[1:], self.steps.dim, lanes[0])

    def unit(self) -> Value:
        """The factor one of each step, `(T, *lanes)`."""
        one = jnp.full(self.sizes, self.ring.one)
        own = self.relation(identity(len(self.sizes)))
        return Value(one, (), 1 << self.sites.start, {self.sites.start: own})

    def mixed(self) -> MixedSteps:
        """The error for particles that meet otherwise."""
        return MixedSteps(*self.evaluation.loops_along(self.sites.start))

    def _relations(self, val: Value) -> list[Relation]:
        """Those to the sites of the chain that a value depends on, the step first."""
        none = (None,) * len(self.sizes)
        found = [val.relations.get(n, none) for n in self.sites if val.sites >> n & 1]
        return [_steps_first(relation, self.steps.dim) for relation in found]


def _steps_first(lanes: Sequence[T], dim: int) -> tuple[T, ...]:
    """What there is for each lane dimension, that of the steps first."""
    return (lanes[dim], *lanes[:dim], *lanes[dim + 1 :])


def _inserted(lanes: Sequence[T], dim: int, own: T) -> tuple[T, ...]:
    return (*lanes[:dim], own, *lanes[dim:])


def meeting(vals: Iterable[Value], sites: range) -> set[Axis]:
    """The axes of some sites' particles of a step that is not the element's own."""
    return {a for a in union_axes(vals) if a.site in sites and a.step != NOW}


def chain_of(terms: Sequence[Term], sites: range, evaluation: Evaluation, ring: Semiring) -> Chain:
    """The sites of a loop, or a batch, as a chain, for some terms that depend on them."""
    sizes = evaluation[sites.start].lane_sizes
    vals = [*(term.val for term in terms), *(evaluation[n].weight for n in sites)]
    alike = all(evaluation[n].lane_sizes == sizes for n in sites)
    axes = meeting(vals, sites)
    ways = {axis.steps for axis in axes if axis.steps}
    if not alike or len(ways) != 1 or any(val.worlds for val in vals):
        raise MixedSteps(*evaluation.loops_along(sites.start))
    (steps,) = ways
    kept = tuple(sorted({axis.site for axis in axes}))
    weights = {
        n: _with_steps_first(weight, steps.dim)
        for n, weight in _own_weights(sites, evaluation, ring).items()
    }
    sizes = _steps_first(sizes, steps.dim)
    return Chain(sites, kept, steps, sizes, weights, evaluation, ring)


def _with_steps_first(weight: Value, dim: int) -> Value:
    """A weight of lanes, `(*axes, *lanes)`, as `(*axes, steps, *other lanes)`."""
    return rearrange(weight, _steps_first(range(len(event_shape(weight))), dim)) if dim else weight


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
    backwards = chain.steps.reverse
    first, rest = (slice(-1, None), slice(-1)) if backwards else (slice(1), slice(1, None))
    return [_Part(0, first, {}), _Part(1, rest, alike)]


def rows_of(costs: Value, chain: Chain) -> tuple[Value, Value]:
    """The rows before each step, `(T, *lanes, K)`, and the one after the last, `(*lanes, K)`.

    Where terms are factors, those of the steps are `costs`, and only the last row is read.
    """
    vals = [costs, *chain.weights.values()]
    if any(_changes_by_step(axis, val, chain) for val in vals for axis in val.axes):
        raise chain.mixed()
    laid = layout(vals, chain.kept, chain.steps, chain.sites)
    before, row = (_own_rows if _independent(chain) else _recursion)(costs, laid, chain)
    deps = join([deps_of(val) for val in vals])
    last = laid.named(row, LAST, move(deps, lambda d: d - 1 if d else None))
    return last if before is None else laid.named(before, BEFORE, deps, lead=1), last


def _independent(chain: Chain) -> bool:
    """Whether the rows are the steps' own weights, as these read no step before and sum to one."""
    alone = not any(chain.has(axis) for val in chain.weights.values() for axis in val.axes)
    return alone and chain.ring.linear and all(chain.evaluation[n].normalized for n in chain.kept)


def _own_rows(costs: Value, laid: Layout, chain: Chain) -> tuple[jax.Array, jax.Array]:
    """The rows where they are the steps' own weights."""
    own = _matrices(costs, _Part(0, slice(None), {}), laid, chain).own
    rows, start = jax.vmap(laid.row)(own), laid.start(chain.ring)[None]
    if chain.steps.reverse:
        return jnp.concatenate([rows[1:], start]), rows[0]
    return jnp.concatenate([start, rows[:-1]]), rows[-1]


def _recursion(costs: Value, laid: Layout, chain: Chain) -> tuple[jax.Array | None, jax.Array]:
    """The rows, each from the one before; those before each step only where they are read."""
    row, pieces, ring = laid.start(chain.ring), [], chain.ring
    for part in _parts(chain):
        matrices = _matrices(costs, part, laid, chain)
        numbers = jnp.arange(chain.sizes[0])[part.steps]

        def advance(row, at, matrices=matrices):
            number, own = at
            drawn = ring.at(chain.sites.start, OF_ROWS, number)
            return matrices.after(row, own, laid, drawn), row if ring.linear else None

        row, over = matrices.like(row), (numbers, matrices.own)
        row, before = jax.lax.scan(advance, row, over, reverse=chain.steps.reverse)
        pieces.append(before)
    if not ring.linear:
        return None, row
    return jnp.concatenate(pieces[::-1] if chain.steps.reverse else pieces), row


def _changes_by_step(axis: Axis, val: Value, chain: Chain) -> bool:
    """Whether an axis has other particles at each step, those of a site outside of the loop.

    A row is over the states of one step of the loop alone: where it goes on over such an axis too,
    particles of different steps of that site would be taken for the same.
    """
    if axis.site in chain.sites:
        return False
    return any(a is not None and a.dim == 0 for a in val.relations.get(axis.site, ()))


class _Matrices(NamedTuple):
    """The matrices of some steps: each step's own factor times the one that all share, if any.

    As laid out (`Layout`); `own` has the steps in front. It may be infinite if `unbounded`, and
    reads particles of the step before if `looks_back`.
    """

    own: jax.Array
    shared: jax.Array | None
    unbounded: bool
    looks_back: bool

    def like(self, row: jax.Array) -> jax.Array:
        """A row in the numbers that it has after a step."""
        factors = [factor for factor in (self.own, self.shared) if factor is not None]
        return row.astype(jnp.result_type(row, *factors))

    def after(self, row: jax.Array, own: jax.Array, laid: Layout, ring: Semiring) -> jax.Array:
        """The row after a step, of which `own` is the own factor."""
        if self.shared is not None and not self.looks_back:
            arrived = ring.after(row, laid.matrix(self.shared))
            return ring.times(arrived, laid.row(own), self.unbounded)
        step = own if self.shared is None else ring.times(self.shared, own, self.unbounded)
        return ring.after(row, laid.matrix(step), self.unbounded)


def _matrices(costs: Value, part: _Part, laid: Layout, chain: Chain) -> _Matrices:
    """Costs of some steps times weights; sites that meet no other step's are summed out."""
    own = {n: _at(w, part.steps) for n, w in chain.weights.items() if n not in part.alike}
    val = _at(costs, part.steps)
    for n, weight in reversed(own.items()):
        val = multiply(val, weight, identity(len(chain.sizes)), chain.evaluation, chain.ring)
        if n not in chain.kept:
            val = total_over(val, Axis(n), chain.ring.at(n, WITHIN, part.index))
    alike = [laid.array(weight)[0] for weight in part.alike.values()]
    shared = functools.reduce(chain.ring.times, alike) if alike else None
    looks_back = any(map(chain.has, val.axes))
    return _Matrices(laid.array(val), shared, costs.unbounded, looks_back)


def _at(steps: Value, at: slice) -> Value:
    """Some steps of a value whose first dimension they are."""
    if at == slice(None):
        return steps
    return each_array(lambda array, axes: array[(slice(None),) * len(axes) + (at,)], steps)
