"""A draw with its log density, in one pass, of distributions that can give both at once.

A flow knows the density of what it has just computed; from the value alone it would have to be
inverted, at a cost, or not at all.
"""

import copy
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from .._jax.leaves import merge, of_form, partition
from ..errors import InvalidDistribution
from .law import law


class ScoredDraw(NamedTuple):
    """A draw, `(*batch, *event)`, and the log densities of its elements, `(*batch)`."""

    value: Any
    log_prob: Any


def apart(drawn: Any) -> tuple[Any, Any]:
    """A value, and its log density or None."""
    return drawn if isinstance(drawn, ScoredDraw) else (drawn, None)


Sampler = Callable[[jax.Array], ScoredDraw]
_NUMPYRO = "numpyro.distributions."
_NAMES = ("sample_and_log_prob", "sample", "log_prob")


def scored_sampler(distribution: Any) -> Sampler | None:
    """`key -> (draw, log density)`, where a distribution gives both, and is what it draws from.

    They are given by its `sample_and_log_prob`, or by the values that NumPyro's transforms were
    computed from (`sample_with_intermediates`).
    """
    sampler = _sampler(distribution, ())
    return sampler if sampler and law(distribution).base is distribution else None


def _sampler(distribution: Any, shape: tuple[int, ...]) -> Sampler | None:
    """The same for a sample of a shape, with what is around a distribution taken off."""
    if _has_methods_of(distribution, "Independent"):
        inner = _sampler(distribution.base_dist, shape)
        return inner and functools.partial(_summed, inner, distribution.reinterpreted_batch_ndims)
    if _has_methods_of(distribution, "ExpandedDistribution"):
        base, batch = distribution.base_dist, distribution.batch_shape
        added = batch[: len(batch) - len(base.batch_shape)]
        return _sampler(base, shape + added) if added + base.batch_shape == batch else None
    if _gives_both(type(distribution)):
        return None if shape else lambda key: ScoredDraw(*distribution.sample_and_log_prob(key))
    if _has_methods_of(distribution, "TransformedDistribution"):
        return functools.partial(_transformed, distribution, shape)
    return None


def _gives_both(kind: type) -> bool:
    """Whether a class has `sample_and_log_prob`, and no later word of how to draw or to score.

    A subclass that draws or scores otherwise, by the methods that these call in FlowJAX (of the
    same names after an underscore), would give a density of other draws.
    """
    if not callable(getattr(kind, _NAMES[0], None)):
        return False
    found = [[_place(kind, mark + name) for name in _NAMES] for mark in ("", "_")]
    return all(both <= min(halves) for both, *halves in found if both < len(kind.__mro__))


def _place(kind: type, name: str) -> int:
    """How far up a class gets a method from; beyond all, where it has none."""
    places = [i for i, cls in enumerate(kind.__mro__) if name in vars(cls)]
    return min(places, default=len(kind.__mro__))


def _has_methods_of(distribution: Any, kind: str) -> bool:
    """Whether it draws and scores as NumPyro's class of this name does."""
    own = type(distribution)
    theirs = [c for c in own.__mro__ if c.__name__ == kind and c.__module__.startswith(_NUMPYRO)]
    return any(c.sample is own.sample and c.log_prob is own.log_prob for c in theirs)


def _summed(inner: Sampler, dims: int, key: jax.Array) -> ScoredDraw:
    """A draw whose last dimensions of the batch are those of one event."""
    value, log = inner(key)
    log = jnp.asarray(log)
    return ScoredDraw(value, jnp.sum(log, axis=tuple(range(log.ndim - dims, log.ndim))))


def _transformed(distribution: Any, shape: tuple[int, ...], key: jax.Array) -> ScoredDraw:
    value, steps = distribution.sample_with_intermediates(key, shape)
    return ScoredDraw(value, distribution.log_prob(value, steps))


def drawn_scores(
    distribution: Any, out: jax.ShapeDtypeStruct, site: Any
) -> jax.ShapeDtypeStruct | None:
    """The shape and dtype of the log densities that are drawn along; None where none are.

    The draws are as `out` says, and have at least an element.
    """
    found = None if 0 in out.shape else _structs(distribution)
    if found is None:
        return None
    value, log = found
    real = jnp.issubdtype(log.dtype, jnp.floating)
    alike = (value.shape, value.dtype) == (out.shape, out.dtype)
    if not (real and alike and out.shape[: len(log.shape)] == log.shape):
        raise InvalidDistribution(
            f"`sample_and_log_prob(key)` of {type(distribution).__name__} at site {site.address!r},"
            f" {site.where}, gives {_described(value)} and {_described(log)}. It must return a "
            f"value as `sample(key)` does, {_described(out)}, and its log density: one real "
            "number, or one for each element of the batch, which the value's shape begins with."
        )
    return jax.ShapeDtypeStruct(log.shape, log.dtype)


def _described(struct: jax.ShapeDtypeStruct) -> str:
    return f"{jnp.dtype(struct.dtype).name}{list(struct.shape)}"


def _structs(distribution: Any) -> ScoredDraw | None:
    """The shapes of a scored draw, or None."""
    if scored_sampler(distribution) is None:
        return None
    leaves, static, treedef = partition(distribution)

    def draw(leaves):
        sampler = scored_sampler(merge(leaves, static, treedef))
        return None if sampler is None else sampler(jax.random.key(0))

    try:
        return jax.eval_shape(draw, leaves)
    except NotImplementedError:
        return None


def is_scorable(distribution: Any) -> bool:
    """Whether it has a density at a given value: one that scores its draws need not have."""
    if not callable(getattr(distribution, "log_prob", None)):
        return False
    if _sampler(distribution, ()) is None:
        return True
    return of_form(_scores, distribution)


@functools.lru_cache(maxsize=1024)
def _scores(structs: tuple, static: tuple, treedef: Any) -> bool:
    def draw(leaves):
        return merge(leaves, static, treedef).sample(jax.random.key(0))

    def score(leaves, value):
        return merge(leaves, static, treedef).log_prob(value)

    try:
        value = jax.eval_shape(draw, list(structs))
    except Exception:  # it is told where it is drawn
        return True
    try:
        jax.eval_shape(score, list(structs), value)
    except NotImplementedError:
        return False
    except Exception:  # it is told where it is scored
        return True
    return True


def unscorable(distribution: Any, error: Exception) -> Any:
    """A distribution whose `log_prob` raises an error."""

    def log_prob(*_, **__):
        raise error

    made = copy.copy(distribution)
    object.__setattr__(made, "log_prob", log_prob)
    return made
