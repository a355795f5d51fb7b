"""Attend, Infer, Repeat: a gradient step at batch 64 under each estimator and objective.

Our model text is one and the same; only `with_estimators` and the bound change. Beside it are the
REINFORCE gradient by hand (one cost for all choices of an image, no Rao-Blackwellisation), and the
times of others for their own versions of the example (Pyro's of 3.07 million parameters, 50×50
pixels, batch 64, 2 CPU cores): those are quoted, not measured here. Ours computes the image's part
of the LSTM once an image, theirs once a step; the hand-written one does as ours.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

import ppl
from benchmarks.air_handwritten import reinforce
from benchmarks.measure import compare_gradients
from stdlib.estimators import Enumerate, MeasureValued
from stdlib.models import air
from stdlib.objectives import elbo, iwelbo, reweighted_wake_sleep

BATCH, PARTICLES = 64, 5

ESTIMATORS = {
    "REINFORCE": {},
    "ENUM": {"z_pres_*": Enumerate()},
    "MVD": {"z_pres_*": MeasureValued()},
    "hybrid": {"z_pres_[01]": MeasureValued(), "z_pres_2": Enumerate()},
}
"""The hybrid of Becker et al. 2024: measure-valued for two objects, enumeration for the last."""

IWELBO = partial(iwelbo, num_particles=PARTICLES)
RWS = partial(reweighted_wake_sleep, num_particles=PARTICLES, allow_biased=True)

VARIANTS = {f"ELBO, {name}": (elbo, choice) for name, choice in ESTIMATORS.items()} | {
    f"IWELBO({PARTICLES}), {name}": (IWELBO, ESTIMATORS[name]) for name in ("REINFORCE", "MVD")
}
VARIANTS[f"RWS({PARTICLES})"] = (RWS, {})

PEERS = {
    "ELBO, REINFORCE": "Pyro TraceGraph 71–95, GenJAX 304",
    "ELBO, ENUM": "Pyro TraceEnum 97–122, GenJAX 539",
    "ELBO, MVD": "GenJAX 293",
    f"IWELBO({PARTICLES}), REINFORCE": "Pyro Renyi 138–174, GenJAX 593",
}
"""Milliseconds, quoted: Pyro's example, and the GenJAX version of 2026, on 2 CPU cores."""


def estimate(bound: Callable, choice: dict[str, Any], static: Any) -> Callable:
    """The estimator of a bound as a function of key, parameters and images."""

    def objective(arrays, images):
        return air.objective(eqx.combine(arrays, static), images, bound)

    return ppl.expectation(ppl.with_estimators(objective, choice))


def equations(jaxpr: Any) -> int:
    """Those of a jaxpr and of all inside it."""
    inner = (
        x for eqn in jaxpr.eqns for x in jax.tree.leaves(eqn.params, is_leaf=_body) if _body(x)
    )
    return len(jaxpr.eqns) + sum(equations(getattr(x, "jaxpr", x)) for x in inner)


def _body(x: Any) -> bool:
    return hasattr(x, "eqns")


def main() -> list[str]:
    """The table."""
    key = jax.random.key(0)
    arrays, static = eqx.partition(air.Networks(key), eqx.is_array)
    images = jnp.asarray(air.scenes(BATCH, seed=0).images)
    functions = {
        "hand-written REINFORCE": lambda key, arrays, images: reinforce(
            key, eqx.combine(arrays, static), images
        )
    }
    functions |= {name: estimate(*variant, static) for name, variant in VARIANTS.items()}
    args = (key, arrays, images)
    rows = compare_gradients(functions, args, "hand-written REINFORCE", 20)
    million = sum(x.size for x in jax.tree.leaves(arrays)) / 1e6
    lines = [
        f"### Attend, Infer, Repeat: gradient at batch {BATCH}, {million:.2f} M parameters",
        "",
        "Times on a busy machine are upper bounds.",
        "",
        "| | median ms | ratio | trace + compile s | GFLOP | equations | others' ms, quoted |",
        "|---|---:|---:|---:|---:|---:|---|",
    ]
    for row in rows:
        traced = jax.make_jaxpr(jax.value_and_grad(functions[row.name], argnums=1))(*args)
        lines.append(
            f"| {row.name} | {row.milliseconds:.1f} | {row.ratio:.2f} | {row.compile_seconds:.1f} "
            f"| {row.flops / 1e9:.2f} | {equations(traced.jaxpr):,} | {PEERS.get(row.name, '')} |"
        )
    return ["\n".join(lines)]
