"""The weighted site: what a site leaves behind for the sum over all particles."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from ..._ir.site import Site
from ..values.value import Value


class Scan(NamedTuple):
    """A `scan` around sites, all of whose steps are evaluated at once.

    In the relations of values inside, dimension `-level` stands for its steps; outside they are a
    dimension of the event. Nested loops have different levels.
    """

    eqn: Any
    length: int
    reverse: bool
    level: int


class WeightedSite(NamedTuple):
    """What a site whose particles have weights leaves: all that the sum over them needs.

    Its lanes are the steps of the loops around, its vmaps and its distribution's batch, in this
    order, of the sizes `lane_sizes`: `lanes` below.

    - `site`: its static parameters; None for a body or a set of runs that is weighted as one.
    - `weight`: `(*axes, *lanes)`, its own axis of particles among the axes if it has one; with
      `perturbed`, `(*axes, particles - 1, *lanes)`, the weights of the perturbations. In
      logarithms where all is exact.
    - `axis`: whether it opened a particle axis; `perturbed`: whether it opened worlds.
    - `normalized`: whether its weights sum to one identically, not in expectation alone.
    - `baseline`: one that is learnt, `(*axes, *lanes, 3)`: the numbers of `baseline.note`.
    - `given`: `(*axes, *lanes)`, a control variate of the objective's.
    - `control`: `(*axes, *lanes)`, a cost of the estimator's own.
    - `chances`: the probabilities of the particles, where these are a whole support.
    - `loops`: those around, one for each of the first lane dimensions.
    - `later`: in a loop, the weight at every step but the first, with one step for all, where it is
      the same at all of them.
    - `together`: how many sites, from this one on, the loop has that opened them.

    It is immutable, and a pytree of its values.
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
    together: int = 0

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
