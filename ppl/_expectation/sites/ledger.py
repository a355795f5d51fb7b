"""The ledger of an evaluation: the weighted sites opened so far, by number."""

from collections.abc import Collection, Hashable, Sequence
from typing import Any, NamedTuple, Optional

from ..values.expansion import fix
from ..values.value import Axis, Value
from .weighted_site import Scan, WeightedSite

SIDE_BY_SIDE = Scan(None, 0, False, 0)
"""In place of a loop, where slices that are one lane apart meet: such slices count as mixed."""


class Coupled(NamedTuple):
    """Sites that share their particles: the axis, and the kind and estimator of the first."""

    axis: Axis
    kind: Any
    estimator: Any


class Ledger:
    """The weighted sites, numbered in the order in which they are opened.

    A body that is traced apart (of a loop, a branch, a checkpoint) has a ledger of its own, as the
    values that it notes do not outlive the trace. What it shares with the one around is this:

    - Numbers go on where the `outer` ledger ends, `first`, and sites before that are read in it. So
      the sites of the body keep their numbers when the rule of its equation, which gets them
      as outputs of the trace, opens them outside.
    - In a loop, what is carried may depend on sites of the body that have not been opened in this
      trace: they are `expected`, with shapes for arrays, and so are those of the loops around.
    - `coupled`, the sites that share their particles by name, are copied: names that are first met
      in the body are known there alone.
    - `mixed`, the loops that have to be written out, by `id` of their equations, are one dict for
      all: wherever one is found, it is found for the whole program. So are those that carry the
      particles of a lane of a batch to the next, by the site's number (`carriers`), and
      `taken_whole`, the conds in loops of which all branches are evaluated, as what they read has
      particles there.

    It is the one thing in an evaluation that changes: by `open`, `couple`, `give`, `mix`, `carry`
    and `fix`, and by what is noted in `taken_whole`.
    """

    def __init__(self, outer: Optional["Ledger"] = None, expected: Sequence[WeightedSite] = ()):
        self.outer, self.first = outer, outer.next if outer else 0
        self.opened: list[WeightedSite] = []
        later = outer.expected[len(outer.opened) :] if outer else ()
        self.expected: Sequence[WeightedSite] = (*expected, *later[len(expected) :])
        self._coupled: dict[Hashable, tuple[Coupled, ...]] = dict(outer._coupled) if outer else {}
        self.mixed: dict[int, Scan] = outer.mixed if outer else {}
        self.taken_whole: set[int] = outer.taken_whole if outer else set()
        self._carriers: dict[int, dict[int, Scan]] = outer._carriers if outer else {}

    @property
    def next(self) -> int:
        """The number of the next site to be opened."""
        return self.first + len(self.opened)

    def __getitem__(self, number: int) -> WeightedSite:
        if number < self.first:
            assert self.outer is not None
            return self.outer[number]
        place = number - self.first
        return self.opened[place] if place < len(self.opened) else self.expected[place]

    def together(self, number: int) -> range:
        """The sites of the loop, all of whose steps are evaluated at once, that a site is in."""
        numbered = enumerate(self.opened, self.first)
        groups = (range(n, n + site.together) for n, site in numbered)
        return next((group for group in groups if number in group), range(number, number + 1))

    def open(self, site: WeightedSite) -> int:
        """Adds a weighted site; returns its number."""
        self.opened.append(site)
        return self.next - 1

    def give(self, number: int, value: Any) -> None:
        """Notes the control variate of a site of this ledger."""
        place = number - self.first
        self.opened[place] = self.opened[place]._replace(given=value)

    def mix(self, *loops: Scan) -> None:
        """Notes that loops have to be written out."""
        self.mixed.update((id(loop.eqn), loop) for loop in loops)

    def carry(self, number: int, loop: Scan) -> None:
        """Notes that a loop along the lanes of a batch carries a lane's particles to the next."""
        self._carriers.setdefault(number, {})[id(loop.eqn)] = loop

    def carriers(self, number: int) -> Sequence[Scan]:
        """The loops that carry the particles of a lane of a batch to the next."""
        return tuple(self._carriers.get(number, {}).values())

    def in_mixed(self) -> list[int]:
        """The sites of loops that have to be written out."""
        numbered = enumerate(self.opened, self.first)
        return [n for n, site in numbered if any(id(o.eqn) in self.mixed for o in site.loops)]

    def fix(self, numbers: Collection[int]) -> None:
        """Leaves some sites out of what the weights of the others depend on."""
        self.opened[:] = [
            site.each(lambda val, own=1 << n: _fixed(val, own, numbers))
            for n, site in enumerate(self.opened, self.first)
        ]

    def couple(self, coupled: Coupled) -> None:
        """Adds sites that share their particles, by the name of their kind."""
        name = coupled.kind.shared
        self._coupled[name] = (*self.coupled(name), coupled)

    def coupled(self, name: Hashable) -> tuple[Coupled, ...]:
        """The sites that share their particles by a name."""
        return self._coupled.get(name, ())


def _fixed(val: Value, own: int, numbers: Collection[int]) -> Value:
    """A value of a site at the first particle of others; it stays over the site's own particles."""
    fixed = fix(val._replace(sites=val.sites | own), numbers)
    return fixed._replace(sites=fixed.sites & val.sites)
