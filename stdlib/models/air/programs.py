"""The model and the guide of Attend, Infer, Repeat, for one image."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jaxtyping import Array, Float, Int, PRNGKeyArray

import ppl
from ppl import sample

from ...objectives import elbo
from .networks import Networks
from .transformer import Where, read, write

DIM = -2.0
"""Added to the logits of decoded pixels, so that glyphs are dark at the start."""

CAUTION = 0.1
"""What a network says of an object's presence, times this, is the logit.

So it takes many steps of training to be certain. Scores learn nothing of what is never drawn.
"""

NEVER = -50.0
"""The logit of an object after an absent one; finite, as are its log probabilities."""


class Prior(NamedTuple):
    """What the model knows of objects beforehand.

    `odds`: of one object more against one fewer, so that a small number asks for few objects.
    `scale`, `scale_sd`: of the image's side in sides of a window. `noise`: of a pixel.
    """

    odds: Float[Array, ""] | float = 0.01
    scale: Float[Array, ""] | float = 3.0
    scale_sd: Float[Array, ""] | float = 0.2
    noise: Float[Array, ""] | float = 0.3


PRIOR = Prior()
"""That of Pyro's example, as it is tuned there."""


def model(networks: Networks, prior: Prior = PRIOR) -> None:
    """Objects one after another until one is absent, and an image of those that are present.

    Sites, for step t: `z_pres_t`, whether the object is there; `z_where_t` (3,), scale and place of
    its window; `z_what_t`, the code of what the window shows. The latter two count where the object
    is present. Then `image`. Without occlusion: glyphs are added.

    Source: Eslami et al. 2016, 'Attend, infer, repeat: fast scene understanding with generative
    models', with the choices of Pyro's example.

    ```python
    >>> import jax, ppl
    >>> from stdlib.models import air
    >>> networks = air.Networks(jax.random.key(0))
    >>> choices = ppl.seed(lambda: ppl.simulate(air.model, networks).choices)(jax.random.key(1))
    >>> choices["image"].shape
    (50, 50)

    ```
    """
    sizes = networks.sizes
    where = _where(prior)
    code = dist.Normal(jnp.zeros(sizes.what), 1.0)
    canvas, present = jnp.zeros((sizes.image, sizes.image)), 1
    for t, logit in enumerate(logits(prior.odds, sizes.objects)):
        present = sample(f"z_pres_{t}", _presence(logit, present))
        z_where, z_what = ppl.mask(partial(_latents, t, where, lambda _: code), present == 1)()
        glyph = jax.nn.sigmoid(networks.decoder(z_what) + DIM)
        window = glyph.reshape(sizes.window, sizes.window)
        canvas = canvas + present * write(window, Where(*z_where), sizes.image)
    sample("image", dist.Normal(canvas, prior.noise))


def guide(networks: Networks, image: Float[Array, "n n"], prior: Prior = PRIOR) -> Int[Array, ""]:
    """Looks at the image for one object after another. Returns how many it found.

    The recurrent network does not read whether the last object is present, unlike Pyro's: where
    that matters, it is. `z_where` is relative to the prior.
    """
    sizes = networks.sizes
    given = networks.recurrent.given(image)
    about = _where(prior)
    z_where, z_what = jnp.zeros(3), jnp.zeros(sizes.what)
    state = (jnp.zeros(sizes.recurrent), jnp.zeros(sizes.recurrent))
    count, present = jnp.zeros((), int), 1
    for t in range(sizes.objects):
        state = networks.recurrent(given, jnp.concatenate([z_where, z_what]), state)
        logit, shift, spread = jnp.split(networks.predict(state[0]), [1, 4])
        present = sample(f"z_pres_{t}", _presence(CAUTION * logit[0], present))
        where = dist.Normal(about.loc + shift, jax.nn.softplus(spread) * about.scale)
        what = partial(_encoded, networks, image)
        z_where, z_what = ppl.mask(partial(_latents, t, where, what), present == 1)()
        count = count + present
    return count


def objective(
    networks: Networks,
    images: Float[Array, "batch n n"],
    bound: Callable = elbo,
    prior: Prior = PRIOR,
) -> Float[Array, ""]:
    """The mean over images of a bound of log p(image): `elbo`, or another of its arguments.

    ```python
    >>> import equinox as eqx, jax, jax.numpy as jnp, ppl
    >>> from stdlib.estimators import Enumerate
    >>> from stdlib.models import air
    >>> networks = air.Networks(jax.random.key(0), air.Sizes(objects=2, image=10, window=5))
    >>> bound = ppl.with_estimators(air.objective, {"z_pres_*": Enumerate()})
    >>> estimate = eqx.filter_jit(ppl.expectation(bound))
    >>> estimate(jax.random.key(1), networks, jnp.zeros((4, 10, 10))).shape
    ()

    ```
    """

    def one(image):
        q = partial(guide, networks, image, prior)
        return bound(partial(model, networks, prior), q, {"image": image})

    return jnp.mean(jax.vmap(one)(images))


def found(
    key: PRNGKeyArray,
    networks: Networks,
    images: Float[Array, "batch n n"],
    prior: Prior = PRIOR,
) -> Int[Array, "batch"]:
    """How many objects the guide finds in each image: one draw for each.

    ```python
    >>> import jax, jax.numpy as jnp
    >>> from stdlib.models import air
    >>> networks = air.Networks(jax.random.key(0), air.Sizes(objects=2, image=10, window=5))
    >>> air.found(jax.random.key(1), networks, jnp.zeros((4, 10, 10))).shape
    (4,)

    ```
    """
    keys = jax.random.split(key, len(images))
    return jax.vmap(lambda k, x: ppl.seed(guide)(k, networks, x, prior))(keys, images)


def logits(odds: Float[Array, ""] | float, objects: int) -> list[Float[Array, ""]]:
    """Of each object, given the one before, if n objects have probability ∝ odds^n.

    ```python
    >>> from stdlib.models.air.programs import logits
    >>> [round(float(x), 2) for x in logits(1.0, 3)]
    [1.1, 0.69, 0.0]

    ```
    """
    chances = jnp.log(jnp.asarray(odds, float)) * jnp.arange(objects + 1)
    more = jax.lax.cumlogsumexp(chances, reverse=True)
    return list(more[1:] - chances[:-1])


def _presence(logit: Float[Array, ""], previous: Int[Array, ""] | int) -> dist.Distribution:
    """Of an object: there is none after one that is absent."""
    return dist.Bernoulli(logits=jnp.where(previous == 1, logit, NEVER))


def _where(prior: Prior) -> Any:
    mean = jnp.stack([jnp.asarray(prior.scale, float), jnp.zeros(()), jnp.zeros(())])
    spread = jnp.stack([jnp.asarray(prior.scale_sd, float), jnp.ones(()), jnp.ones(())])
    return dist.Normal(mean, spread)


def _latents(step: int, where: dist.Normal, what: Callable) -> tuple[Array, Array]:
    z_where = sample(f"z_where_{step}", where)
    return z_where, sample(f"z_what_{step}", what(z_where))


def _encoded(
    networks: Networks, image: Float[Array, "n n"], z_where: Float[Array, "3"]
) -> dist.Normal:
    """The code of what the guide sees in a window."""
    window = read(image, Where(*z_where), networks.sizes.window)
    mean, spread = jnp.split(networks.encoder(window.reshape(-1)), 2)
    return dist.Normal(mean, jax.nn.softplus(spread))


__all__ = ["Prior", "found", "guide", "logits", "model", "objective"]
