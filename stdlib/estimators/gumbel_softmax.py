"""The Gumbel-softmax (concrete) relaxation."""

from typing import Any, ClassVar

import jax

from ppl.extend import Estimator, Particles

from ._relaxation import relaxation, relaxed, why_not_relaxable


class GumbelSoftmax(Estimator):
    """Biased. One relaxed draw σ(z/λ) in place of a discrete one, differentiable, of weight one.

    z is the discrete draw's real variable: logits plus logistic noise and σ the logistic function
    for `FloatBernoulli`, log probabilities plus Gumbel noise and the softmax for
    `OneHotCategorical` (`stdlib.distributions`); they may be batches, or in `to_event`.

    Value and derivative are those of the relaxed objective, not of the discrete one: both biases
    vanish as the temperature λ falls to zero, while the derivative's variance grows (Maddison et
    al. 2017; Jang et al. 2017). One run of what follows, continuous at relaxed values.
    `Rebar` removes the bias. Runs under `ppl.expectation(..., allow_biased=True)` only.

    ```python
    >>> import jax, ppl
    >>> from stdlib.distributions import FloatBernoulli
    >>> from stdlib.estimators import GumbelSoftmax
    >>> def square(temperature):
    ...     return (ppl.sample("x", FloatBernoulli(0.3), GumbelSoftmax(temperature)) - 0.45) ** 2
    >>> estimate = jax.vmap(ppl.expectation(square, allow_biased=True), (0, None))
    >>> keys = jax.random.split(jax.random.key(0), 10_000)
    >>> [round(float(estimate(keys, t).mean()), 1) for t in (0.5, 0.05)]  # 0.2325 is right
    [0.1, 0.2]

    ```
    """

    pathwise: ClassVar[bool] = True

    unbiased: ClassVar[bool] = False

    temperature: Any = 0.5

    def particles(self, key: jax.Array, distribution: Any) -> Particles:
        """One relaxed draw."""
        latent = relaxation(key, distribution).latent
        return Particles(relaxed(latent, self.temperature, distribution)[None], None)

    def unsuitable(self, distribution: Any) -> str | None:
        """Draws must be floats with a relaxation."""
        return why_not_relaxable(distribution)
