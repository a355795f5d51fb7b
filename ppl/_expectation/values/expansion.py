"""From particles of each lane to joint states of lanes that are mixed."""

import math
from collections.abc import Collection, Sequence
from typing import Any, Protocol, runtime_checkable

import jax.numpy as jnp
import numpy as np

from .lanes import Deps
from .limits import check_expansion
from .value import Axis, Value, trim
from .worlds import Expansion, expansion_of, perturb_apart


@runtime_checkable
class Sites(Protocol):
    """Where weighted sites are looked up by number: an evaluation."""

    def __getitem__(self, number: int) -> Any: ...

    def place(self, eqn: Any) -> str:
        """Where an equation is, for messages."""
        ...

    def mix(self, *loops: Any) -> None:
        """Notes that particles of different steps of loops meet, or raises `MixedSteps`."""
        ...

    def loops_along(self, number: int) -> Sequence[Any]:
        """The loops whose steps the lanes of a site are where particles of different ones meet."""
        ...

    def step_back(self, number: int, dim: int) -> bool:
        """Whether slices that are one lane apart may meet as steps; if so, notes that they do."""
        ...

    def loop_of(self, step: int) -> Any:
        """The loop around whose steps a negative dimension stands for."""
        ...

    def number_of(self, step: int) -> Any:
        """The number of the step, of this loop, that is evaluated; traced."""
        ...


class MixedSteps(Exception):
    """Particles of different steps of loops meet: these have to be written out.

    An exception, as it leaves the trace of the loop's body, of which JAX is in the middle, to the
    loop's own rule; or the elimination of a site, which goes on with the next.
    """

    def __init__(self, *loops: Any):
        self.loops = loops


def mixed_dims(sites: Sites, vals: Sequence[Value], deps: Sequence[Deps]) -> dict[int, set[int]]:
    """The lane dimensions of multi-particle sites that are expanded, or become mixed now."""
    mixed: dict[int, set[int]] = {}
    for val in vals:
        forms = {(axis.site, axis.form, axis.step) for axis in val.axes}
        if val.worlds:
            forms |= {(s.site, s.form, 0) for s in val.worlds.segments}
        for number, form, step in forms:
            found = mixed.setdefault(number, set())
            found |= set(form)
            lanes = sites[number].lane_sizes
            for dep in deps if step < 1 else ():
                relation = dep.relations.get(number, (None,) * len(lanes))
                found |= {d for d, entry in enumerate(relation) if entry is None}
    return mixed


def conform(
    sites: Sites, vals: Sequence[Value], mixed: dict[int, set[int]], eqn: Any = None
) -> list[Value]:
    """The values, with the particles of sites expanded over their mixed lane dimensions."""
    outs = []
    for val in vals:
        for number, dims in mixed.items():
            val = _expand(sites, val, number, dims, eqn)
        outs.append(val)
    return outs


def fix(val: Value, numbers: Collection[int]) -> Value:
    """The value at the first particle of some sites, which it does not depend on then.

    It stands in for a value of a loop that is to be written out, so that the rest of the program
    can be looked through for others.
    """
    bits = sum(1 << number for number in numbers)
    relations = {site: r for site, r in val.relations.items() if site not in numbers}
    fixed = val._replace(sites=val.sites & ~bits, relations=relations)
    return trim(fixed._replace(known=None, small=None))


def _expand(sites: Sites, val: Value, number: int, dims: set[int], eqn: Any) -> Value:
    site = sites[number]
    forms = {axis.form for axis in val.axes if axis.site == number}
    if val.worlds:
        forms |= {axis.form for axis in val.worlds.axes if axis.site == number}
        forms |= {s.form for s in val.worlds.segments if s.site == number}
    if all(dims <= set(form) for form in forms):
        return val
    lanes = expansion_of(val, number, dims, site.lane_sizes)
    if site.perturbed:
        return perturb_apart(val, lanes, sites.number_of)
    meeting = any(axis.site == number and axis.step for axis in val.axes)
    if meeting or min(dims) < len(site.loops):
        sites.mix(*(sites.loops_along(number) if meeting else [site.loops[min(dims)]]))
        return fix(val, [number])
    step = min(lanes.places.values(), default=0)
    if step < 0:  # a loop around goes along the lanes
        sites.mix(sites.loop_of(step))
    axis = next(a for a in site.weight.axes if a.site == number and a.step == 0)
    particles = jnp.shape(site.weight.array)[site.weight.axes.index(axis)]
    check_expansion(site, particles, dims, eqn, sites.place)
    return _expand_states(val, lanes)


def _expand_states(val: Value, lanes: Expansion) -> Value:
    """A value over the joint states of a site's lanes along `dims` (and its form so far).

    n lanes of K particles have K**n joint states: `(K, n)` becomes `(K**n, n)`.
    """
    array, axes, worlds = val.array, val.axes, val.worlds
    if worlds and any(axis.site == lanes.number for axis in worlds.axes):
        inside, inner = _join_states(worlds.array, worlds.axes, lanes, lead=1)
        worlds = worlds._replace(array=inside, axes=inner)
    if any(axis.site == lanes.number for axis in axes):
        array, axes = _join_states(array, axes, lanes)
    return val._replace(array=array, axes=axes, worlds=worlds, known=None, small=None)


def _join_states(
    array: Any, axes: tuple[Axis, ...], lanes: Expansion, lead: int = 0
) -> tuple[Any, tuple[Axis, ...]]:
    """Gathers the particle of each lane in each joint state, and names the axis accordingly.

    The array is `(*lead, *axes, *event)`. Its axis of the site has the states over the old form,
    K to the number of its lanes; the new one has those over the new form.
    """
    (old,) = (axis for axis in axes if axis.site == lanes.number)
    form, new = lanes.form(old.form), lanes.new(old.form)
    at = lead + axes.index(old)
    source = states_of_lanes(array.shape[at], old.form, form, lanes.sizes)
    places = [lead + len(axes) + lanes.places[d] for d in new]
    front = jnp.moveaxis(array, [at, *places], range(1 + len(new)))
    sizes = front.shape[1 : 1 + len(new)]
    flat = front.reshape(front.shape[0], math.prod(sizes), *front.shape[1 + len(new) :])
    starts = [lanes.starts[d] for d in new]
    own = tuple(slice(start, start + n) for start, n in zip(starts, sizes, strict=True))
    of_lanes = source.reshape(-1, *(lanes.sizes[d] for d in new))[:, *own]
    source = of_lanes.reshape(len(source), math.prod(sizes))
    out = flat[source, np.arange(flat.shape[1])[None]]
    out = out.reshape(len(source), *sizes, *out.shape[2:])
    out = jnp.moveaxis(out, range(1 + len(new)), [at, *places])
    return out, tuple(a._replace(form=form) if a == old else a for a in axes)


def states_of_lanes(states: int, old: tuple, form: tuple, sizes: tuple) -> np.ndarray:
    """For each joint state over `form` and each lane of its new dimensions: the state over `old`.

    `(states of form, new lanes)`, of `states` over `old`. States number the particles of the lanes
    of a form as digits, in the lanes' row-major order.
    """
    before, count = (math.prod(sizes[d] for d in dims) for dims in (old, form))
    particles = round(states ** (1 / before))
    digits = np.indices((particles,) * count).reshape(*(sizes[d] for d in form), -1)
    new = [i for i, d in enumerate(form) if d not in old]
    kept = [i for i, d in enumerate(form) if d in old]
    lanes = digits.transpose(*new, *kept, -1).reshape(count // before, before, -1)
    place = particles ** np.arange(before)[::-1]
    return np.einsum("nbs,b->sn", lanes, place)
