"""The weighted site: what a site leaves behind for the sum over all particles."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from ..._ir.site import Site
from ..values.value import Value


class Scan(NamedTuple):
    """A `scan` around sites, which are evaluated once for all its steps.

    In provenance, dimension `-level` stands for its steps.
    """

    eqn: Any
    length: int
    reverse: bool
    level: int


class WeightedSite(NamedTuple):
    """A weighted site. Its weight's dimensions are its lanes, of the sizes `lane_sizes`.

    `axis`: it opened a particle axis. `perturbed`: it opened worlds; its weight has a leading
    dimension of perturbations. `baseline`: one that is learnt, by the numbers of `baseline.noted`
    for each lane; `given`: a value for each lane, that the objective gives; `control`: a cost of
    the estimator's own; `chances`: the probabilities of the particles, where these are a whole
    support. `loops` are those around, one for each of the first lane dimensions. `later`: in a
    loop, the weight at every step but the first, of one step, where it is the same at all of them.
    `chain`: with how many sites, from this one on, it is summed out by recursion over their loop.
    """

    site: Site | None
    weight: Value
    lane_sizes: tuple[int, ...] = ()
    axis: bool = False
    normalized: bool = False
    perturbed: bool = False
    baseline: Value | None = None
    given: Value | None = None
    control: Value | None = None
    chances: Value | None = None
    loops: tuple[Scan, ...] = ()
    later: Value | None = None
    chain: int = 0

    def each(self, fn: Callable, *others: "WeightedSite") -> "WeightedSite":
        """The same site with `fn` of each of its values and of those that `others` have for it."""
        return self._replace(
            **{
                name: fn(own, *(getattr(other, name) for other in others))
                for name in _VALUES
                if (own := getattr(self, name)) is not None
            }
        )


_VALUES = ("weight", "baseline", "control", "chances", "given", "later")
_STATIC = tuple(name for name in WeightedSite._fields if name not in _VALUES)


def _flatten(site: WeightedSite) -> tuple[tuple, tuple]:
    return tuple(getattr(site, name) for name in _VALUES), tuple(
        getattr(site, name) for name in _STATIC
    )


def _unflatten(static: tuple, vals: tuple) -> WeightedSite:
    return WeightedSite(**dict(zip((*_STATIC, *_VALUES), (*static, *vals), strict=True)))


jax.tree_util.register_pytree_node(WeightedSite, _flatten, _unflatten)
