"""The no-U-turn sampler, by NumPyro."""

from collections.abc import Callable, Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from numpyro.infer.hmc import hmc

from ppl import sample

from ._coordinates import real_vector
from ._underivable import underivable
from .kernels import Kernel


class NUTS(Kernel):
    """The no-U-turn sampler (Hoffman & Gelman 2014), as NumPyro has it, without adaptation.

    `step_size` of a leapfrog step; at most 2^`max_tree_depth` of them. One site, `"nuts"`, whose
    transition has no density: what follows it can be estimated, not differentiated
    (`UnsuitableEstimator`). A trajectory ends where it leaves a support.

    ```python
    >>> import jax, ppl, numpyro.distributions as dist
    >>> from stdlib.inference import NUTS, chain
    >>> def model():
    ...     ppl.sample("x", dist.Normal(ppl.sample("u", dist.Normal(0.0, 1.0)), 1.0))
    >>> target = ppl.extend.Target(model, {"x": 2.0})
    >>> draws = ppl.seed(chain)(jax.random.key(0), NUTS(0.8), target, {"u": 1.0}, 1000)
    >>> bool(abs(draws["u"].mean() - 1.0) < 0.1)
    True

    ```
    """

    step_size: float = 0.1
    max_tree_depth: int = eqx.field(static=True, default=8)

    def step(self, target: Any, choices: Mapping[str, Any]) -> Mapping[str, Any]:
        """One transition."""
        density, vector, rebuild = real_vector(target, choices)

        def energy(u):
            inside = density.supports(u)
            return jnp.where(inside, -density.log(jnp.where(inside, u, vector)), jnp.inf)

        potential = eqx.filter_closure_convert(energy, vector)
        return rebuild(sample("nuts", _Transition(potential, vector, self)))


class _Transition(eqx.Module):
    """The distribution of the next state, given this one."""

    potential: Callable
    state: jax.Array
    settings: NUTS
    has_rsample = False

    def sample(self, key: jax.Array) -> jax.Array:
        start, move = hmc(potential_fn=self.potential, algo="NUTS")
        state = start(
            self.state,
            num_warmup=0,
            step_size=self.settings.step_size,
            adapt_step_size=False,
            adapt_mass_matrix=False,
            max_tree_depth=self.settings.max_tree_depth,
            rng_key=key,
        )
        return move(state).z

    def log_prob(self, value: jax.Array) -> jax.Array:
        return underivable(
            (self.potential, self.state),
            "A NUTS transition has no density, so nothing that follows it can be differentiated. "
            "Use HMC(), MALA() or RandomWalk(), whose sites have scores, or stop the gradients of "
            "what the target reads.",
        )
