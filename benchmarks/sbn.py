"""A sigmoid belief network: how noisy, and how dear, are gradients through 32 discrete latents.

Two layers of 16 Bernoulli units above binarised 8×8 digits (a pixel is on above 8 of 16), a
mean-field guide from one linear layer, 8 images. The objective is the sum over the images of
their ELBOs; gradients are of guide and model. Weights start normal, with standard deviation 0.5 in
the model and 0.1 in the guide; biases start at zero, but for the top logits (at a logit of exactly
zero, the derivative of NumPyro's Bernoulli is wrong). Noise is the trace of the gradient's
covariance.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from jax.lax import stop_gradient
from numpyro.infer import TraceGraph_ELBO

import ppl
from benchmarks.measure import compare_gradients
from ppl import sample
from stdlib import estimators
from stdlib.models import digit_vae
from stdlib.objectives import elbo

UNITS, PIXELS, BATCH = 16, 64, 8
DRAWS = 8
RUNS, CHUNK = 4096, 128

Parameters = dict[str, Any]


def parameters(key: jax.Array) -> Parameters:
    """Of the model `top`, `middle`, `bottom` (logits down the layers); of the guide `guide`."""
    keys = jax.random.split(key, 4)

    def layer(key, inputs, outputs, sd):
        return sd * jax.random.normal(key, (inputs, outputs)), jnp.zeros(outputs)

    return {
        "top": 0.5 * jax.random.normal(keys[3], (UNITS,)),
        "middle": layer(keys[0], UNITS, UNITS, 0.5),
        "bottom": layer(keys[1], UNITS, PIXELS, 0.5),
        "guide": layer(keys[2], PIXELS, 2 * UNITS, 0.1),
    }


def images() -> jax.Array:
    """The first training digits, as zeros and ones."""
    training, _ = digit_vae.data()
    return jnp.asarray(training.images[:BATCH] > digit_vae.DOTS // 2, jnp.int32)


def linear(layer: tuple[jax.Array, jax.Array], x: jax.Array) -> jax.Array:
    """Logits of a layer given the one above it."""
    weight, bias = layer
    return x @ weight + bias


def model(p: Parameters, image: jax.Array) -> None:
    """One image under two layers of units."""
    z2 = sample("z2", dist.Bernoulli(logits=p["top"]))
    z1 = sample("z1", dist.Bernoulli(logits=linear(p["middle"], z2)))
    sample("x", dist.Bernoulli(logits=linear(p["bottom"], z1)), obs=image)


def guide(p: Parameters, image: jax.Array) -> None:
    """All units independent given the image."""
    upper, lower = jnp.split(linear(p["guide"], image), 2)
    sample("z2", dist.Bernoulli(logits=upper))
    sample("z1", dist.Bernoulli(logits=lower))


def objective(p: Parameters, images: jax.Array) -> jax.Array:
    """The ELBO, summed over the images."""
    return jnp.sum(jax.vmap(lambda x: elbo(partial(model, p, x), partial(guide, p, x), {}))(images))


def landing(p: Parameters, images: jax.Array) -> jax.Array:
    """The same, without the derivative of log q at the units drawn, whose mean is zero."""
    bound = lambda x: elbo(
        partial(model, p, x), partial(guide, p, x), {}, gradient="sticking-the-landing"
    )
    return jnp.sum(jax.vmap(bound)(images))


CHOICES = {
    "ScoreFunction()": estimators.ScoreFunction(),
    f"LeaveOneOut({DRAWS})": estimators.LeaveOneOut(DRAWS),
    "DisArm()": estimators.DisArm(),
    "MeasureValued()": estimators.MeasureValued(),
}


def ours() -> dict[str, Callable]:
    """The objective under each estimator, and without the derivative of mean zero."""
    rows = {f"ours, `{name}`": (objective, choice) for name, choice in CHOICES.items()}
    rows |= {
        f"ours, `{name}`, sticking the landing": (landing, CHOICES[name])
        for name in ("DisArm()", "MeasureValued()")
    }
    return {
        name: ppl.expectation(ppl.with_estimators(program, {"z*": choice}))
        for name, (program, choice) in rows.items()
    }


def tuned() -> str:
    """What `tune` chooses, by variance × time."""
    bound = partial(landing, images=images())
    return repr(
        estimators.tune(
            bound,
            parameters(jax.random.key(0)),
            jax.random.key(1),
            {"z*": list(CHOICES.values())},
            measure="time",
        )
    )


def bernoulli(x: jax.Array, logits: jax.Array) -> jax.Array:
    """Log probability of zeros and ones, summed over the last axis."""
    return jnp.sum(x * logits - jax.nn.softplus(logits), axis=-1)


def log_joint(p: Parameters, z: jax.Array, images: jax.Array) -> jax.Array:
    """log p(z, x) of images (..., 64) and their units (..., 32), the upper ones first."""
    z2, z1 = jnp.split(z, 2, axis=-1)
    return (
        bernoulli(z2, p["top"])
        + bernoulli(z1, linear(p["middle"], z2))
        + bernoulli(images, linear(p["bottom"], z1))
    )


def draw(key: jax.Array, logits: jax.Array) -> jax.Array:
    """Zeros and ones, without derivatives."""
    return stop_gradient(jax.random.bernoulli(key, jax.nn.sigmoid(logits)).astype(logits.dtype))


def silent(x: jax.Array) -> jax.Array:
    """Zero in value, `x` in derivative."""
    return x - stop_gradient(x)


def costs(p: Parameters, z: jax.Array, images: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The ELBO of each image (differentiable in the model only), and log q(z)."""
    log_q = bernoulli(z, linear(p["guide"], images))
    return log_joint(p, z, images) - stop_gradient(log_q), log_q


def batch_score(key: jax.Array, p: Parameters, images: jax.Array) -> jax.Array:
    """The cost of the whole batch multiplies the score of the whole batch."""
    cost, log_q = costs(p, draw(key, linear(p["guide"], images)), images)
    return jnp.sum(cost) + stop_gradient(jnp.sum(cost)) * silent(jnp.sum(log_q))


def image_score(key: jax.Array, p: Parameters, images: jax.Array) -> jax.Array:
    """The cost of an image multiplies the score of its units."""
    cost, log_q = costs(p, draw(key, linear(p["guide"], images)), images)
    return jnp.sum(cost + stop_gradient(cost) * silent(log_q))


def leave_one_out(key: jax.Array, p: Parameters, images: jax.Array) -> jax.Array:
    """Several draws an image, each with the mean cost of the others as its baseline."""
    images = jnp.broadcast_to(images, (DRAWS, *images.shape))
    cost, log_q = costs(p, draw(key, linear(p["guide"], images)), images)
    others = (jnp.sum(cost, axis=0) - cost) / (DRAWS - 1)
    return jnp.sum(cost + stop_gradient(cost - others) * silent(log_q)) / DRAWS


def local_expectation(key: jax.Array, p: Parameters, images: jax.Array) -> jax.Array:
    """Each unit of an image both ways, the others as drawn: 33 evaluations an image."""
    logits = linear(p["guide"], images)
    z = draw(key, logits)
    joint = log_joint(p, z, images)
    flips = jnp.abs(z[:, None] - jnp.eye(2 * UNITS))
    flipped = jax.vmap(lambda z: log_joint(p, z, images), 1, 1)(flips)
    rise = (flipped - joint[:, None]) * (1 - 2 * z) - logits  # of the cost, from unit off to on
    steps = jnp.sum(stop_gradient(rise) * jax.nn.sigmoid(logits))
    return jnp.sum(joint - stop_gradient(bernoulli(z, logits))) + silent(steps)


def numpyro_estimate(key: jax.Array, p: Parameters, images: jax.Array) -> jax.Array:
    """NumPyro's TraceGraph_ELBO, images in a plate."""

    def site(name, logits, **data) -> Any:
        return numpyro.sample(name, dist.Bernoulli(logits=logits).to_event(1), **data)

    def numpyro_model():
        with numpyro.plate("images", len(images)):
            z1 = site("z1", linear(p["middle"], site("z2", p["top"])))
            site("x", linear(p["bottom"], z1), obs=images)

    def numpyro_guide():
        upper, lower = jnp.split(linear(p["guide"], images), 2, axis=-1)
        with numpyro.plate("images", len(images)):
            site("z2", upper)
            site("z1", lower)

    return -TraceGraph_ELBO().loss(key, {}, numpyro_model, numpyro_guide)


def noise(estimate: Callable, p: Parameters, images: jax.Array) -> float:
    """The trace of the covariance of the gradient."""
    keys = jax.random.split(jax.random.key(1), RUNS)
    gradient = jax.grad(estimate, argnums=1)
    draws = jax.jit(
        lambda keys: jax.lax.map(lambda k: gradient(k, p, images), keys, batch_size=CHUNK)
    )
    return sum(float(jnp.sum(jnp.var(leaf, axis=0))) for leaf in jax.tree.leaves(draws(keys)))


def main() -> list[str]:
    """The table."""
    p, x = parameters(jax.random.key(0)), images()
    functions = {
        "hand-written score, cost of the batch": batch_score,
        "hand-written score, cost of the image": image_score,
        f"hand-written leave-one-out, {DRAWS} draws": leave_one_out,
        "hand-written local expectation": local_expectation,
        "NumPyro `TraceGraph_ELBO`": numpyro_estimate,
        **ours(),
    }
    rows = compare_gradients(
        functions, (jax.random.key(0), p, x), "hand-written local expectation", 200
    )
    lines = [
        f"### Sigmoid belief network, {BATCH} images: noise (of {RUNS:,} gradients) and time",
        "",
        "| | noise | median ms | noise × ms | trace + compile s | MFLOP |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        variance = noise(functions[row.name], p, x)
        lines.append(
            f"| {row.name} | {variance:.2e} | {row.milliseconds:.3f} "
            f"| {variance * row.milliseconds:.2e} | {row.compile_seconds:.2f} "
            f"| {row.flops / 1e6:.3f} |"
        )
    choice = f"What `tune` chooses, by variance × seconds:\n\n```text\n{tuned()}\n```"
    return ["\n".join(lines), choice]
