"""Tempered targets: from the prior to the posterior by powers of the likelihood."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from ppl import replay
from ppl.errors import InvalidSetting
from ppl.extend import Target


class Tempered(NamedTuple):
    """The target p(u) p(x | u)^β, at a temperature β in [0, 1]."""

    target: Target
    power: Any

    @property
    def prior(self) -> Callable:
        """The target's program with its observations."""
        return self.target.prior

    @property
    def exactly(self) -> "Tempered":
        """The same, where the target's density must be known."""
        return self._replace(target=self.target.exactly)

    def log_density(self, choices: Mapping[str, Any]) -> jax.Array:
        """log p(u) + β log p(x | u)."""
        self.target.check(choices)
        trace = replay(self.target.prior, choices)
        return trace.log_density + self.power * trace.log_likelihood

    def supports(self, choices: Mapping[str, Any]) -> jax.Array:
        """Whether the choices lie in their distributions' supports."""
        return self.target.supports(choices)


def log_likelihood(target: Target, choices: Mapping[str, Any]) -> jax.Array:
    """log p(x | u): of the target's observations, given its hidden choices."""
    return replay(target.prior, choices).log_likelihood


def powers(schedule: Any) -> np.ndarray:
    """The temperatures of a schedule: rising to 1, the leading 0 left out.

    A number stands for that many equal steps. **Raises** `InvalidSetting`.
    """
    steps = np.arange(1, schedule + 1) / max(schedule, 1) if isinstance(schedule, int) else schedule
    values = np.asarray(steps, np.float32)
    rises = values.ndim == 1 and len(values) > 0 and bool(np.all(increments(values) > 0))
    if not rises or values[-1] != 1.0:
        raise InvalidSetting(
            "A schedule is a number of steps (1 or more), or temperatures that rise to 1.0, for "
            f"example [0.1, 0.4, 1.0]; got {schedule!r}."
        )
    return values


def increments(temperatures: np.ndarray) -> np.ndarray:
    """How much each temperature is above the one before, from 0."""
    return np.diff(temperatures, prepend=np.float32(0.0))
