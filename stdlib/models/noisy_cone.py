"""The noisy cone: a two-dimensional posterior on a ring, which a mean-field guide cannot cover."""

import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jaxtyping import Array, Float

from ppl import log_density, sample

from ..estimators import ImplicitReparameterized

OBSERVED = {"z": 5.0}
"""The data: one measurement of the squared distance from the origin."""

PUBLISHED = {
    "ELBO": -8.08,
    "IWELBO(5)": -7.79,
    "HVI": -9.75,
    "IWHVI(5)": -8.18,
    "DIWHVI(5, 5)": -7.33,
}
"""What training reached in the source (Becker et al. 2024, table 4)."""

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


def ring_guide(phi: Parameters) -> None:
    """A guide that goes round the ring: a hidden angle, and a point near the circle of radius √5.

    `phi` has the log sds sx, sy of the point. The angle is not a choice of the model: it is to be
    integrated out, with `ppl.marginal`. Source: Becker et al. 2024, the 'expressive' guide.

    ```python
    >>> import ppl
    >>> from functools import partial
    >>> from stdlib.inference import Importance
    >>> from stdlib.models.noisy_cone import OBSERVED, model, ring_guide, ring_initial
    >>> from stdlib.objectives import elbo
    >>> def objective(phi):
    ...     guide = ppl.marginal(partial(ring_guide, phi), ["x", "y"], Importance(5))
    ...     return elbo(model, guide, OBSERVED)
    >>> import jax
    >>> value = ppl.expectation(objective)(jax.random.key(0), ring_initial())

    ```
    """
    angle = sample("angle", dist.Uniform(-jnp.pi, jnp.pi))
    radius = OBSERVED["z"] ** 0.5
    sample("x", dist.Normal(radius * jnp.cos(angle), jnp.exp(phi["sx"])))
    sample("y", dist.Normal(radius * jnp.sin(angle), jnp.exp(phi["sy"])))


def angle_proposal(phi: Parameters, kept: dict[str, Float[Array, ""]]) -> None:
    """Where the hidden angle of the ring guide was, seen from the point: a von Mises distribution.

    `phi["concentration"]` is the log of its concentration. As the proposal of
    `stdlib.inference.Importance` it makes one particle enough.

    ```python
    >>> import jax, jax.numpy as jnp, ppl
    >>> from stdlib.models.noisy_cone import angle_proposal
    >>> phi = {"concentration": jnp.asarray(9.0)}
    >>> point = {"x": jnp.asarray(-1.0), "y": jnp.asarray(0.0)}
    >>> draw = ppl.seed(lambda: ppl.simulate(angle_proposal, phi, point))
    >>> bool(abs(abs(draw(jax.random.key(0)).choices["angle"]) - jnp.pi) < 0.1)
    True

    ```
    """
    towards = jnp.arctan2(kept["y"], kept["x"])
    concentration = jnp.exp(phi["concentration"])
    sample("angle", dist.VonMises(towards, concentration), ImplicitReparameterized())


def ring_initial() -> Parameters:
    """A start for the ring guide and the angle's proposal.

    ```python
    >>> from stdlib.models import noisy_cone
    >>> sorted(noisy_cone.ring_initial())
    ['concentration', 'sx', 'sy']

    ```
    """
    return {"sx": jnp.asarray(0.0), "sy": jnp.asarray(0.0), "concentration": jnp.asarray(1.0)}


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
    "angle_proposal",
    "guide",
    "initial",
    "log_evidence",
    "log_joint",
    "model",
    "ring_guide",
    "ring_initial",
]
