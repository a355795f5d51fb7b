"""Training: eight schools with a mean-field guide, in steps a second.

`ppl.fit`, a hand-written `jit(lax.scan)` with Optax, NumPyro's `svi.update` in a jitted scan, and
`svi.run`; one sample a step, Adam. A run of `ppl.fit` is the whole call: argument checks, history
of objective and gradient norm, checks that they are finite. `svi.run` compiles at each call.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
from jax import lax
from jax.scipy import stats
from numpyro.infer import SVI, Trace_ELBO

import ppl
from benchmarks.measure import interleaved
from stdlib.models import eight_schools
from stdlib.models.eight_schools import EFFECTS, OBSERVED, STANDARD_ERRORS
from stdlib.objectives import elbo

RATE = 1e-2
STEPS = 50_000
STEPS_OF_SVI_RUN = 2_000
KEY = jax.random.key(0)


def objective(phi):
    """The ELBO."""
    return elbo(eight_schools.model, partial(eight_schools.guide, phi), OBSERVED)


def ours(steps: int = STEPS, progress: bool = False):
    """A whole call of `ppl.fit`."""
    start, optimizer = eight_schools.initial(), optax.adam(RATE)
    return ppl.fit(objective, start, optimizer, key=KEY, steps=steps, progress=progress).params


def handwritten_elbo(phi, key):
    """The same single-sample estimate, written out."""
    scale = jnp.exp(phi["log_scale"])
    z = phi["mean"] + scale * jax.random.normal(key, (10,))
    mu, tau, trans = z[0], jnp.exp(z[1]), z[2:]
    log_joint = (
        stats.norm.logpdf(mu, 0.0, 5.0)
        + stats.cauchy.logpdf(tau, 0.0, 5.0)
        + jnp.log(2.0)
        + stats.norm.logpdf(trans).sum()
        + stats.norm.logpdf(EFFECTS, mu + tau * trans, STANDARD_ERRORS).sum()
    )
    # log tau is normal: the density of tau has the Jacobian 1 / tau
    return log_joint - stats.norm.logpdf(z, phi["mean"], scale).sum() + z[1]


@partial(jax.jit, static_argnums=1)
def handwritten(phi, steps: int):
    """`lax.scan` over split keys, keeping the losses."""
    optimizer = optax.adam(RATE)

    def step(carry, key):
        phi, state = carry
        loss, grad = jax.value_and_grad(lambda phi: -handwritten_elbo(phi, key))(phi)
        updates, state = optimizer.update(grad, state)
        return (optax.apply_updates(phi, updates), state), loss

    return lax.scan(step, (phi, optimizer.init(phi)), jax.random.split(KEY, steps))


def numpyro_model():
    """The model in NumPyro."""
    mu = numpyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = numpyro.sample("tau", dist.HalfCauchy(5.0))
    trans = numpyro.sample("theta_trans", dist.Normal(jnp.zeros(8), 1.0).to_event(1))
    numpyro.sample("y", dist.Normal(mu + tau * trans, STANDARD_ERRORS).to_event(1), obs=EFFECTS)


def numpyro_guide():
    """The guide in NumPyro."""
    mean: Any = numpyro.param("mean", jnp.zeros(10))
    log_scale: Any = numpyro.param("log_scale", jnp.zeros(10))
    scale = jnp.exp(log_scale)
    numpyro.sample("mu", dist.Normal(mean[0], scale[0]))
    numpyro.sample("tau", dist.LogNormal(mean[1], scale[1]))
    numpyro.sample("theta_trans", dist.Normal(mean[2:], scale[2:]).to_event(1))


def make_svi() -> SVI:
    return SVI(numpyro_model, numpyro_guide, optax.adam(RATE), Trace_ELBO())


def svi_scan():
    """NumPyro's update in one jitted scan."""
    svi = make_svi()
    state = svi.init(KEY)
    run = jax.jit(lambda s: lax.scan(lambda s, _: svi.update(s), s, None, length=STEPS))
    return lambda: run(state)


def svi_run():
    """NumPyro's own loop."""
    return make_svi().run(KEY, STEPS_OF_SVI_RUN, progress_bar=False).params


def main(repeats: int = 11) -> list[str]:
    """The table as Markdown."""
    runs = {
        "hand-written `jit(lax.scan)`": (
            partial(handwritten, eight_schools.initial(), STEPS),
            STEPS,
        ),
        "`ppl.fit`": (ours, STEPS),
        "`ppl.fit` with its progress bar": (partial(ours, progress=True), STEPS),
        "NumPyro `svi.update` in a jitted scan": (svi_scan(), STEPS),
        "NumPyro `svi.run`": (svi_run, STEPS_OF_SVI_RUN),
    }
    seconds = interleaved({name: run for name, (run, _) in runs.items()}, repeats)
    per_step = {name: np.array(seconds[name]) / steps for name, (_, steps) in runs.items()}
    base = next(iter(per_step.values()))
    lines = [
        "### Training: eight schools, mean field, one sample a step",
        "",
        "| | steps/s | speed, hand-written = 1 |",
        "|---|---:|---:|",
    ]
    lines += [
        f"| {name} | {1 / np.median(each):,.0f} | {np.median(base / each):.3f} |"
        for name, each in per_step.items()
    ]
    return ["\n".join(lines)]


if __name__ == "__main__":
    print(*main(), sep="\n")
