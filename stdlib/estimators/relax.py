"""RELAX: a score function with a free function of relaxed draws as its control variate."""

from collections.abc import Callable
from typing import Any, ClassVar

import jax

from ppl.extend import Estimator, Particles, box

from ._relaxation import relaxation, relaxed, why_not_relaxable


class Relax(Estimator):
    """A discrete draw b with its score, and a learned control variate c.

    One particle b = b(z), of weight box(log p(b)); and, as `control`, a cost term of mean zero,

        c(σ(z/λ)) - c(σ(z'/λ))·box(log p(b))

    z' a draw of z given b that equals z in value, σ as for `Rebar`. The derivative of both is

        (f - c(σ(z'/λ))) ∂ log p(b) + ∂c(σ(z/λ)) - ∂c(σ(z'/λ))

    f all of the objective that depends on the site. Unbiased for every function c and every
    objective: it is evaluated at discrete values only (Grathwohl et al. 2018). Low variance where c
    predicts f. One run of what follows. Needs `FloatBernoulli` or `OneHotCategorical`
    (`stdlib.distributions`), which may be batches, or in `to_event`. Second derivatives are
    unbiased too.

    - `network`: c, from the relaxed values of the whole site, `(*batch, *event)`, to a scalar.
    - `temperature`: λ. It and the network's arrays can be parameters: learn them with
      `gradient_variance`.

    ```python
    >>> import jax, ppl
    >>> from stdlib.distributions import FloatBernoulli
    >>> from stdlib.estimators import Relax
    >>> def square(p):
    ...     guess = Relax(lambda x: (x - 0.45) ** 2)
    ...     return (ppl.sample("x", FloatBernoulli(p), guess) - 0.45) ** 2
    >>> grad = jax.grad(ppl.expectation(square), argnums=1)
    >>> keys = jax.random.split(jax.random.key(0), 10_000)
    >>> bool(abs(jax.vmap(grad, (0, None))(keys, 0.3).mean() - 0.1) < 0.05)
    True

    ```
    """

    second_order: ClassVar[bool] = True

    network: Callable[[jax.Array], jax.Array]
    temperature: Any = 0.5

    def particles(self, key: jax.Array, distribution: Any) -> Particles:
        """The draw, its score weight and the control variate."""
        hard, latent, conditional, log_prob = relaxation(key, distribution)
        free, given = (
            self.network(relaxed(z, self.temperature, distribution)) for z in (latent, conditional)
        )
        control = free - given * box(log_prob.sum())
        return Particles(hard[None], box(log_prob)[None], control=control)

    def unsuitable(self, distribution: Any) -> str | None:
        """Draws must be floats with a relaxation."""
        return why_not_relaxable(distribution)
