"""A mixture of 8 Gaussians over 10,000 points: the gradient of the exact ELBO, assignments summed.

The guide has free logits (10000, 8); gradients are of those and of weights, means and scales.
Hand-written: the sum over assignments as one array expression. Ours: each point's assignment
enumerated under `vmap`, with the ELBO of a point mapped, or the ELBO of the mapped programs.
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

CLUSTERS, POINTS = 8, 10_000

Parameters = dict[str, jax.Array]


def data(points: int = POINTS) -> tuple[Parameters, jax.Array]:
    """Random parameters, of model and guide, and random points."""
    keys = jax.random.split(jax.random.key(0), 5)
    names = ("weights", "means", "log_scales")
    parameters = {
        name: jax.random.normal(key, (CLUSTERS,)) for name, key in zip(names, keys, strict=False)
    }
    parameters["guide"] = jax.random.normal(keys[3], (points, CLUSTERS))
    return parameters, 2.0 * jax.random.normal(keys[4], (points,))


def model(p: Parameters, y: jax.Array) -> None:
    """One point, from its cluster."""
    z = sample("z", dist.Categorical(logits=p["weights"]))
    sample("y", dist.Normal(p["means"][z], jnp.exp(p["log_scales"][z])), obs=y)


def guide(logits: jax.Array) -> None:
    """The cluster of one point."""
    sample("z", dist.Categorical(logits=logits), Enumerate())


def points_mapped(p: Parameters, y: jax.Array) -> jax.Array:
    """The ELBO of a point, mapped and summed."""
    point = lambda logits, y: elbo(partial(model, p, y), partial(guide, logits), {})
    return jnp.sum(jax.vmap(point)(p["guide"], y))


def programs_mapped(p: Parameters, y: jax.Array) -> jax.Array:
    """The ELBO of the mapped programs."""
    many = partial(jax.vmap(partial(model, p)), y)
    return elbo(many, partial(jax.vmap(guide), p["guide"]), {})


def handwritten(key: Any, p: Parameters, y: jax.Array) -> jax.Array:
    """The expected cost, summed over clusters and points."""
    log_q = jax.nn.log_softmax(p["guide"])
    error = (y[:, None] - p["means"]) * jnp.exp(-p["log_scales"])
    log_y = -0.5 * error**2 - p["log_scales"] - 0.5 * jnp.log(2 * jnp.pi)
    return jnp.sum(jnp.exp(log_q) * (jax.nn.log_softmax(p["weights"]) + log_y - log_q))


def numpyro_estimate(key: Any, p: Parameters, y: jax.Array) -> jax.Array:
    """NumPyro's TraceEnum_ELBO, points in a plate."""

    def numpyro_model():
        with numpyro.plate("points", len(y)):
            z = numpyro.sample("z", dist.CategoricalLogits(logits=p["weights"]))
            scale = jnp.exp(p["log_scales"][z])
            numpyro.sample("y", dist.Normal(p["means"][z], scale), obs=y)

    def numpyro_guide():
        infer = {"enumerate": "parallel"}
        with numpyro.plate("points", len(y)):
            numpyro.sample("z", dist.CategoricalLogits(logits=p["guide"]), infer=infer)

    loss = TraceEnum_ELBO(max_plate_nesting=1).loss
    return -loss(key, {}, numpyro_model, numpyro_guide)


def main() -> list[str]:
    """The table."""
    functions = {
        "hand-written": handwritten,
        "ours, points mapped": ppl.expectation(points_mapped),
        "ours, programs mapped": ppl.expectation(programs_mapped),
        "NumPyro `TraceEnum_ELBO`": numpyro_estimate,
    }
    rows = compare_gradients(functions, (jax.random.key(0), *data()), "hand-written")
    return [
        table(f"Mixture of {CLUSTERS} Gaussians over {POINTS:,} points, assignments summed", rows)
    ]
