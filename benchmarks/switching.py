"""A switching linear system of two regimes: the evidence of 100 steps by particles.

Plain particles draw regimes and states; others draw the regimes and sum the states out. The
variance is that of the log evidence, over runs with different keys.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist

import ppl
from benchmarks.measure import compiled, interleaved
from ppl import sample
from ppl.extend import Target
from stdlib.inference import SMC

LENGTH = 100
RUNS = 100
TURNS = jnp.array([[[0.99, 0.1], [-0.1, 0.99]], [[0.7, -0.4], [0.4, 0.7]]])


def model() -> None:
    """Regimes that stay, states that turn, and one coordinate observed."""

    def step(carry, _):
        z, x = carry
        z = sample("z", dist.Bernoulli(jnp.where(z == 1, 0.9, 0.05)))
        x = sample("x", dist.Normal(TURNS[z] @ x, jnp.where(z == 1, 1.0, 0.1)).to_event(1))
        sample("y", dist.Normal(x[0], 0.2))
        return (z, x), None

    start = sample("start", dist.Normal(jnp.zeros(2), 1.0).to_event(1))
    jax.lax.scan(step, (0, start), length=LENGTH)


def evidence(smc: SMC, key: jax.Array, y: jax.Array) -> jax.Array:
    """An estimate of the log evidence."""
    return ppl.seed(smc.log_evidence)(key, Target(model, {"y": y}))


def main() -> list[str]:
    """A table of times and deviations."""
    y = ppl.seed(lambda: ppl.simulate(model))(jax.random.key(1)).choices["y"]
    filters = {
        "plain, 64": SMC(64),
        "plain, 128": SMC(128),
        "plain, 256": SMC(256),
        "states summed out, 64": SMC(64, exact=("start", "x")),
    }
    keys = jax.random.split(jax.random.key(2), RUNS)
    made = {name: compiled(partial(evidence, smc), keys[0], y) for name, smc in filters.items()}
    seconds = interleaved({name: one.run for name, one in made.items()}, repeats=10)
    lines = [
        f"### Evidence of a switching linear system by particles, T = {LENGTH}, d = 2",
        "",
        "| particles | median ms | mean of log evidence | its variance |",
        "|---|---:|---:|---:|",
    ]
    for name, smc in filters.items():
        logs = np.asarray(
            jax.jit(lambda keys, smc=smc: jax.lax.map(partial(evidence, smc, y=y), keys))(keys)
        )
        time = 1e3 * float(np.median(seconds[name]))
        lines.append(f"| {name} | {time:.2f} | {logs.mean():.3f} | {logs.var():.4f} |")
    return ["\n".join(lines)]
