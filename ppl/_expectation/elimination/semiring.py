"""Semirings: in what numbers particles are summed out."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ..._distributions.log_sum_exp import log_sum_exp
from ..values.vanishing import quiet
from ..values.zeros import total_with_zeros


class Multiplication(NamedTuple):
    """⊗: how weights multiply with each other and with terms.

    It is associative, with `one ⊗ a = a`; and `zero ⊗ a = zero`, also where a is infinite: a
    particle of weight zero is impossible, whatever it would cost.

    - `times(weight, term)`: a ⊗ b, elementwise.
    - `quiet`: the same for a term that may be infinite, whose derivative passes back nothing for
      nothing (see `vanishing`).
    - `product(weights, axis)`: ⊗ over dimensions.
    """

    times: Callable[[Any, Any], jax.Array]
    quiet: Callable[[Any, Any], jax.Array]
    product: Callable[..., jax.Array]
    one: float
    zero: float


class Semiring(NamedTuple):
    """⊕ and ⊗: how what is weighed adds up over particles, and how weights multiply.

    Laws: ⊕ is associative and commutative, with `zero ⊕ a = a`; a ⊗ (b ⊕ c) = (a ⊗ b) ⊕ (a ⊗ c), so
    that factors may be taken out of a sum; and those of `Multiplication`. They are all that
    elimination needs: to sum out one site after the other gives the sum over all joint states.

    - `total(array, axis)`: ⊕ over dimensions.
    - `linear`: the total of a sum of terms is the sum of their totals, so that each term of an
      objective meets weights alone: it is a cost. Otherwise terms are factors, and all that
      depend on a site are added up (their ⊗) before it is summed out.
    - `balanced`: the weights of a `normalized` site total `one`, so that what does not read the
      site need not meet them.
    - `key`: of the noise of totals that draw (see `drawing`).
    """

    multiplication: Multiplication
    total: Callable[..., jax.Array]
    linear: bool = False
    balanced: bool = True
    key: Any = None

    @property
    def one(self) -> float:
        """The neutral weight."""
        return self.multiplication.one

    @property
    def zero(self) -> float:
        """The weight of what is impossible."""
        return self.multiplication.zero

    def times(self, weight: Any, term: Any, unbounded: bool = False) -> jax.Array:
        """weight ⊗ term; of a term that may be infinite, if `unbounded`."""
        ways = self.multiplication
        return (ways.quiet if unbounded else ways.times)(weight, term)

    def after(self, row: jax.Array, matrix: jax.Array, unbounded: bool = False) -> jax.Array:
        """Their product, ⊕_i row_i ⊗ matrix_ij: `(*, K)` and `(*, K, K)` give `(*, K)`.

        The matrix may be infinite where the row is zero, if `unbounded`.
        """
        if self.linear:
            return jnp.einsum("...i,...ij->...j", row, matrix)
        weight = row[..., None]
        terms = self.times(weight, matrix) if unbounded else weight + matrix
        return self.total(terms, axis=-2)

    def at(self, *place: Any) -> "Semiring":
        """The same semiring for one sum: a total that draws has noise of its own at each place."""
        if self.key is None:
            return self
        own = functools.reduce(jax.random.fold_in, place, self.key)
        return self._replace(total=functools.partial(_total_drawn, key=own))


# --- sum-product ---------------------------------------------------------------------------------


def guarded_product(weight: Any, term: Any) -> Any:
    """A particle of weight zero contributes zero even where its term is infinite."""
    impossible = (weight == 0) & ~jnp.isfinite(term)
    return weight * jnp.where(impossible, 0.0, term)


_quiet_product = quiet(lambda *pair: [guarded_product(*pair)], [True, False])

NUMBERS = Semiring(
    Multiplication(guarded_product, _quiet_product, jnp.prod, 1.0, 0.0), jnp.sum, linear=True
)
"""Sum-product, (+, ×): with it, elimination gives the mean Σ_states (Σ terms) Π weights."""


# --- in logarithms -------------------------------------------------------------------------------


def _guarded_sum(log_weight: Any, term: Any) -> Any:
    impossible = jnp.isneginf(jnp.real(log_weight))
    if jnp.iscomplexobj(log_weight):
        impossible = impossible | ((jnp.imag(log_weight) > 0) & ~jnp.isfinite(term))
    return jnp.where(impossible, -jnp.inf, log_weight + term)


_IN_LOGS = Multiplication(_guarded_sum, _guarded_sum, jnp.sum, 0.0, -jnp.inf)

LOGS = Semiring(_IN_LOGS, total_with_zeros)
"""(log-sum-exp, +): log Σ_states exp(Σ terms) Π weights, where sites leave logs of weights."""


def _over_first(total: Callable[[jax.Array], jax.Array]) -> Callable[..., jax.Array]:
    """A total over the first dimension, made one over any."""

    def over(array: jax.Array, axis: Any) -> jax.Array:
        axes = (axis,) if isinstance(axis, int) else tuple(axis)
        moved = jnp.moveaxis(array, axes, range(len(axes)))
        return total(moved.reshape(-1, *moved.shape[len(axes) :]))

    return over


def _one_of(total: jax.Array, chosen: jax.Array, logs: jax.Array) -> tuple[jax.Array, jax.Array]:
    """A total, and for each of its addends whether its derivative is that of the total."""
    shares = jax.nn.one_hot(chosen, len(logs), dtype=logs.dtype, axis=0)
    return total, jnp.where(jnp.isneginf(total), 0.0, shares)


@jax.custom_jvp
def _largest(logs: jax.Array) -> jax.Array:
    return jnp.max(logs, 0)


@_largest.defjvp
def _largest_moved(primals: Any, tangents: Any) -> tuple[jax.Array, jax.Array]:
    total, shares = _one_of(_largest(*primals), jnp.argmax(primals[0], 0), primals[0])
    return total, jnp.sum(jnp.where(shares > 0, tangents[0], 0.0), 0)


MAX = Semiring(_IN_LOGS, _over_first(_largest), balanced=False)
"""(max, +): the largest max_states (Σ terms + Σ log weights), over all the sites there are.

Its derivative is that at one state: of each sum the first of the largest addends.
"""


def drawing(key: Any) -> Semiring:
    """`LOGS`, where each log-sum-exp has the derivative of one addend, drawn by its share.

    Reverse-mode derivatives of nested sums then are those at one joint state, drawn backwards from
    its distribution.
    """
    return LOGS._replace(key=key)


def _total_drawn(array: jax.Array, axis: Any, key: Any) -> jax.Array:
    return _over_first(lambda logs: _drawn(logs, key))(array, axis)


@jax.custom_vjp
def _drawn(logs: jax.Array, key: jax.Array) -> jax.Array:
    return log_sum_exp(logs, 0)


def _draw(logs, key):
    return _one_of(log_sum_exp(logs, 0), jax.random.categorical(key, logs, axis=0), logs)


_drawn.defvjp(_draw, lambda chosen, cotangent: (chosen * cotangent, None))
