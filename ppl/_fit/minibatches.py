"""Minibatches by random reshuffling, drawn on the device."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ..errors import InvalidData, InvalidSetting


class Shuffle(NamedTuple):
    """The order of the data in one epoch."""

    epoch: jax.Array
    order: jax.Array


class Minibatches(NamedTuple):
    """Each epoch is a fresh random order of the `size` data, cut into batches of `batch_size`.

    The last `size % batch_size` data of an epoch's order sit that epoch out; as every epoch has
    its own order, each datum is in a given batch with the same probability.
    """

    size: int
    batch_size: int

    @property
    def per_epoch(self) -> int:
        return self.size // self.batch_size

    def start(self) -> Shuffle:
        """No epoch yet."""
        return Shuffle(jnp.asarray(-1, jnp.int32), jnp.zeros(self.size, jnp.int32))

    def shuffle(self, key: jax.Array, epoch: jax.Array, last: Shuffle) -> Shuffle:
        """The order of an epoch, which is that of `last` where it is the same epoch."""

        def fresh():
            order = jax.random.permutation(jax.random.fold_in(key, epoch), self.size)
            return Shuffle(epoch, order.astype(jnp.int32))

        return lax.cond(epoch == last.epoch, lambda: last, fresh)

    def take(self, data: Any, order: jax.Array, step: jax.Array | int) -> Any:
        """The batch of a step."""
        first = (step % self.per_epoch) * self.batch_size
        rows = lax.dynamic_slice_in_dim(order, first, self.batch_size)
        return jax.tree.map(lambda x: x.at[rows].get(mode="promise_in_bounds"), data)


def checked_data(data: Any, batch_size: Any) -> tuple[Any, Minibatches | None]:
    """The data as arrays on the device, and how they are cut; None: each step sees all of it.

    **Raises** `InvalidData` where the leaves are not arrays with one leading axis in common,
    `InvalidSetting` where `batch_size` does not suit it.
    """
    if data is None:
        if batch_size is not None:
            raise InvalidSetting(f"batch_size={batch_size} without data. Pass data=, or leave it.")
        return None, None
    if isinstance(data, Iterator):
        raise InvalidData(_unsuitable("data", data))
    leaves, treedef = jax.tree_util.tree_flatten_with_path(data)
    size = _leading(leaves)
    data = jax.tree.unflatten(treedef, [jnp.asarray(leaf) for _, leaf in leaves])
    if batch_size is None:
        return data, None
    if isinstance(batch_size, bool) or not isinstance(batch_size, int | np.integer):
        raise InvalidSetting(f"batch_size must be a positive integer, got {batch_size!r}.")
    if not 1 <= batch_size <= size:
        raise InvalidSetting(
            f"batch_size={batch_size} with {size} data: it must lie between 1 and {size}. "
            "For all data at each step, leave it out."
        )
    return data, Minibatches(size, int(batch_size))


def _leading(leaves: list) -> int:
    names = [f"data{jax.tree_util.keystr(path)}" for path, _ in leaves]
    for name, (_, leaf) in zip(names, leaves, strict=True):
        if not isinstance(leaf, jax.Array | np.ndarray) or leaf.dtype == object or leaf.ndim == 0:
            raise InvalidData(_unsuitable(name, leaf))
    sizes = [leaf.shape[0] for _, leaf in leaves]
    if len(set(sizes)) != 1 or sizes[0] == 0:
        listed = ", ".join(f"{n} has {size}" for n, size in zip(names, sizes, strict=True))
        raise InvalidData(
            f"The arrays of `data` must have one leading axis in common, not empty: "
            f"{listed or 'there is no array'}."
        )
    return sizes[0]


def _unsuitable(name: str, leaf: Any) -> str:
    return (
        f"{name} is {_kind(leaf)}, not an array with a leading axis of data. "
        "`data` is an array or a pytree of arrays in memory; convert it with jnp.asarray."
    )


def _kind(leaf: Any) -> str:
    if isinstance(leaf, jax.Array | np.ndarray):
        return f"{leaf.dtype}{list(leaf.shape)}"
    return f"a {type(leaf).__name__}"
