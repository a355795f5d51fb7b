"""Finite hidden choices, summed out by variable elimination."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from ppl import log_expectation, sample, simulate, with_estimators
from ppl.extend import Target, log_maximum

from ..estimators import Enumerate
from ._integral import Integral, zeros_of


class Summation(Integral):
    """Exact where all the hidden choices are finite."""

    def simulate(self, target: Target) -> tuple[Mapping[str, Any], jax.Array]:
        """A draw from the posterior, and its density."""
        flat, rebuild = ravel_pytree(zeros_of(target))
        posterior = _Posterior(
            eqx.filter_closure_convert(lambda key: _drawn(target, key), jax.random.key(0)),
            eqx.filter_closure_convert(lambda u: self.log_density(target, rebuild(u)), flat),
        )
        drawn = sample("exact", posterior)
        return rebuild(drawn), posterior.log_prob(drawn)

    def log_evidence(self, target: Target) -> jax.Array:
        """log p(x)."""
        return log_expectation(lambda: simulate(_summed(target)).log_likelihood)()

    def most_likely(self, target: Target) -> Mapping[str, Any]:
        """The largest of all joint states, by maxima in place of sums."""
        return _state(target, log_maximum)


class _Posterior(eqx.Module):
    """The distribution of all the hidden choices, as one flat array."""

    draw: Callable
    density: Callable
    has_rsample = False

    def sample(self, key: jax.Array) -> jax.Array:
        return eqx.filter_jit(self.draw)(key)  # one program, where nothing around is compiled

    def log_prob(self, value: jax.Array) -> jax.Array:
        return self.density(value)


def _summed(target: Target) -> Callable:
    return with_estimators(target.prior, {"*": Enumerate()})


def _drawn(target: Target, key: jax.Array) -> jax.Array:
    """Hidden choices from the posterior."""
    return ravel_pytree(_state(target, partial(log_expectation, draw=key)))[0]


def _state(target: Target, total: Callable[[Callable], Callable]) -> Mapping[str, Any]:
    """One joint state u of the hidden choices: the gradient in t of a total of log p(x, u) + t·u.

    The total's derivative is to be that of one addend.
    """

    def tilted(slopes):
        trace = simulate(_summed(target))
        tilts = jax.tree.map(lambda t, u: jnp.sum(t * u), slopes, trace.choices)
        return trace.log_likelihood + sum(jax.tree.leaves(tilts))

    slopes = jax.tree.map(lambda s: jnp.zeros(s.shape), target.hidden)
    return jax.tree.map(_of_dtype, jax.grad(total(tilted))(slopes), target.hidden)


def _of_dtype(found: jax.Array, choice: jax.ShapeDtypeStruct) -> jax.Array:
    real = jnp.issubdtype(choice.dtype, jnp.floating)
    return (found if real else jnp.round(found)).astype(choice.dtype)
