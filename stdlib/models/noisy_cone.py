"""The noisy cone: a two-dimensional posterior on a ring, which a mean-field guide cannot cover."""

import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jaxtyping import Array, Float

from ppl import log_density, sample

OBSERVED = {"z": 5.0}
"""The data: one measurement of the squared distance from the origin."""

PUBLISHED = {"ELBO": -8.08, "IWELBO(5)": -7.79}
"""What training reached in the source (Becker et al. 2024)."""

OPTIMA = {"ELBO": -8.0745, "IWELBO(5)": -7.534}
"""The objectives' greatest values over the mean-field guides: by quadrature, and by 10⁷ draws."""

Parameters = dict[str, Float[Array, "..."]]


def model() -> None:
    """A point (x, y), and a noisy measurement z of x² + y² that is less exact the larger it is.

    Given z = 5 the posterior is a ring of radius about √5. Source: Becker et al. 2024,
    'Probabilistic programming with programmable variational inference', PLDI.

    ```python
    >>> import ppl
    >>> from stdlib.models import noisy_cone
    >>> choices = {"x": 1.0, "y": 2.0, **noisy_cone.OBSERVED}
    >>> round(float(ppl.log_density(noisy_cone.model, choices)), 4)
    -5.4899

    ```
    """
    x = sample("x", dist.Normal(0.0, 10.0))
    y = sample("y", dist.Normal(0.0, 10.0))
    r = x**2 + y**2
    sample("z", dist.Normal(r, 0.1 + r / 100))


def guide(phi: Parameters) -> None:
    """The mean-field guide: independent normals, `phi` having means mx, my and log sds sx, sy.

    ```python
    >>> import jax, ppl
    >>> from functools import partial
    >>> from stdlib.models.noisy_cone import OBSERVED, guide, initial, model
    >>> from stdlib.objectives import elbo
    >>> objective = lambda phi: elbo(model, partial(guide, phi), OBSERVED)
    >>> value = ppl.expectation(objective)(jax.random.key(0), initial())

    ```
    """
    sample("x", dist.Normal(phi["mx"], jnp.exp(phi["sx"])))
    sample("y", dist.Normal(phi["my"], jnp.exp(phi["sy"])))


def initial() -> Parameters:
    """A good start for the guide: a small blob on the ring, from where both optima are reached.

    From the origin, or far outside the ring, training can end beside the optimum.

    ```python
    >>> from stdlib.models import noisy_cone
    >>> sorted(noisy_cone.initial())
    ['mx', 'my', 'sx', 'sy']

    ```
    """
    return {name: jnp.asarray(x) for name, x in dict(mx=2.2, my=0.1, sx=-2.0, sy=-1.0).items()}


def log_evidence(z: float = OBSERVED["z"]) -> float:
    """log p(z), exactly: in polar coordinates the integral is one-dimensional in s = x² + y².

    p(z) = ∫₀^∞ Exponential(s; 1/200) Normal(z; s, 0.1 + s/100) ds, by the trapezoidal rule on a
    grid fine enough for float64's last few digits.

    ```python
    >>> from stdlib.models import noisy_cone
    >>> round(noisy_cone.log_evidence(), 4)
    -5.3232

    ```
    """
    s = np.linspace(0.0, 4.0 * z + 4.0, 400_001)
    noise = 0.1 + s / 100
    log_likelihood = -0.5 * ((z - s) / noise) ** 2 - np.log(noise * np.sqrt(2 * np.pi))
    return float(np.log(np.trapezoid(np.exp(log_likelihood - s / 200) / 200, s)))


def log_joint(x: Float[Array, "*n"], y: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """log p(x, y, z = 5) at many points, for pictures of the ring.

    ```python
    >>> import jax.numpy as jnp
    >>> from stdlib.models import noisy_cone
    >>> noisy_cone.log_joint(jnp.zeros((3, 4)), jnp.ones((3, 4))).shape
    (3, 4)

    ```
    """
    at = jnp.vectorize(lambda x, y: log_density(model, {"x": x, "y": y, **OBSERVED}))
    return at(x, y)


__all__ = [
    "OBSERVED",
    "OPTIMA",
    "PUBLISHED",
    "guide",
    "initial",
    "log_evidence",
    "log_joint",
    "model",
]
