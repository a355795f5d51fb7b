"""Sites under `vmap`: loops and branches are rewritten so that their meaning survives batching.

A site in a `scan` notes the loop before the lanes outside it, so that its choices are laid out as
the program is written. A branch whose predicate differs by lane, and a `while_loop`, which for some
lanes runs on after their end, are run with their sites marked as reached or not. A `custom_vmap`
function of which nothing is mapped is batched by its body.
"""

import dataclasses
import hashlib
from typing import Any

import jax
from jax import lax

from .._distributions.cut import gated
from .._ir.address import Path
from .._ir.call import Call
from .._ir.site import Loop, Site
from .._jax import batching, control_flow
from .._jax.run import run
from .feed import Depth, Nothing, Placed
from .record import Record
from .walker import Meaning, everywhere, placed_sites, walk, walk_scan, while_parts


def _loops(site: Site) -> int:
    return sum(isinstance(axis, Loop) for axis in site.around)


def _noted(site: Site, depth: int) -> Site:
    missing = (Loop(),) * (depth - _loops(site))
    return dataclasses.replace(site, around=(*missing, *site.around))


def _note_loops(call: Any, feed: Depth) -> tuple[Any, Record]:
    return call.with_sites(lambda site: _noted(site, feed.loops)).bind(), Record()


def _is_noted(placed: Placed) -> bool:
    return _loops(placed.site) >= placed.depth


def _rewrite_custom(rule: control_flow.CustomRule, dims):
    """JAX asks the function's own rule only where something is mapped; its sites always are."""
    if any(d is not None for d in dims):
        return None
    return lambda *operands: run(*rule.body, operands)


def _rewrite_scan(loop: control_flow.Loop, dims):
    if all(map(_is_noted, placed_sites(loop.eqn))):
        return None
    return lambda *operands: walk_scan(loop, operands, _note_loops, Depth(0))[0]


def _rewrite_while(loop: control_flow.While, dims):
    if all(map(_is_noted, placed_sites(loop.eqn))):
        return None

    def replacement(*operands):
        unfinished, consts, init = while_parts(loop, operands)

        def advance(carry):
            going = unfinished(carry)

            flagged = everywhere(lambda call: call.appended("active", going))

            def note(call, feed):
                return flagged(call.with_sites(lambda site: _noted(site, feed.loops)), feed)

            return walk(*loop.body, [*consts, *carry], note, Depth(1))[0]

        return lax.while_loop(unfinished, advance, init)

    return replacement


def _rewrite_cond(form: control_flow.Branches, dims):
    if dims[0] is None:
        return None
    name = _name(form)

    def replacement(index, *operands):
        outs = []
        for i, body in enumerate(form.bodies):
            flag = index == i
            entered = gated(operands, [flag])
            plain = {id(new): old for new, old in zip(entered, operands, strict=True)}
            meaning = _reached(flag, (name, i), plain)
            outs.append(walk(*body, entered, meaning, Nothing())[0])
        return [lax.select_n(index, *cases) for cases in zip(*outs, strict=True)]

    return replacement


def _name(form: control_flow.Branches) -> Path:
    """What a `cond` is called: a digest of its sites, so that traces of one program are equal.

    Two that are called the same have the same addresses in the same branches. So a site of one is
    never taken for the alternative of another's: its own alternative has that address too, and is
    met twice. Where addresses are put under a prefix, so are names.
    """
    bodies = [placed_sites(body.jaxpr) for body in form.bodies]
    sites = [[(p.path, p.site.where, p.site.branch) for p in placed] for placed in bodies]
    return (hashlib.blake2b(repr(sites).encode(), digest_size=8).hexdigest(),)


def _reached(flag: Any, branch: tuple[Path, int], plain: dict[int, Any]) -> Meaning:
    """Marks sites as reached or not.

    Their estimators read the operands of the branch that are `plain`: settings stay those of all
    lanes.
    """

    def inside(site: Site) -> Site:
        return dataclasses.replace(site, branch=(*site.branch, branch))

    def marked(call: Any) -> Any:
        if isinstance(call, Call):
            settings = jax.tree.map(lambda x: plain.get(id(x), x), call.operands.estimator)
            call = call._replace(operands=call.operands._replace(estimator=settings))
        return call.with_sites(inside).appended("active", flag)

    return everywhere(marked)


batching.rewrite_under_vmap(control_flow.CustomRule, _rewrite_custom)
batching.rewrite_under_vmap(control_flow.Loop, _rewrite_scan)
batching.rewrite_under_vmap(control_flow.While, _rewrite_while)
batching.rewrite_under_vmap(control_flow.Branches, _rewrite_cond)
