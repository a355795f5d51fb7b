"""The straight-through estimator."""

from typing import Any, ClassVar

import jax
from jax.lax import stop_gradient

from ppl.extend import Estimator, Particles

from ._elements import elements
from ._relaxation import why_not_relaxable


class StraightThrough(Estimator):
    """Biased. One discrete draw in value, with the derivative of its mean, of weight one.

    For `FloatBernoulli` and `OneHotCategorical` (`stdlib.distributions`), which may be batches, or
    in `to_event`. The value is unbiased; the derivative, E[f'(b)] ∂p, is right for objectives that
    are linear in each of the site's values, and otherwise has a bias that nothing reduces (Bengio
    et al. 2013). One run of what follows, with no variance of a score. Runs under
    `ppl.expectation(..., allow_biased=True)` only.

    ```python
    >>> import jax, ppl
    >>> from stdlib.distributions import FloatBernoulli
    >>> from stdlib.estimators import StraightThrough
    >>> def line(p):
    ...     return 3.0 * ppl.sample("x", FloatBernoulli(p), StraightThrough())
    >>> grad = jax.grad(ppl.expectation(line, allow_biased=True), argnums=1)
    >>> round(float(grad(jax.random.key(0), 0.3)), 4)
    3.0

    ```
    """

    unbiased: ClassVar[bool] = False

    def particles(self, key: jax.Array, distribution: Any) -> Particles:
        """One draw, moved by its mean."""
        draw = stop_gradient(distribution.sample(key))
        mean = elements(distribution).base.mean
        return Particles((draw + (mean - stop_gradient(mean)))[None], None)

    def unsuitable(self, distribution: Any) -> str | None:
        """Draws must be floats, to be moved."""
        return why_not_relaxable(distribution)
