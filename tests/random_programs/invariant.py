"""What holds of every value: its particle axes are those of sites that it reads."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ppl._analysis.dataflow import merged, sets
from ppl._analysis.propagate import propagate_through
from ppl._expectation.interpret import evaluate
from ppl._expectation.terms.terms import addends, scalar
from ppl._expectation.values.value import union_axes, union_sites
from ppl._jax import equations
from ppl._jax.control_flow import Loop, form


@contextmanager
def watched() -> Iterator[None]:
    """Inside, a result with particles of a site that its equation does not read is an error."""
    original = evaluate.run

    def run(jaxpr: Any, consts: Any, args: Any, step: Any) -> Any:
        def checked(eqn, operands):
            outs = step(eqn, operands)
            _check(eqn, operands, outs)
            return outs

        return original(jaxpr, consts, args, checked)

    evaluate.run = run
    try:
        yield
    finally:
        evaluate.run = original


def _check(eqn: Any, operands: Any, outs: Any) -> None:
    ins = [frozenset({i}) for i in range(len(operands))]
    reads = propagate_through(sets(_spread), eqn, ins)
    loop = form(eqn)
    if isinstance(loop, Loop):  # where it took no step, it leaves what it started from
        _, start, _ = loop.split(ins)
        reads = [*map(frozenset.union, reads, start), *reads[len(start) :]]
    for out, read in zip(outs, reads, strict=True):
        vals = addends(scalar(out))
        axes, sites = union_axes(vals), union_sites(vals)
        unread = [axis for axis in axes if not sites >> axis.site & 1]
        assert not unread, f"{eqn.primitive} gives a value axes {unread} and not their sites"
        if not equations.has_sites(eqn):
            known = union_sites(v for i in read for v in addends(scalar(operands[i])))
            unread = [axis for axis in axes if not known >> axis.site & 1]
            assert not unread, f"{eqn.primitive} gives a value axes {unread} and reads none of them"


def _spread(eqn: Any, ins: Any, within: Any, control: Any) -> list:
    return [merged([control, *ins])] * len(eqn.outvars)
