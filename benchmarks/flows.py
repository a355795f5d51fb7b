"""Flows as guides of a curved posterior: the gradient of the ELBO, a draw and its density at once.

x ~ N(0, I) in the plane, y ~ N(x₂ - x₁², 0.3) observed. FlowJAX's coupling, masked autoregressive
and planar flows, of which the last has no inverse. Hand-written: `sample_and_log_prob`.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from flowjax import flows
from flowjax.distributions import Normal

import ppl
from benchmarks.measure import compare_gradients, table
from ppl import Reparameterized, sample
from stdlib.objectives import elbo

Y, NOISE = 0.8, 0.3
NETWORK = {"nn_width": 16, "nn_depth": 1}
FLOWS: dict[str, Callable] = {
    "coupling flow, 4 layers": partial(flows.coupling_flow, flow_layers=4, **NETWORK),
    "masked autoregressive flow, 2 layers": partial(
        flows.masked_autoregressive_flow, flow_layers=2, **NETWORK
    ),
    "planar flow, 4 layers": partial(flows.planar_flow, flow_layers=4),
}


def flow(name: str) -> tuple[Any, Any]:
    """A flow in the plane: its numbers, and the rest."""
    base = Normal(jnp.zeros(2))
    made = FLOWS[name](jax.random.key(1), base_dist=base, invert=False)
    return eqx.partition(made, eqx.is_inexact_array)


def model() -> None:
    """A banana."""
    x = sample("x", dist.Normal(jnp.zeros(2), 1.0))
    sample("y", dist.Normal(x[1] - x[0] ** 2, NOISE), obs=Y)


def objective(rest: Any, numbers: Any) -> jax.Array:
    """The ELBO, the flow as guide."""
    guide = lambda: sample("x", eqx.combine(numbers, rest), Reparameterized())
    return elbo(model, guide, {})


def handwritten(rest: Any, key: jax.Array, numbers: Any) -> jax.Array:
    """The same, of one draw."""
    x, log_q = eqx.combine(numbers, rest).sample_and_log_prob(key)
    log_prior = jnp.sum(dist.Normal(0.0, 1.0).log_prob(x))
    return log_prior + dist.Normal(x[1] - x[0] ** 2, NOISE).log_prob(Y) - log_q


def main() -> list[str]:
    """A table for each flow."""
    sections = []
    for name in FLOWS:
        numbers, rest = flow(name)
        functions = {
            "hand-written": partial(handwritten, rest),
            "ours": ppl.expectation(partial(objective, rest)),
        }
        rows = compare_gradients(functions, (jax.random.key(0), numbers), "hand-written")
        sections.append(table(f"ELBO gradient, {name} as guide", rows))
    return sections
