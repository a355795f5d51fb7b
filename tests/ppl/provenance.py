"""The invariant of values over particle axes: they have only axes and worlds of what they read."""

import sys
from collections.abc import Callable
from typing import Any

import pytest

from ppl._expectation.terms.terms import addends

evaluation = sys.modules["ppl._expectation.interpret.evaluate"]


def assert_provenance(outs: Any, what: str) -> None:
    """Raises where a value spans particles of a site that it does not depend on by its own word."""
    for val in (val for out in outs for val in addends(out)):
        worlds = val.worlds
        parts = (*val.axes, *(worlds.axes + worlds.segments if worlds else ()))
        strange = [part for part in parts if not val.sites >> part.site & 1]
        assert not strange, f"{what} leaves a value with {strange}, which depends on no such site"
        assert val.array.ndim >= len(val.axes)


def check_provenance(patch: pytest.MonkeyPatch) -> None:
    """Has every equation that `expectation` evaluates checked: loops, branches, checkpoints, all.

    To be asked of `monkeypatch` in a test, before its programs are run.
    """

    def checked(rule: Callable) -> Callable:
        def run(thing: Any, *rest: Any) -> Any:
            outs = rule(thing, *rest)
            assert_provenance(outs, str(getattr(thing, "eqn", thing).primitive))
            return outs

        return run

    rules = {name: checked(rule) for name, rule in evaluation.RULES.items()}
    patch.setattr(evaluation, "RULES", rules)
    patch.setattr(evaluation, "apply_equation", checked(evaluation.apply_equation))
    patch.setattr(evaluation, "scan", checked(evaluation.scan))
