"""Which sites read which: the dependency graph of a staged program."""

from collections.abc import Iterator
from typing import Any, NamedTuple

from .._ir.address import Path
from .._ir.site import Site
from .._jax import equations
from .._jax.control_flow import CallLike, Form, Loop, bodies, form
from .dataflow import flow, merged


class LoopAround(NamedTuple):
    """A loop around a site: which of the program's it is, how long, and whether it goes back."""

    number: int
    length: int
    reverse: bool


class Node(NamedTuple):
    """A site, the loops, branches and vmaps around it, and the sites it reads.

    `now` are those of the parents whose value at the same step of the innermost loop it reads.
    """

    site: Site
    around: tuple[str, ...]
    loops: tuple[LoopAround, ...]
    parents: tuple[Path, ...]
    now: tuple[Path, ...] = ()


def nodes(jaxpr: Any) -> list[Node]:
    """The sites of a jaxpr in order, each with the nearest sites upstream of it."""
    found = _parents(jaxpr)
    for loop in _loops(jaxpr):  # inner ones last
        for key, node in _parents(loop.body.jaxpr).items():
            found[key] = found[key]._replace(now=node.parents)
    return list(found.values())


def _parents(jaxpr: Any) -> dict[tuple, Node]:
    """The sites of a jaxpr, by what tells one from another; what its inputs are made of is left."""
    found: dict[tuple, Node] = {}
    numbers: dict[int, int] = {}

    def transfer(eqn, ins, within, control):
        if equations.kind(eqn) not in ("sample", "compound"):
            return [merged(ins)] * len(eqn.outvars)
        parents, around = merged([control, *ins]), _around(within)
        loops = tuple(
            LoopAround(numbers.setdefault(id(f.eqn), len(numbers)), f.length, f.reverse)
            for f in around
            if isinstance(f, Loop)
        )
        labels = tuple(outer.label for outer in around)
        for site in _sites(eqn):
            key = (site.path, site.branch, site.where)
            known = found[key].parents if key in found else ()
            read = tuple(sorted(parents | {*known}))
            found[key] = Node(site, (*labels, *_vmaps(site)), loops, read)
        values = [frozenset([site.path]) for site in _sites(eqn)]
        return [*values, *(merged([*values, *ins]) for _ in eqn.outvars[len(values) :])]

    flow(jaxpr, [frozenset()] * len(jaxpr.invars), transfer)
    return found


def _around(within: tuple) -> list[Form]:
    """What is around a site, but for calls."""
    return [found for found in map(form, within) if found and not isinstance(found, CallLike)]


def _loops(jaxpr: Any) -> Iterator[Loop]:
    """The loops of a jaxpr that contain sites, those around others first."""
    for eqn in filter(equations.has_sites, jaxpr.eqns):
        found = form(eqn)
        if isinstance(found, Loop):
            yield found
        for body in bodies(eqn) if found else ():
            yield from _loops(body)


def _sites(eqn: Any) -> tuple[Site, ...]:
    return eqn.params["sites"] if "sites" in eqn.params else (eqn.params["site"],)


def _vmaps(site: Site) -> tuple[str, ...]:
    return tuple(f"vmap {axis.size}" for axis in site.vmaps)
