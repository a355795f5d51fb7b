"""Scaled and masked densities, against sums written by hand."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from jax import lax
from jax.scipy.stats import norm

import ppl
from ppl import sample

assert_close = partial(np.testing.assert_allclose, rtol=2e-5, atol=2e-5)


def batch():
    """A batched distribution, lanes, and data: three densities of three elements each."""
    z = sample("z", dist.Normal(jnp.zeros(3), 1.0))
    jax.vmap(lambda m: sample("lane", dist.Normal(m, 2.0)))(z)
    sample("data", dist.Normal(z, 3.0), obs=jnp.ones(3))


Z, LANE = np.array([0.1, -0.4, 1.5]), np.array([1.0, 2.0, 3.0])
PARTS = [norm.logpdf(Z), norm.logpdf(LANE, Z, 2.0), norm.logpdf(1.0, Z, 3.0)]
TOTAL, FACTORS = sum(part.sum() for part in PARTS), np.array([1.0, 10.0, -2.0])
FLAGS = np.array([True, False, True])


@pytest.mark.parametrize(
    "program, exact",
    [
        (ppl.scale(batch, 10.0), 10.0 * TOTAL),
        (ppl.scale(ppl.scale(batch, 2.0), 3.0), 6.0 * TOTAL),
        (ppl.scale(batch, 0), 0.0),
        (ppl.mask(batch, True), TOTAL),
        (ppl.mask(batch, False), 0.0),
        (ppl.mask(ppl.mask(batch, True), jnp.array(False)), 0.0),
        (ppl.mask(ppl.scale(batch, 4.0), True), 4.0 * TOTAL),
        (ppl.scale(ppl.mask(batch, False), jnp.inf), 0.0),
    ],
)
def test_scaled_and_masked_densities(program, exact):
    assert_close(ppl.log_density(program, {"z": Z, "lane": LANE}), exact)
    trace = ppl.seed(lambda: ppl.simulate(program))(jax.random.key(3))
    assert trace.choices.keys() == {"z", "lane"} and np.unique(trace.choices["z"]).size == 3


def elements():
    z = sample("z", dist.Normal(jnp.zeros(3), 1.0))
    sample("data", dist.Normal(z, 3.0), obs=jnp.ones(3))


@pytest.mark.parametrize(
    "program, weights",
    [
        (ppl.scale(elements, FACTORS), FACTORS),
        (ppl.mask(elements, FLAGS), FLAGS),
        (ppl.mask(ppl.scale(elements, FACTORS), FLAGS), FACTORS * FLAGS),
        (ppl.scale(ppl.mask(elements, FLAGS), FACTORS), FACTORS * FLAGS),
    ],
)
def test_factors_and_flags_for_each_element(program, weights):
    assert_close(ppl.log_density(program, {"z": Z}), (weights * (PARTS[0] + PARTS[2])).sum())


def test_lane_by_lane_and_step_by_step_factors():
    """Inside vmap and scan, a factor or a flag belongs to its lane or its step."""
    site = lambda m: sample("x", dist.Normal(m, 1.0))
    lanes = lambda: jax.vmap(lambda s, m: ppl.scale(site, s)(m))(FACTORS, Z)
    steps = lambda: lax.scan(lambda c, f: (c, ppl.mask(site, f)(0.5)), 0.0, FLAGS)[1]
    assert_close(ppl.log_density(lanes, {"x": LANE}), (FACTORS * norm.logpdf(LANE, Z)).sum())
    assert_close(ppl.log_density(steps, {"x": LANE}), (FLAGS * norm.logpdf(LANE, 0.5)).sum())


def test_derivative_in_the_scale():
    slope = jax.grad(lambda s: ppl.log_density(ppl.scale(batch, s), {"z": Z, "lane": LANE}))(3.0)
    assert_close(slope, TOTAL)
