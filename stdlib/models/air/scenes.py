"""Scenes of up to three handwritten digits."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int


class Scenes(NamedTuple):
    """Images (n, size, size) in [0, 1], and how many digits (n,) each shows."""

    images: Float[np.ndarray, "n size size"]
    counts: Int[np.ndarray, "n"]


def scenes(
    number: int,
    *,
    seed: int,
    size: int = 50,
    glyph: int = 16,
    most: int = 3,
    digits: Int[np.ndarray, "d 64"] | None = None,
) -> Scenes:
    """Digits of scikit-learn in random places, which do not overlap; 0 to `most`, equally often.

    `glyph` is a digit's side in pixels; `digits` are the 8×8 digits to choose from (by default all
    1,797), magnified by cubic splines. They are scenes as in multi-MNIST (Eslami et al. 2016,
    'Attend, infer, repeat'), which has 28×28 digits with a margin of 4 pixels. Deterministic, given
    the seed.

    ```python
    >>> from stdlib.models import air
    >>> images, counts = air.scenes(8, seed=0)
    >>> images.shape, counts.tolist()
    ((8, 50, 50), [3, 2, 2, 1, 1, 0, 0, 0])

    ```
    """
    if digits is None:
        from sklearn.datasets import load_digits

        digits = np.asarray(load_digits(return_X_y=True)[0])
    rng = np.random.default_rng(seed)
    images = np.zeros((number, size, size), np.float32)
    counts = rng.integers(most + 1, size=number)
    glyphs = _magnified(digits, glyph)
    for image, count in zip(images, counts, strict=True):
        for row, column in _places(rng, int(count), size - glyph, glyph):
            chosen = glyphs[rng.integers(len(glyphs))]
            image[row : row + glyph, column : column + glyph] = chosen
    return Scenes(images, counts)


def _magnified(digits: np.ndarray, side: int) -> np.ndarray:
    from scipy.ndimage import zoom

    squares = np.asarray(digits, np.float32).reshape(-1, 8, 8) / 16
    large = zoom(squares, (1, side / 8, side / 8), order=3, mode="grid-constant", grid_mode=True)
    return np.clip(np.asarray(large), 0.0, 1.0)


def _places(rng: np.random.Generator, count: int, last: int, side: int) -> np.ndarray:
    """Corners of squares that do not overlap: drawn all anew until they do not."""
    while True:
        corners = rng.integers(last + 1, size=(count, 2))
        apart = np.abs(corners[:, None] - corners[None]).max(-1) >= side
        if np.all(apart | np.eye(count, dtype=bool)):
            return corners


__all__ = ["Scenes", "scenes"]
