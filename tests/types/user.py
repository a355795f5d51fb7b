"""What a user's editor sees: each comment is the type that the checkers reveal on its line."""

from typing import reveal_type

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
import optax

import ppl
from ppl import sample
from stdlib.inference import Exact


def model(scale: float) -> jax.Array:
    z = sample("z", dist.Normal(0.0, scale))
    reveal_type(z)  # Array
    return sample("x", dist.Normal(z, 1.0))


def objective(phi: dict[str, jax.Array]) -> jax.Array:
    trace = ppl.simulate(model, 2.0)
    reveal_type(trace)  # Trace[Array]
    reveal_type(trace.value)  # Array
    reveal_type(trace.log_density)  # Array
    return ppl.log_density(model, {"z": 0.0, "x": 1.0}, scale=2.0) - phi["m"]


def with_loss(phi: dict[str, jax.Array]) -> tuple[jax.Array, int]:
    return objective(phi), 1


def parts(phi: dict[str, jax.Array]) -> dict[str, jax.Array]:
    return {"first": objective(phi), "second": phi["m"]}


def parts_with_loss(phi: dict[str, jax.Array]) -> tuple[dict[str, jax.Array], int]:
    return parts(phi), 1


key = jax.random.key(0)
phi = {"m": jnp.zeros(())}

reveal_type(ppl.seed(model)(key, 1.0))  # Array
reveal_type(ppl.condition(model, {"x": 1.0})(2.0))  # Array
reveal_type(ppl.scope(ppl.scale(model, 2.0), "a")(scale=2.0))  # Array
reveal_type(ppl.marginal(model, "x", Exact())(2.0))  # dict[str, Any]
reveal_type(ppl.expectation(objective)(key, phi))  # Array
reveal_type(ppl.expectation(with_loss, has_aux=True)(key, phi))  # tuple[Array, int]
reveal_type(ppl.expectation(parts)(key, phi))  # dict[str, Array]
both = ppl.expectation(parts_with_loss, has_aux=True)(key, phi)
reveal_type(both)  # tuple[dict[str, Array], int]
reveal_type(ppl.log_expectation(objective)(phi))  # Array
reveal_type(ppl.log_expectation(parts)(phi))  # dict[str, Array]
result = ppl.fit(objective, phi, optax.adam(0.1), key=key, steps=1)
reveal_type(result.params)  # dict[str, Array]

ppl.seed(model)(key, "one")  # error
ppl.simulate(model)  # error
ppl.log_density(model, {}, 1.0, 2.0)  # error
ppl.scale(model, 2.0)(size=1.0)  # error
ppl.expectation(objective)(key)  # error
