"""One step to a neighbouring value of a discrete distribution, with an infinitesimal weight."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jax.lax import stop_gradient

from ppl.extend import Estimator, Particles

from ._perturbation import alive, kind, perturbed, relative, unexpanded
from ._support import picked, probabilities
from .enumerate import Enumerate


class StochasticTriple(Estimator):
    """One draw of a discrete distribution, and one neighbour of it with an infinitesimal weight.

    As a parameter moves, a draw by inversion of the distribution function F jumps between
    neighbours k and k + 1, at the rate -∂F(k) (Arya et al. 2022): ∂E[f] = Σ_k -∂F(k) (f(k+1) -
    f(k)). Here the draw steps to one neighbour, chosen at random where it has two, and so crosses
    the edge (k, k+1) with some probability q(k), from below or from above. Whence the law: the
    estimate, (f(k+1) - f(k)) times -∂F(k)/q(k), has the sum above as its mean, as q(k) cancels. The
    weight of the neighbour holds F - stop_gradient(F) for ∂F: it is linear in the parameters, so
    that any number of them are differentiated at once.

    In a finite support of values 0..n a draw v steps up with probability 1 - v/n, otherwise down;
    in an infinite one it steps up. The factor ∂F/q is constant for Bernoulli, Binomial and Poisson.
    It is large where probability passes over a value of little probability, as between two modes.

    Value and first derivative are unbiased; second derivatives are not. The weights sum to one
    identically. Two particles, whatever the support: one more run of what follows, which is never
    differentiated; for a batch of n elements that the program mixes, one for each. Low variance
    where f varies little between neighbours: for ordered values, not for names.

    Needs a NumPyro Binomial, Poisson or Geometric, or else `enumerate_support` with a
    differentiable `log_prob`. Neighbours are then those next to each other in the support, and the
    weight of an element costs O(N), for N values.

    ```python
    >>> import jax, ppl, numpyro.distributions as dist
    >>> from stdlib.estimators import StochasticTriple
    >>> def cost(p):
    ...     return 2.0 * ppl.sample("x", dist.Binomial(5, p), StochasticTriple())
    >>> exact = jax.grad(ppl.expectation(cost), argnums=1)(jax.random.key(0), 0.3)
    >>> round(float(exact), 4)
    10.0

    ```
    """

    def particles(self, key: jax.Array, distribution: Any) -> Particles:
        """The draw, and the neighbour that it steps to."""
        known = TRIPLES.get(kind(distribution))
        return known(key, unexpanded(distribution)) if known else _finite(key, distribution)

    def unsuitable(self, distribution: Any) -> str | None:
        """Only a finite support, or a distribution function known in closed form."""
        if kind(distribution) in TRIPLES:
            return None
        reason = Enumerate().unsuitable(distribution)
        return reason and f"{reason}, nor is its distribution function among those known"


def _finite(key: jax.Array, distribution: Any) -> Particles:
    """The k-th value of a support: neighbours are those next to each other in it."""
    support = distribution.enumerate_support(expand=True)
    prob = probabilities(distribution, support)
    top = support.shape[0] - 1
    key, key_side = jax.random.split(key)
    fixed = jnp.log(stop_gradient(prob))
    index = jax.random.categorical(key, fixed, axis=0, mode="high")[None]
    upwards = 1 - jnp.arange(top + 1) / max(top, 1)
    up = jax.random.uniform(key_side, index.shape) < upwards[index]
    edge = jnp.clip(jnp.where(up, index, index - 1), 0, max(top - 1, 0))
    cumulative = picked(jnp.cumsum(prob, axis=0), edge)
    below, above = edge, jnp.minimum(edge + 1, top)
    crossed = picked(prob, below) * upwards[below] + picked(prob, above) * (1 - upwards[above])
    factor = -alive(cumulative) / stop_gradient(crossed)
    step_to = jnp.where(up, above, below)
    draw, value = picked(support, index)[0], picked(support, step_to)
    weights = jnp.where(up, factor, -factor)
    return perturbed(draw, value, weights, distribution.event_shape)


def _binomial(key: jax.Array, distribution: Any) -> Particles:
    """Of n trials: -∂F(k) = n Binomial(n - 1, p)(k) = n q(k) in the success probability p."""
    key, key_side = jax.random.split(key)
    draw, count = distribution.sample(key), distribution.total_count
    up = jax.random.uniform(key_side, draw.shape) * count >= draw
    # a value outside the support would have weight zero, but may make what follows NaN
    value = jnp.clip(jnp.where(up, draw + 1, draw - 1), 0, count)
    slope = count * alive(distribution.probs)
    return perturbed(draw, value[None].astype(draw.dtype), jnp.where(up, slope, -slope))


def _poisson(key: jax.Array, distribution: Any) -> Particles:
    """-∂F(k) = p(k) in the rate."""
    draw = distribution.sample(key)
    return perturbed(draw, (draw + 1)[None], alive(distribution.rate))


def _geometric(key: jax.Array, distribution: Any) -> Particles:
    """-∂F(k) = -(k + 1) p(k) / p in the success probability p."""
    draw = stop_gradient(distribution.sample(key))
    return perturbed(draw, (draw + 1)[None], -(draw + 1) * relative(distribution.probs))


TRIPLES: dict[type, Callable[[jax.Array, Any], Particles]] = {
    dist.BinomialProbs: _binomial,
    dist.BinomialLogits: _binomial,
    dist.Poisson: _poisson,
    dist.GeometricProbs: _geometric,
    dist.GeometricLogits: _geometric,
}
