"""`control_variate`: a baseline for a site's score, given where it can be computed."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp

from .._jax import primitives
from .address import parse
from .site import user_location


def control_variate(address: str | Sequence[str], value: Any) -> None:
    """Subtracts a baseline from what multiplies the score of the site at `address`.

    To be called inside an objective, anywhere. The estimate gets one more cost, -value·(w - 1),
    with w the site's weight. Its mean is zero, so neither the value nor the gradient's mean
    changes; the variance is least where `value` is close to the cost that multiplies the score,
    which is one of the whole objective: in a mean over B lanes, each lane's is divided by B. No
    derivative passes `value`.

    **Arguments**

    - `address`: of a site with one particle and a score (`ppl.ScoreFunction()`), as the objective
      sees it. Of several addresses, those that have a score get the baseline, and the others stay
      as they are: for code that does not know which estimators its sites will be given.
    - `value`: a scalar, or an array with the site's first lane dimensions (its vmaps, outermost
      first, then its batch shape). It must not depend on the site's own choice: lane by lane, for a
      site in `vmap` (values computed from the other lanes are what VIMCO subtracts).

    **Raises** `InvalidControlVariate` where there is no such site, the site (or each of several)
    has no score, shapes do not fit, or `value` depends on the choice itself, or cannot be seen not
    to. It is followed through leave-one-out sums (`jnp.sum(x) - x`), shifts, constant masks and
    lookups (of very many lanes, for some of them).

    Outside `ppl.expectation` it means nothing. Sources: Williams 1992; Mnih & Rezende 2016.

    ```python
    >>> import jax, ppl, numpyro.distributions as dist
    >>> def cost(p):
    ...     x = ppl.sample("x", dist.Bernoulli(p), ppl.ScoreFunction())
    ...     ppl.control_variate("x", 114.7)
    ...     return (10.0 + x) ** 2
    >>> grads = jax.vmap(jax.grad(ppl.expectation(cost), 1), (0, None))
    >>> keys = jax.random.split(jax.random.key(0), 1000)
    >>> bool(abs(grads(keys, 0.3).mean() - 21.0) < 0.01)
    True

    ```
    """
    addresses = [address] if isinstance(address, str) else address
    primitives.control_variate_p.bind(
        jnp.asarray(value, float),
        paths=tuple(map(parse, addresses)),
        where=user_location(above_stdlib=True),
    )
