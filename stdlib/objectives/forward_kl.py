"""The inclusive Kullback-Leibler divergence, from the posterior to the guide."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.lax import stop_gradient

from ppl import frozen, log_density, simulate
from ppl.errors import BiasedEstimator

from .._log_weights import share_sum, shares
from ._gradients import drawn_by, joint_at
from ._particles import check_count


def forward_kl(
    model: Callable,
    guide: Callable,
    observed: Mapping[str, Any],
    num_particles: int,
    *,
    proposal: Callable | None = None,
    log_evidence: float | jax.Array | None = None,
    allow_biased: bool = False,
) -> jax.Array:
    """E_p(z | x)[log q(z) - log p(x, z)] by importance sampling, with K draws from a proposal.

    The expectation is -(KL(p(z | x) ‖ q) + log p(x)): minus an upper bound of log p(x). It is to be
    maximised, over the parameters of the guide; in those that model and proposal read the
    derivative is zero. The guide's choices need not be reparameterised: log q is differentiated at
    fixed draws.

    With r the proposal, and weights w_k = p(x, z_k) / r(z_k):

    - by default the weights are normalised among the K particles, so that value and gradient are
      biased, by O(1/K): this takes `allow_biased=True`. With r the guide it is the wake phase for
      the guide of reweighted wake-sleep. Where r is the posterior, as
      `ppl.normalize(model, observed, Exact())` is, all weights are equal and there is no bias.
    - with `log_evidence=c` they are w_k / (K e^c), and value and gradient are unbiased for the
      expectation times p(x) / e^c: exactly it, where c = log p(x).

    **Arguments**

    - `proposal`: a program over the same choices as the guide; by default the guide.
    - the others are those of `iwelbo`.

    Scalar; to be called inside an objective.

    **Raises** `ppl.errors.BiasedEstimator`; `InvalidSetting` where `num_particles` is not a
    positive integer.

    Sources: Bornschein & Bengio 2015; Le et al. 2019, 'Revisiting reweighted wake-sleep'.

    ```python
    >>> import jax, ppl, numpyro.distributions as dist
    >>> from stdlib.objectives import forward_kl
    >>> def model():
    ...     ppl.sample("x", dist.Normal(ppl.sample("z", dist.Normal(0.0, 1.0)), 1.0))
    >>> posterior = lambda: ppl.sample("z", dist.Normal(1.0, 0.5**0.5))
    >>> estimate = ppl.expectation(
    ...     lambda: forward_kl(model, posterior, {"x": 2.0}, 4, allow_biased=True)
    ... )
    >>> round(float(-estimate(jax.random.key(0))), 4)  # the evidence: the guide is exact
    -2.2655

    ```
    """
    check_count("num_particles", num_particles, "forward_kl")
    if log_evidence is None and not allow_biased:
        raise BiasedEstimator(
            "forward_kl normalises its weights among its particles, so it is biased. Accept it: "
            "forward_kl(..., allow_biased=True), or give log_evidence=, for weights that are not "
            "normalised."
        )
    sampler, what, scored = drawn_by(guide, proposal, "proposal")
    joint = joint_at(frozen(model), observed, sampler, what)
    sampler = frozen(sampler)

    def particle(_: Any) -> tuple[jax.Array, jax.Array]:
        r = simulate(sampler)
        log_p = log_density(joint, r.choices)
        return log_p - r.log_density, log_density(scored, r.choices) - log_p

    log_weights, terms = jax.vmap(particle)(jnp.arange(num_particles))
    if log_evidence is None:
        weights = shares(log_weights)
    else:
        weights = jnp.exp(log_weights - log_evidence) / num_particles
    return share_sum(stop_gradient(weights), terms)
