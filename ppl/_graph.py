"""Which sites read which: the dependency graph of a staged program."""

from typing import Any, NamedTuple

from . import _internals as internals
from ._address import Path
from ._dataflow import flow, merged
from ._site import Site, read_call


class Node(NamedTuple):
    """A site, what it draws from, the loops and lanes around it, and the sites it reads."""

    site: Site
    distribution: str
    estimator: str
    around: tuple[str, ...]
    parents: tuple[Path, ...]


def nodes(jaxpr: Any) -> list[Node]:
    """The sites of a jaxpr in order, each with the nearest sites upstream of it."""
    found: dict[tuple, Node] = {}

    def transfer(eqn, ins, within, control):
        if internals.kind(eqn) != "sample":
            return [merged(ins)] * len(eqn.outvars)
        site = eqn.params["site"]
        key = (site.path, site.branch, site.where)
        known = found[key].parents if key in found else ()
        found[key] = _node(eqn, within, merged([control, *ins, frozenset(known)]))
        return [frozenset([site.path])]

    flow(jaxpr, [frozenset()] * len(jaxpr.invars), transfer)
    return list(found.values())


def _node(eqn: Any, within: tuple, parents: frozenset) -> Node:
    site = eqn.params["site"]
    operands = read_call(site, [v.aval for v in eqn.invars]).operands
    return Node(
        site,
        type(operands.distribution).__name__,
        "" if operands.estimator is None else type(operands.estimator).__name__,
        tuple(filter(None, [*map(_named, within), *(f"vmap {axis.size}" for axis in site.lanes)])),
        tuple(sorted(parents)),
    )


def _named(eqn: Any) -> str:
    kind = internals.kind(eqn)
    return {"scan": f"scan {eqn.params.get('length')}", "cond": kind, "while": kind}.get(kind, "")
