"""The average of several importance-weighted bounds."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from ._gradients import TOTAL
from ._particles import check_count
from .iwelbo import iwelbo


def miwae(
    model: Callable,
    guide: Callable,
    observed: Mapping[str, Any],
    num_bounds: int,
    num_particles: int,
    *,
    gradient: str = TOTAL,
    allow_biased: bool = False,
) -> jax.Array:
    """The mean of M independent importance-weighted bounds of K particles each.

    Estimand: that of `iwelbo` with K particles, a lower bound of log p(x), to be maximised; value
    and gradient are unbiased for it. M (`num_bounds`) does not tighten the bound: it divides the
    variance, so that the signal-to-noise ratio of every gradient grows as √M; that of the guide's
    falls as 1/√K with K. For a budget of M·K particles, M sets the balance.

    `gradient` and `allow_biased`, and what is raised, are those of `iwelbo`, and so are the other
    arguments. Scalar; to be called inside an objective.

    Source: Rainforth et al. 2018, 'Tighter variational bounds are not necessarily better'.

    ```python
    >>> import jax, ppl, numpyro.distributions as dist
    >>> from stdlib.objectives import miwae
    >>> def model():
    ...     ppl.sample("x", dist.Normal(ppl.sample("z", dist.Normal(0.0, 1.0)), 1.0))
    >>> guide = lambda: ppl.sample("z", dist.Normal(1.0, 1.0))
    >>> estimate = ppl.expectation(lambda: miwae(model, guide, {"x": 2.0}, 8, 8))
    >>> round(float(estimate(jax.random.key(0))), 0)
    -2.0

    ```
    """
    check_count("num_bounds", num_bounds, "miwae")
    options = {"gradient": gradient, "allow_biased": allow_biased}
    bounds = jax.vmap(lambda _: iwelbo(model, guide, observed, num_particles, **options))
    return jnp.mean(bounds(jnp.arange(num_bounds)))
