"""A control variate reads other lanes than its own, or is refused: lane by lane."""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from jax import lax

import ppl
from ppl import ScoreFunction, sample
from ppl.errors import InvalidControlVariate
from stdlib.objectives import iwelbo
from stdlib.testing import assert_unbiased

KEY = jax.random.key(5)
N = 4
EYE = jnp.eye(N, dtype=bool)
OTHERS = np.array([[j for j in range(N) if j != i] for i in range(N)])
SCALE = jnp.array([1.0, 2.0, 3.0, 4.0])


def program(value):
    """Two batches of coins, and a control variate for the first."""

    def objective(t):
        b = 1.0 * sample("b", dist.Bernoulli(t * jnp.ones(N)), ScoreFunction())
        y = 1.0 * sample("y", dist.Bernoulli(0.2 + 0.1 * t * (1.0 + b)), ScoreFunction())
        ppl.control_variate("b", value(b, y, t))
        return jnp.sum(SCALE * b) * (1.0 + jnp.sum(y))

    return objective


def exact(t):
    """The mean over all joint states of the first, given which the second has a mean."""
    total = 0.0
    for b in itertools.product((0.0, 1.0), repeat=N):
        b = jnp.array(b)
        chance = jnp.prod(jnp.where(b == 1, t, 1 - t))
        total += chance * jnp.sum(SCALE * b) * (1.0 + jnp.sum(0.2 + 0.1 * t * (1.0 + b)))
    return total


def left_out(x):
    return jnp.sum(x) - x


def by_index(b):
    return jax.vmap(lambda i: jnp.sum(jnp.where(jnp.arange(N) == i, 0.0, b)))(jnp.arange(N))


def bounds(weights):
    """What VIMCO subtracts."""
    mean = (left_out(weights) / (N - 1))[:, None]
    return jax.nn.logsumexp(jnp.where(EYE, mean, weights), axis=1)


OTHER_LANES = {
    "leave-one-out sum": lambda b, y, t: left_out(b),
    "leave-one-out mean": lambda b, y, t: t * left_out(b) / (N - 1),
    "of the mean": lambda b, y, t: jnp.mean(b) * N - b,
    "of integers": lambda b, y, t: 1.0 * left_out(b.astype(int)),
    "of a function of each lane": lambda b, y, t: jnp.exp(left_out(jnp.sin(3.0 * b + y))),
    "of two": lambda b, y, t: left_out(b) - 2.0 * left_out(y),
    "in jit": lambda b, y, t: jax.jit(left_out)(b),
    "before": lambda b, y, t: jnp.cumsum(b) - b,
    "shift": lambda b, y, t: jnp.concatenate([jnp.zeros(1), b[:-1]]),
    "padded shift": lambda b, y, t: jnp.pad(b[1:], (0, 1)),
    "roll": lambda b, y, t: jnp.exp(jnp.roll(b, 1) + jnp.roll(b, -1)),
    "mask": lambda b, y, t: jnp.max(jnp.where(EYE, -1.0, b), axis=1),
    "mask of columns": lambda b, y, t: jnp.max(jnp.where(EYE, -1.0, b[:, None]), axis=0),
    "mask by index": lambda b, y, t: by_index(b),
    "factors": lambda b, y, t: jnp.sum((1.0 - EYE) * b, axis=1),
    "matrix": lambda b, y, t: (1.0 - EYE) @ b,
    "lookup": lambda b, y, t: jnp.prod(1.0 + b[OTHERS], axis=1),
    "bounds": lambda b, y, t: bounds(2.0 * b + y),
}

OWN_LANE = {
    "own": lambda b, y, t: b,
    "sum": lambda b, y, t: jnp.sum(b),
    "mean": lambda b, y, t: jnp.mean(b),
    "square of the sum": lambda b, y, t: jnp.sum(b) ** 2,
    "maximum": lambda b, y, t: jnp.max(b) * jnp.ones(N),
    "too much": lambda b, y, t: jnp.sum(b) - 2.0 * b,
    "of another scale": lambda b, y, t: jnp.sum(jnp.array([1e7, 1, 1, 1]) * b) - 1e7 * b,
    "of another function": lambda b, y, t: jnp.exp(jnp.sum(b)) - jnp.exp(b),
    "in another order": lambda b, y, t: jnp.sum(b) - b[::-1],
    "all but one lane": lambda b, y, t: jnp.sum(b) - jnp.where(jnp.arange(N) == 2, 0.0, b),
    "up to it": lambda b, y, t: jnp.cumsum(b),
    "whole turn": lambda b, y, t: jnp.roll(b, N),
    "mask of the others": lambda b, y, t: jnp.max(jnp.where(EYE, b, 0.0), axis=1),
    "lookup of all": lambda b, y, t: jnp.sum(b[OTHERS[::-1]], axis=1),
    "lookup by a choice": lambda b, y, t: b[jnp.argmax(y)] * jnp.ones(N),
    "mask by a parameter": lambda b, y, t: jnp.where(t > 0, left_out(b), jnp.sum(b)),
    "sorted": lambda b, y, t: jnp.sort(b),
    "in a scan": lambda b, y, t: lax.scan(lambda c, x: (c + x, c + x), 0.0, b)[1],
    "what it leads to": lambda b, y, t: y,
}


@pytest.mark.parametrize("name", OTHER_LANES)
def test_values_of_other_lanes_are_unbiased(name):
    assert_unbiased(program(OTHER_LANES[name]), 0.3, exact=exact, key=KEY, num_samples=10_000)


@pytest.mark.parametrize("name", OWN_LANE)
def test_values_that_read_the_own_lane_are_refused(name):
    with pytest.raises(InvalidControlVariate) as failure:
        jax.eval_shape(ppl.expectation(program(OWN_LANE[name])), KEY, 0.3)
    for word in ("'b'", "test_control_variate_lanes.py:", "jnp.sum(x) - x"):
        assert word in str(failure.value)


def in_vmap():
    lanes = lambda _: 1.0 * sample("b", dist.Bernoulli(0.3 * jnp.ones(2)), ScoreFunction())
    return jax.vmap(lanes)(jnp.arange(3))


def in_scan():
    step = lambda c, _: (c, 1.0 * sample("b", dist.Bernoulli(0.3), ScoreFunction()))
    return lax.scan(step, 0.0, length=4)[1]


LANES = [
    (in_vmap, lambda b: jnp.sum(b) - jnp.sum(b, 1), True),
    (in_vmap, lambda b: jnp.sum(b) - b, True),
    (in_vmap, lambda b: jnp.sum(b, 1, keepdims=True) - b, True),
    (in_vmap, lambda b: jnp.sum(b, 0) - b, True),
    (in_vmap, lambda b: jnp.sum(b) - b[:, 0], False),
    (in_vmap, lambda b: jnp.sum(b, 1), False),
    (in_scan, lambda b: jnp.sum(b) - b, True),
    (in_scan, lambda b: jnp.concatenate([jnp.zeros(1), jnp.cumsum(b)[:-1]]), True),
    (in_scan, jnp.cumsum, False),
    (in_scan, jnp.sum, False),
]


@pytest.mark.parametrize("lanes, value, allowed", LANES)
def test_lanes_of_vmaps_batches_and_loops(lanes, value, allowed):
    def objective():
        b = lanes()
        ppl.control_variate("b", value(b))
        return jnp.sum(b) ** 2

    estimate = partial(jax.eval_shape, ppl.expectation(objective), KEY)
    if allowed:
        assert estimate().shape == ()
    else:
        with pytest.raises(InvalidControlVariate):
            estimate()


def counts(t):
    first = sample("first", dist.Poisson(jnp.exp(t)))
    sample("second", dist.Poisson(1.0 + t * first))


def chain(t):
    step = lambda c, _: (1.0 * sample("s", dist.Bernoulli(logits=t * c)), None)
    lax.scan(step, 1.0, length=3)


@pytest.mark.parametrize("guide", [counts, chain])
def test_bounds_of_the_other_particles_are_seen_through_samplers_and_loops(guide):
    objective = lambda t: iwelbo(
        partial(guide, 0.2), lambda: guide(t), {}, num_particles=20, gradient="vimco"
    )
    assert jax.eval_shape(ppl.expectation(objective), KEY, 0.1).shape == ()
