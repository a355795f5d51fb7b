"""Feeds: what an interpretation hands down to the sites of a program, body by body.

A feed is a pytree, so that its parts can be scanned over. `Nothing` hands down nothing, `Prefix` a
path, `Keys` a fresh PRNG key to each site, `Choices` values looked up by address, `Shared` what
another run of the program did, `Depth` the number of loops.
"""

import abc
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp

from .._ir.address import Path
from .._ir.site import Site
from ..errors import UnsupportedControlFlow


class Placed(NamedTuple):
    """A site seen from some body of a program, `depth` loops above it.

    `shape` is that of its values as recorded at that body: the loops in between are stacked.
    """

    site: Site
    shape: tuple[int, ...]
    depth: int = 0
    conditional: bool = False
    in_while: bool = False

    @property
    def path(self) -> Path:
        return self.site.path


class Feed(eqx.Module):
    """The interface."""

    @property
    def noise(self) -> jax.Array | None:
        """The key of what draws in place (`fresh_key`); None where that is emitted again."""
        return None

    @abc.abstractmethod
    def split(self, count: int) -> Sequence["Feed"]:
        """One feed for each of the equations of a body that contain sites."""

    @abc.abstractmethod
    def steps(self, body: Sequence[Placed], length: int) -> Any:
        """A feed whose arrays have a leading axis of loop steps."""

    @abc.abstractmethod
    def iterate(self, body: Sequence[Placed]) -> tuple[Any, Any]:
        """For a `while_loop`: the feed of this iteration, and the one to carry on."""


class Nothing(Feed):
    """Hands down nothing."""

    def split(self, count):
        return [self] * count

    def steps(self, body, length):
        return self

    def iterate(self, body):
        return self, self


class Prefix(Nothing):
    """Says under which path a program's addresses are put."""

    path: Path = eqx.field(static=True, default=())


class Keys(Feed):
    """Hands each site a PRNG key of its own; a body with one site passes its key on unchanged."""

    key: jax.Array

    @property
    def noise(self):
        return self.key

    def split(self, count):
        if count == 1:
            return [self]
        return [Keys(key) for key in jax.random.split(self.key, count)]

    def steps(self, body, length):
        return Keys(jax.random.split(self.key, length))

    def iterate(self, body):
        now, later = jax.random.split(self.key)
        return Keys(now), Keys(later)


class Choices(Feed):
    """Hands each site the value at its address; values of sites in loops have the loops' axes."""

    values: dict[Path, jax.Array]

    def split(self, count):
        return [self] * count

    def steps(self, body, length):
        return Choices(_by_step(self.values, body))

    def iterate(self, body):
        for placed in body:
            if placed.path in self.values:
                raise UnsupportedControlFlow(
                    f"Site {placed.site.address!r} at {placed.site.where} is inside a while_loop, "
                    "which has no fixed number of steps, so its choices cannot be given. "
                    "Use lax.scan or lax.fori_loop with a fixed number of steps."
                )
        return self, self


class Shared(Feed):
    """Hands each site its record in another run of the program, or a value in its place.

    `keys` hands down the other run's keys, where the program draws from keys of its own.
    """

    values: dict[Path, jax.Array]
    records: dict[Path, Any]
    keys: Feed

    @property
    def noise(self):
        return self.keys.noise

    def split(self, count):
        return [self._with(keys) for keys in self.keys.split(count)]

    def steps(self, body, length):
        values, records = _by_step(self.values, body), _by_step(self.records, body)
        return Shared(values, records, self.keys.steps(body, length))

    def iterate(self, body):
        for placed in body:
            raise UnsupportedControlFlow(
                f"Site {placed.site.address!r} at {placed.site.where} is inside a while_loop, "
                "which has no fixed number of steps, so the noise of one run cannot be handed to "
                "another. Use lax.scan or lax.fori_loop with a fixed number of steps."
            )
        now, later = self.keys.iterate(body)
        return self._with(now), self._with(later)

    def _with(self, keys: Feed) -> "Shared":
        return Shared(self.values, self.records, keys)


class Depth(Feed):
    """Counts the loops entered."""

    loops: int = eqx.field(static=True, default=0)

    def split(self, count):
        return [self] * count

    def steps(self, body, length):
        return Depth(self.loops + 1)

    def iterate(self, body):
        deeper = Depth(self.loops + 1)
        return deeper, self


def _by_step(things: Mapping[Path, Any], body: Sequence[Placed]) -> dict[Path, Any]:
    """What is handed to the sites of a loop's body, with the axis of its steps in front."""
    axes = {placed.path: placed.site.loop_position(placed.depth + 1) for placed in body}
    return {
        path: jax.tree.map(lambda x, axis=axes[path]: jnp.moveaxis(x, axis, 0), thing)
        for path, thing in things.items()
        if path in axes
    }
