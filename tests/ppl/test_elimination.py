"""Summing out particles in three semirings, against sums over all the joint states."""

import itertools
from functools import reduce

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from jax import lax

import ppl
from ppl import sample
from ppl._expectation.elimination.semiring import LOGS, MAX, NUMBERS
from ppl._expectation.expectation import sum_exactly
from stdlib.estimators import Enumerate
from tests.ppl.all_states import (
    KEY,
    all_choices,
    check_sums,
    cost_and_weight,
    state,
    table,
)

T = 0.4

# --- laws ----------------------------------------------------------------------------------------

RINGS = {"numbers": NUMBERS, "logs": LOGS, "max": MAX}
NUMBERS_OF = {
    "numbers": lambda logs: jnp.exp(logs),
    "logs": lambda logs: logs,
    "max": lambda logs: logs,
}


@pytest.fixture(params=RINGS)
def ring_and_numbers(request):
    """A semiring and numbers of it `(30, 4)`, the zero and the one among them."""
    logs = jax.random.normal(KEY, (30, 4)).at[::5, 1].set(-jnp.inf).at[::7].set(0.0)
    return RINGS[request.param], NUMBERS_OF[request.param](logs)


def close(found, wanted):
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)


def test_a_total_may_be_taken_in_any_order_and_in_parts(ring_and_numbers):
    ring, x = ring_and_numbers
    close(ring.total(x[:, ::-1], axis=1), ring.total(x, axis=1))
    parts = jnp.stack([ring.total(x[:, :2], axis=1), ring.total(x[:, 2:], axis=1)])
    close(ring.total(parts, axis=0), ring.total(x, axis=1))
    close(ring.total(x, axis=(0, 1)), ring.total(ring.total(x, axis=1), axis=0))
    padded = jnp.concatenate([x, jnp.full((30, 2), ring.zero)], axis=1)
    close(ring.total(padded, axis=1), ring.total(x, axis=1))


def test_weights_multiply_in_any_order_and_one_is_neutral(ring_and_numbers):
    ring, x = ring_and_numbers
    a, b, c, _ = x.T
    close(ring.times(a, ring.times(b, c)), ring.times(ring.times(a, b), c))
    close(ring.times(a, b), ring.times(b, a))
    close(ring.times(jnp.full(30, ring.one), a), a)
    close(ring.multiplication.product(x, axis=1), reduce(ring.times, x.T))


def test_factors_may_be_taken_out_of_a_total(ring_and_numbers):
    ring, x = ring_and_numbers
    a, b = x[:15, :1], x[15:]
    close(ring.total(ring.times(a, b), axis=1), ring.times(a[:, 0], ring.total(b, axis=1)))


@pytest.mark.parametrize("unbounded", [False, True])
def test_what_is_impossible_stays_so(ring_and_numbers, unbounded):
    ring, _ = ring_and_numbers
    costs = jnp.array([3.0, jnp.inf, -jnp.inf, jnp.nan])
    impossible = jnp.full(4, ring.zero)
    found = jax.jit(lambda w, c: ring.times(w, c, unbounded))(impossible, costs)
    np.testing.assert_array_equal(found, impossible)


def test_rows_times_matrices(ring_and_numbers):
    ring, x = ring_and_numbers
    row, matrix = x[:6], x[6:].reshape(6, 4, 4)
    wanted = ring.total(ring.times(row[:, :, None], matrix), axis=1)
    close(ring.after(row, matrix), wanted)


# --- the same elimination, in each of them -------------------------------------------------------


def one_after_the_other(t):
    a = state("a", table(t)[0])
    b = state("b", table(t)[a])
    c = state("c", table(2 * t)[b])
    return jnp.sin(a * b + t) + jnp.cos(b + c * t)


def lanes(t):
    z = state("z", table(t))
    y = state("y", table(2 * t)[z])
    return jnp.sum(jnp.sin(z + t * y))


def lanes_unread(t):
    z = state("z", table(t))
    state("y", table(2 * t)[z])
    return t * state("x", table(t)[1])


def mixed_lanes(t):
    z = state("z", table(t))
    return jnp.sum(jnp.sin(t * z)) + jnp.cos(jnp.sum(z) * t)


def beside_lanes(t):
    a, z = state("a", table(t)[0]), state("z", table(t))
    return jnp.sum(jnp.sin(1.0 + a * z * t)) + jnp.prod(1.0 + z * t)


def chain(t, reverse=False):
    def step(z, x):
        new = state("z", table(t)[z])
        return new, jnp.sin(t * new * (z + 1) + x)

    last, costs = lax.scan(step, jnp.asarray(0), jnp.arange(3.0), reverse=reverse)
    return jnp.sum(costs) + jnp.cos(t * last)


def chain_backwards(t):
    return chain(t, reverse=True)


def chain_of_changing_chances(t):
    def step(z, x):
        new = state("z", table(t + x)[z])
        return new, t * new * x

    return jnp.sum(lax.scan(step, state("start", table(t)[1]), jnp.arange(3.0))[1])


def chain_with_more_in_a_step(t):
    def step(z, x):
        u = state("u", table(t)[z, :2] / jnp.sum(table(t)[z, :2]))
        new = state("z", table(2 * t)[(z + u) % 3])
        return new, jnp.sin(t * u + x * new)

    return jnp.sum(lax.scan(step, jnp.asarray(0), jnp.arange(3.0))[1])


def chain_with_emissions(t):
    def step(z, x):
        new = state("z", table(t)[z])
        return new, jnp.sin(x + state("u", table(t, 2)[new % 2]) * z)

    return jnp.sum(lax.scan(step, jnp.asarray(0), jnp.arange(3.0))[1])


def chain_of_two(t):
    two = table(t, 2)

    def step(carry, _):
        a, b = carry
        new = state("a", two[a]), state("b", table(2 * t, 2)[b])
        return new, jnp.sin(new[0] * b + t * new[1] * a)

    (a, b), costs = lax.scan(step, (jnp.asarray(0), jnp.asarray(1)), length=3)
    return jnp.sum(costs) + t * a * b


def chain_unread(t):
    lax.scan(lambda z, _: (state("z", table(t)[z]), None), jnp.asarray(0), length=3)
    return t * state("a", table(t)[0])


def last_of_a_chain_beside_lanes(t):
    y = sample("y", dist.Bernoulli(jnp.stack([t, 0.3])), Enumerate())
    z, _ = lax.scan(lambda z, _: (state("z", table(t)[z]), None), jnp.asarray(0), length=3)
    return jnp.sum(jnp.sin(1.0 + y * (z + t)))


def chains_side_by_side(t):
    def step(z, x):
        new = state("z", table(t, 2)[z])
        return new, jnp.sin(t * new + z + x)

    last, costs = lax.scan(step, jnp.zeros(2, int), jnp.arange(2.0))
    return jnp.sum(costs) + jnp.sum(jnp.cos(t + last))


def loop_without_memory(t):
    step = lambda _, x: (None, jnp.sin(t * state("z", table(t)[0]) + x))
    return jnp.sum(lax.scan(step, None, jnp.arange(3.0))[1])


TWO, THREE = dict.fromkeys("abuyz", 2), {}
STATES = {
    one_after_the_other: THREE,
    lanes: THREE,
    lanes_unread: THREE,
    mixed_lanes: THREE,
    beside_lanes: THREE,
    chain: THREE,
    chain_backwards: THREE,
    chain_of_changing_chances: THREE,
    chain_with_more_in_a_step: {"u": 2},
    chain_with_emissions: {"u": 2},
    chain_of_two: TWO,
    chain_unread: THREE,
    last_of_a_chain_beside_lanes: {"y": 2},
    chains_side_by_side: TWO,
    loop_without_memory: THREE,
}
"""How many states the sites of each program have, where they are not three."""


@pytest.mark.parametrize("program", STATES)
def test_elimination_is_the_sum_over_all_states(program):
    check_sums(program, T, STATES[program])


def test_chains_side_by_side_are_summed_apart_however_long():
    def walks(ring, lanes, length):
        def step(z, _):
            new = state("z", table(T, 2)[z])
            return new, jnp.sin(T * new + z)

        def walk():
            last, costs = lax.scan(step, jnp.zeros(lanes, int), length=length)
            return jnp.sum(costs) + jnp.sum(jnp.cos(T + last))

        return sum_exactly(walk, ring)

    for ring in (LOGS, MAX):
        one, two = (jax.jit(walks(ring, lanes, 100))() for lanes in (1, 2))
        np.testing.assert_allclose(two, 2 * one, rtol=1e-5)
        short, long = (jax.make_jaxpr(walks(ring, 2, length))() for length in (10, 100))
        assert len(str(long)) < 1.01 * len(str(short))


def test_a_state_that_is_not_reached_may_cost_infinitely_much():
    """A chain goes from 1 to 1 or 2, and on from there; it never is in 0."""
    never = jnp.array([[1.0, 0.0, 0.0], [0.0, 0.4, 0.6], [0.0, 0.6, 0.4]])

    def walk(t):
        step = lambda z, _: ((new := state("z", never[z])), t / z + new)
        return jnp.sum(lax.scan(step, jnp.asarray(1), length=3)[1])

    def by_paths(t):
        terms = []
        for path in itertools.product((1, 2), repeat=3):
            steps = list(itertools.pairwise((1, *path)))
            chance = reduce(lambda p, step: p * never[step], steps, 1.0)
            terms.append(jnp.log(chance) + sum(t / z + new for z, new in steps))
        return jnp.stack([jax.nn.logsumexp(jnp.stack(terms)), jnp.max(jnp.stack(terms))])

    def by_sums(t):
        return jnp.stack([sum_exactly(walk, ring)(t) for ring in (LOGS, MAX)])

    found, wanted = (jax.jit(jax.jacrev(f))(T) for f in (by_sums, by_paths))
    np.testing.assert_allclose(found, wanted, rtol=1e-5)
    np.testing.assert_allclose(jax.jit(by_sums)(T), by_paths(T), rtol=1e-5)


def test_a_choice_that_is_certain_counts_nothing():
    def in_a_branch(t):
        def step(z, x):
            certain = lambda: state("c", jnp.ones(1))
            new = state("z", table(t)[z])
            return new, jnp.sin(new * z + x) + lax.cond(x < 1, certain, lambda: jnp.asarray(0))

        return jnp.sum(lax.scan(step, jnp.asarray(0), jnp.arange(3.0))[1])

    def without(t):
        step = lambda z, x: ((new := state("z", table(t)[z])), jnp.sin(new * z + x))
        return jnp.sum(lax.scan(step, jnp.asarray(0), jnp.arange(3.0))[1])

    found, wanted = (jax.jit(ppl.log_expectation(f))(T) for f in (in_a_branch, without))
    np.testing.assert_allclose(found, wanted, rtol=1e-6)


@pytest.mark.parametrize("program", [chain_with_emissions, last_of_a_chain_beside_lanes])
def test_draws_have_the_law_of_all_choices_together(program):
    """The gradient in slopes of a term that is linear in the choices is one draw of them."""
    choices, count = all_choices(program, T, STATES[program]), 20_000

    def draw(key):
        def tilted(slopes):
            trace = ppl.simulate(program, T)
            return trace.value + sum(jnp.sum(slopes[k] * x) for k, x in trace.choices.items())

        slopes = {name: jnp.zeros(x.shape[1:]) for name, x in choices.items()}
        return jax.grad(ppl.log_expectation(tilted, draw=key))(slopes)

    drawn = jax.jit(jax.vmap(draw))(jax.random.split(KEY, count))
    same = [
        np.all(drawn[k].reshape(count, 1, -1) == x.reshape(1, len(x), -1), axis=-1)
        for k, x in choices.items()
    ]
    found = np.mean(np.all(same, axis=0), axis=0)
    costs, logs = jax.vmap(lambda choices: cost_and_weight(program, T, choices))(choices)
    shares = jax.nn.softmax(costs + logs)
    assert np.all(np.abs(found - shares) <= 5 * np.sqrt(shares * (1 - shares) / count))
