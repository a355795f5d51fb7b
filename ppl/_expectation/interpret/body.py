"""The body of a `scan`, evaluated at one step that stands for all."""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

from ..._jax.control_flow import Loop
from ..sites.weighted_site import Scan, WeightedSite
from ..terms.terms import Term, body_operands, terms_of
from ..values.value import Value
from .evaluation import Evaluation


class Step(NamedTuple):
    """What one step leaves, each value `(*axes, *event)` over its particles and those before.

    `carry` is as the body leaves it, not yet renamed for the next step; `made` is to be stacked:
    the terms of each output.
    """

    carry: list[Value]
    made: list[list[Term]]
    sites: list[WeightedSite]


@dataclasses.dataclass(frozen=True)
class ScanBody:
    """A loop's body with its constants, in the evaluation around the loop.

    `apart` says of each stacked output whether its terms are kept apart.
    """

    form: Loop
    loop: Scan
    consts: Sequence[Value]
    evaluation: Evaluation
    apart: Sequence[bool]

    def sites(self, known: Sequence[WeightedSite]) -> Evaluation:
        """An evaluation in which the body's sites are looked up, so far as they are `known`."""
        return self.evaluation.nested(self.loop, known)

    def step(self, carry: Sequence[Value], inputs: Any, known: Sequence[WeightedSite]) -> Step:
        """One step, from what is carried and its own `inputs`: scanned values, and keys.

        All is returned that a trace of it gives. The carry may depend on sites of the body, which
        are `known` from a trace before.
        """
        values, keys = inputs
        inner = self.sites(known)
        wanted = [*(False for _ in carry), *self.apart]
        args = [*self.consts, *carry, *values]
        outs = body_operands(inner, self.form.body, args, keys, wanted)
        carried, made = self.form.split_outputs(outs)
        return Step(carried, [terms_of(out) for out in made], list(inner.opened))
