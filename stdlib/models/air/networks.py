"""The networks of Attend, Infer, Repeat, and their sizes."""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

WHERE = 3
"""Numbers that say where an object is: scale, x, y."""


class Sizes(NamedTuple):
    """Objects at most, sides of image and window in pixels, and widths of the networks.

    The defaults are those of Pyro's example, with windows of 20×20 pixels: 3.07 million parameters.
    """

    objects: int = 3
    image: int = 50
    window: int = 20
    what: int = 50
    hidden: int = 200
    recurrent: int = 256


SIZES = Sizes()


class Recurrent(eqx.Module):
    """An LSTM cell, one of whose inputs, the image, is the same at all steps.

    What it adds to the gates, a linear map, is computed once, by `given`.
    """

    image: eqx.nn.Linear
    latents: eqx.nn.Linear
    state: eqx.nn.Linear

    def __init__(self, image: int, latents: int, state: int, *, key: PRNGKeyArray):
        keys = jax.random.split(key, 3)
        self.image = _uniform(eqx.nn.Linear(image, 4 * state, key=keys[0]), state, keys[0])
        bare = [eqx.nn.Linear(n, 4 * state, use_bias=False, key=keys[1]) for n in (latents, state)]
        self.latents = _uniform(bare[0], state, keys[1])
        self.state = _uniform(bare[1], state, keys[2])

    def given(self, image: Float[Array, "n n"]) -> Float[Array, "gates"]:
        """The image's part of the gates."""
        return self.image(image.reshape(-1))

    def __call__(
        self,
        given: Float[Array, "gates"],
        latents: Float[Array, "latents"],
        state: tuple[Float[Array, "state"], Float[Array, "state"]],
    ) -> tuple[Float[Array, "state"], Float[Array, "state"]]:
        """The next output and memory."""
        output, memory = state
        gates = given + self.latents(latents) + self.state(output)
        write, keep, new, show = jnp.split(gates, 4)
        kept = jax.nn.sigmoid(keep) * memory
        memory = kept + jax.nn.sigmoid(write) * jnp.tanh(new)
        return jax.nn.sigmoid(show) * jnp.tanh(memory), memory


def _uniform(linear: eqx.nn.Linear, state: int, key: PRNGKeyArray) -> eqx.nn.Linear:
    """Weights as an LSTM's are initialised: uniform within ± 1/√state."""
    leaves, tree = jax.tree.flatten(linear)
    keys = jax.random.split(key, len(leaves))
    bound = state**-0.5
    fresh = [
        jax.random.uniform(k, x.shape, x.dtype, -bound, bound)
        for k, x in zip(keys, leaves, strict=True)
    ]
    return jax.tree.unflatten(tree, fresh)


class Networks(eqx.Module):
    """All parameters: `decoder` belongs to the model, the rest to the guide."""

    sizes: Sizes = eqx.field(static=True)
    decoder: eqx.nn.MLP
    encoder: eqx.nn.MLP
    recurrent: Recurrent
    predict: eqx.nn.Linear

    def __init__(self, key: PRNGKeyArray, sizes: Sizes = SIZES):
        keys = jax.random.split(key, 4)
        pixels, what, hidden = sizes.window**2, sizes.what, sizes.hidden
        self.sizes = sizes
        self.decoder = eqx.nn.MLP(what, pixels, hidden, 1, key=keys[0])
        self.encoder = eqx.nn.MLP(pixels, 2 * what, hidden, 1, key=keys[1])
        self.recurrent = Recurrent(sizes.image**2, WHERE + what, sizes.recurrent, key=keys[2])
        self.predict = eqx.nn.Linear(sizes.recurrent, 1 + 2 * WHERE, key=keys[3])


__all__ = ["WHERE", "Networks", "Recurrent", "Sizes"]
