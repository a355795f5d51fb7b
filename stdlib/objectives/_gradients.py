"""What the `gradient` options of objectives share."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax.lax import stop_gradient

import ppl
from ppl import Reparameterized, Trace
from ppl.errors import InvalidSetting, UnsuitableEstimator
from ppl.extend import Estimator, Particles

from .._scoring import WEIGHTS, Laws, at_draws_of, check_unobserved
from ..estimators import ImplicitReparameterized

TOTAL = "total"
STICKING_THE_LANDING = "sticking-the-landing"
DOUBLY_REPARAMETERIZED = "doubly-reparameterized"
VIMCO = "vimco"


def check_gradient(gradient: str, allowed: Sequence[str], objective: str) -> None:
    """Raises where an objective has no such `gradient`."""
    if gradient not in allowed:
        *first, last = (repr(name) for name in allowed)
        raise InvalidSetting(
            f"gradient of {objective} must be {', '.join(first)} or {last}, got {gradient!r}."
        )


def frozen_log_density(guide: Callable, choices: Mapping[str, Any]) -> jax.Array:
    """log q at given choices, with derivatives in the choices alone."""
    return ppl.log_density(ppl.frozen(guide), choices)


def derivative_of(term: jax.Array) -> jax.Array:
    """Zero in value, with the derivative of `term`, which no weight of a site multiplies."""
    return jnp.where(jnp.isinf(term), 0.0, term - stop_gradient(term))


class Pathwise(Estimator):
    """A draw that moves with the parameters, explicitly or implicitly, of weight one."""

    pathwise: ClassVar[bool] = True

    def particles(self, key: jax.Array, distribution: Any) -> Particles:
        """Those of `Reparameterized` where it suits, else of `ImplicitReparameterized`."""
        implicit = Reparameterized().unsuitable(distribution) is not None
        chosen = ImplicitReparameterized() if implicit else Reparameterized()
        return chosen.particles(key, distribution)

    def unsuitable(self, distribution: Any) -> str | None:
        """Neither of the two suits."""
        reason = Reparameterized().unsuitable(distribution)
        if reason is None or ImplicitReparameterized().unsuitable(distribution) is None:
            return None
        return reason


def simulate_pathwise(guide: Callable, what: str, remedy: str) -> Trace:
    """A run of the guide, each of whose choices moves with its parameters."""
    try:
        return ppl.simulate(ppl.with_estimators(guide, {"*": Pathwise()}))
    except UnsuitableEstimator as error:
        raise UnsuitableEstimator(
            f"{what} needs a guide whose choices all move with their parameters. {remedy} {error}"
        ) from None


def joint_at(
    model: Callable,
    observed: Mapping[str, Any],
    sampler: Callable,
    what: str = "guide",
    laws: Laws = WEIGHTS,
) -> Callable:
    """The model with its data, to be scored at the choices that a guide draws.

    **Raises** `ObservedGuide`, `SupportMismatch`, `EstimatedDensity`, `UnusedChoice`.
    """
    return at_draws_of(sampler, ppl.condition(model, observed), what=what, laws=laws)


def drawn_by(guide: Callable, other: Callable | None, what: str) -> tuple[Callable, str, Callable]:
    """What draws in place of a guide (itself, if no other), its name, the guide as scored there.

    **Raises** `ObservedGuide`, `SupportMismatch`, `UnusedChoice`.
    """
    if other is None:
        return guide, "guide", guide
    check_unobserved(guide)
    return other, what, at_draws_of(other, guide, what=what, by="guide")
