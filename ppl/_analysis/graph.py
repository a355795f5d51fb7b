"""Which sites read which: the dependency graph of a staged program."""

from typing import Any, NamedTuple

from .._ir.address import Path
from .._ir.site import Site, read_call
from .._jax import equations
from .._jax.control_flow import Branches, CallLike, form
from .dataflow import flow, merged


class Node(NamedTuple):
    """A site, what it draws from, the loops and lanes around it, and the sites it reads.

    `weighted`: its density is scaled or masked; `branched`: a `cond` is around it.
    """

    site: Site
    distribution: str
    estimator: str
    around: tuple[str, ...]
    parents: tuple[Path, ...]
    weighted: bool = False
    branched: bool = False


def nodes(jaxpr: Any) -> list[Node]:
    """The sites of a jaxpr in order, each with the nearest sites upstream of it."""
    found: dict[tuple, Node] = {}

    def transfer(eqn, ins, within, control):
        if equations.kind(eqn) not in ("sample", "compound"):
            return [merged(ins)] * len(eqn.outvars)
        parents = merged([control, *ins])
        for node in _nodes(eqn, within):
            key = (node.site.path, node.site.branch, node.site.where)
            known = found[key].parents if key in found else ()
            found[key] = node._replace(parents=tuple(sorted(parents | {*known})))
        return [frozenset([site.path]) for site in _sites(eqn)]

    flow(jaxpr, [frozenset()] * len(jaxpr.invars), transfer)
    return list(found.values())


def _sites(eqn: Any) -> tuple[Site, ...]:
    return eqn.params["sites"] if "sites" in eqn.params else (eqn.params["site"],)


def _nodes(eqn: Any, within: tuple) -> list[Node]:
    """A node for each address of a site's equation, its parents left out."""
    distribution, estimator, weighted = eqn.params.get("name", ""), "", False
    for site in _sites(eqn):
        if not site.compound:
            operands = read_call(site, [v.aval for v in eqn.invars]).operands
            distribution = type(operands.distribution).__name__
            weighted = bool(operands.scales or operands.masks)
            estimator = "" if operands.estimator is None else type(operands.estimator).__name__
    around = [found for found in map(form, within) if found and not isinstance(found, CallLike)]
    labels = [outer.label for outer in around]
    branched = any(isinstance(outer, Branches) for outer in around)
    return [
        Node(site, distribution, estimator, (*labels, *_vmaps(site)), (), weighted, branched)
        for site in _sites(eqn)
    ]


def _vmaps(site: Site) -> tuple[str, ...]:
    return tuple(f"vmap {axis.size}" for axis in site.vmaps)
