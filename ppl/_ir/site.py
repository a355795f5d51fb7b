"""Sites: the static parameters of one `sample` equation."""

import dataclasses
import os
import re
import sys
from typing import Any, Literal

import jax
import jax.numpy as jnp

from .._distributions.integers import as_integers
from .._distributions.scored_draw import ScoredDraw, scored_sampler
from .._jax import source
from ..errors import UndrawableSite, UnscorableSite
from .address import Path, render

SITE_LABEL = re.compile(r"site (\S+) \((.*?:\d+)\)")
"""What the equations of a site's density are called, `Site.label`: its address, and its line."""


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
    `scores` is the shape and dtype of the log density of a draw, where the equation has that of a
    plain draw as a second output: `(*lanes, *batch)`, before scales and masks.
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
    scores: jax.ShapeDtypeStruct | None = None
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

    @property
    def outs(self) -> list[jax.ShapeDtypeStruct]:
        """The outputs of its equation: a value, and, where `scores`, the log density of that."""
        outs = [self.out] if self.scores is None else [self.out, self.scores]
        return [jax.ShapeDtypeStruct(self.lane_shape + out.shape, out.dtype) for out in outs]

    def unscored(self) -> "Site":
        """The site without the log density of its draw."""
        return self if self.scores is None else dataclasses.replace(self, scores=None)

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

    def unscorable(self, distribution: Any, by: str = "") -> UnscorableSite:
        """The error where a value is to be scored that the distribution has no density for."""
        return UnscorableSite(
            f"Site {self.address!r} at {self.where} was to be scored at a given value{by}, but its "
            f"distribution {type(distribution).__name__} has no density there: its `log_prob` is "
            "missing or not implemented. Only simulate it, with ppl.Reparameterized() as its "
            "estimator, where it knows the density of its own draws (`sample_and_log_prob`); or "
            "give it a `log_prob(value)`: for a flow, take one that has an inverse."
        )

    def drawn(self, distribution: Any, key: jax.Array) -> jax.Array | ScoredDraw:
        """A draw of one lane, in the dtypes of the site, scored if that is asked for."""
        if self.scores is None:
            return jnp.asarray(distribution.sample(key), self.out.dtype)
        sampler = scored_sampler(distribution)
        assert sampler is not None
        value, log = sampler(key)
        return ScoredDraw(jnp.asarray(value, self.out.dtype), jnp.asarray(log, self.scores.dtype))

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


def user_location(above_stdlib: bool = False) -> str:
    """The innermost line of the user's own code, as `file:line (function)`.

    The standard library counts as the user's own, unless a line `above_stdlib` is asked for.
    """
    frame = sys._getframe(1)
    while frame is not None:
        name = frame.f_code.co_filename
        if not (source.is_library(name) or (above_stdlib and source.is_stdlib(name))):
            return f"{name}:{frame.f_lineno} ({frame.f_code.co_name})"
        frame = frame.f_back
    return "an unknown line"
