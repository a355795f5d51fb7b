"""The weighted site: what a site leaves behind for the sum over all particles."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from ..._ir.site import Site
from ..values.value import Value, arrays_of, shape_of, with_arrays


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

    @property
    def vals(self) -> tuple[Value | None, ...]:
        """The values that are made where the site is; `given` is not, and comes later."""
        return self.weight, self.baseline, self.control, self.chances

    def each(self, fn: Callable, others: Sequence[Any]) -> "WeightedSite":
        """The same site with `fn` of each of its values and of what `others` has for it."""
        weight, baseline, control, chances = (
            None if val is None else fn(val, other)
            for val, other in zip(self.vals, others, strict=True)
        )
        return self._replace(weight=weight, baseline=baseline, control=control, chances=chances)

    def shapes(self) -> "WeightedSite":
        """The same site with shapes for arrays."""
        return self.each(lambda val, _: shape_of(val), self.vals)

    def arrays(self) -> list[Any]:
        """The arrays of its values, to be handed out of the trace of a body."""
        return [None if val is None else arrays_of([val])[0] for val in self.vals]

    def with_arrays(self, arrays: Sequence[Any]) -> "WeightedSite":
        """The same site with other arrays."""
        return self.each(lambda val, own: with_arrays([val], [own])[0], arrays)
