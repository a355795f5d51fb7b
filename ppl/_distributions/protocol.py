"""The distribution protocol: what is asked of an object at a site, and the shape of its values."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from .._jax.failure import told_of_site
from .._jax.leaves import merge, partition
from ..errors import InvalidDistribution


class Value(NamedTuple):
    """What one value of a distribution is; `drawable` says whether there is a sampler."""

    struct: jax.ShapeDtypeStruct
    drawable: bool


def value_of(distribution: Any, obs: Any, address: str, where: str) -> Value:
    """The shape and dtype of a draw; without a sampler, what is stated, and else those of the data.

    Stated are shapes by `batch_shape` and `event_shape`, or by `shape`; dtypes by `dtype`, or by
    whether the support is discrete. A distribution that states no shape is one of scalars.
    """
    _check(distribution, address, where)
    with told_of_site(address, where):
        out = _drawn(distribution)
        if out is None:
            shape, dtype = _shape(distribution, obs), _dtype(distribution, obs)
            return Value(jax.ShapeDtypeStruct(shape, dtype), drawable=False)
    if not isinstance(out, jax.ShapeDtypeStruct):
        raise InvalidDistribution(
            f"The distribution {type(distribution).__name__} of sample({address!r}, ...) at "
            f"{where} must return one array from `sample(key)`, got {jax.tree.structure(out)}."
        )
    return Value(jax.ShapeDtypeStruct(out.shape, out.dtype), drawable=True)


def _drawn(distribution: Any) -> Any:
    """What its sampler returns, as shapes; None where it has none."""
    if not callable(getattr(distribution, "sample", None)):
        return None
    leaves, static, treedef = partition(distribution)

    def draw(leaves):
        return merge(leaves, static, treedef).sample(jax.random.key(0))

    try:
        return jax.eval_shape(draw, leaves)
    except NotImplementedError:
        return None


def _shape(distribution: Any, obs: Any) -> tuple[int, ...]:
    batch, event = (getattr(distribution, name, None) for name in ("batch_shape", "event_shape"))
    if isinstance(batch, tuple) and isinstance(event, tuple):
        return batch + event
    shape = getattr(distribution, "shape", None)
    stated = shape() if callable(shape) else shape
    return stated if isinstance(stated, tuple) else jnp.shape(obs) if obs is not None else ()


def _dtype(distribution: Any, obs: Any) -> Any:
    stated = getattr(distribution, "dtype", None)
    if stated is not None:
        return jnp.dtype(stated)
    discrete = getattr(getattr(distribution, "support", None), "is_discrete", None)
    if discrete is None and obs is not None:
        return jnp.asarray(obs).dtype
    return jnp.result_type(int if discrete else float)


def _check(distribution: Any, address: str, where: str) -> None:
    names = ("log_prob", "sample_and_log_prob")
    scored = any(callable(getattr(distribution, name, None)) for name in names)
    if isinstance(distribution, type) or not scored:
        a_class = isinstance(distribution, type)
        got = f"the class {distribution.__name__}" if a_class else type(distribution).__name__
        raise InvalidDistribution(
            f"sample({address!r}, ...) at {where} needs a distribution with `log_prob(value)` and, "
            f"to be drawn, `sample(key)`, got {got}. "
            'Write, for example, sample("x", numpyro.distributions.Normal(0.0, 1.0)).'
        )
    name = type(distribution).__name__
    if jax.tree.structure(distribution) == jax.tree.structure(0):
        raise InvalidDistribution(
            f"The distribution {name} of sample({address!r}, ...) at {where} is not a pytree. "
            "Make it an equinox.Module, or register it with "
            "jax.tree_util.register_pytree_node."
        )
    try:
        jax.tree.map(lambda leaf: leaf, distribution)
    except Exception as failure:
        raise InvalidDistribution(
            f"The distribution {name} of sample({address!r}, ...) at {where} cannot be rebuilt "
            f"from its arrays, as a pytree must be: {failure}. Write it as another distribution "
            "of the same law, or correct its tree_unflatten."
        ) from failure
