"""Which dimensions of a value keep the independent elements ('lanes') of batched sites apart.

For a site with lane dimensions (its vmaps, loops and batch shape), a value's relation to it has one
entry a lane dimension: `Along(dim)`, where the value's elements along `dim` depend each on the lane
of the same index, or None where lanes are mixed. A site that the value depends on and that has no
relation is mixed throughout. Mixed is always correct.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from ..._analysis.propagate import Analysis, Stepping, propagate, propagate_through
from ..._jax import equations
from ..._jax.control_flow import Form, Loop, While
from .dimensions import ANTICAUSAL, CAUSAL, EXACT, Along, maps_of_outputs

Relation = tuple[Along | None, ...]


class Deps(NamedTuple):
    """What a value depends on: a bit mask of sites, and the relations to batched ones."""

    sites: int = 0
    relations: Mapping[int, Relation] = {}


def deps_of(val: Any) -> Deps:
    """The provenance of a value."""
    return Deps(val.sites, val.relations)


def join(deps: Sequence[Deps]) -> Deps:
    """The provenance of what is made from several values, dimension by dimension."""
    sites, lanes = 0, {}
    for dep in deps:
        sites |= dep.sites
    for site in {site for dep in deps for site in dep.relations}:
        found = [dep.relations.get(site) for dep in deps if dep.sites >> site & 1]
        if found and None not in found:
            relation = tuple(_meet(column) for column in zip(*found, strict=True))
            if any(relation):
                lanes[site] = relation
    return Deps(sites, lanes)


def _meet(entries: Sequence[Along | None]) -> Along | None:
    met = entries[0]
    for entry in entries[1:]:
        if met is None or entry is None or met.dim != entry.dim or met.start != entry.start:
            return None
        met = _after(met, entry._replace(start=None))
    return met


def _after(first: Along, then: Along) -> Along | None:
    """Both relations at once, along the dimension of the second; of slices, the slice of it."""
    hows, start = {first.how, then.how} - {EXACT}, first.start
    if then.start is not None:
        start = then.start + (start or 0)
    if len(hows) > 1 or (start is not None and start < 0):
        return None
    return Along(then.dim, hows.pop() if hows else EXACT, start)


def move(deps: Deps, dims: Callable[[int], Any]) -> Deps:
    """The provenance after an array's dimensions are moved; steps of loops stay what they are.

    `dims(old)` is the new dimension, an `Along` or None.
    """
    return renumber(deps, lambda d: d if d < 0 else dims(d))


def renumber(deps: Deps, dims: Callable[[int], Any]) -> Deps:
    """As `move`, of the negative dimensions too, which stand for steps of loops."""

    def entry(along: Along | None) -> Along | None:
        new = dims(along.dim) if along is not None else None
        if along is None or new is None:
            return None
        return _after(along, new) if isinstance(new, Along) else along._replace(dim=new)

    lanes = {site: tuple(map(entry, relation)) for site, relation in deps.relations.items()}
    return Deps(deps.sites, {site: r for site, r in lanes.items() if any(r)})


def as_exact(deps: Deps) -> Deps:
    """The provenance as if elements depended on their own lanes alone, none before or after."""
    exact = lambda a: a and a._replace(how=EXACT)  # noqa: E731
    return Deps(deps.sites, {site: tuple(map(exact, r)) for site, r in deps.relations.items()})


def one_by_one(deps: Deps) -> Deps:
    """The provenance with lanes mixed where elements depend on those before or after."""
    alone = lambda a: a if a and a.how == EXACT else None  # noqa: E731
    lanes = {site: tuple(map(alone, relation)) for site, relation in deps.relations.items()}
    return Deps(deps.sites, {site: r for site, r in lanes.items() if any(r)})


def through(deps: Deps, mapping: Sequence[Any] | None) -> Deps:
    """The provenance through an equation."""
    if not deps.relations:
        return deps
    return move(deps, lambda d: None if mapping is None else mapping[d])


def transfer(eqn: Any, ins: Sequence[Deps]) -> list[Deps]:
    """The provenance of an equation's outputs from that of its inputs."""
    return propagate_through(LANES, eqn, ins)


def flow(jaxpr: Any, ins: Sequence[Deps]) -> list[Deps]:
    """The provenance of a jaxpr's outputs from that of its inputs."""
    return propagate(LANES, jaxpr, ins)


def _plain(eqn: Any, ins: Sequence[Deps], scope: Any) -> list[Deps]:
    if not any(dep.relations for dep in ins):
        return [join(ins)] * len(eqn.outvars)
    outs = []
    for maps in maps_of_outputs(eqn):
        maps = [None] * len(ins) if maps is None else maps
        outs.append(join([through(dep, m) for dep, m in zip(ins, maps, strict=True)]))
    return [_put_together(ins, outs[0])] if equations.kind(eqn) == "concatenate" else outs


def _put_together(ins: Sequence[Deps], out: Deps) -> Deps:
    """What pieces side by side depend on: lanes are apart where each piece has its own of them."""
    mixed = without_slices(out).relations
    kept = {
        n: relation if all(dep.sites >> n & 1 for dep in ins) else mixed.get(n)
        for n, relation in out.relations.items()
    }
    return Deps(out.sites, {n: relation for n, relation in kept.items() if relation})


def _chosen(eqn: Any, index: Deps, ins: Sequence[Deps], scope: Any) -> list[Deps]:
    return [through(index, None)] * len(eqn.outvars)


def without_slices(deps: Deps, dim: int | None = None) -> Deps:
    """The provenance with lanes mixed of which there is a slice (along one dimension, or any)."""

    def whole(along: Along | None) -> Along | None:
        sliced = along is not None and along.start is not None and dim in (None, along.dim)
        return None if sliced else along

    lanes = {site: tuple(map(whole, relation)) for site, relation in deps.relations.items()}
    return Deps(deps.sites, {site: r for site, r in lanes.items() if any(r)})


# --- loops ---------------------------------------------------------------------------------------


def enter(deps: Deps, level: int) -> Deps:
    """One step's slice of a scanned input: its leading dimension is the step."""
    return move(without_slices(deps, 0), lambda d: d - 1 if d else -level)


def hand_on(deps: Deps, level: int, reverse: bool) -> Deps:
    """What one step hands to the next: it depends on that step's past."""
    past = Along(-level, ANTICAUSAL if reverse else CAUSAL)
    return renumber(deps, lambda d: past if d == -level else d)


def stack(deps: Deps, level: int) -> Deps:
    """The stacked outputs of the steps."""
    return renumber(deps, lambda d: 0 if d == -level else (d + 1 if d >= 0 else d))


def leave(deps: Deps, level: int) -> Deps:
    """What the last step hands out: it depends on all of them."""
    return renumber(deps, lambda d: None if d == -level else d)


def new_level(deps: Sequence[Deps]) -> int:
    """A number for the steps of a loop that no relation uses yet."""
    dims = [a.dim for dep in deps for relation in dep.relations.values() for a in relation if a]
    return 1 - min(0, *dims, 0)


def _steps(loop: Form, ins: Sequence[Deps]) -> Stepping[Deps]:
    assert isinstance(loop, Loop)
    level, reverse = new_level(ins), loop.reverse
    return Stepping(
        lambda dep: enter(dep, level),
        lambda dep: hand_on(dep, level, reverse),
        lambda dep: stack(dep, level),
        lambda dep: leave(dep, level),
    )


LANES = Analysis(join, _plain, lambda form: not isinstance(form, While), _steps, _chosen)
"""The analysis: a `while_loop` is not entered, and mixes all."""
