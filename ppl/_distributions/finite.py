"""Finite distributions as tables; what a value of one would have been under another."""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp

from .families.probabilities import log_of
from .law import Law, is_a, law


class Table(NamedTuple):
    """Values `(K, *batch, *event)` in the order of the support, and chances `(K, *batch)`."""

    values: jax.Array
    chances: jax.Array


def table(distribution: Any, shape: tuple[int, ...]) -> Table | None:
    """The support of a distribution, with values of a shape; None where it is not finite."""
    drawn = law(distribution)
    element = drawn.base
    while is_a(element, "Independent", "ExpandedDistribution"):
        element = element.base_dist
    if not getattr(element, "has_enumerate_support", hasattr(element, "enumerate_support")):
        return None
    try:
        values = jnp.asarray(element.enumerate_support(expand=True))
    except (AttributeError, NotImplementedError, jax.errors.JAXTypeError):
        return None
    return _table(drawn, element, values, shape)


def _table(drawn: Law, element: Any, values: jax.Array, shape: tuple[int, ...]) -> Table:
    known = getattr(element, "enumerate_probs", None)
    chances = jnp.exp(element.log_prob(values)) if known is None else known()
    event = len(getattr(element, "event_shape", ()))
    batch = shape[: len(shape) - event]
    values = _spread(values, (*batch, *values.shape[values.ndim - event :]))
    return Table(drawn.pushed(values), _spread(chances, batch))


def _spread(rows: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Rows `(K, *inner)` as `(K, *shape)`."""
    missing = (1,) * (1 + len(shape) - rows.ndim)
    rows = rows.reshape(rows.shape[:1] + missing + rows.shape[1:])
    return jnp.broadcast_to(rows, (rows.shape[0], *shape))


class Finite(eqx.Module):
    """A distribution over listed values: those and their chances, as a `Table` has them."""

    values: jax.Array
    chances: jax.Array
    has_enumerate_support: bool = eqx.field(static=True, default=True)
    has_rsample: bool = eqx.field(static=True, default=False)

    @property
    def batch_shape(self) -> tuple[int, ...]:
        return self.chances.shape[1:]

    @property
    def event_shape(self) -> tuple[int, ...]:
        return self.values.shape[self.chances.ndim :]

    def sample(self, key: jax.Array) -> jax.Array:
        chosen = jax.random.categorical(key, log_of(self.chances), axis=0)
        index = chosen.reshape(1, *chosen.shape, *(1 for _ in self.event_shape))
        return jnp.take_along_axis(self.values, index, 0)[0]

    def log_prob(self, value: Any) -> jax.Array:
        return log_of(jnp.sum(jnp.where(_equal(self, value), self.chances, 0.0), 0))

    def enumerate_support(self, expand: bool = True) -> jax.Array:
        return self.values

    def enumerate_probs(self) -> jax.Array:
        return self.chances


def _equal(rows: Table | Finite, value: Any) -> jax.Array:
    same = rows.values == value
    return jnp.all(same, tuple(range(rows.chances.ndim, same.ndim)))


def redrawn(old: Table, new: Table, value: jax.Array) -> Finite:
    """What a value drawn from `old` would have been under `new`, of the same quantile.

    The value says of the quantile U that it lies between the chances of the values before it and
    those with it, F(value-) < U <= F(value), and no more. So what U is under `new` has chances.
    """
    chances = _shares(old.chances, new.chances, _place(old, value))
    return Finite(new.values, chances)


def _place(rows: Table, value: jax.Array) -> jax.Array:
    """Which row a value is, or the nearest."""
    event = tuple(range(rows.chances.ndim, rows.values.ndim))
    apart = jnp.sum(jnp.abs(rows.values.astype(rows.chances.dtype) - value), event)
    return jnp.argmin(jnp.where(_equal(rows, value), -1.0, apart), 0)


def _shares(old: jax.Array, new: jax.Array, place: jax.Array) -> jax.Array:
    """How much of the interval of quantiles of one value of `old` each value of `new` has.

    The ends of the intervals of `new` are reckoned from the interval's own lower end, by sums of
    differences: what is the same in both stays so to the last digit.
    """
    rank = jnp.arange(old.shape[0]).reshape(-1, *(1 for _ in place.shape))
    below = rank < place
    start = jnp.sum(jnp.where(below, new - old, 0.0), 0)
    after = jnp.cumsum(jnp.where(below, 0.0, new), 0)
    before = jnp.cumsum(jnp.where(below, new, 0.0)[::-1], 0)[::-1]
    before = jnp.concatenate([before[1:], jnp.zeros_like(before[:1])])
    ends = start + jnp.where(below, -before, after)
    width = jnp.take_along_axis(old, place[None], 0)[0]
    empty = width <= 0.0
    part = jnp.clip(ends / jnp.where(empty, 1.0, width), 0.0, 1.0)
    part = jnp.where(empty, jnp.asarray(ends > 0.0, part.dtype), part)
    part = jnp.concatenate([jnp.zeros_like(part[:1]), part[:-1], jnp.ones_like(part[:1])])
    return jnp.diff(part, axis=0)
