"""Exact importance-weighted bounds, and samples of gradients, for the tests of objectives."""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

import ppl
from stdlib import testing

KEY = jax.random.key(0)
NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(9)
assert_unbiased = partial(testing.assert_unbiased, num_samples=20_000)


def bound(log_weights, log_probs, num_particles):
    """E[log mean w] over `num_particles` of the points, by a sum over all their tuples."""
    indices = list(itertools.product(range(len(log_weights)), repeat=num_particles))
    at = jnp.asarray(indices)
    logs = jax.nn.logsumexp(log_weights[at], axis=1) - jnp.log(num_particles)
    return jnp.sum(jnp.exp(jnp.sum(log_probs[at], axis=1)) * logs)


def gradients(objective, params, count=2000, allow_biased=False):
    estimate = jax.grad(ppl.expectation(objective, allow_biased=allow_biased), argnums=1)
    keys = jax.random.split(jax.random.key(1), count)
    estimates = jax.jit(jax.vmap(estimate, (0, None)), compiler_options=testing.QUICK)
    return estimates(keys, params)


def dry_run(objective, *args):
    """Errors without computation."""
    return jax.eval_shape(ppl.expectation(objective), KEY, *args)
