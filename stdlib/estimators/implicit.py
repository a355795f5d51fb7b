"""Implicit reparameterisation: the derivative of a draw, from that of its CDF."""

from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.lax import stop_gradient
from jax.scipy.special import i0e
from numpyro.distributions import VonMises

from ppl.extend import Estimator, Particles

from ._elements import elements


class ImplicitReparameterized(Estimator):
    """One draw v, whose derivative keeps the CDF at its level: ∂v = -∂F(v)/p(v), of weight one.

    For a univariate continuous distribution with a differentiable `cdf`, whatever its sampler does:
    mixtures of such components above all, whose discrete choice of a component has no derivative;
    and for the von Mises distribution, whose CDF is summed by quadrature. Each element of a batch
    or of `to_event` is univariate. NumPyro's samplers of Gamma, Beta, Dirichlet and Student's t
    already have implicit derivatives: those need `Reparameterized` only.

    Unbiased where the objective is continuous in the value (Figurnov et al. 2018); angles are
    numbers of [-π, π], so it need not be periodic in them. Low variance, except where two modes of
    a mixture are far apart: between them 1/p(v) is large. One run of what follows. The second
    derivatives are biased, as 1/p(v) is a constant to them.

    ```python
    >>> import jax, jax.numpy as jnp, ppl, numpyro.distributions as dist
    >>> from stdlib.estimators import ImplicitReparameterized
    >>> def square(logits):
    ...     parts = dist.Normal(jnp.array([-1.0, 2.0]), 1.0)
    ...     mixture = dist.MixtureSameFamily(dist.Categorical(logits=logits), parts)
    ...     return ppl.sample("x", mixture, ImplicitReparameterized()) ** 2
    >>> grad = jax.grad(ppl.expectation(square), argnums=1)
    >>> keys = jax.random.split(jax.random.key(0), 10_000)
    >>> bool(abs(jax.vmap(grad, (0, None))(keys, jnp.zeros(2)).mean(0)[1] - 0.75) < 0.1)
    True

    ```
    """

    pathwise: ClassVar[bool] = True

    def particles(self, key: jax.Array, distribution: Any) -> Particles:
        """One draw, with its implicit derivative."""
        base, fixed = elements(distribution).base, stop_gradient(distribution)
        draw = stop_gradient(fixed.sample(key))
        level = _cdf(base, draw)
        density = stop_gradient(jnp.exp(elements(fixed).base.log_prob(draw)))
        return Particles((draw - (level - stop_gradient(level)) / density)[None], None)

    def unsuitable(self, distribution: Any) -> str | None:
        """It must be univariate and continuous, with a CDF that JAX differentiates."""
        base = elements(distribution).base
        if getattr(base, "event_shape", ()):
            return "it is not univariate: its elements depend on each other"
        if getattr(getattr(base, "support", None), "is_discrete", False):
            return "its draws are discrete: they cannot move with the parameters"
        return _why_no_derivative(base)


def _why_no_derivative(base: Any) -> str | None:
    """Why the CDF has no derivative in the parameters, found by asking for its shape."""
    if not isinstance(base, VonMises) and not hasattr(base, "cdf"):
        return "it has no `cdf`"
    params, rest = eqx.partition(base, _is_parameter)
    params = jax.tree.map(lambda x: jnp.asarray(x, jnp.result_type(float, x)), params)

    def slope(params):
        def level(params):
            return _cdf(eqx.combine(params, rest), jnp.zeros(base.batch_shape))

        return jax.jvp(level, (params,), (params,))[1]

    try:
        jax.eval_shape(slope, params)
    except NotImplementedError:
        return "it has no `cdf`"
    except ValueError as error:  # https://github.com/jax-ml/jax/issues/2399
        return f"its `cdf` has no derivative ({error}); its sampler may have: Reparameterized()"
    return None


def _is_parameter(leaf: Any) -> bool:
    array = isinstance(leaf, float | np.ndarray | jax.Array)
    return array and jnp.issubdtype(jnp.result_type(leaf), jnp.inexact)


def _cdf(base: Any, value: jax.Array) -> jax.Array:
    if isinstance(base, VonMises):
        loc, concentration = jnp.asarray(base.loc), jnp.asarray(base.concentration)
        low = _circular_mass(-jnp.pi - loc, concentration)
        return _circular_mass(value - loc, concentration) - low
    return base.cdf(value)


_NODES, _WEIGHTS = (x.astype(np.float32) for x in np.polynomial.legendre.leggauss(40))
_WIDTH = 9.0
"""Standard deviations beyond which a von Mises distribution has no mass in single precision."""


def _circular_mass(angle: jax.Array, concentration: jax.Array) -> jax.Array:
    """The mass of a centred von Mises distribution from 0 to an angle, any number of turns away.

    It is differentiable. By Gauss-Legendre quadrature, over the part of a half turn that has mass.
    """
    turns = jnp.round(stop_gradient(angle) / (2 * jnp.pi))
    angle = angle - 2 * jnp.pi * turns
    reach = _WIDTH / jnp.sqrt(stop_gradient(concentration))
    end = jnp.clip(angle, -reach, reach)[..., None]
    concentration = concentration[..., None]
    heights = jnp.exp(concentration * (jnp.cos(end * (_NODES + 1) / 2) - 1))
    integral = jnp.sum(heights * _WEIGHTS, -1) * end[..., 0] / 2
    return turns + integral / (2 * jnp.pi * i0e(concentration[..., 0]))
