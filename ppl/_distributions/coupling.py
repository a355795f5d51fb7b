"""Couplings: what a draw from a distribution would have been under another one, of the same noise.

A continuous family is read as a function of parameters and of noise that no parameter moves: of its
standard form where it has one, of the quantile elsewhere, element by element; Gaussian vectors by
their Cholesky factors, transformed distributions by what they transform. All these are increasing
in the noise, so that the two values are as close as they can be.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, NoReturn

import jax
import jax.numpy as jnp
from jax.lax import stop_gradient

from .._jax import identities
from .law import is_a, is_discrete, law, stated

Refuse = Callable[[str], NoReturn]
"""Raises the error of a site whose noise is not known; it is told why."""


def coupled(old: Any, new: Any, value: jax.Array, refuse: Refuse) -> jax.Array:
    """What a draw from `old` would have been under `new`, a distribution of the same structure.

    Parameters that are one and the same object in both count as unchanged; where all are, the value
    is returned as it is.
    """
    old, new = law(old).base, law(new).base
    if _same(old, new) or is_a(old, "Unit"):
        return value
    if is_a(old, "Delta"):
        return jnp.broadcast_to(new.v, jnp.shape(value))
    if is_discrete(old):
        refuse("its values are discrete, and its support is not finite")
    if is_a(old, "ExpandedDistribution", "Independent"):
        return coupled(old.base_dist, new.base_dist, value, refuse)
    if is_a(old, "TransformedDistribution"):
        return _transformed(old, new, value, refuse)
    if hasattr(old, "bijection"):
        base = coupled(old.base_dist, new.base_dist, old.bijection.inverse(value), refuse)
        return new.bijection.transform(base)
    form = _FORMS.get(type(old).__name__) if _is_numpyro(old) else None
    if form is not None and all(getattr(old, p) is getattr(new, p) for p in form.shared):
        return form.value(new, form.noise(old, value))
    return _by_quantiles(old, new, value, refuse)


def _same(old: Any, new: Any) -> bool:
    (mine, tree), (theirs, other) = jax.tree.flatten(old), jax.tree.flatten(new)
    return tree == other and all(a is b for a, b in zip(mine, theirs, strict=True))


def _transformed(old: Any, new: Any, value: jax.Array, refuse: Refuse) -> jax.Array:
    if any(is_a(transform, "AbsTransform") for transform in old.transforms):
        refuse("it is transformed by a function that has no inverse")
    for transform in reversed(old.transforms):
        value = transform.inv(value)
    value = coupled(old.base_dist, new.base_dist, value, refuse)
    for transform in new.transforms:
        value = transform(value)
    return value


# --- standard forms -------------------------------------------------------------------------------


class _Form(NamedTuple):
    """A family as a function of noise, and its inverse, given parameters that both must share."""

    noise: Callable[[Any, Any], Any]
    value: Callable[[Any, Any], Any]
    shared: tuple[str, ...] = ()


def _shifted(*shared: str) -> _Form:
    return _Form(lambda d, x: (x - d.loc) / d.scale, lambda d, z: d.loc + d.scale * z, shared)


def _vectors(*shared: str) -> _Form:
    return _Form(
        lambda d, x: _solved(_root(d), x - d.loc),
        lambda d, z: d.loc + jnp.squeeze(_root(d) @ z[..., None], -1),
        shared,
    )


def _root(distribution: Any) -> jax.Array:
    """The lower Cholesky factor."""
    if is_a(distribution, "LowRankMultivariateNormal"):
        return jnp.linalg.cholesky(distribution.covariance_matrix)
    return distribution.scale_tril


def _solved(root: jax.Array, vector: jax.Array) -> jax.Array:
    root = jnp.broadcast_to(root, (*vector.shape[:-1], *root.shape[-2:]))
    found = jax.lax.linalg.triangular_solve(root, vector[..., None], left_side=True, lower=True)
    return found[..., 0]


_SCALED = _Form(lambda d, x: x / d.scale, lambda d, z: d.scale * z)
_RATED = _Form(lambda d, x: x * d.rate, lambda d, z: z / d.rate)
_FORMS = {
    **dict.fromkeys(("Normal", "Laplace", "Cauchy", "Logistic", "Gumbel", "Levy"), _shifted()),
    "SoftLaplace": _shifted(),
    "StudentT": _shifted("df"),
    "AsymmetricLaplace": _shifted("asymmetry"),
    "HalfNormal": _SCALED,
    "HalfCauchy": _SCALED,
    "Exponential": _RATED,
    "Gamma": _RATED._replace(shared=("concentration",)),
    "Uniform": _Form(
        lambda d, x: (x - d.low) / (d.high - d.low), lambda d, z: d.low + (d.high - d.low) * z
    ),
    "Weibull": _Form(
        lambda d, x: (x / d.scale) ** d.concentration,
        lambda d, z: d.scale * z ** (1.0 / d.concentration),
    ),
    "Kumaraswamy": _Form(
        lambda d, x: d.concentration0 * jnp.log1p(-(x**d.concentration1)),
        lambda d, z: (-jnp.expm1(z / d.concentration0)) ** (1.0 / d.concentration1),
    ),
    "MultivariateNormal": _vectors(),
    "LowRankMultivariateNormal": _vectors(),
    "MultivariateStudentT": _vectors("df"),
}
"""By the names of NumPyro's classes; a user's own class has none, whatever it extends."""


def _is_numpyro(distribution: Any) -> bool:
    return type(distribution).__module__.startswith("numpyro.")


# --- quantiles ------------------------------------------------------------------------------------


def _by_quantiles(old: Any, new: Any, value: jax.Array, refuse: Refuse) -> jax.Array:
    """By the distribution function of one and the quantiles of the other, number by number.

    No number where the function has rounded to zero or one, but at an end of the support.
    """
    if getattr(old, "event_shape", ()) or not _states(old, "cdf"):
        refuse("it is no family whose noise is known, and has no distribution function (`cdf`)")
    try:
        jax.eval_shape(old.cdf, value)
    except NotImplementedError:
        refuse("it is no family whose noise is known, and has no distribution function (`cdf`)")
    chance = old.cdf(value)
    rounded = jnp.finfo(chance.dtype)
    lost = (chance < rounded.tiny) | (chance >= 1.0 - 4.0 * rounded.eps)
    for end in _ends(old):
        lost = lost if end is None else lost & (value != end)
    chance = jnp.where(lost, 0.5, chance)
    return jnp.where(lost, jnp.nan, _quantile(new, chance, *_ends(new))).astype(value.dtype)


def _ends(distribution: Any) -> tuple[Any, Any]:
    """The least and the greatest number of its support, None where it states none."""
    support = stated(distribution, "support")
    return stated(support, "lower_bound"), stated(support, "upper_bound")


def _states(distribution: Any, name: str) -> bool:
    """Whether a method is of the class that states the density, or of one below it."""
    for kind in getattr(type(distribution), "family", type(distribution)).__mro__:
        if name in vars(kind):
            return True
        if "log_prob" in vars(kind):
            return False
    return False


def _quantile(distribution: Any, chance: jax.Array, low: Any, high: Any) -> jax.Array:
    if _states(distribution, "icdf"):
        try:
            return distribution.icdf(chance)
        except (ImportError, NotImplementedError):
            pass
    return _inverted(distribution, chance, low, high)


def _inverted(distribution: Any, chance: jax.Array, low: Any, high: Any) -> jax.Array:
    """The number at which a distribution function reaches a chance, with its first derivative."""
    fixed = stop_gradient(distribution)
    top = jnp.finfo(chance.dtype).max
    ends = [jnp.asarray(-top if low is None else low), jnp.asarray(top if high is None else high)]
    found = _least(fixed.cdf, stop_gradient(chance), *map(stop_gradient, ends))
    missing = (chance - distribution.cdf(found)) / jnp.exp(fixed.log_prob(found))
    moved = found + jnp.where(jnp.isfinite(missing), missing - stop_gradient(missing), 0.0)
    leaves = [x for x in jax.tree.leaves(distribution) if hasattr(x, "dtype")]
    return identities.first_order(moved, [*leaves, chance], _ONCE)


_ONCE = (
    "A counterfactual value that is found by inverting a distribution function has a first "
    "derivative alone. Give the distribution `icdf`, or write its noise as a site of its own."
)


def _least(cdf: Callable, chance: jax.Array, low: jax.Array, high: jax.Array) -> jax.Array:
    """The least number of a range at which a distribution function reaches a chance.

    By bisection of the floating-point numbers in their order: as many steps as these have bits.
    """
    dtype = chance.dtype
    low, high = (_rank(jnp.broadcast_to(end, chance.shape).astype(dtype)) for end in (low, high))

    def halve(_, ends):
        low, high = ends
        middle = (low & high) + ((low ^ high) >> 1)
        found = _number(middle, dtype)
        at = cdf(found)
        reached = jnp.where(jnp.isnan(at), found > 0.0, at >= chance)
        return jnp.where(reached, low, middle), jnp.where(reached, middle, high)

    bits = 8 * dtype.itemsize
    return _number(jax.lax.fori_loop(0, bits, halve, (low, high))[1], dtype)


def _rank(x: jax.Array) -> jax.Array:
    """Numbers as integers in the same order."""
    kind = jnp.dtype(f"int{8 * x.dtype.itemsize}")
    bits = jax.lax.bitcast_convert_type(x, kind)
    return jnp.where(bits < 0, jnp.iinfo(kind).min - bits, bits)


def _number(rank: jax.Array, dtype: Any) -> jax.Array:
    bits = jnp.where(rank < 0, jnp.iinfo(rank.dtype).min - rank, rank)
    return jax.lax.bitcast_convert_type(bits, dtype)
