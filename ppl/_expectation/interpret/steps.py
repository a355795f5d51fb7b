"""The steps of a `scan`, evaluated at once: over the particles of each and of the one before."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ..._analysis.dataflow import readers
from ..._jax import equations
from ..._jax.control_flow import Loop
from ..._jax.run import run
from ..sites.ledger import Ledger
from ..sites.weighted_site import Scan, WeightedSite
from ..terms.terms import Operand, Term, Terms
from ..values.lanes import deps_of, new_level
from ..values.value import BEFORE, Value
from .body import ScanBody, Step
from .carry import fill, hand_over, leave_loop, settle
from .evaluation import Evaluation
from .stacking import lead_steps, site_with_first, stack_site, stack_term, terms_with_first


class _Steps(NamedTuple):
    """What all the steps leave.

    `end` is the last carry `(*axes, *event)`; `made` are `(*axes, steps, *event)`; the first lane
    dimension of the `sites` are the steps; `step` has the shapes of what one step leaves.
    """

    end: Sequence[Value]
    made: Sequence[Sequence[Term]]
    sites: Sequence[WeightedSite]
    step: Step


def steps_at_once(
    form: Loop,
    vals: Sequence[Value],
    keys: Any,
    evaluation: Evaluation,
    apart: Sequence[bool],
    perturbed: bool,
) -> list[Operand]:
    """The final carry and the stacked outputs of a loop; its sites are noted in the ledger.

    `apart` says of each output whether its terms are kept apart. Where the loop is `perturbed`, or
    what it reads is, a step knows its number.
    """
    loop = _loop(form, vals, evaluation)
    consts, init, xs = form.split(vals)
    body = ScanBody(form, loop, consts, evaluation, apart)
    perturbed |= any(val.worlds for val in (*vals, *evaluation.scope.active))
    numbers = jnp.arange(loop.length) if perturbed else None
    inputs = [lead_steps(x, loop) for x in xs], keys.steps((), loop.length), numbers
    carry, step = settle(body, init, _at(inputs, 0))
    meets = any(axis.step == BEFORE for val in carry for axis in val.axes)
    if meets and loop.length > 1:
        steps = _first_apart(body, init, inputs, step)
    else:
        steps = _all_alike(body, init, inputs, carry, step)
    _note(steps, evaluation.ledger)
    made = [Terms(m) if a else m[0].val for m, a in zip(steps.made, apart, strict=True)]
    return [*(leave_loop(val, loop) for val in steps.end), *made]


def _loop(form: Loop, vals: Sequence[Value], evaluation: Evaluation) -> Scan:
    """The loop, with a number for its steps that no relation uses yet."""
    scope = evaluation.scope
    levels = [loop.level for loop in scope.loops]
    unused = new_level([deps_of(val) for val in (*vals, *scope.active)])
    level = max([unused - 1, *levels], default=0) + 1
    return Scan(form.eqn, form.length, form.reverse, level)


def _at(inputs: Any, step: Any) -> Any:
    """The inputs `(steps, ...)` at a step, or at some."""
    return jax.tree.map(lambda x: x[step], inputs)


def _all_alike(
    body: ScanBody, init: Sequence[Value], inputs: Any, carry: Sequence[Value], step: Step
) -> _Steps:
    """All the steps by one scan of the body."""
    start = _filled(init, carry, body.sites(step.sites))
    taken = _stepping(body, carry, step)
    end, (made, sites) = body.form.scan(taken, start, inputs)
    return _Steps(
        end,
        [[stack_term(term, body.loop) for term in terms] for terms in made],
        [stack_site(site, body.loop) for site in sites],
        step,
    )


def _first_apart(body: ScanBody, init: Sequence[Value], inputs: Any, step: Step) -> _Steps:
    """The first step by itself: what it starts from is no particle of a step before."""
    loop = body.loop
    at, rest = (-1, slice(None, -1)) if loop.reverse else (0, slice(1, None))
    first = body.step(init, _at(inputs, at), step.sites)
    alone = jax.tree.map(lambda x: jnp.asarray(x)[None], first)
    sites = body.sites(step.sites)
    handed = [hand_over(val, loop, sites) for val in first.carry]
    carry, step = settle(body, handed, _at(inputs, 0), step.sites)
    start = _filled(handed, carry, sites)
    stack = lambda terms: [stack_term(term, loop) for term in terms]  # noqa: E731
    taken, others = _stepping(body, carry, step), loop._replace(length=loop.length - 1)
    end, (made, opened), (_, alike) = _at_once(taken, start, _at(inputs, rest), others)
    pairs = zip(made, alone.made, strict=True)
    columns = zip(opened, alone.sites, alike, strict=True)
    return _Steps(
        end,
        [terms_with_first(stack(r), stack(f), others.length, loop) for r, f in pairs],
        [site_with_first(val, one, same.weight.array, loop) for val, one, same in columns],
        step,
    )


def _filled(vals: Sequence[Value], carry: Sequence[Value], sites: Evaluation) -> list[Value]:
    return [fill(val, meta, sites) for val, meta in zip(vals, carry, strict=True)]


def _stepping(body: ScanBody, carry: Sequence[Value], step: Step) -> Callable:
    """The function to be scanned, over the carry `(*axes, *event)` and one step's inputs.

    The values that it gives are pytrees of arrays: what is known of them is in their structure,
    so it leaves the trace with them.
    """

    def taken(state, inputs):
        after = body.step(state, inputs, step.sites)
        sites = body.sites(after.sites)
        handed = [hand_over(val, body.loop, sites) for val in after.carry]
        return _filled(handed, carry, sites), (after.made, after.sites)

    return taken


def _at_once(body: Callable, start: Any, inputs: Any, loop: Scan) -> tuple[Any, Any, Any]:
    """A scan, all of its steps at once where what is carried does not depend on what was.

    So it is where the particles carried are a whole support. Also gives the outputs of one step
    that are the same at all; in place of the others, None.
    """
    closed, shapes = jax.make_jaxpr(body, return_shape=True)(start, _at(inputs, 0))
    count, outs = len(jax.tree.leaves(start)), closed.jaxpr.outvars
    reached, stepping = (
        readers(closed.jaxpr, closed.jaxpr.invars[part]) for part in (slice(count), slice(None))
    )
    same = [equations.is_literal(v) or v not in stepping for v in outs[count:]]
    own = equations.with_outputs(closed.jaxpr, [*(False for _ in outs[:count]), *same])
    found = iter(run(own, closed.consts, jax.tree.leaves((start, _at(inputs, 0)))))
    alike = jax.tree.unflatten(
        jax.tree.structure(shapes[1]), [next(found) if one else None for one in same]
    )
    if any(not equations.is_literal(v) and v in reached for v in outs[:count]):
        return *jax.lax.scan(body, start, inputs, length=loop.length, reverse=loop.reverse), alike
    handed = jax.vmap(lambda step: body(start, step)[0])(inputs)

    def shifted(first, handed):
        if loop.reverse:
            return jnp.concatenate([handed[1:], first[None]])
        return jnp.concatenate([first[None], handed[:-1]])

    before = jax.tree.map(shifted, start, handed)
    last = _at(handed, 0 if loop.reverse else -1)
    return last, jax.vmap(lambda carry, step: body(carry, step)[1])(before, inputs), alike


def _note(steps: _Steps, ledger: Ledger) -> None:
    """Opens the sites, which are summed out together where they are a chain."""
    for place, site in enumerate(steps.sites):
        ledger.open(site if place else site._replace(together=len(steps.sites)))
