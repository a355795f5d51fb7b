"""Control flow with sites inside, evaluated over named particle axes."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from ..._jax import identities
from ..._jax.control_flow import Branches, Checkpoint, CustomRule, While
from ..._jax.equations import Body
from ..._walk.walker import first_named, warn_custom_rule, while_parts
from ...errors import UnsupportedControlFlow
from ..sites.gating import cut_off
from ..sites.measure import Kind, kinds_within
from ..sites.weighted_site import WeightedSite
from ..terms.terms import body_values
from ..values.lanes import Deps, deps_of, join, through
from ..values.value import (
    Axis,
    Value,
    axis_sizes,
    broadcast,
    union_axes,
)
from .evaluation import Evaluation


def _custom(call: CustomRule, vals, keys, evaluation):
    warn_custom_rule(call)
    return body_values(evaluation, *call.body, vals, keys)


def _checkpoint(call: Checkpoint, vals, keys, evaluation):
    def body(keys, vals):
        inner = evaluation.nested()
        return body_values(inner, *call.body, vals, keys), list(inner.opened)

    outs, opened = call.wrap(body)(keys, list(vals))
    for site in opened:
        evaluation.ledger.open(site)
    return outs


def _cond(cond: Branches, vals, keys, evaluation):
    index, operands = cond.split(vals)
    bodies = cond.bodies
    kinds = [k for body in bodies for k in kinds_within(body.jaxpr, evaluation.allow_biased)]
    everything = [*vals, *evaluation.scope.active]
    if any(kind.particles > 1 for kind in kinds) or _meets_particles(cond, vals, evaluation):
        return _take_all(bodies, index, operands, keys, evaluation)
    axes = union_axes(everything)
    sizes, unbounded = axis_sizes(everything, axes), set()

    def branch(body: Body):
        def taken(keys, arrays):
            inner = evaluation.nested()
            args = [v._replace(array=a, small=None) for v, a in zip(operands, arrays, strict=True)]
            outs = body_values(inner, *body, args, keys)
            unbounded.update(i for i, v in enumerate(outs) if v.unbounded)
            return [broadcast(v, axes, sizes) for v in outs], _whole(inner, kinds, axes, sizes)

        return taken

    arrays = [v.array for v in operands]
    outs, whole = lax.switch(index.array, [branch(b) for b in bodies], keys, arrays)
    deps = _compound(everything, kinds, whole, axes, evaluation)
    return [Value(out, axes, *deps, unbounded=i in unbounded) for i, out in enumerate(outs)]


class TakenWhole(Exception):
    """All branches of a cond turn out to be evaluated: it has other sites than it had.

    A loop's body is evaluated again and again until it is known what it carries. What it carries
    names sites by their numbers, so the loops around begin anew.
    """


def _meets_particles(cond: Branches, vals: Sequence[Value], evaluation: Evaluation) -> bool:
    """Whether the index of a cond has particles, or what it reads has some of its own."""
    noted, everything = evaluation.ledger.taken_whole, [*vals, *evaluation.scope.active]
    apart = any(val.worlds or _particles_apart(val, evaluation) for val in everything)
    meets = bool(vals[0].axes) or apart
    if not evaluation.scope.loops:
        return meets
    if meets and id(cond.eqn) not in noted:
        noted.add(id(cond.eqn))
        raise TakenWhole
    return id(cond.eqn) in noted


def _particles_apart(val: Value, evaluation: Evaluation) -> bool:
    """Whether a value has the particles of each element of a batch, as lanes kept apart."""
    sites = [(evaluation[axis.site], axis.form) for axis in val.axes]
    return any(
        not set(range(len(site.loops), len(site.lane_sizes))) <= set(form) for site, form in sites
    )


class _Whole(NamedTuple):
    """The sites of a body as one: their weights multiplied, their baselines and controls summed."""

    weight: Any
    baseline: Any = None
    control: Any = None

    def and_then(self, later: "_Whole") -> "_Whole":
        """These sites and those of a later run of the body."""
        sums = jax.tree.map(jnp.add, self._replace(weight=None), later._replace(weight=None))
        return sums._replace(weight=self.weight * later.weight)


def _whole(inner: Evaluation, kinds: Sequence[Kind], axes: tuple[Axis, ...], sizes: Any) -> _Whole:
    """The sites that were opened in a body; the same numbers in all bodies of these `kinds`."""
    weight, baseline, control = (jnp.ones(sizes), jnp.zeros((*sizes, 3)), jnp.zeros(sizes))

    def total(val, event, reduction=jnp.sum):
        array = broadcast(val, axes, sizes)
        return reduction(array, axis=tuple(range(len(axes), array.ndim - event)))

    for site in inner.opened:
        weight = weight * total(site.weight, 0, jnp.prod)
        baseline = baseline if site.baseline is None else baseline + total(site.baseline, 1)
        control = control if site.control is None else control + total(site.control, 0)
    return _Whole(
        weight,
        baseline if any(kind.baseline for kind in kinds) else None,
        control if any(kind.control for kind in kinds) else None,
    )


def _compound(vals, kinds, whole, axes, evaluation) -> Deps:
    """What the outputs of a body depend on that reads some values and is weighted as a whole."""
    mixed = join([through(deps_of(val), None) for val in vals])
    if not any(kind.weighted for kind in kinds):
        return mixed
    weight, *costs = (None if array is None else Value(array, axes, *mixed) for array in whole)
    assert weight is not None
    scope, (baseline, control) = evaluation.scope, costs
    site = WeightedSite(
        None, weight, scope.lengths, baseline=baseline, control=control, loops=scope.loops
    )
    number = evaluation.ledger.open(site)
    return join([mixed, Deps(1 << number, {number: scope.own_steps} if scope.loops else {})])


def _take_all(bodies: Sequence[Body], index, operands, keys, evaluation):
    """Every branch, its sites marked as reached or not; then a selection."""
    outcomes = []
    for i, body in enumerate(bodies):
        (flag,) = evaluation.apply(lambda x, i=i: [x == i], [index], list)
        entered = cut_off(operands, flag, evaluation)
        outcomes.append(body_values(evaluation.within(flag), *body, entered, keys))
    selected = []
    for cases in zip(*outcomes, strict=True):
        selected += evaluation.apply(
            lambda index, *cases: [lax.select_n(index, *cases)], [index, *cases], _select
        )
    return selected


def _select(deps):
    index, *cases = deps
    return [join([through(index, None), *cases])]


def _while(loop: While, vals, keys, evaluation):
    named = first_named(loop.eqn)
    unfinished, consts, init = while_parts(loop, [v.array for v in vals])
    kinds = kinds_within(loop.body.jaxpr, evaluation.allow_biased)
    everything = [*vals, *evaluation.scope.active]
    expanded = union_axes(everything) or any(val.worlds for val in everything)
    if expanded or any(kind.particles > 1 for kind in kinds):
        raise UnsupportedControlFlow(
            f"{named} is inside a while_loop, where estimators of several particles cannot go "
            "(neither for the site nor for what the loop reads). Use a one-particle estimator "
            "such as ppl.ScoreFunction(), or lax.scan with a fixed number of steps."
        )

    def advance(carry, extra):
        keys, total = extra
        now, later = keys.iterate(())
        inner = evaluation.nested()
        args = [Value(a) for a in (*consts, *carry)]
        outs = [out.array for out in body_values(inner, *loop.body, args, now)]
        return outs, (later, total.and_then(_whole(inner, kinds, (), ())))

    start = _whole(evaluation.nested(), kinds, (), ())
    carry, (_, total) = loop.loop(unfinished, advance, init, (keys, start))
    message = (
        f"{named} is inside a while_loop, which reverse-mode differentiation cannot pass. Use "
        "lax.scan or lax.fori_loop with a fixed number of steps, or forward mode (jax.jvp, "
        "jax.jacfwd)."
    )
    total = jax.tree.map(lambda x: identities.forward_only(x, message), total)
    deps = _compound(everything, kinds, total, (), evaluation)
    return [Value(identities.forward_only(x, message), (), *deps) for x in carry]


CONTROL_FLOW: Mapping[Any, Callable] = {
    CustomRule: _custom,
    Checkpoint: _checkpoint,
    While: _while,
    Branches: _cond,
}
"""Rules `(form, vals, keys, evaluation) -> vals`."""
