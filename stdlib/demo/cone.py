"""The noisy cone, fitted by two objectives whose optima are known."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import optax
from jaxtyping import Array, Float

import ppl
from stdlib.demo.digits import Estimate
from stdlib.models.noisy_cone import (
    OBSERVED,
    OPTIMA,
    PUBLISHED,
    Parameters,
    guide,
    initial,
    log_evidence,
    model,
)
from stdlib.objectives import elbo, iwelbo


def elbo_of_cone(phi: Parameters) -> Float[Array, ""]:
    """The evidence lower bound of the mean-field guide."""
    return elbo(model, partial(guide, phi), OBSERVED)


def iwelbo_of_cone(phi: Parameters) -> Float[Array, ""]:
    """The bound of five importance-weighted particles."""
    return iwelbo(model, partial(guide, phi), OBSERVED, num_particles=5)


OBJECTIVES = {"ELBO": elbo_of_cone, "IWELBO(5)": iwelbo_of_cone}


class Fit(NamedTuple):
    """A fitted guide, and the value of the objective there."""

    phi: Parameters
    reached: Estimate


def fit(objective: Callable, steps: int = 2000, num_samples: int = 256, draws: int = 2**20) -> Fit:
    """Maximises an objective from a start on the ring.

    Gradients of the importance-weighted bound are noisy: each step averages `num_samples` of them,
    and the learning rate decays to zero.
    """
    fit_key, value_key = jax.random.split(jax.random.key(0))
    optimizer = optax.adam(optax.cosine_decay_schedule(0.03, steps))
    fitted = ppl.fit(
        objective, initial(), optimizer, key=fit_key, steps=steps, num_samples=num_samples
    )
    if fitted.interrupted:
        raise KeyboardInterrupt
    keys = jax.random.split(value_key, draws)
    run = jax.jit(jax.vmap(ppl.expectation(objective), in_axes=(0, None)))
    values = run(keys, fitted.params)
    return Fit(fitted.params, Estimate(float(values.mean()), float(values.std() / draws**0.5)))


def fit_both() -> dict[str, Fit]:
    """The guide that each objective prefers."""
    print("\nNoisy cone: x, y ~ Normal(0, 10), z ~ Normal(x² + y², 0.1 + (x² + y²)/100), z = 5")
    return {name: fit(objective) for name, objective in OBJECTIVES.items()}


def table(fits: dict[str, Fit]) -> str:
    """What was reached, beside the published values, the optima and the true log evidence."""
    lines = [f"  {'':<11}{'reached':>17}{'optimum':>10}{'published':>11}"]
    for name, found in fits.items():
        lines.append(
            f"  {name:<11}{found.reached!s:>17}{OPTIMA[name]:>10.3f}{PUBLISHED[name]:>11.2f}"
        )
    return "\n".join([*lines, f"  log evidence, by quadrature: {log_evidence():.3f}"])
