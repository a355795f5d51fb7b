"""`State`: parameters that a rule of their own updates, not the optimizer."""

import abc
from typing import Any

import equinox as eqx


class State(eqx.Module):
    """A part of the parameters with an update of its own: a moving average, a schedule's counter.

    A subclass is an `equinox.Module`, and stands anywhere in the parameters. It is carried by
    `ppl.fit`: the optimizer does not see it, and after each step it is replaced by
    `state.updated(gradient)`. All of its array and number leaves are carried (integers and PRNG
    keys too); settings that stay are `eqx.field(static=True)`.

    ```python
    >>> import equinox as eqx, jax, jax.numpy as jnp, optax, ppl
    >>> class Counter(ppl.State):
    ...     steps: jax.Array = eqx.field(converter=jnp.asarray, default=0)
    ...     def updated(self, gradient):
    ...         return Counter(self.steps + 1)
    >>> def objective(params):
    ...     return -(1.0 + 0.5 ** params["count"].steps) * (params["x"] - 2.0) ** 2
    >>> result = ppl.fit(objective, {"x": 0.0, "count": Counter()}, optax.sgd(0.1),
    ...                  key=jax.random.key(0), steps=100, progress=False)
    >>> print(f"{result.params['x']:.3f} {result.params['count'].steps}")
    2.000 100

    ```
    """

    @abc.abstractmethod
    def updated(self, gradient: Any) -> Any:
        """The state after a step: of the same structure, shapes and dtypes.

        `gradient` has the structure of the state, with None for leaves that are not floating-point.
        It is what plain gradient ascent would add to the state: the average over the step's
        estimates, before any optimizer. For the `baseline` of a score that is (cost - baseline),
        whichever way the objective is to go; otherwise it is the derivative of the objective, or of
        its negation where that is minimised.
        """
