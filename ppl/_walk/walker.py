"""The walker: every meaning of a program is an interpretation of its jaxpr.

`RULES` holds the structural rules shared by the meanings that treat one site at a time: what to do
at a call, a loop, a branch.
"""

import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from .._ir.compound import Compound, compounds, read_compound
from .._ir.fresh_key import keys_of
from .._ir.site import read_call
from .._ir.stage import P, Staged, T, stage, standing_for
from .._jax import equations, primitives, source
from .._jax.run import run
from ..errors import CustomRuleIgnored, UnsupportedControlFlow
from .feed import Feed, Keys, Nothing, Placed, Prefix
from .record import Record, aligned, joined

Meaning = Callable[[Any, Any], tuple[Any, Record]]
"""What an interpretation does at a site: `meaning(call, feed) -> (value, record)`.

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
        outs, record = _rule(eqn, RULES)(eqn, operands, meaning, next(feeds))
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


def expanded(staged: Staged) -> Staged:
    """A staged program in which compound sites are plain ones, those of their own plain runs."""
    if next(compounds(staged.jaxpr), None) is None:
        return staged

    def meaning(call, feed):
        if isinstance(call, Compound):
            if call.is_observed:
                return call.data(), Record()
            body = stage(call.draw)
            return walk(body.jaxpr, body.consts, [], meaning, feed)
        return call.bind(), Record()

    outs = lambda: walk(staged.jaxpr, staged.consts, [], meaning, Nothing())[0]  # noqa: E731
    again = stage(outs)
    return Staged(again.jaxpr, again.consts, staged.rebuild, staged.name)


def _rule(eqn: Any, rules: Mapping[str, Callable]) -> Callable:
    rule = rules.get(equations.kind(eqn))
    if rule is None:
        placed = next(placed_sites(eqn), None)
        raise unsupported(eqn, placed)
    return rule


def first_named(thing: Any) -> str:
    """What messages call the first site of a jaxpr or of an equation; keys have no address."""
    placed = next(placed_sites(thing), None)
    return f"Site {placed.site.address!r} at {placed.site.where}" if placed else "A fresh key"


def unsupported(eqn: Any, placed: Placed | None) -> UnsupportedControlFlow:
    """The error for a site under a primitive that no rule enters."""
    named = f"Site {placed.site.address!r} at {placed.site.where}" if placed else "A fresh key"
    line = source.source_line(eqn)
    if equations.kind(eqn) == "while":
        return UnsupportedControlFlow(
            f"{named} is in the predicate of a while_loop ({line}), which cannot contain sites. "
            "Draw it in the body, before and in the loop, and carry what the predicate reads: "
            "lax.while_loop(lambda state: state[0], lambda state: step(state), (start, state))."
        )
    return UnsupportedControlFlow(
        f"{named} is inside {eqn.primitive.name!r} ({line}), which cannot "
        "contain sites. Sites may stand in jit, vmap, scan, fori_loop, map, cond, switch, "
        "while_loop, checkpoint, custom_jvp and custom_vjp; move the sample out of this one."
    )


def _sample(eqn, operands, meaning, feed):
    value, record = meaning(read_call(eqn.params["site"], operands), feed)
    return [value], record


def _compound(eqn, operands, meaning, feed):
    return meaning(read_compound(eqn, operands), feed)


def _control_variate(eqn, operands, meaning, feed):
    prefix = feed.path if isinstance(feed, Prefix) else ()
    path, where = prefix + eqn.params["path"], eqn.params["where"]
    return primitives.control_variate_p.bind(*operands, path=path, where=where), Record()


def _fresh_key(eqn, operands, meaning, feed):
    if isinstance(feed, Keys):
        return [keys_of(feed.key, eqn.params["lanes"], eqn.params["impl"])], Record()
    return equations.bind(eqn, operands), Record()


def _call(eqn, operands, meaning, feed):
    jaxpr, consts = equations.body_of(eqn)
    return walk(jaxpr, consts, operands, meaning, feed)


def _custom(eqn, operands, meaning, feed):
    warn_custom_rule(eqn)
    return _call(eqn, operands, meaning, feed)


def warn_custom_rule(eqn: Any) -> None:
    """Says that a custom derivative rule around a site is not used."""
    warnings.warn(
        f"{first_named(eqn)} is inside a {equations.kind(eqn)} "
        "function: the function's own derivative is used, not its custom rule. "
        "Move the sample out of the function to keep the rule.",
        CustomRuleIgnored,
        stacklevel=2,
    )


def _checkpoint(eqn, operands, meaning, feed):
    jaxpr, consts = equations.body_of(eqn)

    def body(feed, *operands):
        return walk(jaxpr, consts, operands, meaning, feed)

    return checkpointed(eqn, body)(feed, *operands)


def checkpointed(eqn: Any, body: Callable) -> Callable:
    """`jax.checkpoint` with the options of a `checkpoint` equation."""
    names = ("prevent_cse", "policy")
    return jax.checkpoint(body, **{k: eqn.params[k] for k in names if k in eqn.params})


def _scan(eqn, operands, meaning, feed):
    jaxpr, closed = equations.body_of(eqn)
    consts, init, xs = equations.scan_split(eqn, operands)
    places, length = list(placed_sites(jaxpr)), eqn.params["length"]

    def body(carry, x):
        x, feed = x
        outs, record = walk(jaxpr, closed, [*consts, *carry, *x], meaning, feed)
        return outs[: len(init)], (outs[len(init) :], record)

    carry, (ys, record) = scan_like(eqn, body, init, (xs, feed.steps(places, length)))
    return [*carry, *ys], record.stacked(places)


def scan_like(eqn: Any, body: Callable, init: Any, xs: Any) -> tuple[Any, Any]:
    """`lax.scan` with the options of a `scan` equation."""
    options = {name: eqn.params[name] for name in ("length", "reverse", "unroll")}
    return lax.scan(body, init, xs, **options)


def _while(eqn, operands, meaning, feed):
    unfinished, (jaxpr, closed), consts, init = while_parts(eqn, operands)
    places = list(placed_sites(eqn))

    def once(carry, feed):
        now, later = feed.iterate(places)
        outs, record = walk(jaxpr, closed, [*consts, *carry], meaning, now)
        return outs, later, record.without_values()

    structure = jax.eval_shape(lambda: once(init, feed)[2])
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), structure)

    def advance(carry, extra):
        outs, later, record = once(carry, extra[0])
        return outs, (later, jax.tree.map(jnp.add, extra[1], record))

    carry, (_, record) = while_like(unfinished, advance, init, (feed, zeros))
    return carry, record


def while_parts(
    eqn: Any, operands: Sequence[Any]
) -> tuple[Callable, tuple[Any, Sequence[Any]], list, list]:
    """A `while` equation's predicate of the carry, its body, the body's constants, the carry."""
    params = eqn.params
    cond, body = equations.opened(params["cond_jaxpr"]), equations.opened(params["body_jaxpr"])
    if equations.has_sites(cond[0]):
        raise unsupported(eqn, next(placed_sites(cond[0]), None))
    first, second = params["cond_nconsts"], params["cond_nconsts"] + params["body_nconsts"]
    cond_consts = operands[:first]

    def unfinished(carry):
        return run(*cond, [*cond_consts, *carry], equations.bind)[0]

    return unfinished, body, list(operands[first:second]), list(operands[second:])


def while_like(unfinished: Callable, advance: Callable, carry: Any, extra: Any) -> Any:
    """`lax.while_loop` over a carry and something extra: `advance(carry, extra)` gives both.

    A `while` equation that JAX has batched has a predicate for each lane; a lane that has ended
    keeps its carry.
    """

    def step(state):
        carry, extra = state
        going = unfinished(carry)
        new, extra = advance(carry, extra)
        if going.ndim:
            new = [jnp.where(_leading(going, x), x, old) for x, old in zip(new, carry, strict=True)]
        return new, extra

    return lax.while_loop(lambda state: jnp.any(unfinished(state[0])), step, (carry, extra))


def _leading(flags: jax.Array, like: jax.Array) -> jax.Array:
    return flags.reshape(flags.shape + (1,) * (like.ndim - flags.ndim))


def _cond(eqn, operands, meaning, feed):
    index, *operands = operands
    bodies = [equations.opened(branch) for branch in eqn.params["branches"]]
    places = [list(placed_sites(jaxpr)) for jaxpr, _ in bodies]
    empty = jax.eval_shape(
        lambda: [walk(jaxpr, consts, operands, meaning, feed)[1] for jaxpr, consts in bodies]
    )

    def branch(i):
        def taken(feed, *operands):
            jaxpr, consts = bodies[i]
            outs, record = walk(jaxpr, consts, operands, meaning, feed)
            records = [record if j == i else other for j, other in enumerate(empty)]
            return outs, aligned(records, places, i)

        return taken

    return lax.switch(index, [branch(i) for i in range(len(bodies))], feed, *operands)


RULES: Mapping[str, Callable] = {
    "sample": _sample,
    "compound": _compound,
    "control_variate": _control_variate,
    "fresh_key": _fresh_key,
    "jit": _call,
    "custom_jvp_call": _custom,
    "custom_vjp_call": _custom,
    "checkpoint": _checkpoint,
    "scan": _scan,
    "while": _while,
    "cond": _cond,
}


def placed_sites(thing: Any) -> Iterator[Placed]:
    """The sites of a jaxpr or of an equation, in order, as seen from it."""
    if hasattr(thing, "eqns"):
        for eqn in thing.eqns:
            if equations.has_sites(eqn):
                yield from placed_sites(eqn)
        return
    name = equations.kind(thing)
    if name == "sample":
        site = thing.params["site"]
        yield Placed(site, site.lane_shape + site.out.shape, 0, bool(site.branch))
    elif name == "compound":
        for site in thing.params["sites"]:
            yield Placed(site, site.lane_shape + site.out.shape, 0, bool(site.branch))
    elif name in ("control_variate", "fresh_key"):
        return
    elif name == "cond":
        yield from _placed_in_branches(thing)
    elif name == "scan":
        for inner in placed_sites(equations.body_of(thing)[0]):
            at = inner.site.loop_position(inner.depth + 1)
            shape = (*inner.shape[:at], thing.params["length"], *inner.shape[at:])
            yield inner._replace(shape=shape, depth=inner.depth + 1)
    elif name == "while":
        for part in ("body_jaxpr", "cond_jaxpr"):
            for inner in placed_sites(equations.opened(thing.params[part])[0]):
                yield inner._replace(depth=inner.depth + 1, in_while=True)
    elif name in RULES:
        yield from placed_sites(equations.body_of(thing)[0])
    else:
        raise unsupported(thing, next(_placed_in_parameters(thing), None))


def estimable_sites(jaxpr: Any) -> Iterator[Placed]:
    """The sites that an estimator can be given to: those within compound sites too."""
    bodies = [body for eqn in compounds(jaxpr) for body in eqn.params["bodies"]]
    for body in (jaxpr, *bodies):
        yield from (p for p in placed_sites(body) if not p.site.compound)


def _placed_in_parameters(eqn: Any) -> Iterator[Placed]:
    """The sites in an equation that no rule enters, whatever its parameters are called."""
    is_body = lambda x: hasattr(x, "eqns") or hasattr(x, "jaxpr")  # noqa: E731
    for part in jax.tree.leaves(list(eqn.params.values()), is_leaf=is_body):
        if is_body(part):
            yield from placed_sites(equations.opened(part)[0])


def _placed_in_branches(eqn: Any) -> Iterator[Placed]:
    branches = [list(placed_sites(equations.opened(b)[0])) for b in eqn.params["branches"]]
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
