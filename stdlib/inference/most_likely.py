"""The likeliest hidden choices of a program, exactly."""

from collections.abc import Callable, Mapping
from typing import Any

from ppl.errors import UnsuitableEstimator
from ppl.extend import Target

from ._gaussian import Gaussian
from ._hidden import addresses_of, listed
from ._summation import Summation
from .exact import integral_for


def most_likely(program: Callable, observed: Mapping[str, Any]) -> Mapping[str, Any]:
    """The hidden choices u with the largest density p(u, x), given the observed ones x.

    All together, which need not be the likeliest one by one. Nothing is drawn and nothing is
    searched: *finite* choices by variable elimination with maxima in place of sums (for a chain of
    T states in `lax.scan` Viterbi's recursion, T·K²; lanes of a batch at the cost of one each);
    *Gaussian* ones, where the joint log density is proved to be quadratic, as the mean of the
    posterior, which is its mode. Where several states are the likeliest, one of them.

    **Arguments**

    - `program`: without arguments (bind them by a lambda or `functools.partial`).
    - `observed`: the choices x, a nested dict; what has `obs=` is observed already.

    **Returns** the hidden choices, a nested dict as in `Trace.choices`. To be called anywhere,
    under `jit` and `vmap` too. Finite choices have no derivatives; Gaussian ones have.

    **Raises** `UnsuitableEstimator` where hidden choices are neither, or finite and Gaussian ones
    come together; `TooManyJointStates`.

    Sources: Viterbi 1967; Dawid 1992 (maxima by elimination).

    ```python
    >>> import jax, jax.numpy as jnp, ppl, numpyro.distributions as dist
    >>> from stdlib.inference import most_likely
    >>> def weather():
    ...     def day(rain, _):
    ...         rain = ppl.sample("rain", dist.Bernoulli(jnp.where(rain == 1, 0.8, 0.1)))
    ...         ppl.sample("umbrella", dist.Bernoulli(jnp.where(rain == 1, 0.9, 0.2)))
    ...         return rain, None
    ...     jax.lax.scan(day, 0, length=5)
    >>> most_likely(weather, {"umbrella": jnp.array([1, 1, 0, 1, 1])})
    {'rain': Array([1, 1, 1, 1, 1], dtype=int32)}

    ```
    """
    target = Target(program, observed)
    integral = integral_for(target)
    if not isinstance(integral, Gaussian | Summation):
        raise _neither(target, "they are of several kinds, or of other supports")
    try:
        return integral.most_likely(target)
    except UnsuitableEstimator as failure:
        raise _neither(target, str(failure).partition(" because of ")[0]) from failure


def _neither(target: Target, reason: str) -> UnsuitableEstimator:
    return UnsuitableEstimator(
        "most_likely() takes hidden choices that are all finite, or Gaussian together, and "
        f"{listed(target, addresses_of(target.hidden))} are not: {reason}. Give finite ones their "
        "values, one state after the other (ppl.condition), or climb the log density by its "
        "gradient (jax.grad of ppl.log_density, optax)."
    )
