"""Records: what an interpretation brings up from the sites of a program, body by body."""

import dataclasses
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from .._ir.address import Path
from ..errors import BranchMismatch, DuplicateAddress
from .feed import Placed
from .site_record import SiteRecord, conform, placeholder, select


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["sites", "log_density", "log_likelihood"],
    meta_fields=[],
)
@dataclasses.dataclass(frozen=True)
class Record:
    """What the sites of a body did, by address, and summed log densities.

    A site's record has the lanes and the loops within the body in front. Logs are None where
    nothing was scored.
    """

    sites: dict[Path, SiteRecord] = dataclasses.field(default_factory=dict)
    log_density: Any = None
    log_likelihood: Any = None

    def stacked(self, body: Sequence[Placed]) -> "Record":
        """The record of a loop from the record of its body with a leading axis of steps."""
        axis = {p.path: p.site.loop_position(p.depth + 1) for p in body}
        return Record(
            {path: _moved(site, axis[path]) for path, site in self.sites.items()},
            *jax.tree.map(jnp.sum, (self.log_density, self.log_likelihood)),
        )

    def without_sites(self) -> "Record":
        return Record({}, self.log_density, self.log_likelihood)


def _moved(record: SiteRecord, axis: int) -> SiteRecord:
    return jax.tree.map(lambda x: jnp.moveaxis(x, 0, axis), record) if axis else record


def joined(records: Sequence[Record]) -> Record:
    """One record from those of the equations of one body.

    An address twice is an error, unless the two sites stand in different branches of one batched
    `cond`: then they are one site, with the record of the branch that was reached.
    """
    sites: dict[Path, SiteRecord] = {}
    for record in records:
        for path, site in record.sites.items():
            old = sites.get(path)
            if old is not None and old.conditional and site.conditional:
                site = select(site.valid, site, old)
            sites[path] = site
    return Record(
        sites,
        _total([r.log_density for r in records]),
        _total([r.log_likelihood for r in records]),
    )


def _total(logs: Sequence[Any]) -> Any:
    scored = [log for log in logs if log is not None]
    total = scored[0] if scored else None
    for log in scored[1:]:
        total = total + log
    return total


def check_duplicates(sites: Sequence[Placed], name: str) -> None:
    """Raises where two sites that can both be reached share an address."""
    seen: dict[Path, list[Placed]] = {}
    for placed in (placed for placed in sites if placed.path):
        for other in seen.setdefault(placed.path, []):
            if not placed.site.excludes(other.site):
                raise DuplicateAddress(
                    f"Program {name!r} has two sites at the address {placed.site.address!r}: "
                    f"{other.site.where} and {placed.site.where}. Rename one, or put the "
                    f'sub-program in ppl.scope(program, "prefix").'
                )
        seen[placed.path].append(placed)
    _check_agreement(seen)


def aligned(records: Sequence[Record], bodies: Sequence[Sequence[Placed]], taken: int) -> Record:
    """The record of the branch `taken` of a `cond`, made to cover the addresses of them all."""
    places: dict[Path, list[Placed]] = {}
    for body in bodies:
        for placed in filter(lambda placed: placed.path, body):
            places.setdefault(placed.path, []).append(placed)
    _check_agreement(places)
    covered = sorted({path for record in records for path in record.sites})
    summed = [
        _aligned_log([getattr(record, name) for record in records], taken)
        for name in ("log_density", "log_likelihood")
    ]
    return Record(
        {path: _aligned_site(path, places[path][0], records, taken) for path in covered}, *summed
    )


def _aligned_log(logs: Sequence[Any], taken: int) -> Any:
    if all(log is None for log in logs):
        return None
    return jnp.asarray(0.0 if logs[taken] is None else logs[taken])


def _aligned_site(path: Path, placed: Placed, records: Sequence[Record], taken: int) -> SiteRecord:
    """The record of one site; a placeholder where the branch taken has no such site."""
    having = [i for i, record in enumerate(records) if path in record.sites]
    alike = dict(zip(having, conform([records[i].sites[path] for i in having]), strict=True))
    reached = taken in alike
    site = alike[taken] if reached else placeholder(placed, alike[having[0]])
    if len(having) == len(records) and not any(one.conditional for one in alike.values()):
        return site
    valid = site.valid if reached else jnp.zeros_like(site.valid)
    return dataclasses.replace(site, _valid=valid)


def _check_agreement(places: Mapping[Path, Sequence[Placed]]) -> None:
    for found in places.values():
        first = found[0]
        for other in found[1:]:
            mine, theirs = _described(first), _described(other)
            if mine != theirs:
                raise BranchMismatch(
                    f"Site {first.site.address!r} {mine} in one branch ({first.site.where}) and "
                    f"{theirs} in another ({other.site.where}). Give the two sites different "
                    "addresses, or the same shape and dtype, and data in both or in neither."
                )


def _described(placed: Placed) -> str:
    text = f"{jnp.dtype(placed.site.out.dtype).name}{list(placed.shape)}"
    return f"has shape and dtype {text}" + (" and is observed" if placed.site.observed else "")
