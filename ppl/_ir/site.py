"""Sites: the static parameters of one `sample` equation."""

import dataclasses
import os
import re
import sys
from typing import Any, Literal

import jax

from .._distributions.integers import as_integers
from .._jax import source
from ..errors import UndrawableSite
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
