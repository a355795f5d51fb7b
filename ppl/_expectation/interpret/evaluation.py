"""What an evaluation carries along: how to go on, where one is, and the sites opened so far."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from ..sites.ledger import SIDE_BY_SIDE, Ledger
from ..sites.weighted_site import Scan, WeightedSite
from ..values.apply import apply, bind
from ..values.expansion import MixedSteps
from ..values.value import Value
from .scope import Scope


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What every rule is handed beside the values of an equation.

    - `evaluate`: interprets a jaxpr, so that the rules of control flow can enter a body.
    - `scope`: what holds where one is; another one for each body.
    - `ledger`: the weighted sites; the same one for all that is not traced apart.
    """

    evaluate: Callable
    scope: Scope
    ledger: Ledger

    def within(self, flag: Value) -> "Evaluation":
        """The same evaluation, inside a branch that is reached where `flag` holds."""
        return dataclasses.replace(self, scope=self.scope.within(flag))

    def calling(self, eqn: Any) -> "Evaluation":
        """The same evaluation, inside the body of a call."""
        return dataclasses.replace(self, scope=self.scope.calling(eqn))

    def nested(
        self,
        loop: Scan | None = None,
        expected: Sequence[WeightedSite] = (),
        number: Any = None,
    ) -> "Evaluation":
        """An evaluation for a body that is traced apart, of a loop's step if one is given."""
        scope = self.scope.inside(loop, number) if loop else self.scope
        return dataclasses.replace(self, scope=scope, ledger=Ledger(self.ledger, expected))

    # what those read who sum sites out

    def __getitem__(self, number: int) -> WeightedSite:
        return self.ledger[number]

    @property
    def opened(self) -> Sequence[WeightedSite]:
        """The sites of this ledger."""
        return self.ledger.opened

    @property
    def allow_biased(self) -> bool:
        """Whether biased estimators may be used."""
        return self.scope.allow_biased

    @property
    def all_exact(self) -> bool:
        """Whether nothing may be drawn, and weights are logarithms."""
        return self.scope.all_exact

    def place(self, eqn: Any) -> str:
        """Where an equation is, for messages."""
        return self.scope.place(eqn)

    def mix(self, *loops: Scan) -> None:
        """Notes that loops have to be written out, and all evaluated anew.

        Within one of them, whose rule can write it out at once, and where sites are summed out, it
        raises `MixedSteps`.
        """
        eqns = [around.eqn for around in self.scope.loops]
        if self.scope.eliminating or any(loop.eqn is eqn for loop in loops for eqn in eqns):
            raise MixedSteps(*loops)
        self.ledger.mix(*loops)

    def loops_along(self, number: int) -> Sequence[Scan]:
        """The loops that are written out where particles of different lanes of a site meet.

        Its own; of a batch, those that carry the particles of a lane to the next.
        """
        return (*self[number].loops[:1], *self.ledger.carriers(number))

    def step_back(self, number: int, dim: int) -> bool:
        """Whether slices along lanes that are one lane apart may meet as steps; notes that they do.

        So it is for lanes of a batch, and for a loop's steps from the first to the last.
        """
        loops = self[number].loops[:1]
        if id(SIDE_BY_SIDE.eqn) in self.scope.written_out or any(
            dim or loop.reverse for loop in loops
        ):
            return False
        self.ledger.carry(number, SIDE_BY_SIDE)
        return True

    def loop_of(self, step: int) -> Scan:
        """The loop around whose steps a negative dimension stands for."""
        return next(loop for loop in self.scope.loops if loop.level == -step)

    def number_of(self, step: int) -> Any:
        """The number of the step, of this loop, that is evaluated."""
        loops = [loop.level for loop in self.scope.loops]
        return self.scope.numbers[loops.index(-step)]

    def summing_out(self) -> "Evaluation":
        """The same evaluation, where sites are summed out."""
        return dataclasses.replace(self, scope=self.scope._replace(eliminating=True))

    def apply(
        self, fn: Callable, vals: Sequence[Value], transfer: Callable, eqn: Any = None
    ) -> list[Value]:
        """The values of `fn` of arrays; see `values.apply`."""
        return apply(self, fn, vals, transfer, eqn)

    def bind(self, eqn: Any, vals: Sequence[Value]) -> list[Value]:
        """The outputs of an equation without sites; see `values.apply`."""
        return bind(self, eqn, vals)
