"""A linear Gaussian state-space model: the evidence of T steps, and its gradient.

Hand-written: the Kalman filter in a `lax.scan`. Ours: the program by `Exact()`, which finds it to
be a chain, step by step and by associative scans.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jax.scipy.linalg import solve_triangular

from benchmarks.measure import compare_gradients, table
from ppl import sample
from ppl.extend import Target
from stdlib.inference import Exact

Parameters = dict[str, jax.Array]


def data(length: int, size: int) -> tuple[Parameters, jax.Array, jax.Array]:
    """Parameters, how states are read, and observations."""
    keys = jax.random.split(jax.random.key(0))
    turn = 0.9 * jnp.eye(size) + 0.05 * jnp.eye(size, k=1)
    read = jax.random.normal(keys[0], (size, size))
    parameters = {"turn": turn, "noise": jnp.array(0.5), "error": jnp.array(0.7)}
    return parameters, read, jax.random.normal(keys[1], (length, size))


def model(parameters: Parameters, read: jax.Array, y: jax.Array) -> None:
    """States from states, observations from states."""
    size = y.shape[1]

    def step(x, y):
        x = sample("x", dist.Normal(parameters["turn"] @ x, parameters["noise"]).to_event(1))
        sample("y", dist.Normal(read @ x, parameters["error"]).to_event(1), obs=y)
        return x, None

    start = sample("start", dist.Normal(jnp.zeros(size), 1.0).to_event(1))
    jax.lax.scan(step, start, y)


def ours(exact: Exact, key: jax.Array, parameters: Parameters, read: jax.Array, y: jax.Array):
    """The evidence of the program."""
    return exact.log_evidence(Target(partial(model, parameters, read, y), {}))


def handwritten(key: jax.Array, parameters: Parameters, read: jax.Array, y: jax.Array):
    """The Kalman filter."""
    size = y.shape[1]
    turn, eye = parameters["turn"], jnp.eye(size)

    def step(state, y):
        mean, spread, total = state
        mean, spread = turn @ mean, turn @ spread @ turn.T + parameters["noise"] ** 2 * eye
        seen = jnp.linalg.cholesky(read @ spread @ read.T + parameters["error"] ** 2 * eye)
        off = solve_triangular(seen, y - read @ mean, lower=True)
        gain = solve_triangular(seen, read @ spread, lower=True)
        log_volume = jnp.sum(jnp.log(jnp.diag(seen))) + 0.5 * size * jnp.log(2.0 * jnp.pi)
        total = total - 0.5 * off @ off - log_volume
        return (mean + gain.T @ off, spread - gain.T @ gain, total), None

    start = jnp.zeros(size), eye, jnp.zeros(())
    return jax.lax.scan(step, start, y)[0][2]


def main() -> list[str]:
    """Tables for growing lengths."""
    tables = []
    for length, size in ((100, 4), (1000, 4)):
        functions = {
            "hand-written Kalman filter": handwritten,
            "ours, step by step": partial(ours, Exact(parallel=False)),
            "ours, by associative scans": partial(ours, Exact(parallel=True)),
        }
        args = (jax.random.key(0), *data(length, size))
        rows = compare_gradients(functions, args, "hand-written Kalman filter", repeats=20)
        title = f"Evidence of a linear Gaussian chain, T = {length}, d = {size}"
        tables.append(table(title, rows))
    return tables
