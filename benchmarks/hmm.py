"""A chain of T sites with K states, all enumerated: the gradient of the exact ELBO.

The guide is Markov with free logits. Hand-written: the forward recursion of expected costs in a
`lax.scan`. NumPyro: TraceEnum_ELBO with the guide enumerated, at the lengths it can take.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from numpyro.infer import TraceEnum_ELBO

import ppl
from benchmarks.measure import compare_gradients, table
from ppl import sample
from stdlib.estimators import Enumerate
from stdlib.objectives import elbo

STATES = 4
NUMPYRO_LENGTHS = (10, 25)


def data(length: int, states: int = STATES) -> tuple[dict[str, jax.Array], jax.Array]:
    """Random transition logits, guide logits and observations."""
    keys = jax.random.split(jax.random.key(0), 3)
    parameters = {
        "transition": jax.random.normal(keys[0], (states, states)),
        "guide": jax.random.normal(keys[1], (length, states, states)),
    }
    return parameters, jax.random.normal(keys[2], (length,))


def model(transition: jax.Array, y: jax.Array) -> None:
    """States from states, observations from states."""
    z = 0
    for t in range(len(y)):
        z = sample(f"z{t}", dist.Categorical(logits=transition[z]))
        sample(f"y{t}", dist.Normal(z, 1.0), obs=y[t])


def guide(logits: jax.Array) -> None:
    """Each state given the one before, every state summed over."""
    z = 0
    for t in range(len(logits)):
        z = sample(f"z{t}", dist.Categorical(logits=logits[t, z]), Enumerate())


def objective(parameters: dict[str, jax.Array], y: jax.Array) -> jax.Array:
    """The ELBO, exact."""
    return elbo(
        partial(model, parameters["transition"], y), partial(guide, parameters["guide"]), {}
    )


def emissions(transition: jax.Array, y: jax.Array) -> jax.Array:
    """Log density of each observation in each state, (T, K)."""
    return -0.5 * (y[:, None] - jnp.arange(len(transition))) ** 2 - 0.5 * jnp.log(2 * jnp.pi)


def handwritten(key: Any, parameters: dict[str, jax.Array], y: jax.Array) -> jax.Array:
    """Expected costs along the forward marginals of the guide."""
    transition = jax.nn.log_softmax(parameters["transition"])
    steps = jax.nn.log_softmax(parameters["guide"])
    emission = emissions(transition, y)

    def step(carry, x):
        marginal, total = carry
        logits, emitted = x
        joint = marginal[:, None] * jnp.exp(logits)
        total = total + jnp.sum(joint * (transition + emitted - logits))
        return (jnp.sum(joint, axis=0), total), None

    start = (jax.nn.one_hot(0, len(transition)), jnp.zeros(()))
    return jax.lax.scan(step, start, (steps, emission))[0][1]


def numpyro_estimate(key: Any, parameters: dict[str, jax.Array], y: jax.Array) -> jax.Array:
    """NumPyro's TraceEnum_ELBO of the same programs."""

    def numpyro_model():
        z = 0
        for t in range(len(y)):
            z = numpyro.sample(f"z{t}", dist.CategoricalLogits(logits=parameters["transition"][z]))
            numpyro.sample(f"y{t}", dist.Normal(z, 1.0), obs=y[t])

    def numpyro_guide():
        z = 0
        for t in range(len(y)):
            infer = {"enumerate": "parallel"}
            z = numpyro.sample(
                f"z{t}", dist.CategoricalLogits(logits=parameters["guide"][t, z]), infer=infer
            )

    loss = TraceEnum_ELBO(max_plate_nesting=0).loss
    return -loss(key, {}, numpyro_model, numpyro_guide)


def main() -> list[str]:
    """Tables for growing lengths."""
    tables = []
    for length in (10, 25, 50, 100):
        parameters, y = data(length)
        functions = {"hand-written": handwritten, "ours": ppl.expectation(objective)}
        if length in NUMPYRO_LENGTHS:
            functions["NumPyro TraceEnum"] = numpyro_estimate
        rows = compare_gradients(functions, (jax.random.key(0), parameters, y), "hand-written")
        tables.append(table(f"Enumerated chain, T = {length}, K = {STATES}", rows))
    return tables
