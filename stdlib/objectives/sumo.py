"""The log evidence by Russian roulette."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jax import lax

from ppl import log_sum_exp, sample
from ppl.errors import InvalidSetting

from .._log_weights import log_mean_exp
from ._particles import check_count, log_weights, unless_impossible
from .elbo import log_weight


def sumo(
    model: Callable,
    guide: Callable,
    observed: Mapping[str, Any],
    max_particles: int,
    *,
    num_particles: int = 1,
) -> jax.Array:
    """The importance-weighted bound of many particles, at the cost of a few, by roulette.

    With L_n the log of the mean of the first n importance weights, m = `num_particles`,
    N = `max_particles`, and a random number J of further particles with P(J ≥ j) = 1/j,

        L_m + Σ_{j=1}^{J} j (L_{m+j} - L_{m+j-1}).

    Estimand: E[L_N], the bound of `iwelbo` with N particles, whose gap to log p(x) is O(1/N); value
    and gradient are unbiased for it, in the parameters of model and guide, whatever the estimators.
    With N = ∞ this would be log p(x), but a compiled program needs an N. To be maximised in the
    model's parameters. In the guide's the mean gradient vanishes as N grows, and is noise: train
    the guide by another objective.

    The expected number of particles is about m + log(N - m). They are made by a `lax.cond` in a
    `lax.scan`, so that those not asked for cost nothing, except in a `vmap` (as that of
    `fit(..., num_samples=...)`), which runs all N. The price is variance: larger `num_particles`
    lower it.

    J is a site of its own, `"truncation"`. The other arguments are those of `iwelbo`. Scalar; to be
    called inside an objective.

    **Raises** `ppl.errors.InvalidSetting` where the numbers are not positive integers, or
    `max_particles` is less than `num_particles`.

    Source: Luo et al. 2020, 'SUMO: unbiased estimation of log marginal probability'.

    ```python
    >>> import jax, ppl, numpyro.distributions as dist
    >>> from stdlib.objectives import sumo
    >>> def model():
    ...     ppl.sample("x", dist.Normal(ppl.sample("z", dist.Normal(0.0, 1.0)), 1.0))
    >>> guide = lambda: ppl.sample("z", dist.Normal(0.0, 1.0))
    >>> estimate = ppl.expectation(lambda: sumo(model, guide, {"x": 2.0}, 200, num_particles=2))
    >>> values = jax.jit(jax.vmap(estimate))(jax.random.split(jax.random.key(0), 2000))
    >>> evidence = dist.Normal(0.0, 2.0**0.5).log_prob(2.0)
    >>> bool(abs(values.mean() - evidence) < 0.1)
    True

    ```
    """
    check_count("num_particles", num_particles, "sumo")
    check_count("max_particles", max_particles, "sumo")
    more = max_particles - num_particles
    if more < 0:
        raise InvalidSetting(
            f"max_particles of sumo must be at least num_particles, {num_particles}, got "
            f"{max_particles}."
        )
    first = log_mean_exp(log_weights(model, guide, observed, num_particles))
    if not more:
        return first
    counts = jnp.arange(1.0, more + 1.0)
    survival = 1.0 / counts
    drawn = sample("truncation", dist.CategoricalProbs(survival - jnp.append(survival[1:], 0.0)))

    def step(bound: jax.Array, count: jax.Array) -> tuple[jax.Array, jax.Array]:
        reached = count <= 1.0 + drawn.astype(count.dtype)
        one_more = lax.cond(reached, lambda: log_weight(model, guide, observed), lambda: 0.0)
        total = num_particles + count
        parts = bound + jnp.log1p(-1.0 / total), one_more - jnp.log(total)
        larger = log_sum_exp(jnp.stack(parts))
        larger = jnp.where(reached, larger, bound)
        gained = jnp.where(jnp.isneginf(larger), 0.0, larger - bound)
        return larger, count * gained

    return unless_impossible(lambda first: first + jnp.sum(lax.scan(step, first, counts)[1]), first)
