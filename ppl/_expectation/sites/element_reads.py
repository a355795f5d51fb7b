"""What each element of an array reads of some lanes of a site.

An array is noted as sums, with known coefficients, of single elements that read the lanes, so that
x cancels out of `sum(x) - x`. For L lanes that are looked at and an array of shape `event`, what is
noted of it is `(L, *event)`, or `(1, *event)` where it is the same for all.
"""

import itertools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from jax.core import Tracer

_TRACKED = 16
"""The most elements of one value that are followed by name."""
_fresh = itertools.count()


class Reads(NamedTuple):
    """What an array reads of some lanes, which are along the first dimension of what is noted.

    `otherwise` says which elements read the lane in an unknown way; `sums` has coefficients of
    single elements that read it, by their names. `known` gives the array, if it is a constant.
    """

    otherwise: np.ndarray
    sums: Mapping[Any, np.ndarray]
    known: Callable[[], np.ndarray | None] = lambda: None

    def all(self) -> np.ndarray:
        """Which elements read the lane."""
        found = self.otherwise
        for part in self.sums.values():
            sizes = np.abs(part).reshape(len(part), -1)
            rounding = 1e-5 * sizes.max(axis=1, keepdims=True, initial=0.0)
            found = found | (sizes > rounding).reshape(part.shape)
        return found

    def within(self, mask: Any) -> "Reads":
        """Of some elements alone: the others are known not to read the lane."""
        sums = {name: part * mask for name, part in self.sums.items()}
        return Reads(self.otherwise & mask, sums, self.known)

    @property
    def any(self) -> bool:
        return bool(self.sums) or bool(self.otherwise.any())


def constant(array: Any, shape: tuple[int, ...]) -> Reads:
    """A value that does not read the site; it is known unless it is traced, or there is none."""
    unknown = array is None or isinstance(array, Tracer)
    return Reads(np.zeros((1, *shape), bool), {}, lambda: None if unknown else np.asarray(array))


def name_elements(reading: np.ndarray, known: Callable = lambda: None) -> Reads:
    """Each element that reads the lane under a name of its own, where these are few."""
    flat = reading.reshape(len(reading), -1)
    count = int(flat.sum(axis=1).max(initial=0))
    if count > _TRACKED:
        return Reads(reading, {}, known)
    rank, name = np.cumsum(flat, axis=1) * flat, next(_fresh)
    parts = {(name, k): (rank == k).reshape(reading.shape) * 1.0 for k in range(1, count + 1)}
    return Reads(np.zeros_like(reading), parts, known)
