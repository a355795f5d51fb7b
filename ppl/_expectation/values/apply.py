"""Functions of arrays, applied to values: mapped over just the particles that they meet."""

from collections.abc import Callable, Sequence
from typing import Any

from .expansion import Sites, conform, mixed_dims
from .lanes import as_exact, deps_of, one_by_one, transfer
from .limits import check_joint
from .slices import keep_slices, step_back, whole_again
from .value import Value, joint_states, lift_worlds, trim
from .vanishing import emit, unbounded


def apply(
    sites: Sites,
    fn: Callable,
    vals: Sequence[Value],
    through: Callable,
    eqn: Any = None,
) -> list[Value]:
    """The values of `fn` of arrays (a list of arrays), mapped over the axes its inputs have.

    `through` gives the provenance of the outputs from that of the inputs. Where it mixes the
    lanes of a site that has several particles, these are expanded first; so are those of which
    it makes running sums and the like. Neighbouring slices meet as steps (`slices`). `eqn` is what
    the function stands for, for messages.
    """
    vals = step_back(sites, vals, eqn)
    ins = [deps_of(val) for val in vals]
    deps = [keep_slices(vals, dep) for dep in through(ins)]
    if any(val.axes or val.worlds for val in vals):
        alone = [one_by_one(dep) for dep in through([as_exact(dep) for dep in ins])]
        vals = conform(sites, vals, mixed_dims(sites, vals, [*deps, *alone]), eqn)
    check_joint(joint_states(vals), eqn, sites.place)
    return [
        whole_again(sites, out._replace(sites=dep.sites, relations=dep.relations))
        for out, dep in zip(lift_worlds(fn, vals), deps, strict=True)
    ]


def bind(sites: Sites, eqn: Any, vals: Sequence[Value]) -> list[Value]:
    """The outputs of an equation without sites, each over what it depends on."""
    fn, infinite = emit(eqn, vals), unbounded(eqn, vals)
    outs = apply(sites, fn, vals, lambda deps: transfer(eqn, deps), eqn)
    return [trim(out)._replace(unbounded=infinite) for out in outs]
