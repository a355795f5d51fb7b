"""The walker: every meaning of a program is an interpretation of its jaxpr.

`RULES` holds the structural rules shared by the meanings that treat one site at a time: what to do
at a call, a loop, a branch.
"""

import itertools
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from .._ir.call import read_call
from .._ir.compound import Compound, compounds, read_compound
from .._ir.fresh_key import keys_of
from .._ir.stage import P, T, stage, standing_for
from .._jax import equations, primitives, source
from .._jax.control_flow import (
    Branches,
    Call,
    CallLike,
    Checkpoint,
    CustomRule,
    Form,
    Loop,
    While,
    bodies,
    form,
    rule_of,
)
from .._jax.run import run
from ..errors import CustomRuleIgnored, UnsupportedControlFlow
from .feed import Feed, Placed, Prefix
from .record import Record, aligned, joined

Meaning = Callable[[Any, Any], tuple[Any, Record]]
"""What an interpretation does at a site: `meaning(call, feed) -> (value, record)`.

The value of a site that scores its draws may be a `ScoredDraw`; one that is not is scored after.
At a compound site (`meaning(compound, feed)`) the value is a list, of one for each address.
"""


def walk(
    jaxpr: Any, consts: Sequence[Any], args: Sequence[Any], meaning: Meaning, feed: Feed
) -> tuple[list[Any], Record]:
    """Evaluates a jaxpr under a meaning; returns its outputs and what its sites recorded."""
    feeds = iter(feed.split(sum(map(equations.has_sites, jaxpr.eqns))))
    records: list[Record] = []

    def step(eqn, operands):
        if not equations.has_sites(eqn):
            return equations.bind(eqn, operands)
        outs, record = _rule(eqn)(operands, meaning, next(feeds))
        records.append(record)
        return outs

    outs = run(jaxpr, consts, args, step)
    return outs, joined(records)


def rewritten(
    program: Callable[P, T], meaning: Meaning, feed: Callable[[Any, str], Feed]
) -> Callable[P, T]:
    """The program with its sites as a meaning emits them again; `feed` is made of its jaxpr."""

    @standing_for(program)
    def again(*args: P.args, **kwargs: P.kwargs) -> T:
        jaxpr, consts, rebuild, name = stage(program, *args, **kwargs)
        return rebuild(walk(jaxpr, consts, [], meaning, feed(jaxpr, name))[0])

    return again


def everywhere(rewrite: Callable[[Any], Any]) -> Meaning:
    """The meaning that emits each site again, rewritten, within compound sites too."""

    def meaning(call, feed):
        if isinstance(call, Compound):
            call = call.through(lambda program: rewritten(program, meaning, lambda *_: feed))
        return rewrite(call).bind(), Record()

    return meaning


def _rule(eqn: Any) -> Callable:
    rule = rule_of(eqn, RULES)
    if rule is None:
        raise unsupported(eqn, next(placed_sites(eqn), None))
    return rule


def first_named(thing: Any) -> str:
    """What messages call the first site of a jaxpr or of an equation; keys have no address."""
    placed = next(placed_sites(thing), None)
    return f"Site {placed.site.address!r} at {placed.site.where}" if placed else "A fresh key"


def unsupported(eqn: Any, placed: Placed | None) -> UnsupportedControlFlow:
    """The error for a site under a primitive that no rule enters."""
    named = f"Site {placed.site.address!r} at {placed.site.where}" if placed else "A fresh key"
    line = source.source_line(eqn)
    if isinstance(form(eqn), While):
        return UnsupportedControlFlow(
            f"{named} is in the predicate of a while_loop ({line}), which cannot contain sites. "
            "Draw it in the body, before and in the loop, and carry what the predicate reads: "
            "lax.while_loop(lambda state: state[0], lambda state: step(state), (start, state))."
        )
    return UnsupportedControlFlow(
        f"{named} is inside {eqn.primitive.name!r} ({line}), which cannot "
        "contain sites. Sites may stand in jit, vmap, scan, fori_loop, map, cond, switch, "
        "while_loop, checkpoint, custom_jvp, custom_vjp and custom_vmap; move the sample out of "
        "this one."
    )


def _sample(eqn, operands, meaning, feed):
    call = read_call(eqn.params["site"], operands)
    drawn, record = meaning(call, feed)
    return call.outputs(drawn), record


def _compound(eqn, operands, meaning, feed):
    return meaning(read_compound(eqn, operands), feed)


def _control_variate(eqn, operands, meaning, feed):
    prefix = feed.path if isinstance(feed, Prefix) else ()
    paths = tuple(prefix + path for path in eqn.params["paths"])
    where = eqn.params["where"]
    return primitives.control_variate_p.bind(*operands, paths=paths, where=where), Record()


def _fresh_key(eqn, operands, meaning, feed):
    if feed.noise is not None:
        return [keys_of(feed.noise, eqn.params["lanes"], eqn.params["impl"])], Record()
    return equations.bind(eqn, operands), Record()


def _call(call: CallLike, operands, meaning, feed):
    return walk(*call.body, operands, meaning, feed)


def _custom(call: CustomRule, operands, meaning, feed):
    warn_custom_rule(call)
    return _call(call, operands, meaning, feed)


def warn_custom_rule(call: CustomRule) -> None:
    """Says that a custom rule around a site is not used."""
    warnings.warn(
        f"{first_named(call.eqn)} is inside a {call.label} "
        "function: the function's own body is used, in place of its custom rule. "
        "Move the sample out of the function to keep the rule.",
        CustomRuleIgnored,
        stacklevel=2,
    )


def _checkpoint(call: Checkpoint, operands, meaning, feed):
    def body(feed, *operands):
        return walk(*call.body, operands, meaning, feed)

    return call.wrap(body)(feed, *operands)


def walk_scan(
    loop: Loop, operands: Sequence[Any], meaning: Meaning, feed: Feed
) -> tuple[list[Any], Record]:
    """A `scan` again, its body walked."""
    consts, init, xs = loop.split(operands)
    places = list(placed_sites(loop.body.jaxpr))

    def body(carry, x):
        x, feed = x
        outs, record = walk(*loop.body, [*consts, *carry, *x], meaning, feed)
        carry, ys = loop.split_outputs(outs)
        return carry, (ys, record)

    carry, (ys, record) = loop.scan(body, init, (xs, feed.steps(places, loop.length)))
    return [*carry, *ys], record.stacked(places)


def _while(loop: While, operands, meaning, feed):
    unfinished, consts, init = while_parts(loop, operands)
    places = list(placed_sites(loop.eqn))

    def once(carry, feed):
        now, later = feed.iterate(places)
        outs, record = walk(*loop.body, [*consts, *carry], meaning, now)
        return outs, later, record.without_sites()

    structure = jax.eval_shape(lambda: once(init, feed)[2])
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), structure)

    def advance(carry, extra):
        outs, later, record = once(carry, extra[0])
        return outs, (later, jax.tree.map(jnp.add, extra[1], record))

    carry, (_, record) = loop.loop(unfinished, advance, init, (feed, zeros))
    return carry, record


def while_parts(loop: While, operands: Sequence[Any]) -> tuple[Callable, list, list]:
    """A loop's predicate as a function of the carry, its body's constants, the initial carry."""
    if equations.has_sites(loop.predicate.jaxpr):
        raise unsupported(loop.eqn, next(placed_sites(loop.predicate.jaxpr), None))
    own, consts, init = loop.split(operands)

    def unfinished(carry):
        return run(*loop.predicate, [*own, *carry])[0]

    return unfinished, consts, init


def _cond(cond: Branches, operands, meaning, feed):
    index, operands = cond.split(operands)
    bodies: list[equations.Body] = cond.bodies
    places = [list(placed_sites(body.jaxpr)) for body in bodies]
    empty = jax.eval_shape(lambda: [walk(*body, operands, meaning, feed)[1] for body in bodies])

    def branch(i: int):
        def taken(feed, *operands):
            outs, record = walk(*bodies[i], operands, meaning, feed)
            records = [record if j == i else other for j, other in enumerate(empty)]
            return outs, aligned(records, places, i)

        return taken

    return lax.switch(index, [branch(i) for i in range(len(bodies))], feed, *operands)


RULES: Mapping[Any, Callable] = {
    "sample": _sample,
    "compound": _compound,
    "control_variate": _control_variate,
    "fresh_key": _fresh_key,
    Call: _call,
    CustomRule: _custom,
    Checkpoint: _checkpoint,
    Loop: walk_scan,
    While: _while,
    Branches: _cond,
}
"""Rules `(equation or form, operands, meaning, feed) -> (outputs, record)`."""


def placed_sites(thing: Any) -> Iterator[Placed]:
    """The sites of a jaxpr or of an equation, in order, as seen from it."""
    if hasattr(thing, "eqns"):
        for eqn in thing.eqns:
            if equations.has_sites(eqn):
                yield from placed_sites(eqn)
        return
    found, name = form(thing), equations.kind(thing)
    if found is not None:
        yield from _placed_in(found)
    elif name in ("sample", "compound"):
        for site in thing.params["sites"] if name == "compound" else (thing.params["site"],):
            yield Placed(site, site.lane_shape + site.out.shape, 0, bool(site.branch))
    elif name not in ("control_variate", "fresh_key"):
        inside = (placed_sites(body) for body in bodies(thing))
        raise unsupported(thing, next(itertools.chain(*inside), None))


def _placed_in(form: Form) -> Iterator[Placed]:
    """The sites in a form's bodies, as seen from outside."""
    if isinstance(form, Branches):
        yield from _placed_in_branches(form)
    elif isinstance(form, Loop):
        for inner in placed_sites(form.body.jaxpr):
            at = inner.site.loop_position(inner.depth + 1)
            shape = (*inner.shape[:at], form.length, *inner.shape[at:])
            yield inner._replace(shape=shape, depth=inner.depth + 1)
    elif isinstance(form, While):
        for part in (form.body, form.predicate):
            for inner in placed_sites(part.jaxpr):
                yield inner._replace(depth=inner.depth + 1, in_while=True)
    else:
        yield from placed_sites(form.bodies[0].jaxpr)


def estimable_sites(jaxpr: Any) -> Iterator[Placed]:
    """The sites that an estimator can be given to: those within compound sites too."""
    inside = [body for eqn in compounds(jaxpr) for body in eqn.params["bodies"]]
    for body in (jaxpr, *inside):
        yield from (p for p in placed_sites(body) if not p.site.compound)


def _placed_in_branches(form: Branches) -> Iterator[Placed]:
    branches = [list(placed_sites(body.jaxpr)) for body in form.bodies]
    certain = [{p.path for p in body if not p.conditional} for body in branches]
    seen: Counter = Counter()
    for body in branches:
        here: Counter = Counter()
        for placed in body:
            here[placed.path] += 1
            if here[placed.path] > seen[placed.path]:
                seen[placed.path] += 1
                always = all(placed.path in paths for paths in certain)
                yield placed._replace(conditional=not always)
