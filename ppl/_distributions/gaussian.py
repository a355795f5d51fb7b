"""Gaussian vectors of which some entries are known: the marginal of these, the rest given them.

All of it comes from one triangular root. With the known entries in front, let Σ = L Lᵀ for the
permuted covariance, by a QR decomposition of a square root of it, and

    L = [A 0]    then the known entries x are normal with root A, and the others, given these,
        [B C]    normal with mean b + B A⁻¹(x - a) and root C.

Nothing is subtracted, so nothing is lost to rounding. Which entries are known may be traced: each
part keeps the whole event's shape, with the other part's entries left out or standard normal.
"""

import sys
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.linalg import solve_triangular

from .law import family_name, is_a

_CONTINUOUS = "numpyro.distributions.continuous"


def _low_rank_root(distribution: Any) -> jax.Array:
    factor, diagonal = distribution.cov_factor, jnp.sqrt(distribution.cov_diag)
    square = diagonal[..., None] * jnp.eye(diagonal.shape[-1], dtype=diagonal.dtype)
    batch = jnp.broadcast_shapes(factor.shape[:-1], diagonal.shape)
    wide = jnp.broadcast_to(factor, (*batch, factor.shape[-1]))
    return jnp.concatenate([wide, jnp.broadcast_to(square, (*batch, batch[-1]))], -1)


def _walk_root(distribution: Any) -> jax.Array:
    scale = jnp.asarray(distribution.scale)
    return scale[..., None, None] * jnp.tri(distribution.num_steps, dtype=scale.dtype)


ROOTS: Mapping[str, Callable[[Any], jax.Array]] = {
    f"{_CONTINUOUS}.GaussianRandomWalk": _walk_root,
    f"{_CONTINUOUS}.LowRankMultivariateNormal": _low_rank_root,
    f"{_CONTINUOUS}.MultivariateNormal": lambda distribution: distribution.scale_tril,
}
"""Families of Gaussian vectors, with a square root of the covariance, `(*batch, n, k)`."""


def split_gaussian(distribution: Any, known: np.ndarray | jax.Array) -> tuple[Any, Callable] | None:
    """The law of the known entries, and that of the others given them; None for other families.

    `known` is of the value's shape. The second is a function of a value, read where it is known.
    """
    base = distribution
    while is_a(base, "ExpandedDistribution"):
        base = base.base_dist
    known = jnp.asarray(known)
    root = ROOTS.get(family_name(base))
    if root is None:
        return None
    loc = jnp.broadcast_to(getattr(base, "loc", 0.0), known.shape)
    parts = _Parts(*_split(root(base), known))
    marginal = GaussianMarginal(loc, parts.root, known, base.support)

    def others(value: jax.Array) -> Any:
        mean = _conditional_mean(parts.root, parts.across, loc, known, value)
        return _normal(mean, parts.others)

    return marginal, others


def fill_gaussian(distribution: Any, known: np.ndarray | jax.Array) -> Any | None:
    """The marginal of the entries that are not known, the others standard normal."""
    found = split_gaussian(distribution, ~known)
    if found is None:
        return None
    return _normal(jnp.where(known, 0.0, found[0].loc), found[0].root)


def _normal(loc: jax.Array, scale_tril: jax.Array) -> Any:
    """Of NumPyro, which is loaded where it has a distribution of its own split."""
    family = vars(sys.modules[_CONTINUOUS])["MultivariateNormal"]
    return family(loc, scale_tril=scale_tril)


class _Parts(NamedTuple):
    """In the order of the event, `(*batch, n, n)`, A, B and C of the page above.

    `root` is A and `others` C, each the identity where the other is; `across` is B, else zero.
    """

    root: jax.Array
    across: jax.Array
    others: jax.Array


@partial(jnp.vectorize, signature="(n,k),(n)->(n,n),(n,n),(n,n)")
def _split(root: jax.Array, known: jax.Array) -> Any:
    order = jnp.argsort(~known)
    triangle = jnp.linalg.qr(root[order].T, mode="r").T
    triangle = triangle * jnp.where(jnp.diagonal(triangle) < 0.0, -1.0, 1.0)
    back = jnp.argsort(order)
    triangle = triangle[back][:, back]
    unknown, one = ~known, jnp.eye(known.size, dtype=triangle.dtype)
    within = lambda rows, columns: rows[:, None] & columns  # noqa: E731
    return (
        jnp.where(within(known, known), triangle, one),
        jnp.where(within(unknown, known), triangle, 0.0),
        jnp.where(within(unknown, unknown), triangle, one),
    )


@partial(jnp.vectorize, signature="(n,n),(n,n),(n),(n),(n)->(n)")
def _conditional_mean(root: Any, across: Any, loc: Any, known: Any, value: Any) -> jax.Array:
    """Zero where the value is known."""
    whitened = solve_triangular(root, _residual(loc, known, value), lower=True)
    return jnp.where(known, 0.0, loc + across @ whitened)


def _residual(loc: jax.Array, known: jax.Array, value: jax.Array) -> jax.Array:
    """Zero, with derivative zero, where the value is not known, whatever it is there."""
    return jnp.where(known, value, 0.0) - jnp.where(known, loc, 0.0)


@partial(jnp.vectorize, signature="(n),(n,n),(n),(n)->()")
def _log_density(loc: Any, root: Any, known: Any, value: Any) -> jax.Array:
    whitened = solve_triangular(root, _residual(loc, known, value), lower=True)
    log_volume = jnp.sum(jnp.log(jnp.diagonal(root)) + 0.5 * known * jnp.log(2.0 * jnp.pi))
    return -0.5 * whitened @ whitened - log_volume


class _Event(NamedTuple):
    """How many dimensions of a parameter are those of one event."""

    event_dim: int


class GaussianMarginal(eqx.Module):
    """Some entries of a Gaussian vector: the others are integrated out, and not looked at.

    `loc` and `known` are `(*batch, n)`; `root` is `(*batch, n, n)`, a Cholesky factor of the
    covariance of the known entries, the identity at the others. A draw has `loc` at the others.
    """

    loc: jax.Array
    root: jax.Array
    known: jax.Array
    support: Any

    has_rsample: ClassVar[bool] = True
    has_enumerate_support: ClassVar[bool] = False
    arg_constraints: ClassVar = {"loc": _Event(1), "root": _Event(2), "known": _Event(1)}

    @property
    def batch_shape(self) -> tuple[int, ...]:
        return self.loc.shape[:-1]

    @property
    def event_shape(self) -> tuple[int, ...]:
        return self.loc.shape[-1:]

    def sample(self, key: jax.Array, sample_shape: tuple[int, ...] = ()) -> jax.Array:
        noise = jax.random.normal(key, sample_shape + self.loc.shape, self.loc.dtype)
        noise = jnp.where(self.known, noise, 0.0)
        return self.loc + jnp.squeeze(self.root @ noise[..., None], -1)

    def __call__(self, rng_key: jax.Array, sample_shape: tuple[int, ...] = ()) -> jax.Array:
        """A draw, as NumPyro's wrappers up to release 0.19 ask for it."""
        return self.sample(rng_key, sample_shape)

    def log_prob(self, value: jax.Array) -> jax.Array:
        return _log_density(self.loc, self.root, self.known, value)
