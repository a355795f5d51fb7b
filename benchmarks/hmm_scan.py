"""The enumerated chain as a `lax.scan`, at lengths that cannot be unrolled: K = 16, up to T = 1000.

The chain of `hmm.py`: each state given the one before, Gaussian observations with mean z; the
guide has free logits (T, K, K). The gradient of the exact ELBO, with respect to guide and
transitions, and that of the exact log marginal likelihood, with respect to the transitions.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from jax import lax
from numpyro.contrib.control_flow import scan
from numpyro.contrib.funsor import config_enumerate, enum, log_density

import ppl
from benchmarks import hmm
from benchmarks.measure import compare_gradients, table
from ppl import sample
from stdlib.estimators import Enumerate
from stdlib.objectives import elbo

STATES = 16
LENGTHS = (10, 25, 50, 100, 1000)

Parameters = dict[str, jax.Array]


def model(transition: jax.Array, y: jax.Array) -> None:
    """States from states, observations from states."""

    def step(z, y):
        z = sample("z", dist.Categorical(logits=transition[z]))
        sample("y", dist.Normal(z, 1.0), obs=y)
        return z, None

    lax.scan(step, 0, y)


def guide(logits: jax.Array) -> None:
    """Each state given the one before, every state summed over."""

    def step(z, logits):
        return sample("z", dist.Categorical(logits=logits[z]), Enumerate()), None

    lax.scan(step, 0, logits)


def objective(p: Parameters, y: jax.Array) -> jax.Array:
    """The ELBO, exact."""
    return elbo(partial(model, p["transition"], y), partial(guide, p["guide"]), {})


def ours_marginal(
    key: Any, p: Parameters, y: jax.Array, model: Callable[[jax.Array, jax.Array], None] = model
) -> jax.Array:
    """log p(y) by the language: every state of a model summed out."""

    def log_likelihood(transition):
        summed = ppl.with_estimators(partial(model, transition, y), {"z": Enumerate()})
        return ppl.simulate(summed).log_likelihood

    return ppl.log_expectation(log_likelihood)(p["transition"])


def forward(key: Any, p: Parameters, y: jax.Array) -> jax.Array:
    """log p(y) by the forward algorithm."""
    transition = jax.nn.log_softmax(p["transition"])
    emitted = hmm.emissions(transition, y)

    def step(log_alpha, emitted):
        return jax.nn.logsumexp(log_alpha[:, None] + transition, axis=0) + emitted, None

    return jax.nn.logsumexp(lax.scan(step, transition[0] + emitted[0], emitted[1:])[0])


def numpyro_marginal(key: Any, p: Parameters, y: jax.Array) -> jax.Array:
    """log p(y) by NumPyro's scan, with the states enumerated."""

    def numpyro_model():
        def step(z, y):
            z = numpyro.sample("z", dist.CategoricalLogits(logits=p["transition"][z]))
            numpyro.sample("y", dist.Normal(z, 1.0), obs=y)
            return z, None

        scan(step, 0, y)

    density, _ = log_density(enum(config_enumerate(numpyro_model), -1), (), {}, {})
    return jnp.asarray(density)


def bounds(length: int) -> dict[str, Callable]:
    """Estimates of the ELBO; NumPyro's only at the lengths that it can take."""
    functions = {"hand-written": hmm.handwritten, "ours": ppl.expectation(objective)}
    if length in hmm.NUMPYRO_LENGTHS:
        functions["NumPyro `TraceEnum_ELBO`"] = hmm.numpyro_estimate
    return functions


def marginals(length: int) -> dict[str, Callable]:
    """Computations of the log marginal likelihood."""
    return {
        "hand-written": forward,
        "ours": ours_marginal,
        "NumPyro `scan` and `enum`": numpyro_marginal,
    }


def section(title: str, functions: Callable[[int], dict[str, Callable]], length: int) -> str:
    """One table."""
    parameters, y = hmm.data(length, STATES)
    rows = compare_gradients(functions(length), (jax.random.key(0), parameters, y), "hand-written")
    return table(f"{title}, chain in `scan`, T = {length}, K = {STATES}", rows)


def main(lengths: tuple[int, ...] = LENGTHS) -> list[str]:
    """Tables for growing lengths."""
    exact = [section("Exact ELBO", bounds, length) for length in lengths]
    return exact + [section("Log marginal likelihood", marginals, length) for length in lengths]
