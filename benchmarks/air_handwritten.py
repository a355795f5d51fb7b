"""Attend, Infer, Repeat by hand: one batch, REINFORCE with the cost of the image, plain JAX."""

import jax
import jax.numpy as jnp
from jax.lax import stop_gradient

from stdlib.models import air

HALF_LOG_TAU = 0.5 * jnp.log(2 * jnp.pi)


def normal(x: jax.Array, mean: jax.Array | float, sd: jax.Array | float) -> jax.Array:
    """Log density, summed over all axes but the first."""
    logs = -0.5 * ((x - mean) / sd) ** 2 - jnp.log(sd) - HALF_LOG_TAU
    return jnp.sum(logs.reshape(len(x), -1), axis=-1)


def perceptron(mlp, x: jax.Array) -> jax.Array:
    """The output of an `equinox.nn.MLP` of one hidden layer, of a batch."""
    first, second = mlp.layers
    return jax.nn.relu(x @ first.weight.T + first.bias) @ second.weight.T + second.bias


def lstm(net, given: jax.Array, latents: jax.Array, output: jax.Array, memory: jax.Array):
    """One step of `air.networks.Recurrent`, of a batch."""
    gates = given + latents @ net.latents.weight.T + output @ net.state.weight.T
    write, keep, new, show = jnp.split(gates, 4, axis=-1)
    memory = jax.nn.sigmoid(keep) * memory + jax.nn.sigmoid(write) * jnp.tanh(new)
    return jax.nn.sigmoid(show) * jnp.tanh(memory), memory


def interpolation(scale: jax.Array, shift: jax.Array, source: int, target: int) -> jax.Array:
    """(batch, target, source) bilinear weights along an axis."""
    centres = (2 * jnp.arange(target) + 1) / target - 1
    position = ((scale[:, None] * centres + shift[:, None] + 1) * source - 1) / 2
    return jnp.maximum(0.0, 1.0 - jnp.abs(position[:, :, None] - jnp.arange(source)))


def reinforce(key: jax.Array, networks, images: jax.Array) -> jax.Array:
    """The mean ELBO of a batch; the scores of an image's choices multiply its whole cost."""
    sizes, prior, batch = networks.sizes, air.Prior(), len(images)
    mean = jnp.array([prior.scale, 0.0, 0.0])
    sd = jnp.array([prior.scale_sd, 1.0, 1.0])
    net = networks.recurrent
    given = images.reshape(batch, -1) @ net.image.weight.T + net.image.bias
    z_where, z_what = jnp.zeros((batch, 3)), jnp.zeros((batch, sizes.what))
    output = memory = jnp.zeros((batch, sizes.recurrent))
    canvas, cost, score = jnp.zeros_like(images), jnp.zeros(batch), jnp.zeros(batch)
    present = jnp.ones(batch)
    keys = jax.random.split(key, (sizes.objects, 3))
    for t, prior_logit in enumerate(air.programs.logits(prior.odds, sizes.objects)):
        output, memory = lstm(net, given, jnp.concatenate([z_where, z_what], 1), output, memory)
        out = output @ networks.predict.weight.T + networks.predict.bias
        logit, shift = air.programs.CAUTION * out[:, 0], out[:, 1:4]
        spread = jax.nn.softplus(out[:, 4:]) * sd
        draw = jax.random.bernoulli(keys[t, 0], jax.nn.sigmoid(logit)).astype(float) * present
        log_q = present * (draw * logit - jax.nn.softplus(logit))
        cost += present * (draw * prior_logit - jax.nn.softplus(prior_logit)) - log_q
        score += log_q
        present = draw
        z_where = mean + shift + spread * jax.random.normal(keys[t, 1], (batch, 3))
        cost += present * (normal(z_where, mean, sd) - normal(z_where, mean + shift, spread))
        scale, x, y = z_where.T
        rows = interpolation(1 / scale, -y / scale, sizes.image, sizes.window)
        columns = interpolation(1 / scale, -x / scale, sizes.image, sizes.window)
        window = rows @ images @ columns.mT
        code = perceptron(networks.encoder, window.reshape(batch, -1))
        centre, width = code[:, : sizes.what], jax.nn.softplus(code[:, sizes.what :])
        z_what = centre + width * jax.random.normal(keys[t, 2], centre.shape)
        cost += present * (normal(z_what, 0.0, 1.0) - normal(z_what, centre, width))
        glyph = jax.nn.sigmoid(perceptron(networks.decoder, z_what) + air.programs.DIM)
        rows = interpolation(scale, y, sizes.window, sizes.image)
        columns = interpolation(scale, x, sizes.window, sizes.image)
        glyph = glyph.reshape(batch, sizes.window, sizes.window)
        canvas += present[:, None, None] * (rows @ glyph @ columns.mT)
    cost += normal(images, canvas, prior.noise)
    return jnp.mean(cost + stop_gradient(cost) * (score - stop_gradient(score)))
