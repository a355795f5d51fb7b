"""The variational autoencoder, trained on real handwritten digits."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray

import ppl
from stdlib.models.digit_vae import VAE, Digits, data, guide, model, objective
from stdlib.objectives import iwelbo

STEPS, BATCH = 4000, 64


class Estimate(NamedTuple):
    """A Monte Carlo average and its standard error."""

    value: float
    error: float

    def __str__(self) -> str:
        return f"{self.value:.3f} ± {self.error:.3f}"


class Trained(NamedTuple):
    """The fitted VAE, its data, and the bounds that it reaches."""

    fitted: ppl.FitResult
    train: Digits
    test: Digits
    bounds: dict[str, Estimate]

    @property
    def vae(self) -> VAE:
        """The trained networks."""
        return self.fitted.params


def train(steps: int = STEPS, seed: int = 0) -> Trained:
    """Maximises the ELBO of the training images, in minibatches."""
    training, test = data()
    print(
        f"Variational autoencoder on {len(training.images):,} real 8×8 digits "
        f"({len(test.images)} held out), {steps:,} steps of {BATCH} images"
    )
    init_key, fit_key, bound_key = jax.random.split(jax.random.key(seed), 3)
    fitted = ppl.fit(
        objective,
        VAE(init_key),
        optax.adamw(optax.cosine_decay_schedule(2e-3, steps), weight_decay=1e-2),
        key=fit_key,
        steps=steps,
        data=training.images,
        batch_size=BATCH,
    )
    if fitted.interrupted:
        raise KeyboardInterrupt
    bounds = {
        "training ELBO": estimate(objective, bound_key, fitted.params, training.images),
        "test ELBO": estimate(objective, bound_key, fitted.params, test.images),
        "test IWELBO(100)": estimate(tight_bound, bound_key, fitted.params, test.images, runs=5),
    }
    return Trained(fitted, training, test, bounds)


def tight_bound(vae: VAE, images: Int[Array, "n 64"]) -> Float[Array, ""]:
    """The importance-weighted bound of 100 particles per image, averaged over the images."""

    def bound(image):
        program, proposal = partial(model, vae), partial(guide, vae, image)
        return iwelbo(program, proposal, {"image": image}, num_particles=100)

    return jnp.mean(jax.vmap(bound)(images))


def estimate(
    objective: Callable,
    key: PRNGKeyArray,
    vae: VAE,
    images: Int[np.ndarray, "n 64"],
    runs: int = 20,
) -> Estimate:
    """The mean of an objective over independent runs of its sampler."""
    run = eqx.filter_jit(ppl.expectation(objective))
    values = jnp.stack([run(k, vae, images) for k in jax.random.split(key, runs)])
    return Estimate(float(values.mean()), float(values.std(ddof=1) / runs**0.5))


def report(trained: Trained) -> str:
    """What was reached, in nats per image, with Monte Carlo standard errors."""
    lines = [f"  {name:<18}{bound}" for name, bound in trained.bounds.items()]
    speed = f"{trained.fitted.steps_per_second:.0f} steps/s, compilation not counted"
    return "\n".join(["nats per image, ± Monte Carlo standard error", *lines, f"  {speed}"])
