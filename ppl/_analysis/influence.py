"""What a change of the values at some addresses reaches: which sites, and which of their arrays."""

from collections import defaultdict
from collections.abc import Container
from typing import Any, NamedTuple

import jax

from .._ir.address import Path
from .._ir.call import read_call
from .._ir.site import Site
from .._jax import equations
from .dataflow import Facts, flow, merged

_CHANGED: Facts = frozenset({"changed"})


class Influence(NamedTuple):
    """What a change does to one site.

    - `leaves`: for each leaf of its distribution, whether it may be another (of a compound site,
      for each operand).
    - `reached`: whether the change may decide if control flow reaches the site.
    """

    leaves: tuple[bool, ...]
    reached: bool

    @property
    def any(self) -> bool:
        return self.reached or any(self.leaves)


def key_of(site: Site) -> tuple:
    """What tells a site from the others of its program."""
    return site.path, site.branch, site.where


def influences(jaxpr: Any, changed: Container[Path]) -> dict[tuple, Influence]:
    """The influence of a change on each site of a jaxpr, by `key_of`.

    An address that stands in several branches may be drawn from one distribution before the change
    and from another after it: where the change decides, all of its leaves may be others.
    """
    found: dict[tuple, Influence] = {}
    places: dict[Path, set[tuple]] = defaultdict(set)

    def transfer(eqn, ins, within, control):
        if equations.kind(eqn) not in ("sample", "compound"):
            return [merged(ins)] * len(eqn.outvars)
        one = _sites(eqn)[0]
        seen = _influence(eqn, ins, control)
        for site in _sites(eqn):
            places[site.path].add(tuple(map(id, (*within, eqn))))
            found[key_of(site)] = _joined(found.get(key_of(site), seen), seen)
        facts = _CHANGED if found[key_of(one)].any else frozenset()
        outs = [_CHANGED if site.path in changed else facts for site in _sites(eqn)]
        return outs + outs[:1] * (len(eqn.outvars) - len(outs))

    flow(jaxpr, [frozenset()] * len(jaxpr.invars), transfer)
    return {
        key: _all_of(seen) if seen.reached and len(places[key[0]]) > 1 else seen
        for key, seen in found.items()
    }


def _sites(eqn: Any) -> tuple[Site, ...]:
    return eqn.params["sites"] if "sites" in eqn.params else (eqn.params["site"],)


def _influence(eqn: Any, ins: list[Facts], control: Facts) -> Influence:
    if equations.kind(eqn) == "compound":
        return Influence(tuple(map(bool, ins)), bool(control))
    operands = read_call(eqn.params["site"], ins).operands
    leaves = jax.tree.leaves(operands.distribution)
    told = tuple(isinstance(leaf, frozenset) and bool(leaf) for leaf in leaves)
    return Influence(told, bool(merged([control, *operands.active])))


def _joined(one: Influence, other: Influence) -> Influence:
    reached = one.reached or other.reached
    if len(one.leaves) != len(other.leaves):
        return _all_of(other._replace(reached=reached))
    pairs = zip(one.leaves, other.leaves, strict=True)
    return Influence(tuple(a or b for a, b in pairs), reached)


def _all_of(seen: Influence) -> Influence:
    return seen._replace(leaves=tuple(True for _ in seen.leaves))
