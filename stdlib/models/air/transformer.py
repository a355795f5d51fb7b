"""A spatial transformer without rotation: separable, so two small matrix products move an image."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float


class Where(NamedTuple):
    """A square window in an image: window = scale * image + shift, both in [-1, 1].

    So `scale` is the side of the image in sides of the window.
    """

    scale: Float[Array, ""]
    x: Float[Array, ""]
    y: Float[Array, ""]


def write(window: Float[Array, "w w"], where: Where, size: int) -> Float[Array, "{size} {size}"]:
    """An image of side `size`, black but for the window.

    Bilinear interpolation, with zeros outside of the window, is a product of hat functions of
    either coordinate: rows @ window @ columns.T. Continuous in `where`.

    Source: Jaderberg et al. 2015, 'Spatial transformer networks'.

    ```python
    >>> import jax.numpy as jnp
    >>> from stdlib.models.air import Where, write
    >>> write(jnp.ones((1, 1)), Where(jnp.array(3.0), jnp.array(0.0), jnp.array(0.0)), 3)
    Array([[0., 0., 0.],
           [0., 1., 0.],
           [0., 0., 0.]], dtype=float32)

    ```
    """
    source = window.shape[0]
    rows = interpolation(where.scale, where.y, source, size)
    columns = interpolation(where.scale, where.x, source, size)
    return rows @ window @ columns.T


def read(image: Float[Array, "n n"], where: Where, size: int) -> Float[Array, "{size} {size}"]:
    """The window, as `size` by `size` pixels, with zeros outside of the image.

    ```python
    >>> import jax.numpy as jnp
    >>> from stdlib.models.air import Where, read
    >>> read(jnp.eye(4), Where(jnp.array(2.0), jnp.array(1.0), jnp.array(1.0)), 2)
    Array([[1., 0.],
           [0., 1.]], dtype=float32)

    ```
    """
    source = image.shape[0]
    rows = interpolation(1 / where.scale, -where.y / where.scale, source, size)
    columns = interpolation(1 / where.scale, -where.x / where.scale, source, size)
    return rows @ image @ columns.T


def interpolation(
    scale: Float[Array, ""], shift: Float[Array, ""], source: int, target: int
) -> Float[Array, "{target} {source}"]:
    """Weights of source pixels in target pixels along an axis: source = scale * target + shift.

    Pixel i of n has its centre at (2 i + 1) / n - 1.
    """
    centres = (2 * jnp.arange(target) + 1) / target - 1
    position = ((scale * centres + shift + 1) * source - 1) / 2
    return jnp.maximum(0.0, 1.0 - jnp.abs(position[:, None] - jnp.arange(source)))


__all__ = ["Where", "interpolation", "read", "write"]
