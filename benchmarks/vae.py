"""The VAE of the PLDI paper's table 1: the gradient of the batch mean of the ELBO.

784-200-10-200-784, leaky ReLU, Bernoulli pixels; hand-written JAX, NumPyro's Trace_ELBO and ours.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from numpyro.infer import Trace_ELBO

import ppl
from benchmarks.measure import compare_gradients, table
from ppl import sample
from stdlib.objectives import elbo

PIXELS, HIDDEN, LATENT = 784, 200, 10


def parameters(key: jax.Array) -> dict[str, Any]:
    """Weights and biases of encoder and decoder."""
    shapes = {
        "hidden": (PIXELS, HIDDEN),
        "mean": (HIDDEN, LATENT),
        "log_scale": (HIDDEN, LATENT),
        "back": (LATENT, HIDDEN),
        "logits": (HIDDEN, PIXELS),
    }
    keys = jax.random.split(key, len(shapes))
    return {
        name: (jax.random.normal(k, shape) / shape[0] ** 0.5, jnp.zeros(shape[1]))
        for k, (name, shape) in zip(keys, shapes.items(), strict=True)
    }


def _linear(layer, x):
    weight, bias = layer
    return x @ weight + bias


def encode(phi: dict, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Mean and scale of the latent given images."""
    hidden = jax.nn.leaky_relu(_linear(phi["hidden"], x))
    return _linear(phi["mean"], hidden), jnp.exp(_linear(phi["log_scale"], hidden))


def decode(phi: dict, z: jax.Array) -> jax.Array:
    """Pixel logits given latents."""
    return _linear(phi["logits"], jax.nn.leaky_relu(_linear(phi["back"], z)))


def model(phi, x):
    """Images from latents: one, or a batch at one site."""
    z = sample("z", dist.Normal(jnp.zeros((*x.shape[:-1], LATENT)), 1.0))
    sample("x", dist.Bernoulli(logits=decode(phi, z)), obs=x)


def guide(phi, x):
    """Latents from images."""
    sample("z", dist.Normal(*encode(phi, x)))


def objective(phi, x):
    """The mean ELBO of a batch."""
    return elbo(partial(model, phi, x), partial(guide, phi, x), {}) / len(x)


def mapped(phi, x):
    """The same, written for one image and mapped over them."""

    def one(x):
        return elbo(partial(model, phi, x), partial(guide, phi, x), {})

    return jnp.mean(jax.vmap(one)(x))


def handwritten(key, phi, x):
    """The same estimate, by hand."""
    mean, scale = encode(phi, x)
    z = mean + scale * jax.random.normal(key, mean.shape)
    logits = decode(phi, z)
    likelihood = x * logits - jnp.maximum(logits, 0) - jnp.log1p(jnp.exp(-jnp.abs(logits)))
    constant = 0.5 * jnp.log(2 * jnp.pi)
    prior = -0.5 * z**2 - constant
    posterior = -0.5 * ((z - mean) / scale) ** 2 - jnp.log(scale) - constant
    return (jnp.sum(likelihood) + jnp.sum(prior) - jnp.sum(posterior)) / len(x)


def numpyro_estimate(key, phi, x):
    """NumPyro's Trace_ELBO of the same model and guide."""

    def numpyro_model():
        with numpyro.plate("batch", len(x)):
            z: Any = numpyro.sample("z", dist.Normal(jnp.zeros((len(x), LATENT)), 1.0).to_event(1))
            numpyro.sample("x", dist.Bernoulli(logits=decode(phi, z)).to_event(1), obs=x)

    def numpyro_guide():
        with numpyro.plate("batch", len(x)):
            numpyro.sample("z", dist.Normal(*encode(phi, x)).to_event(1))

    loss: Any = Trace_ELBO().loss(key, {}, numpyro_model, numpyro_guide)
    return -loss / len(x)


def main() -> list[str]:
    """Tables for batches of 64 to 1024."""
    key = jax.random.key(0)
    phi = parameters(key)
    functions = {
        "hand-written": handwritten,
        "ours, batched": ppl.expectation(objective),
        "ours, vmap": ppl.expectation(mapped),
        "NumPyro": numpyro_estimate,
    }
    tables = []
    for batch in (64, 128, 256, 512, 1024):
        x = jax.random.bernoulli(key, 0.3, (batch, PIXELS)).astype(jnp.int32)
        rows = compare_gradients(functions, (key, phi, x), "hand-written")
        tables.append(table(f"VAE gradient, batch {batch}", rows))
    return tables
