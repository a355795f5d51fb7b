"""Weak derivatives: the derivative of a distribution as a difference of two others."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jax.lax import stop_gradient

from ppl.extend import Estimator, Particles

from ._perturbation import alive, kind, perturbed, relative, unexpanded


class MeasureValued(Estimator):
    """Measure-valued (weak) derivatives: one draw, and perturbations with infinitesimal weights.

    The derivative of E[f] in a parameter θ is c (E[f(x⁺)] - E[f(x⁻)]), for a constant c and two
    distributions that are known in closed form (Pflug 1989; Mohamed et al. 2020, table 1). x⁺ and
    x⁻ share their randomness, and wherever possible one of them is the draw itself, so that only
    the other is a particle; its weight ±c (θ - stop_gradient(θ)) is zero in value.

    | distribution | perturbations of the draw x | in which parameter |
    |---|---|---|
    | Bernoulli | 1 - x: exact, no variance given the rest | `probs`, `logits` |
    | Categorical, K values | the K - 1 others: exact likewise | `probs`, `logits` |
    | Binomial | x + 1 and x - 1 | `probs`, `logits` |
    | Poisson | x + 1 | `rate` |
    | Geometric | x + x' + 1 | `probs`, `logits` |
    | Normal | two Rayleigh steps from the mean, and a double-sided Maxwell | `loc`, `scale` |
    | Exponential | x + x' | `rate` |
    | Gamma | x + an exponential, and x' | `rate`, `concentration` |
    | Weibull | (x^k + x'^k)^(1/k), and x' | `scale`, `concentration` |

    where x' is a second, independent draw. No weak derivative in a `concentration` is known in
    closed form: there the derivative is the score at x', with f(x) as its baseline, which is
    unbiased too, at the score's variance. Integer parameters have no derivative.

    Value and first derivative are unbiased for every bounded f, also a discontinuous one; second
    derivatives are not. The weights sum to one identically. Low variance; each perturbation is one
    more run of what follows, which is never differentiated: for all elements of a batch where the
    program keeps them apart, for each of them where it mixes them. Every element is perturbed by
    itself, so write a batch, not `.to_event`. A Bernoulli or Categorical draw and its perturbations
    are all the values there are: costs that read one element alone are summed over them exactly.

    ```python
    >>> import jax, ppl, numpyro.distributions as dist
    >>> from stdlib.estimators import MeasureValued
    >>> def square(p):
    ...     return (ppl.sample("x", dist.Bernoulli(p), MeasureValued()) - 0.45) ** 2
    >>> exact = jax.grad(ppl.expectation(square), argnums=1)(jax.random.key(0), 0.3)
    >>> round(float(exact), 4)
    0.1

    ```
    """

    def particles(self, key: jax.Array, distribution: Any) -> Particles:
        """The draw, and its perturbations by the table."""
        return WEAK_DERIVATIVES[kind(distribution)](key, unexpanded(distribution))

    def unsuitable(self, distribution: Any) -> str | None:
        """Only the distributions of the table have known weak derivatives."""
        if kind(distribution) in WEAK_DERIVATIVES:
            return None
        if isinstance(distribution, dist.Independent):
            return "it perturbs each element of a batch by itself: leave `.to_event` out"
        return "its weak derivatives are not known (those of the table in the documentation are)"


def _bernoulli(key: jax.Array, distribution: Any) -> Particles:
    draw = distribution.sample(key)
    one = jnp.where(draw == 1, distribution.probs, 1 - distribution.probs)
    weights = jnp.where(draw == 0, 1, -1) * alive(distribution.probs)
    return perturbed(draw, (1 - draw)[None], weights, chances=jnp.stack([one, 1 - one]))


def _categorical(key: jax.Array, distribution: Any) -> Particles:
    draw = distribution.sample(key)
    probs = jnp.moveaxis(distribution.probs, -1, 0)
    steps = jnp.arange(len(probs)).reshape(-1, *(1 for _ in draw.shape))
    every = (draw + steps) % len(probs)
    chances = jnp.take_along_axis(probs, every, axis=0)
    return perturbed(draw, every[1:], alive(chances[1:]), chances=chances)


def _binomial(key: jax.Array, distribution: Any) -> Particles:
    """With n trials, n (E f(y + 1) - E f(y)) for y of n - 1 trials: x without one of its trials.

    Given x, the trial left out was a success with probability x/n: both cases are summed.
    """
    draw = distribution.sample(key)
    count = jnp.asarray(distribution.total_count, draw.dtype)
    # a value outside the support would have weight zero, but may make what follows NaN
    values = jnp.stack([jnp.minimum(draw + 1, count), jnp.maximum(draw - 1, 0)])
    return perturbed(draw, values, jnp.stack([count - draw, -draw]) * alive(distribution.probs))


def _poisson(key: jax.Array, distribution: Any) -> Particles:
    draw = distribution.sample(key)
    return perturbed(draw, (draw + 1)[None], alive(distribution.rate))


def _geometric(key: jax.Array, distribution: Any) -> Particles:
    """(E f(x) - E f(x + x' + 1)) / p: x + x' is negative binomial, up to its second success."""
    draw, other = _twice(key, distribution)
    return perturbed(draw, (draw + other + 1)[None], -relative(distribution.probs))


def _normal(key: jax.Array, distribution: Any) -> Particles:
    """A uniform fraction of a double-sided Maxwell draw is the normal draw: the two are coupled."""
    loc, scale = distribution.loc, distribution.scale
    shape, dtype = distribution.batch_shape, jnp.result_type(loc, scale, float)
    keys = jax.random.split(key, 3)
    maxwell = scale * jax.random.double_sided_maxwell(keys[0], 0.0, 1.0, shape, dtype)
    fraction = jax.random.uniform(keys[1], shape, dtype)
    step = scale * jax.random.rayleigh(keys[2], jnp.ones(shape, dtype))
    values = loc + jnp.stack([step, -step, maxwell])
    height = jnp.broadcast_to(alive(loc) / stop_gradient(scale * jnp.sqrt(2 * jnp.pi)), shape)
    width = jnp.broadcast_to(relative(scale), shape)
    return perturbed(loc + maxwell * fraction, values, jnp.stack([height, -height, width]))


def _exponential(key: jax.Array, distribution: Any) -> Particles:
    """(E f(x) - E f(x + x')) / rate: x + x' is Erlang."""
    draw, other = _twice(key, distribution)
    return perturbed(draw, (draw + other)[None], -relative(distribution.rate))


def _gamma(key: jax.Array, distribution: Any) -> Particles:
    """In the rate, concentration / rate (E f(x) - E f(y)), where y has one more concentration."""
    key, key_step = jax.random.split(key)
    draw, other = _twice(key, distribution)
    step = jax.random.exponential(key_step, draw.shape, draw.dtype) / distribution.rate
    scaled = -stop_gradient(distribution.concentration) * relative(distribution.rate)
    scaled = jnp.broadcast_to(scaled, draw.shape)
    shaped = _score_of_concentration(distribution, other)
    return perturbed(draw, jnp.stack([draw + step, other]), jnp.stack([scaled, shaped]))


def _weibull(key: jax.Array, distribution: Any) -> Particles:
    """x^k is exponential, of rate scale^-k."""
    draw, other = _twice(key, distribution)
    power, scale = stop_gradient(distribution.concentration), distribution.scale
    further = scale * ((draw / scale) ** power + (other / scale) ** power) ** (1 / power)
    scaled = jnp.broadcast_to(power * relative(scale), draw.shape)
    shaped = _score_of_concentration(distribution, other)
    return perturbed(draw, jnp.stack([further, other]), jnp.stack([scaled, shaped]))


def _twice(key: jax.Array, distribution: Any) -> tuple[jax.Array, jax.Array]:
    draw, other = (distribution.sample(k) for k in jax.random.split(key))
    return stop_gradient(draw), stop_gradient(other)


def _score_of_concentration(distribution: Any, value: jax.Array) -> jax.Array:
    """The score at a value independent of the draw, so that it multiplies f(value) - f(draw)."""
    parameters = {name: getattr(distribution, name) for name in distribution.arg_constraints}
    concentration = parameters.pop("concentration")
    others = stop_gradient(parameters)
    return alive(type(distribution)(concentration=concentration, **others).log_prob(value))


WEAK_DERIVATIVES: dict[type, Callable[[jax.Array, Any], Particles]] = {
    dist.BernoulliProbs: _bernoulli,
    dist.BernoulliLogits: _bernoulli,
    dist.CategoricalProbs: _categorical,
    dist.CategoricalLogits: _categorical,
    dist.BinomialProbs: _binomial,
    dist.BinomialLogits: _binomial,
    dist.Poisson: _poisson,
    dist.GeometricProbs: _geometric,
    dist.GeometricLogits: _geometric,
    dist.Normal: _normal,
    dist.Exponential: _exponential,
    dist.Gamma: _gamma,
    dist.Weibull: _weibull,
}
