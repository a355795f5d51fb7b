"""Sequences side by side, each a chain, in one program: B = 64 of T = 50 steps and K = 8 states.

The chain of `hmm_scan.py` as `jax.vmap` of one sequence's program, with transitions that all
share. The gradient of the exact log marginal likelihood of all sequences, and that of the exact
ELBO with a guide of free logits (B, T, K, K). Hand-written: the recursions of `hmm_scan.py`,
mapped. NumPyro: its `scan` in a `plate`, with the states enumerated.

And a guide without a chain: the gradient of the exact ELBO of one sequence of 200 steps where the
guide's states are one enumerated batch, (T,), along which the model's loop goes. Hand-written: each
pair of neighbours, all steps at once.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from numpyro.contrib.control_flow import scan
from numpyro.contrib.funsor import config_enumerate, enum, log_density

import ppl
from benchmarks import hmm, hmm_scan
from benchmarks.hmm_scan import Parameters
from benchmarks.measure import compare_gradients, table
from ppl import sample
from stdlib.estimators import Enumerate
from stdlib.objectives import elbo

SEQUENCES, STEPS, STATES = 64, 50, 8


def data() -> tuple[Parameters, jax.Array]:
    """Transition logits, the guide's logits of each sequence, and observations (B, T)."""
    keys = jax.random.split(jax.random.key(0), 3)
    parameters = {
        "transition": jax.random.normal(keys[0], (STATES, STATES)),
        "guide": jax.random.normal(keys[1], (SEQUENCES, STEPS, STATES, STATES)),
    }
    return parameters, jax.random.normal(keys[2], (SEQUENCES, STEPS))


def model(transition: jax.Array, y: jax.Array) -> None:
    """All the sequences."""
    jax.vmap(partial(hmm_scan.model, transition))(y)


def forward(key: Any, p: Parameters, y: jax.Array) -> jax.Array:
    """log p(y) by the forward algorithm of each sequence."""
    return jnp.sum(jax.vmap(lambda y: hmm_scan.forward(key, p, y))(y))


def numpyro_marginal(key: Any, p: Parameters, y: jax.Array) -> jax.Array:
    """log p(y) by NumPyro's scan in a plate."""

    def numpyro_model():
        def step(z, y):
            with numpyro.plate("sequences", SEQUENCES, dim=-1):
                z = numpyro.sample("z", dist.CategoricalLogits(logits=p["transition"][z]))
                numpyro.sample("y", dist.Normal(z, 1.0), obs=y)
            return z, None

        scan(step, jnp.zeros(SEQUENCES, int), y.T)

    density, _ = log_density(enum(config_enumerate(numpyro_model), -2), (), {}, {})
    return jnp.asarray(density)


def objective(p: Parameters, y: jax.Array) -> jax.Array:
    """The ELBO, exact."""
    guide = lambda: jax.vmap(hmm_scan.guide)(p["guide"])
    return elbo(partial(model, p["transition"], y), guide, {})


def handwritten(key: Any, p: Parameters, y: jax.Array) -> jax.Array:
    """The ELBO by the forward recursion of each sequence."""

    def one(guide, y):
        return hmm.handwritten(key, {"transition": p["transition"], "guide": guide}, y)

    return jnp.sum(jax.vmap(one)(p["guide"], y))


MEAN_FIELD_STEPS = 200


def mean_field_data() -> tuple[Parameters, jax.Array]:
    """Transition logits, the guide's logits (T, K), and observations (T,)."""
    keys = jax.random.split(jax.random.key(0), 3)
    parameters = {
        "transition": jax.random.normal(keys[0], (STATES, STATES)),
        "guide": jax.random.normal(keys[1], (MEAN_FIELD_STEPS, STATES)),
    }
    return parameters, jax.random.normal(keys[2], (MEAN_FIELD_STEPS,))


def mean_field(p: Parameters, y: jax.Array) -> jax.Array:
    """The ELBO of a guide of one batch, exact."""

    def guide():
        sample("z", dist.Categorical(logits=p["guide"]), Enumerate())

    return elbo(partial(hmm_scan.model, p["transition"], y), guide, {})


def neighbours(key: Any, p: Parameters, y: jax.Array) -> jax.Array:
    """The same by the chances of pairs of neighbours."""
    logits, transition = jax.nn.log_softmax(p["guide"]), jax.nn.log_softmax(p["transition"])
    chances, first = jnp.exp(logits), jax.nn.one_hot(0, STATES)
    before = jnp.concatenate([first[None], chances[:-1]])
    own = jnp.sum(chances * (hmm.emissions(transition, y) - logits))
    return own + jnp.einsum("ti,ij,tj", before, transition, chances)


FUNCTIONS = {
    "Log marginal likelihood": {
        "hand-written": forward,
        "ours": partial(hmm_scan.ours_marginal, model=model),
        "NumPyro `scan` in a `plate`": numpyro_marginal,
    },
    "Exact ELBO": {"hand-written": handwritten, "ours": ppl.expectation(objective)},
}


def main() -> list[str]:
    """A table for each quantity."""
    args = (jax.random.key(0), *data())
    title = f"{SEQUENCES} chains in `vmap`, T = {STEPS}, K = {STATES}"
    tables = [
        table(f"{name}, {title}", compare_gradients(functions, args, "hand-written"))
        for name, functions in FUNCTIONS.items()
    ]
    functions = {"hand-written": neighbours, "ours": ppl.expectation(mean_field)}
    args = (jax.random.key(0), *mean_field_data())
    title = f"Mean-field guide of a chain, T = {MEAN_FIELD_STEPS}, K = {STATES}"
    return [*tables, table(title, compare_gradients(functions, args, "hand-written"))]
