"""Random objectives of three linked discrete sites, against the sum over all their values.

The expressions mix what the linear tail keeps apart (sums, products with constants, reductions,
casts, broadcasts) with what it must not (products of random values, integer casts, selections).
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

import ppl
from ppl import sample
from stdlib.estimators import Enumerate, ScoreFunction
from stdlib.testing import assert_unbiased

SITES, VALUES = 3, 3
UNARY = {
    "negate": lambda x: -x,
    "halve": lambda x: x / 2.0,
    "sine": jnp.sin,
    "truncate": lambda x: x.astype(int).astype(float),
    "select": lambda x: jnp.where(x > 0.5, x, 0.25),
    "stack and sum": lambda x: jnp.sum(jnp.stack([x, 0.5 * x]) - 0.1),
    "row times constant": lambda x: jnp.sum(x * jnp.array([0.3, -0.7])),
    "jit": jax.jit(lambda x: 1.5 * x + 0.2),
    "checkpoint": jax.checkpoint(lambda x: x - 0.3),
    "scan": lambda x: jax.lax.scan(lambda c, t: (c + t * x, None), 0.0 * x, jnp.arange(3.0))[0],
}
BINARY = {
    "add": jnp.add,
    "subtract": jnp.subtract,
    "multiply": jnp.multiply,
    "maximum": jnp.maximum,
    "dot": lambda x, y: jnp.dot(jnp.stack([x, y]), jnp.stack([y, 1.0 + 0.0 * x])),
    "logsumexp": lambda x, y: jax.nn.logsumexp(jnp.stack([x, y])),
}


def hurried(fn):
    """`jax.jit`, compiled in a hurry."""
    return jax.jit(fn, compiler_options={"xla_backend_optimization_level": 0})


def random_expression(rng, depth):
    """A function of the list of site values and of theta, and its text."""
    if depth == 0:
        i = int(rng.integers(SITES + 1))
        return (lambda z, theta: z[i] if i < SITES else theta[0]), f"z{i}"
    if rng.random() < 0.4:
        name = str(rng.choice(list(UNARY)))
        inner, text = random_expression(rng, depth - 1)
        return (lambda z, theta: UNARY[name](inner(z, theta))), f"{name}({text})"
    name = str(rng.choice(list(BINARY)))
    (left, a), (right, b) = (random_expression(rng, depth - 1) for _ in range(2))
    return (lambda z, theta: BINARY[name](left(z, theta), right(z, theta))), f"{name}({a}, {b})"


def logits(i, before, theta):
    """Of site i, given the values before it."""
    tilt = sum(before) if before else 0.0
    return jnp.stack([theta[i], 0.3 * tilt, -0.4 * theta[0] * tilt])


def objective(expression, estimators):
    def run(theta):
        z = []
        for i, estimator in enumerate(estimators):
            site = dist.Categorical(logits=logits(i, z, theta))
            z.append(0.7 * sample(f"z{i}", site, estimator))
        return expression(z, theta)

    return run


def exact(expression):
    def run(theta):
        total = 0.0
        for states in itertools.product(range(VALUES), repeat=SITES):
            z, chance = [], 1.0
            for i, state in enumerate(states):
                chance *= jax.nn.softmax(logits(i, z, theta))[state]
                z.append(0.7 * state * jnp.ones(()))
            total += chance * expression(z, theta)
        return total

    return run


THETA = jnp.array([0.4, -0.3, 0.6])


@pytest.mark.parametrize("seed", range(12))
def test_enumerated_programs_are_exact(seed):
    expression, text = random_expression(np.random.default_rng(seed), depth=3)
    estimate = ppl.expectation(objective(expression, [Enumerate()] * SITES))
    found = hurried(jax.value_and_grad(estimate, argnums=1))(jax.random.key(0), THETA)
    wanted = hurried(jax.value_and_grad(exact(expression)))(THETA)
    for a, b in zip(found, wanted, strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-5, err_msg=text)


@pytest.mark.parametrize("seed", range(20, 23))
def test_scored_and_mixed_programs_are_unbiased(seed):
    rng = np.random.default_rng(seed)
    expression, _ = random_expression(rng, depth=3)
    estimators = [Enumerate() if rng.random() < 0.4 else ScoreFunction() for _ in range(SITES)]
    assert_unbiased(
        objective(expression, estimators),
        THETA,
        exact=exact(expression),
        key=jax.random.key(seed),
        num_samples=20_000,
    )


def test_equations_without_outputs_are_run():
    seen = []

    def objective(p):
        x = sample("x", dist.Bernoulli(p), Enumerate())
        jax.debug.callback(lambda value: seen.append(float(value)), x)
        return 2.0 * x

    value = ppl.expectation(objective)(jax.random.key(0), 0.3)
    jax.effects_barrier()
    np.testing.assert_allclose(value, 0.6, rtol=1e-6)
    assert sorted(seen) == [0.0, 1.0]
