"""The body of a `scan`, evaluated at one step that stands for all."""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

from ..._jax.control_flow import Loop
from ..sites.weighted_site import Scan, WeightedSite
from ..terms.terms import Term, body_operands, terms_of
from ..values.expansion import conform
from ..values.value import Value
from .evaluation import Evaluation


class Step(NamedTuple):
    """What one step leaves, each value `(*axes, *event)` over its particles and those before.

    `carry` is as the body leaves it, not yet renamed for the next step, but in worlds of each step
    that is perturbed; `made` is to be stacked: the terms of each output.
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

    def sites(self, known: Sequence[WeightedSite], number: Any = None) -> Evaluation:
        """An evaluation in which the body's sites are looked up, so far as they are `known`."""
        return self.evaluation.nested(self.loop, known, number)

    def step(self, carry: Sequence[Value], inputs: Any, known: Sequence[WeightedSite]) -> Step:
        """One step, from what is carried and its own `inputs`: scanned values, keys, its number.

        All is returned that a trace of it gives. The carry may depend on sites of the body, which
        are `known` from a trace before.
        """
        values, keys, number = inputs
        inner = self.sites(known, number)
        wanted = [*(False for _ in carry), *self.apart]
        args = [*self.consts, *carry, *values]
        outs = body_operands(inner, self.form.body, args, keys, wanted)
        carried, made = self.form.split_outputs(outs)
        carried = [self._perturb_steps_apart(val, inner) for val in carried]
        return Step(carried, [terms_of(out) for out in made], list(inner.opened))

    def _perturb_steps_apart(self, val: Value, inner: Evaluation) -> Value:
        """A value to be carried on, in worlds in which one step alone is perturbed."""
        steps = {
            own.site: {
                d
                for d, along in enumerate(val.relations.get(own.site, ()))
                if along is not None and along.dim == -self.loop.level
            }
            for own in (val.worlds.segments if val.worlds else ())
        }
        return conform(inner, [val], steps)[0]
