"""Drawing one site's noise anew, all else equal."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from ppl import Reparameterized
from ppl.extend import Estimator, Particles

from .._gradient_noise import chosen


class _Redrawn(Estimator):
    """A site's estimator with other noise where `anew` is true, and the same where it is not."""

    own: Estimator
    anew: Any

    @property
    def unbiased(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.own.unbiased

    @property
    def pathwise(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.own.pathwise

    def particles(self, key: jax.Array, distribution: Any) -> Particles:
        return self.own.particles(_key(key, self.anew), distribution)

    def unsuitable(self, distribution: Any) -> str | None:
        return self.own.unsuitable(distribution)


class _RedrawnPath(Reparameterized):
    """`_Redrawn`, for what `expectation` must know as reparameterised to split its terms by it."""

    anew: Any

    def particles(self, key: jax.Array, distribution: Any) -> Particles:
        return super().particles(_key(key, self.anew), distribution)


def _key(key: jax.Array, anew: Any) -> jax.Array:
    return jnp.where(anew, jax.random.fold_in(key, 1), key)


def redrawing(objective: Callable, addresses: list[str]) -> Callable:
    """The objective of `(params, anew)`: `anew` has a flag a site, to draw its noise anew."""

    def program(params: Any, anew: jax.Array) -> Any:
        def by(flag: jax.Array) -> Callable[[Estimator], Estimator]:
            def wrapped(own: Estimator) -> Estimator:
                return _RedrawnPath(flag) if type(own) is Reparameterized else _Redrawn(own, flag)

            return wrapped

        flags = dict(zip(addresses, anew, strict=True))
        return chosen(objective, {a: by(flag) for a, flag in flags.items()})(params)

    return program
