"""The scope of an evaluation: what holds where one is in the program."""

from collections.abc import Iterable
from typing import Any, NamedTuple

from ..._ir.site import SITE_LABEL
from ..._jax import equations, source
from ..._walk.walker import placed_sites
from ..sites.weighted_site import Scan
from ..values.dimensions import Along
from ..values.value import Value


class Scope(NamedTuple):
    """What holds for all the equations of a body. It is immutable: a body has a scope of its own.

    - `allow_biased`: whether estimators that say `unbiased = False` may be used.
    - `all_exact`: nothing may be drawn, and weights are logarithms.
    - `zeros`: whether these keep the derivatives of weights that are zero (`zeros`).
    - `written_out`: loops, by `id` of their equations, that have to be evaluated step after step.
    - `active`: for each branch around, a flag `()` over particle axes: whether it is reached.
    - `loops`: those around whose steps are evaluated at once, outermost first. They are the first
      lane dimensions of each site inside. `numbers`: of each, that of the step; traced, and None
      where nothing is perturbed.
    - `eliminating`: whether the program has been evaluated, and sites are being summed out.
    - `calls`: the equations whose bodies one is in, outermost first, for messages.
    """

    allow_biased: bool = False
    all_exact: bool = False
    zeros: bool = False
    written_out: frozenset[int] = frozenset()
    active: tuple[Value, ...] = ()
    loops: tuple[Scan, ...] = ()
    numbers: tuple[Any, ...] = ()
    calls: tuple[Any, ...] = ()
    eliminating: bool = False

    def writing_out(self, loops: Iterable[int]) -> "Scope":
        """The scope in which some more loops are written out."""
        return self._replace(written_out=self.written_out.union(loops))

    def inside(self, loop: Scan, number: Any) -> "Scope":
        """The scope of a loop's body, at the step of a number."""
        return self._replace(loops=(*self.loops, loop), numbers=(*self.numbers, number))

    def within(self, flag: Value) -> "Scope":
        """The scope of a branch that is reached where `flag` holds."""
        return self._replace(active=(*self.active, flag))

    def calling(self, eqn: Any) -> "Scope":
        """The scope of the body of a call."""
        return self._replace(calls=(*self.calls, eqn))

    @property
    def lengths(self) -> tuple[int, ...]:
        """The numbers of steps of the loops around."""
        return tuple(loop.length for loop in self.loops)

    @property
    def own_steps(self) -> tuple[Along, ...]:
        """The relation of a value to a site of the same step of each loop around."""
        return tuple(Along(-loop.level) for loop in self.loops)

    def place(self, eqn: Any) -> str:
        """Where an equation is: the user's line, a site inside, or whose density it is of."""
        placed = next(placed_sites(eqn), None) if equations.has_sites(eqn) else None
        if placed is not None:
            return f"at {placed.site.where}"
        densities = SITE_LABEL.findall(source.scopes(eqn))
        if densities:
            address, line = densities[-1]
            return f"in the log density of site {address!r} ({line})"
        return f"at {source.source_line(source.placed(eqn, self.calls))}"
