"""What it costs to compile n scalar sites written as a Python loop.

A chain of normals, each observed, with a mean-field guide or one that is a chain itself: seconds to
trace and compile a gradient of the ELBO, and to run it; NumPyro's `Trace_ELBO` beside it; and all
of a short `ppl.fit`. Seconds are of the CPU, all threads together.
"""

import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
import optax
from numpyro.infer import Trace_ELBO

import ppl
from benchmarks.measure import interleaved
from stdlib.objectives import elbo

SIZES = (20, 40, 80, 160)
NUMPYRO_SIZES = (20, 40)
"""NumPyro's programs are left as they are: 80 sites take it a minute."""


def model(sample: Callable, n: int) -> None:
    """A random walk, each of whose places is seen."""
    x = 0.0
    for t in range(n):
        x = sample(f"x{t}", dist.Normal(0.9 * x, 1.0))
        sample(f"y{t}", dist.Normal(x, 0.5), obs=0.1 * t)


def mean_field(sample: Callable, params: Any) -> None:
    """Independent normals."""
    for t in range(len(params["loc"])):
        sample(f"x{t}", dist.Normal(params["loc"][t], jnp.exp(params["scale"][t])))


def chain(sample: Callable, params: Any) -> None:
    """Each normal given the one before."""
    x = 0.0
    for t in range(len(params["loc"])):
        mean = params["loc"][t] + params["slope"][t] * x
        x = sample(f"x{t}", dist.Normal(mean, jnp.exp(params["scale"][t])))


def bound(guide: Callable, params: Any) -> jax.Array:
    """The ELBO, as a program."""
    n = len(params["loc"])
    return elbo(lambda: model(ppl.sample, n), lambda: guide(ppl.sample, params), {})


def theirs(guide: Callable, key: jax.Array, params: Any) -> jax.Array:
    """NumPyro's."""
    n = len(params["loc"])
    return -Trace_ELBO().loss(
        key,
        {},
        lambda: model(numpyro.sample, n),
        lambda: guide(numpyro.sample, params),
    )


def initial(n: int) -> dict[str, jax.Array]:
    """The parameters of n sites."""
    return {name: jnp.zeros(n) for name in ("loc", "scale", "slope")}


def row(name: str, estimate: Callable, n: int) -> str:
    """A line of the table: the gradient of an estimate, a function of key and parameters."""
    jax.clear_caches()
    args = (jax.random.key(0), initial(n))
    start = time.process_time()
    traced = jax.jit(jax.value_and_grad(estimate, argnums=1)).trace(*args)
    middle = time.process_time()
    compiled = traced.lower().compile()
    end = time.process_time()
    (seconds,) = interleaved({name: lambda: compiled(*args)}, 50).values()
    milliseconds = 1e3 * sorted(seconds)[25]
    count = len(traced.jaxpr.jaxpr.eqns)
    return (
        f"| {name} | {n} | {count:,} | {middle - start:.1f} | {end - middle:.1f} "
        f"| {end - start:.1f} | {milliseconds:.2f} |"
    )


def fit_row(n: int) -> str:
    """Seconds of a `fit` of 100 steps, all included."""
    jax.clear_caches()
    start = time.process_time()
    ppl.fit(
        lambda params: bound(mean_field, params),
        initial(n),
        optax.adam(1e-2),
        key=jax.random.key(0),
        steps=100,
        progress=False,
    )
    return f"| ppl.fit, mean field, 100 steps | {n} | | | | {time.process_time() - start:.1f} | |"


def main() -> list[str]:
    """The table."""
    lines = [
        "## Compiling: n scalar sites of a Python loop",
        "",
        "| gradient of an ELBO | n | equations | trace s | compile s | both s | run ms |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for guide in (mean_field, chain):

        def ours(params, guide=guide):
            return bound(guide, params)

        def numpyros(key, params, guide=guide):
            return theirs(guide, key, params)

        named = guide.__name__.replace("_", " ")
        lines += [row(f"ours, {named}", ppl.expectation(ours), n) for n in SIZES]
        lines += [row(f"NumPyro, {named}", numpyros, n) for n in NUMPYRO_SIZES]
    lines += [fit_row(n) for n in SIZES]
    return ["\n".join(lines)]
