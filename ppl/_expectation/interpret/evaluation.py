"""What an evaluation carries along: the sites opened so far, and how to apply a function."""

import copy
from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp

from ..._ir.site import SITE_LABEL
from ..._jax import equations, source
from ..._walk.walker import placed_sites
from ..sites.weighted_site import Scan, WeightedSite
from ..values.dimensions import Along
from ..values.expansion import expand
from ..values.joint_states import check_expansion, check_joint
from ..values.lanes import Deps, as_exact, deps_of, one_by_one, transfer
from ..values.value import (
    Axis,
    Value,
    joint_states,
    lift_worlds,
    trim,
)
from ..values.vanishing import emit, unbounded


class Coupled(NamedTuple):
    """Sites that share their particles: the axis, and the kind and estimator of the first."""

    axis: Axis
    kind: Any
    estimator: Any


class MixedSteps(Exception):
    """Particles of different steps of a loop meet: the loop has to be written out."""

    def __init__(self, eqn: Any):
        self.eqn = eqn


class Evaluation:
    """The weighted sites opened so far, and what holds for all that is evaluated.

    `evaluate` interprets a jaxpr; `active` are flags of the branches being evaluated; `loops` are
    those around the body that is evaluated, outermost first; `calls` are the equations whose bodies
    it is in, for messages; `written_out` are the equations of loops to be written out. `coupled`
    has the sites that share their particles, by name; `chains` the sites of each loop whose steps
    are summed out by recursion, by the first one; bodies traced apart note theirs in the same dict.
    `all_exact`: nothing may be drawn, and weights are logarithms.
    """

    def __init__(
        self, evaluate: Callable, allow_biased: bool, written_out: set[int], all_exact: bool
    ):
        self.evaluate, self.allow_biased, self.written_out = evaluate, allow_biased, written_out
        self.all_exact = all_exact
        self.outer: Evaluation | None = None
        self.first = 0
        self.active: tuple[Value, ...] = ()
        self.loops: tuple[Scan, ...] = ()
        self.calls: tuple[Any, ...] = ()
        self.opened: list[WeightedSite] = []
        self.expected: Sequence[WeightedSite] = ()
        self.coupled: dict[Hashable, tuple[Coupled, ...]] = {}
        self.chains: dict[int, range] = {}

    @property
    def next(self) -> int:
        """The number of the next site to be opened."""
        return self.first + len(self.opened)

    def open(self, opened: WeightedSite) -> int:
        """Adds a weighted site; returns its number."""
        self.opened.append(opened)
        return self.next - 1

    def open_compound(self, weight: Value, baseline: Value | None, control: Value | None) -> Deps:
        """Adds a whole body, of one particle, as a site; returns what depends on it."""
        whole = WeightedSite(None, weight, self.lengths, baseline=baseline, control=control)
        number = self.open(whole._replace(loops=self.loops))
        return Deps(1 << number, {number: self.own_steps} if self.loops else {})

    @property
    def lengths(self) -> tuple[int, ...]:
        """The steps of the loops around, which are the first lane dimensions of sites."""
        return tuple(loop.length for loop in self.loops)

    @property
    def own_steps(self) -> tuple[Along, ...]:
        """The relation of a value to a site of the same step of each loop around."""
        return tuple(Along(-loop.level) for loop in self.loops)

    def __getitem__(self, number: int) -> WeightedSite:
        if number < self.first:
            assert self.outer is not None
            return self.outer[number]
        place = number - self.first
        return self.opened[place] if place < len(self.opened) else self.expected[place]

    def nested(
        self, loop: Scan | None = None, expected: Sequence[WeightedSite] = ()
    ) -> "Evaluation":
        """An evaluation for a body that is traced apart, numbering sites from here on.

        In a loop, what is carried may depend on sites of the body: they are `expected`, and so are
        those of the loops around that come later.
        """
        inner, later = copy.copy(self), self.expected[len(self.opened) :]
        inner.outer, inner.first, inner.opened = self, self.next, []
        inner.expected = (*expected, *later[len(expected) :])
        inner.loops = (*self.loops, loop) if loop else self.loops
        inner.coupled = dict(self.coupled)
        return inner

    def within(self, flag: Value) -> "Evaluation":
        """The same evaluation, inside a branch that is reached where `flag` holds."""
        inner = copy.copy(self)
        inner.active = (*self.active, flag)
        return inner

    def calling(self, eqn: Any) -> "Evaluation":
        """The same evaluation, inside the body of a call."""
        inner = copy.copy(self)
        inner.calls = (*self.calls, eqn)
        return inner

    def place(self, eqn: Any) -> str:
        """Where an equation is: the user's line, a site inside, or whose density it is of."""
        placed = next(placed_sites(eqn), None) if equations.has_sites(eqn) else None
        if placed is not None:
            return f"at {placed.site.where}"
        densities = SITE_LABEL.findall(source.scopes(eqn))
        if densities:
            address, line = densities[-1]
            return f"in the log density of site {address!r} ({line})"
        return f"at {source.source_line(source.placed(eqn, self.calls))}"

    def particles_apart(self, val: Value) -> bool:
        """Whether a value has the particles of each element of a batch, as lanes kept apart."""
        sites = [(self[axis.site], axis.form) for axis in val.axes]
        return any(
            not set(range(len(site.loops), len(site.lane_sizes))) <= set(form)
            for site, form in sites
        )

    def apply(
        self, fn: Callable, vals: Sequence[Value], transfer: Callable, eqn: Any = None
    ) -> list:
        """The values of `fn` of arrays (a list of arrays), mapped over the axes its inputs have.

        `transfer` gives the provenance of the outputs from that of the inputs. Where it mixes the
        lanes of a site that has several particles, these are expanded first; so are those of which
        it makes running sums and the like.
        """
        ins = [deps_of(val) for val in vals]
        deps = transfer(ins)
        if any(val.axes or val.worlds for val in vals):
            made = [one_by_one(dep) for dep in transfer([as_exact(dep) for dep in ins])]
            vals = conform(self, vals, mixed_dims(self, vals, [*deps, *made]), eqn)
        check_joint(joint_states(vals), eqn, self.place)
        infinite = any(val.unbounded for val in vals)
        return [
            out._replace(sites=dep.sites, relations=dep.relations, unbounded=infinite)
            for out, dep in zip(lift_worlds(fn, vals), deps, strict=True)
        ]

    def bound(self, eqn: Any, vals: Sequence[Value]) -> list[Value]:
        """The outputs of an equation without sites, each over what it depends on."""
        fn, infinite = emit(eqn, vals), unbounded(eqn, vals)
        outs = self.apply(fn, vals, lambda deps: transfer(eqn, deps), eqn)
        return [trim(out)._replace(unbounded=infinite) for out in outs]


def mixed_dims(
    evaluation: Evaluation, vals: Sequence[Value], deps: Sequence[Deps]
) -> dict[int, set[int]]:
    """The lane dimensions of multi-particle sites that are expanded, or become mixed now."""
    mixed: dict[int, set[int]] = {}
    for val in vals:
        forms = {(axis.site, axis.form, axis.step) for axis in val.axes}
        if val.worlds:
            forms |= {(s.site, s.form, 0) for s in val.worlds.segments}
        for number, form, step in forms:
            found = mixed.setdefault(number, set())
            found |= set(form)
            lanes = evaluation[number].lane_sizes
            for dep in deps if step < 1 else ():
                relation = dep.relations.get(number, (None,) * len(lanes))
                found |= {d for d, entry in enumerate(relation) if entry is None}
    return mixed


def conform(
    evaluation: Evaluation, vals: Sequence[Value], mixed: dict[int, set[int]], eqn: Any = None
) -> list[Value]:
    """The values, with the particles of sites expanded over their mixed lane dimensions."""
    outs = []
    for val in vals:
        for number, dims in mixed.items():
            val = _expand(evaluation, val, number, dims, eqn)
        outs.append(val)
    return outs


def _expand(evaluation: Evaluation, val: Value, number: int, dims: set[int], eqn: Any) -> Value:
    site = evaluation[number]
    forms = {axis.form for axis in val.axes if axis.site == number}
    if val.worlds:
        forms |= {axis.form for axis in val.worlds.axes if axis.site == number}
        forms |= {s.form for s in val.worlds.segments if s.site == number}
    if all(dims <= set(form) for form in forms):
        return val
    if any(axis.site == number and axis.step for axis in val.axes):
        raise MixedSteps(site.loops[0].eqn)
    if min(dims) < len(site.loops):
        raise MixedSteps(site.loops[min(dims)].eqn)
    if not site.perturbed:
        axis = next(a for a in site.weight.axes if a.site == number and a.step == 0)
        particles = jnp.shape(site.weight.array)[site.weight.axes.index(axis)]
        check_expansion(site, particles, dims, eqn, evaluation.place)
    return expand(val, number, dims, site)
