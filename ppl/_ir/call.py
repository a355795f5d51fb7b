"""Calls: a site with the operands of its `sample` equation, drawn, scored or emitted again."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .._distributions.bounded import Bounded, inside, varies
from .._distributions.cut import gated
from .._distributions.integers import representable
from .._distributions.score import log_probs, score
from .._distributions.scored_draw import ScoredDraw, apart, drawn_scores, is_scorable
from .._jax import primitives
from .._jax.failure import told_of_site
from .._jax.leaves import DYNAMIC, merge, partition
from .address import Path
from .site import Site, Vmap


class Operands(NamedTuple):
    """What a site is computed from: a pytree whose array leaves are the equation's operands.

    `masks` and `scales` act on the recorded density. `active` says whether the control flow
    reaches the site; where it does not, the site has no density and its value is not read.
    """

    distribution: Any
    estimator: Any = None
    obs: Any = None
    masks: tuple = ()
    scales: tuple = ()
    active: tuple = ()


class Call(NamedTuple):
    """A site with its operands; `mapped` has, for each vmap, a flag a leaf of each operand."""

    site: Site
    operands: Operands
    mapped: tuple[Operands, ...] = ()

    def bind(self) -> jax.Array | ScoredDraw:
        """Emits the site into whatever is being traced: its value, scored if the site says so."""
        leaves, site = _pack(self)
        outs = primitives.sample_p.bind(*leaves, site=site)
        return outs[0] if site.scores is None else ScoredDraw(*outs)

    def scoring(self) -> "Call":
        """The site that scores its draws too, where the distribution does it as it draws.

        Where masked, only if it could not be scored otherwise.
        """
        if self.site.scores is not None or self.cuts_given:
            return self
        distribution = self.of_a_lane().distribution
        with told_of_site(self.site.address, self.site.where):
            scores = drawn_scores(distribution, self.site.out, self.site)
        return self.with_sites(lambda site: dataclasses.replace(site, scores=scores))

    @property
    def cuts_given(self) -> bool:
        """Whether it is masked, and a given value can be scored: what a mask leaves out is cut off.

        From a draw, and so from the log density that is drawn along, it is not.
        """
        return bool(self.operands.masks) and is_scorable(self.of_a_lane().distribution)

    def outputs(self, drawn: jax.Array | ScoredDraw) -> list[jax.Array]:
        """What its equation gives, of what `bind` or `draw` gave, or of a value given in place."""
        value, log = apart(drawn)
        if self.site.scores is None:
            return [value]
        return [value, self.log_probs(value) if log is None else log]

    def with_sites(self, change: Callable[[Site], Site]) -> "Call":
        return self._replace(site=change(self.site))

    def with_operand(self, name: str, value: Any, *, lanes: bool = False) -> "Call":
        """Replaces one operand; with `lanes`, the value has the site's leading lane dimensions."""
        operands = self.operands._replace(**{name: value})
        flags = tuple(lanes for _ in jax.tree.leaves(value))
        mapped = tuple(axis._replace(**{name: flags}) for axis in self.mapped)
        return self._replace(operands=operands, mapped=mapped)

    def appended(self, name: str, value: Any) -> "Call":
        """Adds one lane-independent factor to `masks`, `scales` or `active`."""
        operands = self.operands._replace(**{name: (*getattr(self.operands, name), value)})
        mapped = tuple(
            axis._replace(**{name: (*getattr(axis, name), False)}) for axis in self.mapped
        )
        return self._replace(operands=operands, mapped=mapped)

    def flagged(self, flags: Any) -> "Call":
        """Adds a flag of each lane to `active`."""
        operands = self.operands._replace(active=(*self.operands.active, flags))
        mapped = tuple(axis._replace(active=(*axis.active, True)) for axis in self.mapped)
        return self._replace(operands=operands, mapped=mapped)

    def over_lanes(self, fn: Callable, *extra: Any, out_axes: Any = 0) -> Any:
        """`fn(operands, *extra)` for each lane; the extras have the leading lane dimensions."""
        leaves, static, treedef = partition(self.operands)
        flags = [jax.tree.leaves(axis) for axis in self.mapped]

        def one(leaves, *extra):
            return fn(merge(leaves, static, treedef), *extra)

        for axis, mapped in reversed(list(zip(self.site.vmaps, flags, strict=True))):
            dynamic = [flag for flag, s in zip(mapped, static, strict=True) if s is DYNAMIC]
            one = jax.vmap(
                one,
                in_axes=([0 if flag else None for flag in dynamic], *(0 for _ in extra)),
                out_axes=out_axes,
                axis_size=axis.size,
            )
        with told_of_site(self.site.address, self.site.where):
            return one(leaves, *extra)

    def of_a_lane(self) -> Operands:
        """The operands of one lane, arrays as their shapes: what is static holds of these alone."""
        leaves, static, treedef = partition(self.operands)
        flags = [jax.tree.leaves(axis) for axis in self.mapped]
        depths = [sum(column) for column in zip(*flags, strict=True)] or [0] * len(static)
        depths = [depth for depth, s in zip(depths, static, strict=True) if s is DYNAMIC]
        shapes = [
            jax.ShapeDtypeStruct(x.shape[depth:], x.dtype)
            for x, depth in zip(leaves, depths, strict=True)
        ]
        return merge(shapes, static, treedef)

    def keys(self, key: jax.Array) -> jax.Array:
        """One key a lane."""
        shape = self.site.lane_shape
        return jax.random.split(key, shape) if shape else key

    def given(self) -> jax.Array:
        """The data of an observed site, as they were given."""
        return jnp.asarray(self.over_lanes(lambda ops: ops.obs))

    def data(self) -> jax.Array:
        """What an observed site returns."""
        return self.site.returned(self.given())

    def draw(self, key: jax.Array) -> jax.Array | ScoredDraw:
        """A plain draw, scored if the site says so; or the data of an observed site."""
        if self.operands.obs is not None:
            return self.data()
        self.site.check_drawable(self.operands.distribution)

        def one(ops: Operands, key):
            return self.site.drawn(gated(ops.distribution, ops.active), key)

        return self.over_lanes(one, self.keys(key))

    def log_prob(self, value: Any) -> jax.Array:
        """The site's share of the log density at a given value.

        It is scaled, masked, zero where it is not reached, and -inf at a number which is no integer
        where the site has integers. What is left out has no derivative either, whatever the
        operands and the value are.
        """

        def one(ops: Operands, value):
            return jnp.sum(log_probs(self.site, ops, value))

        with jax.named_scope(self.site.label):
            return jnp.sum(self.over_lanes(one, value))

    def log_probs(self, value: Any) -> jax.Array:
        """Log densities of single elements at a value, with the lanes in front.

        They are those before scales and masks; where the site is not reached, they are zero.
        """

        def one(ops: Operands, value):
            return log_probs(self.site, ops._replace(masks=(), scales=()), value)

        with jax.named_scope(self.site.label):
            return self.over_lanes(one, value)

    def score(self, value: Any, log: Any, beside: Callable[[Operands], Any]) -> tuple:
        """Its share, as `log_prob` gives it; the same by lane; a `Score`; what `beside` makes.

        The latter three have the lanes in front; `beside` is given the operands of one. `log` has
        the log densities of elements, as `log_probs` gives them, where they were drawn along.
        """

        def one(ops: Operands, value, *drawn):
            found = score(self.site, ops, value, *drawn)
            return jnp.sum(found.terms), found, beside(ops)

        with jax.named_scope(self.site.label):
            drawn = () if log is None else (log,)
            logs, found, others = self.over_lanes(one, value, *drawn)
            return jnp.sum(logs), logs, found, others

    def outside(self, value: Any) -> jax.Array:
        """How many lanes are reached with a value outside the distribution's support."""

        def one(ops: Operands, value):
            within = jnp.all(inside(ops.distribution, value))
            if value.dtype != self.site.out.dtype:
                within &= jnp.all(representable(value, self.site.out.dtype))
            return jnp.where(_all(ops.active) & jnp.logical_not(within), 1.0, 0.0)

        return jnp.sum(self.over_lanes(one, value))

    def bounded(self, *, always: bool = False) -> "Call":
        """The call with density zero outside a support that is not known while tracing, or any."""
        distribution = self.operands.distribution
        if not always and not varies(distribution):
            return self
        operands = self.operands._replace(distribution=Bounded(distribution))
        return self._replace(site=self.site.unscored(), operands=operands)

    def reached(self) -> jax.Array | None:
        """Whether each lane is reached, or None where that is certain."""
        if not self.operands.active:
            return None
        return self.over_lanes(lambda ops: _all(ops.active))


def _all(flags: Sequence[Any]) -> jax.Array:
    out = jnp.asarray(True)
    for flag in flags:
        out = out & flag
    return out


def make_call(
    path: Path, operands: Operands, out: jax.ShapeDtypeStruct, where: str, drawable: bool = True
) -> Call:
    """A new site, not yet under any vmap."""
    _, static, treedef = partition(operands)
    return Call(Site(path, treedef, static, out, where, drawable=drawable), operands)


def read_call(site: Site, leaves: Sequence[Any]) -> Call:
    """The call that an equation with these parameters and operands stands for."""
    operands = merge([_plain(x) for x in leaves], site.static, site.treedef)
    return Call(site, operands, tuple(_flags(axis, site.static, operands) for axis in site.vmaps))


def call_of(eqn: Any) -> Call:
    """The call of a `sample` equation, with the shapes of its operands in place of arrays."""
    return read_call(eqn.params["site"], [v.aval for v in eqn.invars])


def _plain(leaf: Any) -> Any:
    """A literal of the jaxpr, in some releases of JAX no array that one can calculate with."""
    literal = hasattr(leaf, "__array__") and not isinstance(leaf, jax.Array | np.ndarray)
    return jnp.asarray(leaf) if literal else leaf


def _flags(axis: Vmap, static: tuple, operands: Operands) -> Operands:
    mapped = iter(axis.mapped)
    flags = iter([next(mapped) if s is DYNAMIC else False for s in static])
    return Operands(*(tuple(next(flags) for _ in jax.tree.leaves(part)) for part in operands))


def _pack(call: Call) -> tuple[list, Site]:
    leaves, static, treedef = partition(call.operands)
    flags = iter(
        tuple(f for f, s in zip(jax.tree.leaves(m), static, strict=True) if s is DYNAMIC)
        for m in call.mapped
    )
    axes = tuple(
        Vmap(axis.size, next(flags)) if isinstance(axis, Vmap) else axis
        for axis in call.site.around
    )
    observed = call.operands.obs is not None
    site = dataclasses.replace(
        call.site, treedef=treedef, static=static, around=axes, observed=observed
    )
    site = site.unscored() if observed else site
    return leaves, site
