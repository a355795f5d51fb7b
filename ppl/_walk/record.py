"""Records: what an interpretation brings up from the sites of a program, body by body."""

from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from .._ir.address import Path
from .._ir.site import Site
from ..errors import BranchMismatch, DuplicateAddress
from .feed import Placed


class Record(eqx.Module):
    """Values by address, whether control flow reached them, and summed log densities.

    A value is an array, or a pytree of arrays with the site's lanes in front. `valid` has an entry
    for each conditional site only. Logs are None where nothing was scored.
    """

    values: dict[Path, Any] = eqx.field(default_factory=dict)
    valid: dict[Path, jax.Array] = eqx.field(default_factory=dict)
    log_density: Any = None
    log_likelihood: Any = None

    def stacked(self, body: Sequence[Placed]) -> "Record":
        """The record of a loop from the record of its body with a leading axis of steps."""
        axis = {p.path: p.site.loop_position(p.depth + 1) for p in body}
        return Record(
            {path: _moved(v, axis[path]) for path, v in self.values.items()},
            {path: jnp.moveaxis(v, 0, axis[path]) for path, v in self.valid.items()},
            *jax.tree.map(jnp.sum, (self.log_density, self.log_likelihood)),
        )

    def without_values(self) -> "Record":
        return Record({}, {}, self.log_density, self.log_likelihood)


def _moved(value: Any, axis: int) -> Any:
    return jax.tree.map(lambda x: jnp.moveaxis(x, 0, axis), value)


def joined(records: Sequence[Record]) -> Record:
    """One record from those of the equations of one body.

    An address twice is an error, unless the two sites stand in different branches of one batched
    `cond`: then they are one site, with the value of the branch that was reached.
    """
    values: dict[Path, jax.Array] = {}
    valid: dict[Path, jax.Array] = {}
    for record in records:
        for path, value in record.values.items():
            if path in values and path in valid and path in record.valid:
                chosen = record.valid[path]
                extra = (1,) * (value.ndim - chosen.ndim)
                value = jnp.where(chosen.reshape(chosen.shape + extra), value, values[path])
                valid[path] = valid[path] | chosen
            elif path in record.valid:
                valid[path] = record.valid[path]
            values[path] = value
    return Record(
        values,
        valid,
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
    seen: dict[Path, list[Site]] = {}
    for site in (placed.site for placed in sites if placed.path):
        for other in seen.setdefault(site.path, []):
            if not site.excludes(other):
                raise DuplicateAddress(
                    f"Program {name!r} has two sites at the address {site.address!r}: "
                    f"{other.where} and {site.where}. Rename one, or put the sub-program in "
                    f'ppl.scope(program, "prefix").'
                )
        seen[site.path].append(site)


def aligned(records: Sequence[Record], bodies: Sequence[Sequence[Placed]], taken: int) -> Record:
    """The record of the branch `taken` of a `cond`, made to cover the addresses of them all."""
    places: dict[Path, list[Placed]] = {}
    for body in bodies:
        for placed in filter(lambda placed: placed.path, body):
            places.setdefault(placed.path, []).append(placed)
    _check_agreement(places)
    covered = {path for record in records for path in record.values}
    everywhere = {
        path for path in covered if all(path in r.values and path not in r.valid for r in records)
    }
    logs = [
        any(getattr(r, name) is not None for r in records)
        for name in ("log_density", "log_likelihood")
    ]
    return _cover(records[taken], covered, everywhere, places, logs)


def _cover(record, covered, everywhere, places, logs) -> Record:
    values, valid = {}, {}
    for path in sorted(covered):
        placed = places[path][0]
        taken = path in record.values
        if taken:
            values[path] = record.values[path]
        else:
            values[path] = jnp.zeros(placed.shape, placed.site.out.dtype)
        if path not in everywhere:
            lanes = placed.shape[: len(placed.shape) - len(placed.site.out.shape)]
            valid[path] = record.valid.get(path, jnp.full(lanes, taken))
    summed = [
        jnp.asarray(0.0 if log is None else log) if scored else None
        for log, scored in zip((record.log_density, record.log_likelihood), logs, strict=True)
    ]
    return Record(values, valid, *summed)


def _check_agreement(places: dict[Path, list[Placed]]) -> None:
    for found in places.values():
        first = found[0]
        for other in found[1:]:
            mine = (first.shape, first.site.out.dtype)
            theirs = (other.shape, other.site.out.dtype)
            if mine != theirs:
                raise BranchMismatch(
                    f"Site {first.site.address!r} has shape and dtype {_text(mine)} in one branch "
                    f"({first.site.where}) and {_text(theirs)} in another ({other.site.where}). "
                    "Give the two sites different addresses, or the same shape and dtype."
                )


def _text(struct: tuple) -> str:
    shape, dtype = struct
    return f"{jnp.dtype(dtype).name}{list(shape)}"
