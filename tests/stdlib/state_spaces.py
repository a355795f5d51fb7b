"""A linear Gaussian state-space model, and its exact evidence, by the Kalman filter."""

import jax.numpy as jnp
import numpyro.distributions as dist
from jax import lax

from ppl import sample

Y = jnp.array([0.3, 1.2, 0.9, -0.1])


def linear_gaussian(a, noise=0.5, start=0.0, scales=(1.0, 1.0, 1.0, 1.0)):
    def step(x, scale):
        x = sample("x", dist.Normal(a * x, scale))
        sample("y", dist.Normal(x, noise))
        return x, None

    lax.scan(step, start, jnp.asarray(scales))


def guided(t, previous, observed):
    early = jnp.where(t == 0, 0.0, 0.5)
    sample("x", dist.Normal(early * previous["x"] + 0.5 * observed["y"], 0.7))


def kalman(a, y, noise=0.5, mean=0.0, variance=0.0, scales=(1.0, 1.0, 1.0, 1.0)):
    total = 0.0
    for value, scale in zip(y, scales, strict=True):
        mean, variance = a * mean, a**2 * variance + scale**2
        spread = variance + noise**2
        total = total + dist.Normal(mean, jnp.sqrt(spread)).log_prob(value)
        gain = variance / spread
        mean, variance = mean + gain * (value - mean), (1.0 - gain) * variance
    return total
