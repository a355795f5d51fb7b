"""Resampling: distributions of ancestors, given the particles' weights."""

import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from ppl.errors import InvalidSetting, TooManyJointStates

from ._underivable import underivable

MOST_STATES = 16_384
"""The most joint states of all ancestors that are listed."""


class Ancestors(eqx.Module):
    """The ancestors of `count` new particles: integers, `(count,)`, each with its weight's share.

    `log_weights` are those of the old particles, in any normalisation.
    """

    log_weights: jax.Array
    count: int = eqx.field(static=True)
    has_rsample = False
    batch_shape = ()

    @property
    def event_shape(self) -> tuple[int]:
        """One integer for each new particle."""
        return (self.count,)

    def sample(self, key: jax.Array) -> jax.Array:
        """Draws them."""
        raise NotImplementedError

    def log_prob(self, value: jax.Array) -> jax.Array:
        """The log of their joint probability, of values `(..., count)`."""
        raise NotImplementedError

    def enumerate_support(self, expand: bool = True) -> np.ndarray:
        """All joint states of the ancestors of n particles, `(n**count, count)`.

        Raises `TooManyJointStates` where these are more than 16,384.
        """
        size, count = len(self.log_weights), self.count
        if size**count > MOST_STATES:
            raise TooManyJointStates(
                f"the ancestors of {count} particles have {size}**{count} joint states, over the "
                f"limit of {MOST_STATES}"
            )
        return np.array(list(itertools.product(range(size), repeat=count)))

    @property
    def probs(self) -> jax.Array:
        """The normalised weights."""
        return jax.nn.softmax(self.log_weights)

    def _located(self, points: jax.Array) -> jax.Array:
        """The particles in whose share of the unit interval these points lie."""
        places = jnp.searchsorted(jnp.cumsum(self.probs), points, side="right")
        return jnp.clip(places, 0, len(self.log_weights) - 1)

    def _shares(self, value: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The ends of the shares of some particles."""
        ends = jnp.cumsum(self.probs)
        return (ends - self.probs)[value], ends[value]


class Multinomial(Ancestors):
    """Independent ancestors (Gordon et al. 1993)."""

    def sample(self, key: jax.Array) -> jax.Array:
        """Draws them."""
        return jax.random.categorical(key, self.log_weights, shape=(self.count,))

    def log_prob(self, value: jax.Array) -> jax.Array:
        """The sum of their log probabilities."""
        return jnp.sum(jax.nn.log_softmax(self.log_weights)[value], -1)

    def enumerate_probs(self) -> jax.Array:
        """The joint probabilities of the support, with a derivative where one is zero."""
        return jnp.prod(self.probs[self.enumerate_support()], -1)


class Stratified(Ancestors):
    """One uniform point in each of `count` equal strata (Kitagawa 1996)."""

    def sample(self, key: jax.Array) -> jax.Array:
        """Draws them."""
        points = jnp.arange(self.count) + jax.random.uniform(key, (self.count,))
        return self._located(points / self.count)

    def log_prob(self, value: jax.Array) -> jax.Array:
        """The sum of the logs of how much of its stratum each one has."""
        return jnp.sum(_log(self._overlaps(value)), -1)

    def enumerate_probs(self) -> jax.Array:
        """The joint probabilities of the support."""
        return jnp.prod(jnp.maximum(self._overlaps(jnp.asarray(self.enumerate_support())), 0.0), -1)

    def _overlaps(self, value: jax.Array) -> jax.Array:
        """How much of its stratum each ancestor has; negative where it has none."""
        start, end = self._shares(value)
        strata = jnp.arange(self.count) / self.count
        overlap = jnp.minimum(end, strata + 1 / self.count) - jnp.maximum(start, strata)
        return self.count * overlap


class Systematic(Ancestors):
    """The same uniform point in each of `count` equal strata (Carpenter et al. 1999)."""

    def sample(self, key: jax.Array) -> jax.Array:
        """Draws them."""
        return self._located((jnp.arange(self.count) + jax.random.uniform(key)) / self.count)

    def log_prob(self, value: jax.Array) -> jax.Array:
        """The log of the share of points that give these ancestors."""
        return _log(self._share(value))

    def enumerate_probs(self) -> jax.Array:
        """The joint probabilities of the support."""
        return jnp.maximum(self._share(jnp.asarray(self.enumerate_support())), 0.0)

    def _share(self, value: jax.Array) -> jax.Array:
        """The share of points that give these ancestors; negative where none does."""
        start, end = self._shares(value)
        strata = jnp.arange(self.count) / self.count
        last = jnp.minimum(jnp.min(end - strata, -1), 1 / self.count)
        return self.count * (last - jnp.maximum(jnp.max(start - strata, -1), 0.0))


class Residual(Ancestors):
    """Whole copies first, then independent ancestors for what is left over (Liu & Chen 1998).

    Its law jumps where a weight passes a whole number of copies, so no score gives the gradient of
    what follows: it is for use without gradients.
    """

    def sample(self, key: jax.Array) -> jax.Array:
        """Draws them."""
        expected = self.count * self.probs
        copies = jnp.floor(expected)
        # not below zero: XLA may compute `expected` twice, with other roundings
        rest = jnp.log(jnp.maximum(expected - copies, 0.0))
        drawn = jax.random.categorical(key, rest, shape=(self.count,))
        sure = jnp.searchsorted(jnp.cumsum(copies), jnp.arange(self.count), side="right")
        return jnp.where(sure < len(copies), sure, drawn)

    def log_prob(self, value: jax.Array) -> jax.Array:
        """In place of the log probability, which only its derivative would be read for: zero."""
        return underivable(
            self.log_weights,
            'resampling="residual" has no unbiased gradient: its law jumps as the weights move. '
            'Write "multinomial", "stratified" or "systematic", or stop the gradients of what the '
            "algorithm reads.",
        )

    def enumerate_support(self, expand: bool = True) -> np.ndarray:
        """There are no probabilities to weigh it by."""
        raise NotImplementedError


def _log(x: jax.Array) -> jax.Array:
    return jnp.log(jnp.maximum(x, jnp.finfo(x.dtype).tiny))


SCHEMES = {
    "multinomial": Multinomial,
    "stratified": Stratified,
    "systematic": Systematic,
    "residual": Residual,
}
"""The schemes by name."""


def scheme(name: str) -> type[Ancestors]:
    """The scheme of a name. Raises `InvalidSetting` where there is none."""
    if name not in SCHEMES:
        raise InvalidSetting(f"resampling={name!r} is none of {', '.join(map(repr, SCHEMES))}.")
    return SCHEMES[name]
