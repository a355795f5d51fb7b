"""What an evaluation carries along: the sites opened so far, and how to apply a function."""

import copy
from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp

from ..._ir.site import SITE_LABEL, Site
from ..._jax import equations, source
from ..._walk.walker import placed_sites
from ..values.dimensions import Along
from ..values.expansion import expand
from ..values.joint_states import check_expansion, check_joint
from ..values.lanes import Deps, as_exact, deps_of, one_by_one, transfer
from ..values.value import (
    Axis,
    Val,
    arrays_of,
    joint_states,
    lifted,
    shape_of,
    trimmed,
    with_arrays,
)
from ..values.vanishing import emitted, unbounded


class Loop(NamedTuple):
    """A `scan` around sites, which are evaluated once for all its steps.

    In provenance, dimension `-level` stands for its steps.
    """

    eqn: Any
    length: int
    reverse: bool
    level: int


class Opened(NamedTuple):
    """A weighted site. Its weight's dimensions are its lanes, of the sizes `lanes`.

    `axis`: it opened a particle axis. `perturbed`: it opened worlds; its weight has a leading
    dimension of perturbations. `baseline`: one that is learnt, by the numbers of `baseline.noted`
    for each lane; `given`: a value for each lane, that the objective gives; `control`: a cost of
    the estimator's own; `chances`: the probabilities of the particles, where these are a whole
    support. `loops` are those around, one for each of the first lane dimensions. `later`: in a
    loop, the weight at every step but the first, of one step, where it is the same at all of them.
    """

    site: Site | None
    weight: Val
    lanes: tuple[int, ...] = ()
    axis: bool = False
    normalized: bool = False
    perturbed: bool = False
    baseline: Val | None = None
    given: Val | None = None
    control: Val | None = None
    chances: Val | None = None
    loops: tuple[Loop, ...] = ()
    later: Val | None = None

    @property
    def vals(self) -> tuple[Val | None, ...]:
        """The values that are made where the site is; `given` is not, and comes later."""
        return self.weight, self.baseline, self.control, self.chances

    def each(self, fn: Callable, others: Sequence[Any]) -> "Opened":
        """The same site with `fn` of each of its values and of what `others` has for it."""
        weight, baseline, control, chances = (
            None if val is None else fn(val, other)
            for val, other in zip(self.vals, others, strict=True)
        )
        return self._replace(weight=weight, baseline=baseline, control=control, chances=chances)

    def shapes(self) -> "Opened":
        """The same site with shapes for arrays."""
        return self.each(lambda val, _: shape_of(val), self.vals)

    def arrays(self) -> list[Any]:
        """The arrays of its values, to be handed out of the trace of a body."""
        return [None if val is None else arrays_of([val])[0] for val in self.vals]

    def with_arrays(self, arrays: Sequence[Any]) -> "Opened":
        """The same site with other arrays."""
        return self.each(lambda val, own: with_arrays([val], [own])[0], arrays)


class Runs(NamedTuple):
    """Sites that share their particles: the axis, and the kind and estimator of the first."""

    axis: Axis
    kind: Any
    estimator: Any


class MixedSteps(Exception):
    """Particles of different steps of a loop meet: the loop has to be written out."""

    def __init__(self, eqn: Any):
        self.eqn = eqn


class Context:
    """The weighted sites opened so far, and what holds for all that is evaluated.

    `evaluate` interprets a jaxpr; `active` are flags of the branches being evaluated; `loops` are
    those around the body that is evaluated, outermost first; `calls` are the equations whose bodies
    it is in, for messages; `written_out` are the equations of loops to be written out. `runs` are
    the sites that share their particles, by name;
    `chains` has the sites of each loop whose steps are summed out by recursion, by the first one;
    bodies traced apart note theirs in the same dict. `all_exact`: nothing may be drawn, and weights
    are logarithms.
    """

    def __init__(
        self, evaluate: Callable, allow_biased: bool, written_out: set[int], all_exact: bool
    ):
        self.evaluate, self.allow_biased, self.written_out = evaluate, allow_biased, written_out
        self.all_exact = all_exact
        self.outer: Context | None = None
        self.first = 0
        self.active: tuple[Val, ...] = ()
        self.loops: tuple[Loop, ...] = ()
        self.calls: tuple[Any, ...] = ()
        self.opened: list[Opened] = []
        self.expected: Sequence[Opened] = ()
        self.runs: dict[Hashable, tuple[Runs, ...]] = {}
        self.chains: dict[int, range] = {}

    @property
    def next(self) -> int:
        """The number of the next site to be opened."""
        return self.first + len(self.opened)

    def open(self, opened: Opened) -> int:
        """Adds a weighted site; returns its number."""
        self.opened.append(opened)
        return self.next - 1

    def open_compound(self, weight: Val, baseline: Val | None, control: Val | None) -> Deps:
        """Adds a whole body, of one particle, as a site; returns what depends on it."""
        whole = Opened(None, weight, self.lengths, baseline=baseline, control=control)
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

    def __getitem__(self, number: int) -> Opened:
        if number < self.first:
            assert self.outer is not None
            return self.outer[number]
        place = number - self.first
        return self.opened[place] if place < len(self.opened) else self.expected[place]

    def nested(self, loop: Loop | None = None, expected: Sequence[Opened] = ()) -> "Context":
        """A context for a body that is traced apart, numbering sites from here on.

        In a loop, what is carried may depend on sites of the body: they are `expected`, and so are
        those of the loops around that come later.
        """
        inner, later = copy.copy(self), self.expected[len(self.opened) :]
        inner.outer, inner.first, inner.opened = self, self.next, []
        inner.expected = (*expected, *later[len(expected) :])
        inner.loops = (*self.loops, loop) if loop else self.loops
        inner.runs = dict(self.runs)
        return inner

    def within(self, flag: Val) -> "Context":
        """The same context, inside a branch that is reached where `flag` holds."""
        inner = copy.copy(self)
        inner.active = (*self.active, flag)
        return inner

    def calling(self, eqn: Any) -> "Context":
        """The same context, inside the body of a call."""
        inner = copy.copy(self)
        inner.calls = (*self.calls, eqn)
        return inner

    def place(self, eqn: Any) -> str:
        """Where an equation is: the user's line, a site inside, or whose density it is of."""
        if equations.has_sites(eqn):
            return f"at {next(placed_sites(eqn)).site.where}"
        densities = SITE_LABEL.findall(source.scopes(eqn))
        if densities:
            address, line = densities[-1]
            return f"in the log density of site {address!r} ({line})"
        return f"at {source.source_line(source.placed(eqn, self.calls))}"

    def particles_apart(self, val: Val) -> bool:
        """Whether a value has the particles of each element of a batch, as lanes kept apart."""
        sites = [(self[axis.site], axis.form) for axis in val.axes]
        return any(
            not set(range(len(site.loops), len(site.lanes))) <= set(form) for site, form in sites
        )

    def apply(self, fn: Callable, vals: Sequence[Val], transfer: Callable, eqn: Any = None) -> list:
        """The values of `fn` of arrays (a list of arrays), mapped over the axes its inputs have.

        `transfer` gives the provenance of the outputs from that of the inputs. Where it mixes the
        lanes of a site that has several particles, these are expanded first; so are those of which
        it makes running sums and the like.
        """
        ins = [deps_of(val) for val in vals]
        deps = transfer(ins)
        if any(val.axes or val.worlds for val in vals):
            made = [one_by_one(dep) for dep in transfer([as_exact(dep) for dep in ins])]
            vals = conformed(self, vals, mixed_dims(self, vals, [*deps, *made]), eqn)
        check_joint(joint_states(vals), eqn, self.place)
        infinite = any(val.unbounded for val in vals)
        return [
            out._replace(sites=dep.sites, lanes=dep.lanes, unbounded=infinite)
            for out, dep in zip(lifted(fn, vals), deps, strict=True)
        ]

    def bound(self, eqn: Any, vals: Sequence[Val]) -> list[Val]:
        """The outputs of an equation without sites, each over what it depends on."""
        fn, infinite = emitted(eqn, vals), unbounded(eqn, vals)
        outs = self.apply(fn, vals, lambda deps: transfer(eqn, deps), eqn)
        return [trimmed(out)._replace(unbounded=infinite) for out in outs]


def mixed_dims(context: Context, vals: Sequence[Val], deps: Sequence[Deps]) -> dict[int, set[int]]:
    """The lane dimensions of multi-particle sites that are expanded, or become mixed now."""
    mixed: dict[int, set[int]] = {}
    for val in vals:
        forms = {(axis.site, axis.form, axis.step) for axis in val.axes}
        if val.worlds:
            forms |= {(s.site, s.form, 0) for s in val.worlds.segments}
        for number, form, step in forms:
            found = mixed.setdefault(number, set())
            found |= set(form)
            lanes = context[number].lanes
            for dep in deps if step < 1 else ():
                relation = dep.lanes.get(number, (None,) * len(lanes))
                found |= {d for d, entry in enumerate(relation) if entry is None}
    return mixed


def conformed(
    context: Context, vals: Sequence[Val], mixed: dict[int, set[int]], eqn: Any = None
) -> list[Val]:
    """The values, with the particles of sites expanded over their mixed lane dimensions."""
    outs = []
    for val in vals:
        for number, dims in mixed.items():
            val = _expanded(context, val, number, dims, eqn)
        outs.append(val)
    return outs


def _expanded(context: Context, val: Val, number: int, dims: set[int], eqn: Any) -> Val:
    site = context[number]
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
        check_expansion(site, particles, dims, eqn, context.place)
    return expand(val, number, dims, site)
