"""The steps of a `scan`, evaluated at once: over the particles of each and of the one before."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from ..._analysis.dataflow import readers
from ..._jax import equations
from ..._jax.control_flow import Loop
from ..sites.weighted_site import Scan, WeightedSite
from ..terms.terms import body_values
from ..values.expansion import MixedSteps
from ..values.lanes import deps_of, enter, hand_on, join, leave, new_level, stack
from ..values.value import (
    BEFORE,
    LAST,
    NOW,
    Axis,
    Value,
    Worlds,
    arrays_of,
    axis_sizes,
    broadcast,
    each_array,
    event_shape,
    shape_of,
    spread_worlds,
    union_axes,
    union_segments,
    widen,
    with_arrays,
)
from .evaluation import Evaluation


class Steps:
    """A scan's steps, evaluated at once."""

    def __init__(self, loop: Loop, vals: Sequence[Value], keys: Any, evaluation: Evaluation):
        levels = [loop.level for loop in evaluation.scope.loops]
        deps = [deps_of(val) for val in (*vals, *evaluation.scope.active)]
        self.level = max([new_level(deps) - 1, *levels], default=0) + 1
        self.loop = Scan(loop.eqn, loop.length, loop.reverse, self.level)
        self.form, self.eqn, self.evaluation = loop, loop.eqn, evaluation
        self.consts, self.init, xs = loop.split(vals)
        self.xs = [x._replace(relations=enter(deps_of(x), self.level).relations) for x in xs]
        self.scanned = [_leading_steps(x) for x in xs], keys.steps((), loop.length)
        self.inner = evaluation.nested(self.loop)
        self.outs: list[Value] = []

    def outputs(self) -> list[Value]:
        """The final carry and the stacked outputs; the sites are noted in the evaluation."""
        carry = self._carry(self.init)
        meets = any(axis.step == BEFORE for val in carry for axis in val.axes)
        if meets and self.loop.length > 1:
            end, made, opened = self._first_apart()
        else:
            start = self._fill_all(self.init, carry)
            end, (ys, arrays) = self.form.scan(self._body(carry), start, self.scanned)
            end, made = with_arrays(carry, end), with_arrays(self.outs[len(carry) :], ys)
            made = [self._stack(val) for val in made]
            opened = [
                self._stack_site(site, own)
                for site, own in zip(self.inner.opened, arrays, strict=True)
            ]
        self._note(opened)
        return [*(self._leave(val) for val in end), *made]

    def _first_apart(self) -> tuple[list[Value], list[Value], list[WeightedSite]]:
        """The first step by itself: what it starts from is no particle of a step before."""
        at, rest = (-1, slice(None, -1)) if self.loop.reverse else (0, slice(1, None))
        count = len(self.init)
        first, sites = self._run(self.init, jax.tree.map(lambda x: x[at], self.scanned))
        handed = [self._hand_on(val) for val in first[:count]]
        carry = self._carry(handed)
        body, start = self._body(carry), self._fill_all(handed, carry)
        later = jax.tree.map(lambda x: x[rest], self.scanned)
        others = self.loop._replace(length=self.loop.length - 1)
        end, (ys, arrays), (_, alike) = _at_once(body, start, later, others)
        ends = with_arrays(carry, end)
        pairs = zip(with_arrays(self.outs[count:], ys), first[count:], strict=True)
        made = [self._with_first(self._stack(val), first) for val, first in pairs]
        opened = [
            self._site_with_first(*column)
            for column in zip(self.inner.opened, arrays, alike, sites, strict=True)
        ]
        return ends, made, opened

    def _site_with_first(
        self, site: WeightedSite, arrays: Any, alike: Any, first: WeightedSite
    ) -> WeightedSite:
        """A site of the other steps and the first; `alike` says which arrays all others share."""
        ((same, _), *_) = alike
        whole = self._stack_site(site, arrays).each(self._with_first, first.vals)
        if not same:
            return whole
        one = jax.tree.map(lambda x: x[:1], arrays)
        return whole._replace(later=self._stack_site(site, one).weight)

    def _with_first(self, rest: Value, first: Value) -> Value:
        """The stacked values of the other steps with that of the first."""
        if first.worlds or rest.worlds:
            raise MixedSteps(self.eqn)
        alone = each_array(lambda array, axes: jnp.expand_dims(array, len(axes)), first)
        alone = alone._replace(relations=stack(deps_of(first), self.level).relations)
        axes = union_axes([alone, rest])
        sizes = axis_sizes([alone, rest], axes)
        pieces = [broadcast(val, axes, sizes) for val in (alone, rest)]
        array = jnp.concatenate(pieces[::-1] if self.loop.reverse else pieces, axis=len(axes))
        known = first.known if first.known == rest.known else None
        unbounded = first.unbounded or rest.unbounded
        deps = join([deps_of(alone), deps_of(rest)])
        return Value(array, axes, *deps, known=known, unbounded=unbounded)

    def _run(self, carry: Sequence[Value], step: Any) -> tuple[list[Value], list[WeightedSite]]:
        """The body's outputs at one step and its sites; their shapes are kept."""
        arrays, feed = step
        inner = self.evaluation.nested(self.loop, self.inner.opened)
        args = [*self.consts, *carry, *with_arrays(self.xs, arrays)]
        outs = body_values(inner, *self.form.body, args, feed)
        opened, inner.ledger.opened = inner.ledger.opened, [site.shapes() for site in inner.opened]
        self.inner, self.outs = inner, [shape_of(out) for out in outs]
        return outs, opened

    def _fill_all(self, vals: Sequence[Value], carry: Sequence[Value]) -> list[tuple]:
        return arrays_of([self._fill(v, meta) for v, meta in zip(vals, carry, strict=True)])

    def _body(self, carry: Sequence[Value]) -> Callable:
        """The function to be scanned, over the arrays of the carry and of one step's inputs."""

        def body(state, step):
            outs, opened = self._run(with_arrays(carry, state), step)
            after = [self._hand_on(v) for v in outs[: len(carry)]]
            weights = [site.arrays() for site in opened]
            return self._fill_all(after, carry), (arrays_of(outs[len(carry) :]), weights)

        return body

    def _carry(self, start: Sequence[Value]) -> list[Value]:
        """What the carry depends on, from its start to a fixed point; its arrays are shapes."""
        carry = [shape_of(val) for val in start]
        first = jax.tree.map(lambda x: x[0], self.scanned)
        while True:
            body = lambda state, step, metas=carry: arrays_of(  # noqa: E731
                self._run(with_arrays(metas, state), step)[0]
            )
            jax.eval_shape(body, arrays_of(carry), first)
            grown = [
                self._grow(old, self._hand_on(out))
                for old, out in zip(carry, self.outs, strict=False)
            ]
            if all(map(_same_meta, grown, carry)):
                return carry
            carry = grown

    def _stepping(self, val: Value, axis: Axis) -> bool:
        relation = val.relations.get(axis.site, ())
        return any(along is not None and along.dim == -self.level for along in relation)

    def _rename(self, val: Value, step: Callable[[int], int]) -> Value:
        """The value with the steps of its particle axes renamed."""
        named = lambda axes: tuple(  # noqa: E731
            axis._replace(step=step(axis.step)) if self._stepping(val, axis) else axis
            for axis in axes
        )
        worlds = val.worlds and val.worlds._replace(axes=named(val.worlds.axes))
        known = val.known and val.known._replace(axis=named((val.known.axis,))[0])
        return val._replace(axes=named(val.axes), worlds=worlds, known=known)

    def _hand_on(self, val: Value) -> Value:
        """What one step hands to the next."""

        def before(step):
            if step != NOW:
                raise MixedSteps(self.eqn)
            return BEFORE

        stepping = [axis for axis in val.axes if self._stepping(val, axis)]
        if any(axis.form or not self.inner[axis.site].loops for axis in stepping):
            raise MixedSteps(self.eqn)
        deps = hand_on(deps_of(val), self.level, self.loop.reverse)
        return self._rename(val, before)._replace(relations=deps.relations)

    def _grow(self, old: Value, new: Value) -> Value:
        deps = join([deps_of(old), deps_of(new)])
        axes = union_axes([old, new])
        if len({(a.site, a.step) for a in axes}) < len(axes) or self._lost(axes, deps):
            raise MixedSteps(self.eqn)
        sizes = axis_sizes([old, new], axes)
        struct = jax.ShapeDtypeStruct((*sizes, *event_shape(old)), old.array.dtype)
        worlds = None
        segments = union_segments([old, new])
        if segments:
            inside = [Value(struct, axes), *(v.worlds for v in (old, new) if v.worlds)]
            own = union_axes(inside)
            count = sum(s.size for s in segments)
            shape = (count, *axis_sizes(inside, own), *event_shape(old))
            worlds = Worlds(jax.ShapeDtypeStruct(shape, struct.dtype), own, segments)
        known = old.known if old.known == new.known else None
        unbounded = old.unbounded or new.unbounded
        return Value(struct, axes, deps.sites, deps.relations, worlds, known, unbounded)

    def _lost(self, axes: tuple[Axis, ...], deps: Any) -> bool:
        """Whether particles of each lane would be carried where lanes are mixed."""
        for axis in axes:
            lanes = self.inner[axis.site].lane_sizes if axis.step != LAST else ()
            relation = deps.relations.get(axis.site, (None,) * len(lanes))
            if any(along is None and d not in axis.form for d, along in enumerate(relation)):
                return True
        return False

    def _fill(self, val: Value, meta: Value) -> Value:
        """The value over the axes and worlds that it is carried with."""
        sizes = axis_sizes([meta], meta.axes)
        array = broadcast(val, meta.axes, sizes).astype(meta.array.dtype)
        worlds = None
        if meta.worlds:
            axes = meta.worlds.axes
            wide = widen(val, meta.worlds.segments)
            spread = spread_worlds(wide, axes, axis_sizes([meta.worlds], axes))
            worlds = meta.worlds._replace(array=spread)
        return Value(array, meta.axes, meta.sites, meta.relations, worlds, unbounded=meta.unbounded)

    def _leave(self, val: Value) -> Value:
        deps = leave(deps_of(val), self.level)
        return self._rename(val, lambda _: LAST)._replace(relations=deps.relations)

    def _stack(self, val: Value) -> Value:
        deps = stack(deps_of(val), self.level)
        array = jnp.moveaxis(val.array, 0, len(val.axes))
        worlds = val.worlds
        if worlds:
            moved_steps = jnp.moveaxis(worlds.array, 0, 1 + len(worlds.axes))
            worlds = worlds._replace(array=moved_steps)
        return val._replace(array=array, relations=deps.relations, worlds=worlds)

    def _stack_site(self, site: WeightedSite, arrays: Sequence[Any]) -> WeightedSite:
        opened = site.with_arrays(arrays)
        return opened.each(lambda val, _: self._stack(val), opened.vals)

    def _note(self, opened: Sequence[WeightedSite]) -> None:
        """Opens the sites of the steps, whose first lanes are the steps."""
        ledger = self.evaluation.ledger
        numbers = range(ledger.next, ledger.next + len(opened))
        carried, made = self.outs[: len(self.init)], self.outs[len(self.init) :]
        vals = [*(site.weight for site in opened), *made]
        meeting = [a.site for val in vals for a in val.axes if a.step != NOW]
        meeting += [a.site for val in carried for a in val.axes]
        chained = any(n in numbers for n in meeting)
        for place, site in enumerate(opened):
            ledger.open(site._replace(chain=len(opened)) if chained and not place else site)


def _leading_steps(val: Value) -> tuple:
    """The arrays of a scanned input, with the steps in front of its named axes."""
    array = jnp.moveaxis(val.array, len(val.axes), 0)
    worlds = val.worlds
    return array, jnp.moveaxis(worlds.array, 1 + len(worlds.axes), 0) if worlds else None


def _same_meta(a: Value, b: Value) -> bool:
    worlds = [v.worlds and v.worlds[1:] for v in (a, b)]
    return a[1:4] == b[1:4] and worlds[0] == worlds[1] and a[5:] == b[5:]


def _at_once(body: Callable, start: Any, steps: Any, loop: Scan) -> tuple[Any, Any, Any]:
    """A scan, all of its steps at once where what is carried does not depend on what was.

    So it is where the particles carried are a whole support. Also says which of the outputs are the
    same at all steps.
    """
    first = jax.tree.map(lambda x: x[0], steps)
    closed, shapes = jax.make_jaxpr(body, return_shape=True)(start, first)
    count, outs = len(jax.tree.leaves(start)), closed.jaxpr.outvars
    reached, stepping = (
        readers(closed.jaxpr, closed.jaxpr.invars[part]) for part in (slice(count), slice(None))
    )
    varies = [not equations.is_literal(v) and v in stepping for v in outs[count:]]
    alike = jax.tree.unflatten(jax.tree.structure(shapes[1]), [not v for v in varies])
    if any(not equations.is_literal(v) and v in reached for v in outs[:count]):
        return *jax.lax.scan(body, start, steps, length=loop.length, reverse=loop.reverse), alike
    handed = jax.vmap(lambda step: body(start, step)[0])(steps)

    def shifted(first, handed):
        if loop.reverse:
            return jnp.concatenate([handed[1:], first[None]])
        return jnp.concatenate([first[None], handed[:-1]])

    def last(handed):
        return handed[0 if loop.reverse else -1]

    before = jax.tree.map(shifted, start, handed)
    return jax.tree.map(last, handed), jax.vmap(lambda c, x: body(c, x)[1])(before, steps), alike
