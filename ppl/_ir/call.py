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

    def bind(self) -> jax.Array:
        """Emits the site into whatever is being traced."""
        leaves, site = _pack(self)
        return primitives.sample_p.bind(*leaves, site=site)[0]

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

    def draw(self, key: jax.Array) -> jax.Array:
        """A plain draw, or the data of an observed site."""
        if self.operands.obs is not None:
            return self.data()
        self.site.check_drawable(self.operands.distribution)

        def one(ops: Operands, key):
            drawn = gated(ops.distribution, ops.active).sample(key)
            return jnp.asarray(drawn, self.site.out.dtype)

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

    def score(self, value: Any, beside: Callable[[Operands], Any]) -> tuple:
        """Its share, as `log_prob` gives it; the same by lane; a `Score`; what `beside` makes.

        The latter three have the lanes in front; `beside` is given the operands of one.
        """

        def one(ops: Operands, value):
            found = score(self.site, ops, value)
            return jnp.sum(found.terms), found, beside(ops)

        with jax.named_scope(self.site.label):
            logs, found, others = self.over_lanes(one, value)
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
        return self._replace(operands=self.operands._replace(distribution=Bounded(distribution)))

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
    return leaves, site
