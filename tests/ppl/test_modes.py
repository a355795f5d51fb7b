"""JAX's modes and the dtypes of parameters: results are those without the mode."""

from functools import partial

import jax
import jax.experimental
import jax.export
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from jax import lax

import ppl
from ppl import ScoreFunction, sample
from stdlib.estimators import Enumerate, LeaveOneOut, MeasureValued, StochasticTriple
from stdlib.objectives import elbo

KEY = jax.random.key(0)


def scanned(t):
    def step(c, _):
        s = sample("s", dist.Categorical(logits=jnp.stack([t, c, 0.0 * t])), Enumerate())
        x = sample("x", dist.Normal(t, 1.0))
        return s.astype(c.dtype), (x * s.astype(x.dtype)).astype(c.dtype)

    end, costs = lax.scan(step, t, length=3)
    return end + jnp.sum(costs)


def looped(t):
    body = lambda i, c: c + sample("b", dist.Bernoulli(t), ScoreFunction()).astype(t.dtype)
    return lax.fori_loop(0, 2, body, 0.0 * t) * t


def mapped(t):
    return jnp.sum(lax.map(lambda a: a * sample("x", dist.Normal(a * t, 1.0)), jnp.arange(2.0)))


def branched(t):
    return lax.cond(t > 0.1, lambda: sample("b", dist.Bernoulli(t)).astype(t.dtype), lambda: t)


def checkpointed(t):
    b = sample("b", dist.Bernoulli(jnp.stack([t, t])), Enumerate()).astype(t.dtype)
    c = lambda t: sample("c", dist.Bernoulli(t), MeasureValued()).astype(t.dtype)
    inner = lambda t, b: (t, jnp.sum(b) * c(t))
    plain, read = jax.checkpoint(inner)(t, b)
    return plain + read


def bound(t):
    def model():
        lax.scan(lambda z, _: (sample("z", dist.Normal(z, 1.0)), None), 0.0 * t, length=2)

    def guide():
        lax.scan(lambda z, _: (sample("z", dist.Normal(t * z + t, 1.0)), None), 0.0 * t, length=2)

    return elbo(model, guide, {})


PROGRAMS = [scanned, looped, mapped, branched, checkpointed, bound]
ENABLE_X64 = jax.enable_x64 if hasattr(jax, "enable_x64") else jax.experimental.enable_x64
MODES = {
    "checking_leaks": jax.checking_leaks,
    "disable_jit": jax.disable_jit,
    "debug_nans": partial(jax.debug_nans, True),
    "x64": partial(ENABLE_X64, True),
    "strict promotion": partial(jax.numpy_dtype_promotion, "strict"),
}


def estimates():
    return {
        f.__name__: jax.value_and_grad(ppl.expectation(f), argnums=1)(KEY, jnp.asarray(0.3))
        for f in PROGRAMS
    }


@pytest.fixture(scope="module")
def without():
    return jax.jit(estimates)()


@pytest.mark.parametrize("mode", MODES)
def test_results_are_those_without_the_mode(mode, without):
    with MODES[mode]():
        found = jax.jit(lambda: estimates())()
    for name, wanted in without.items():
        if mode == "x64" and name != "checkpointed":  # other random bits; its mean is its value
            assert np.all(np.isfinite(found[name]))
            continue
        np.testing.assert_allclose(found[name], wanted, rtol=1e-4, atol=1e-5, err_msg=name)


def test_programs_run_without_jit():
    run = lambda f: ppl.seed(lambda: ppl.simulate(f, 0.3))(KEY)
    wanted = run(mapped)
    with jax.disable_jit():
        found = run(mapped)
    np.testing.assert_allclose(found.choices["x"], wanted.choices["x"], rtol=1e-6)
    np.testing.assert_allclose(found.log_density, wanted.log_density, rtol=1e-6)


ESTIMATORS = [Enumerate(), ScoreFunction(), MeasureValued(), StochasticTriple(), LeaveOneOut(2)]


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("estimator", ESTIMATORS, ids=lambda e: type(e).__name__)
def test_estimates_have_the_dtype_of_their_objective(dtype, estimator):
    def counted(t):
        heads = lambda: sample("x", dist.Bernoulli(t), estimator).astype(dtype)
        steps = lax.scan(lambda c, _: (c + heads(), None), jnp.zeros((), dtype), length=2)[0]
        return steps + lax.cond(t > 0, lambda: 3 * heads(), lambda: t)

    gradient = jax.jit(jax.value_and_grad(ppl.expectation(counted), argnums=1))
    value, slope = gradient(KEY, dtype(0.25))
    assert value.dtype == slope.dtype == dtype
    if isinstance(estimator, Enumerate):
        np.testing.assert_allclose((float(value), float(slope)), (1.25, 5.0), rtol=0.02)


SYMBOLIC = {
    "enumerated": lambda t: jnp.sum(1.0 * sample("x", dist.Bernoulli(t), Enumerate())),
    "scored": lambda t: jnp.sum(0.0 * sample("x", dist.Bernoulli(t), ScoreFunction()) + t),
    "reparameterised": lambda t: jnp.sum(0.0 * sample("x", dist.Normal(t, 1.0)) + t),
}


@pytest.mark.parametrize("name", SYMBOLIC)
def test_estimates_of_symbolic_sizes_are_exported(name):
    estimate = jax.jit(lambda t: ppl.expectation(SYMBOLIC[name])(jax.random.key(0), t))
    struct = jax.ShapeDtypeStruct(jax.export.symbolic_shape("b"), jnp.float32)
    exported = jax.export.export(estimate)(struct)
    for size in (1, 3):
        np.testing.assert_allclose(exported.call(jnp.full(size, 0.3)), 0.3 * size, rtol=1e-5)
