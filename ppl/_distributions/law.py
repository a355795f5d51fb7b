"""The law of the draw: what a site is really drawn from, whatever its density says.

A wrapper may draw as before and score otherwise: a mask drops density, censoring replaces it, a
factor adds to it. And a transform of a discrete distribution moves its values, while their
probabilities stay those of the base: these have no Jacobian. Estimators are given what is drawn
from; the density of the site stays its own. Wrappers are known by the names of their classes.
"""

import copy
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.core import Tracer

_CENSORED = tuple(f"{side}CensoredDistribution" for side in ("Left", "Right", "Interval"))
_SPINE = ("ExpandedDistribution", "Independent")
_TRANSFORMED = "TransformedDistribution"
_ON_GRID = 1e-3
"""How far from a value of the support its preimage may be, relative to it."""


class Law(NamedTuple):
    """What draws are: those of `base`, pushed through `transforms` where it is discrete."""

    base: Any
    transforms: tuple = ()

    def pushed(self, values: Any) -> Any:
        """Particles of the base, as values of the site."""
        for transform in self.transforms:
            values = jax.vmap(transform)(jnp.asarray(values))
        return values

    @property
    def moves(self) -> bool:
        """Whether its values move with what the transforms are computed from."""
        return bool(traced(self.transforms))


def law(distribution: Any) -> Law:
    """What a distribution is drawn from."""
    return Law(*_split(_changed(distribution, _scores_otherwise, _drawn)))


def is_of_its_draws(distribution: Any) -> bool:
    """Whether the density is that of the draws: nothing in it is masked, censored or a factor."""
    leaves = jax.tree.leaves(distribution, is_leaf=_scores_otherwise)
    return not any(map(_scores_otherwise, leaves))


def scored(distribution: Any) -> Any:
    """A distribution that scores its transformed discrete parts by the mass of the preimage."""
    return _changed(distribution, _moves_mass, _by_preimage)


def why_no_law(base: Any) -> str | None:
    """Why a distribution's law is not known."""
    if any(map(_moves_mass, jax.tree.leaves(base, is_leaf=_moves_mass))):
        return (
            "a part of it is a transformed discrete distribution, whose values move with its "
            "parameters; transform the value of the site in its place"
        )
    return None


def is_a(thing: Any, *names: str) -> bool:
    """Whether it is of a class of one of these names, or of one below it."""
    return any(kind.__name__ in names for kind in type(thing).__mro__)


def family_name(thing: Any) -> str:
    """The full name of its class, or of the one that its canonical form stands for."""
    kind = getattr(type(thing), "family", type(thing))
    return f"{kind.__module__}.{kind.__qualname__}" if isinstance(kind, type) else ""


def stated(thing: Any, name: str) -> Any:
    """What a distribution or a transform states of itself, or None."""
    try:
        return getattr(thing, name, None)
    except NotImplementedError:
        return None


def same_support(one: Any, other: Any) -> bool:
    """Whether two constraints are known to be the same: bounds that are traced are not.

    ```python
    >>> import numpyro.distributions as dist, ppl
    >>> ppl.extend.same_support(dist.Gamma(2.0).support, dist.constraints.positive)
    True

    ```
    """
    with jax.ensure_compile_time_eval():
        try:
            return bool(one == other)
        except jax.errors.ConcretizationTypeError:
            return False


def is_masked(distribution: Any) -> bool:
    """Whether it, or a part of it, may be masked."""
    masked = lambda part: is_a(part, "MaskedDistribution") and part._mask is not True  # noqa: E731
    return any(map(masked, jax.tree.leaves(distribution, is_leaf=masked)))


def is_censored(distribution: Any) -> bool:
    """Whether it, or a part of it, is scored as censored."""
    censored = lambda part: is_a(part, *_CENSORED)  # noqa: E731
    return any(map(censored, jax.tree.leaves(distribution, is_leaf=censored)))


def is_discrete(distribution: Any) -> bool:
    """Whether its support is said to be discrete."""
    return bool(stated(stated(distribution, "support"), "is_discrete"))


def traced(tree: Any) -> list[Any]:
    """The floating-point arrays of a tree that are not known while tracing, or their shapes."""
    arrays = [x for x in jax.tree.leaves(tree) if isinstance(x, Tracer | jax.ShapeDtypeStruct)]
    return [x for x in arrays if jnp.issubdtype(x.dtype, jnp.inexact)]


def _changed(tree: Any, found: Callable[[Any], bool], change: Callable) -> Any:
    """A tree with the parts that are `found` changed, however deep they are."""
    if not any(map(found, jax.tree.leaves(tree, is_leaf=found))):
        return tree
    return jax.tree.map(lambda x: change(x) if found(x) else x, tree, is_leaf=found)


def with_attributes(distribution: Any, **attributes: Any) -> Any:
    """A copy with other attributes."""
    made = copy.copy(distribution)
    for name, value in attributes.items():
        object.__setattr__(made, name, value)
    return made


def _scores_otherwise(part: Any) -> bool:
    return is_a(part, "MaskedDistribution", "Delta", "Unit", *_CENSORED)


def _drawn(part: Any) -> Any:
    """What such a part draws from, with a density that is that of its draws."""
    if is_a(part, "Delta"):
        return with_attributes(part, log_density=0.0)
    if is_a(part, "Unit"):
        return with_attributes(part, log_factor=0.0)
    base = _changed(part.base_dist, _scores_otherwise, _drawn)
    return base.expand(part.batch_shape) if base.batch_shape != part.batch_shape else base


def _split(distribution: Any) -> tuple[Any, tuple]:
    """A distribution as a base and the transforms of its values, none where it is continuous."""
    if is_a(distribution, _TRANSFORMED):
        base, before = _split(distribution.base_dist)
        discrete = before or is_discrete(base)
        return (base, (*before, *distribution.transforms)) if discrete else (distribution, ())
    if is_a(distribution, *_SPINE):
        base, transforms = _split(distribution.base_dist)
        if transforms:
            finite = getattr(base, "has_enumerate_support", False)
            return with_attributes(
                distribution, base_dist=base, has_enumerate_support=finite
            ), transforms
    return distribution, ()


def _moves_mass(part: Any) -> bool:
    """Whether it transforms a discrete distribution: its density has a Jacobian too many."""
    if not is_a(part, _TRANSFORMED) or is_a(part, "FoldedDistribution"):
        return False
    base = part.base_dist
    while is_a(base, "MaskedDistribution", _TRANSFORMED, *_SPINE):
        base = base.base_dist
    return is_discrete(base)


def _by_preimage(part: Any) -> Any:
    return with_attributes(part, log_prob=functools.partial(_log_mass, part))


def _log_mass(part: Any, value: Any, intermediates: Any = None) -> jax.Array:
    """The log probability of the value of the base that a value comes from."""
    for transform in reversed(part.transforms):
        value = transform.inv(value)
    base = scored(part.base_dist)
    dtype = jax.eval_shape(base.sample, jax.random.key(0)).dtype
    if jnp.issubdtype(dtype, jnp.inexact):
        return base.log_prob(value)
    value = jax.lax.stop_gradient(value)
    whole = jnp.round(value)
    near = jnp.abs(value - whole) <= _ON_GRID * jnp.maximum(1.0, jnp.abs(value))
    near = jnp.all(near, tuple(range(near.ndim - len(base.event_shape), near.ndim)))
    return jnp.where(near, base.log_prob(whole.astype(dtype)), -jnp.inf)
