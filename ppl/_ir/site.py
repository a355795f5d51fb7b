"""Sites: the static parameters and the operands of one `sample` equation."""

import dataclasses
import os
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .._distributions.bounded import Bounded, inside, varies
from .._distributions.cut import gated
from .._distributions.integers import as_integers, representable
from .._distributions.score import log_probs, score
from .._jax import primitives, source
from .._jax.failure import told_of_site
from .._jax.leaves import DYNAMIC, merge, partition
from ..errors import UndrawableSite
from .address import Path, render

SITE_LABEL = re.compile(r"site (\S+) \((.*?:\d+)\)")
"""What the equations of a site's density are called, `Site.label`: its address, and its line."""


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


@dataclasses.dataclass(frozen=True)
class Vmap:
    """One `vmap` around a site: its size and the operand leaves it maps."""

    size: int
    mapped: tuple[bool, ...]


@dataclasses.dataclass(frozen=True)
class Loop:
    """A `scan` or `while_loop` around a site, recorded where a `vmap` lies outside it."""


@dataclasses.dataclass(frozen=True, repr=False)
class Site:
    """The static parameters of a `sample` equation.

    `around` lists the vmaps (and the loops between them), outermost first; the value has one
    leading dimension for each `Vmap`. `branch` has the names of the batched `cond`s it is in, and
    which of their branches. `observed` says that the operands include data, `drawable` that the
    distribution has a sampler.
    `law` is that of the estimate of a compound site's density.
    """

    path: Path
    treedef: Any
    static: tuple
    out: jax.ShapeDtypeStruct
    where: str
    around: tuple[Vmap | Loop, ...] = ()
    branch: tuple[tuple[Path, int], ...] = ()
    observed: bool = False
    drawable: bool = True
    law: Literal["exact", "weight", "log"] | None = "exact"

    def __repr__(self) -> str:
        return f"{self.address}{' observed' if self.observed else ''}"

    @property
    def address(self) -> str:
        return render(self.path) or "(no address)"

    @property
    def label(self) -> str:
        """What the equations of its density are called, as `SITE_LABEL` reads it."""
        line = self.where.partition(" (")[0].rpartition(os.sep)[2]
        return f"site {self.address} ({line})"

    @property
    def compound(self) -> bool:
        """Whether it is an address of a compound site, which has no distribution of its own."""
        return self.treedef is None

    @property
    def vmaps(self) -> tuple[Vmap, ...]:
        return tuple(axis for axis in self.around if isinstance(axis, Vmap))

    @property
    def lane_shape(self) -> tuple[int, ...]:
        return tuple(axis.size for axis in self.vmaps)

    def batched(self, size: int, mapped: tuple[bool, ...]) -> "Site":
        """The site under one more, outermost vmap."""
        return dataclasses.replace(self, around=(Vmap(size, mapped), *self.around))

    def loop_position(self, depth: int) -> int:
        """Where the `depth`-th loop around (1 = innermost) stands among the value's axes."""
        loops = [i for i, axis in enumerate(self.around) if isinstance(axis, Loop)]
        if depth > len(loops):
            return 0
        return sum(isinstance(axis, Vmap) for axis in self.around[: loops[-depth]])

    def check_drawable(self, distribution: Any) -> None:
        """Raises where the site can only be scored."""
        if not self.drawable:
            raise UndrawableSite(
                f"Site {self.address!r} at {self.where} was to be drawn, but its distribution "
                f"{type(distribution).__name__} has no sampler: it can only be scored. Observe it "
                "(obs=..., ppl.condition), give its value to ppl.log_density, move it by a kernel "
                "(stdlib.inference.chain), or give its distribution a `sample(key)`."
            )

    def returned(self, value: Any) -> Any:
        """A given value as the site returns it: numbers at an integer site are integers there."""
        same = value.dtype == self.out.dtype
        return value if same else as_integers(value, self.out.dtype)

    def under(self, prefix: Path) -> "Site":
        """The site with its address, if it has one, put under a prefix; so are its `cond`s."""
        if not self.path:
            return self
        branch = tuple((prefix + cond, i) for cond, i in self.branch)
        return dataclasses.replace(self, path=prefix + self.path, branch=branch)

    def excludes(self, other: "Site") -> bool:
        """Whether the two sites stand in different branches of one `cond`."""
        mine, theirs = dict(self.branch), dict(other.branch)
        return any(mine[cond] != theirs[cond] for cond in mine.keys() & theirs.keys())


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


def user_location() -> str:
    """The innermost line of the user's own code, as `file:line (function)`."""
    frame = sys._getframe(1)
    while frame is not None:
        name = frame.f_code.co_filename
        if not source.is_library(name):
            return f"{name}:{frame.f_lineno} ({frame.f_code.co_name})"
        frame = frame.f_back
    return "an unknown line"
