"""REBAR: a score function with a relaxed objective as its control variate."""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from ppl.extend import Estimator, Particles, box

from ._relaxation import relaxation, relaxed, why_not_relaxable


class Rebar(Estimator):
    """A discrete draw b with its score, less what the relaxed objective predicts of it.

    Three particles: b = b(z), of weight box(log p(b)); σ(z/λ), of weight η; and σ(z'/λ) for a draw
    z' of z given b, of weight -η·box(log p(b)). σ is the logistic function for `FloatBernoulli` and
    the softmax for `OneHotCategorical` (`stdlib.distributions`), which may be batches, or in
    `to_event`.
    z' is drawn so that it equals z: the estimate's value is f(b) exactly, its derivative

        (f(b) - η f(σ(z'/λ))) ∂ log p(b) + η ∂f(σ(z/λ)) - η ∂f(σ(z'/λ))

    Unbiased for every η and λ, where the objective is defined and continuous at relaxed values too
    (Tucker et al. 2017); low variance where it changes little between relaxed and discrete ones.
    Three runs of what follows, however many elements there are: all are relaxed at once, and sites
    of the same η together (by its number, or as one traced array); those of another multiply.

    `temperature` λ and `eta` η, a scalar, are array leaves, so they can be parameters: learn them
    with `gradient_variance`. Second derivatives are unbiased too.

    ```python
    >>> import jax, ppl
    >>> from stdlib.distributions import FloatBernoulli
    >>> from stdlib.estimators import Rebar
    >>> def square(p):
    ...     return (ppl.sample("x", FloatBernoulli(p), Rebar(0.5)) - 0.45) ** 2
    >>> grad = jax.grad(ppl.expectation(square), argnums=1)
    >>> keys = jax.random.split(jax.random.key(0), 10_000)
    >>> bool(abs(jax.vmap(grad, (0, None))(keys, 0.3).mean() - 0.1) < 0.01)
    True

    ```
    """

    pathwise: ClassVar[bool] = True
    second_order: ClassVar[bool] = True

    temperature: Any = 0.5
    eta: Any = 1.0

    def particles(self, key: jax.Array, distribution: Any) -> Particles:
        """The draw, its relaxation, and its relaxation given the draw."""
        hard, latent, conditional, log_prob = relaxation(key, distribution)
        soft = (relaxed(z, self.temperature, distribution) for z in (latent, conditional))
        weight = box(log_prob)
        weights = jnp.stack([weight, self.eta * jnp.ones_like(weight), -self.eta * weight])
        eta = _number(self.eta)
        of = jnp if eta is None else np
        shared_weights = of.stack([of.ones_like(self.eta), self.eta, of.negative(self.eta)])
        return Particles(
            jnp.stack([hard, *soft]),
            weights,
            shared_weights=shared_weights,
            shared=("Rebar", eta),
        )

    def unsuitable(self, distribution: Any) -> str | None:
        """Draws must be floats with a relaxation."""
        return why_not_relaxable(distribution)


def _number(eta: Any) -> float | None:
    """The number, where it is known while tracing."""
    return float(eta) if jnp.ndim(eta) == 0 and not isinstance(eta, Tracer) else None
