"""Loops along the lanes of a batch, or along another loop's steps, that carry states on."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from jax import lax

import ppl
from ppl import errors, sample
from stdlib.estimators import Enumerate
from stdlib.objectives import elbo
from tests.ppl.all_states import KEY, check_sums, state, table

T = 0.4


def coins(t, *shape):
    chances = 0.5 + 0.3 * jnp.sin(t * (1.0 + jnp.arange(np.prod(shape)).reshape(shape)))
    return state("z", jnp.stack([1.0 - chances, chances], -1))


def cost(before, z, t):
    return jnp.sin(t + 2.0 * before * z + before - z)


def along(z, t, reverse=False, start=1):
    """The last state, and a cost of each state and the one before."""
    step = lambda before, z: (z, cost(before, z, t))
    last, costs = lax.scan(step, start, z, reverse=reverse)
    return last, jnp.sum(costs)


def steps(t, length):
    chances = jax.nn.softmax(jnp.sin(t * jnp.arange(2.0 * length).reshape(length, 2)))
    return lax.scan(lambda c, p: (c, state("z", p)), 0, chances)[1]


def batch(t):
    return along(coins(t, 4), t)[1]


def backwards(t):
    return along(coins(t, 4), t, reverse=True)[1]


def of_steps_backwards(t):
    last, costs = along(steps(t, 4), t, reverse=True)
    return costs + jnp.sin(t + 2.0 * last)


def the_last(t):
    last, costs = along(coins(t, 4), t)
    return costs * 2.0 + jnp.cos(t + last)


def last_alone(t):
    return jnp.cos(t + along(coins(t, 4), t)[0])


def last_of_both_ways(t):
    z = coins(t, 3)
    return jnp.cos(t + along(z, t)[0] + 2.0 * along(z, t, reverse=True)[0])


def both_ways(t):
    z = coins(t, 4)
    return along(z, t)[1] * 2.0 + along(z, 2 * t, reverse=True)[1]


def two_loops(t):
    z = coins(t, 4)
    return along(z, t)[1] + along(z, 2 * t)[1] + jnp.sum(jnp.sin(t * z))


def and_all_together(t):
    z = coins(t, 4)
    return along(z, t)[1] + jnp.cos(t * jnp.sum(z))


def last_and_all(t):
    z = coins(t, 4)
    return jnp.sin(along(z, t)[0] + t) * jnp.cos(t * jnp.sum(z))


def rows(t):
    z = coins(t, 2, 3)
    return jnp.sum(jax.vmap(lambda z: along(z, t)[1])(z)) + jnp.sum(jnp.sin(z * t))


def columns(t):
    z = coins(t, 3, 2)
    ones = jnp.ones(2, int)
    last, costs = lax.scan(lambda before, z: (z, jnp.sum(cost(before, z, t))), ones, z)
    return jnp.sum(costs) + jnp.sum(jnp.cos(t + last))


def rows_and_columns(t):
    z = coins(t, 2, 2)
    of_each = lambda z: jnp.sum(jax.vmap(lambda z: along(z, t)[1])(z))
    return of_each(z) + 2.0 * of_each(z.T)


def across_chains(t):
    """Lanes of chains, and a loop that goes from one chain to the next."""

    def step(z, x):
        z = state("z", table(t + x, 2)[z])
        return z, z

    z = lax.scan(step, jnp.zeros(2, int), jnp.arange(2.0))[1]
    return jnp.sum(jax.vmap(lambda z: along(z, t)[1])(z))


def along_a_chain(t):
    step = lambda z, x: ((new := state("z", table(t + x, 2)[z])), new)
    z = lax.scan(step, 0, jnp.arange(4.0))[1]
    return along(z, t)[1] + jnp.sum(jnp.sin(z * t))


def against_a_chain(t):
    step = lambda z, x: ((new := state("z", table(t + x, 2)[z])), new)
    z = lax.scan(step, 0, jnp.arange(3.0))[1]
    return along(z, t, reverse=True)[1]


def below_a_choice(t):
    a = state("a", table(t, 2)[0])
    z = coins(t * (1.0 + a), 4)
    return along(z, t)[1] * (1.0 + a)


def with_readers(t):
    """Each step draws from its state and the one before."""

    def step(before, z):
        y = state("y", table(t, 2)[(before + z) % 2])
        return z, cost(before, z, t) * (1.0 + y)

    return jnp.sum(lax.scan(step, 1, coins(t, 3))[1])


def with_a_chain(t):
    """Each step draws from its state, the one before, and its own draw before."""

    def step(carry, z):
        before, y = carry
        y = state("y", table(t, 2)[(before + z + y) % 2])
        return (z, y), cost(before, z, t) * (1.0 + y)

    return jnp.sum(lax.scan(step, (1, 0), coins(t, 3))[1])


def two_before(t):
    def step(carry, z):
        older, before = carry
        return (before, z), jnp.sin(t + older * 2.0 * z + before)

    return jnp.sum(lax.scan(step, (0, 1), coins(t, 4))[1])


def over_a_table(t):
    step = lambda before, z: (z, jnp.log(table(t, 2))[before, z])
    return jnp.sum(lax.scan(step, 1, coins(t, 4))[1])


PROGRAMS = (
    *(batch, backwards, of_steps_backwards, the_last, last_alone, last_of_both_ways),
    *(both_ways, two_loops, and_all_together, last_and_all, rows, columns, rows_and_columns),
    *(across_chains, along_a_chain, against_a_chain, below_a_choice, with_readers, with_a_chain),
    *(two_before, over_a_table),
)


@pytest.mark.parametrize("program", PROGRAMS)
def test_sums_over_all_states(program):
    check_sums(program, T, dict.fromkeys("azy", 2))


# --- mean-field guides of a chain -----------------------------------------------------------------

Y = jnp.asarray(np.random.default_rng(1).normal(size=200), jnp.float32)
TABLE = jnp.asarray(np.random.default_rng(0).normal(size=(3, 3)), jnp.float32)


def model(logits, y):
    def step(z, y):
        z = sample("z", dist.Categorical(logits=logits[z]))
        sample("y", dist.Normal(1.0 * z, 1.0), obs=y)
        return z, None

    lax.scan(step, 0, y)


def one(logits):
    return sample("z", dist.Categorical(logits=logits), Enumerate())


GUIDES = {
    "batch": one,
    "lanes": jax.vmap(one),
    "steps": lambda logits: lax.scan(lambda c, logits: (c, one(logits)), 0, logits)[1],
}


def bound(guide, p, y):
    objective = lambda: elbo(lambda: model(p["model"], y), lambda: guide(p["guide"]), {})
    return ppl.expectation(objective)(KEY)


def by_hand(p, y):
    """The bound of a guide whose states are independent: pairs of neighbours."""
    chances, moves = jax.nn.softmax(p["guide"]), jax.nn.log_softmax(p["model"])
    before = jnp.concatenate([jnp.eye(3)[:1], chances[:-1]])
    seen = dist.Normal(jnp.arange(3.0), 1.0).log_prob(y[:, None])
    own = jnp.sum(chances * (seen - jnp.log(chances)))
    return own + jnp.einsum("ti,ij,tj", before, moves, chances)


def parameters(length):
    guide = np.random.default_rng(length).normal(size=(length, 3))
    return {"model": TABLE, "guide": jnp.asarray(guide, jnp.float32)}


@pytest.mark.parametrize("guide", GUIDES)
def test_the_bound_of_a_mean_field_guide(guide):
    p, functions = parameters(200), (partial(bound, GUIDES[guide]), by_hand)
    found, wanted = (jax.jit(jax.value_and_grad(f))(p, Y) for f in functions)
    for ours, theirs in zip(*map(jax.tree.leaves, (found, wanted)), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=2e-4, atol=2e-4)


def test_its_cost_is_linear():
    def flops(length):
        gradient = jax.grad(partial(bound, GUIDES["batch"]))
        compiled = jax.jit(gradient).lower(parameters(length), Y[:length]).compile()
        return compiled.cost_analysis()["flops"]

    assert flops(200) < 2.1 * flops(100)


def test_many_lanes_that_meet_further_apart_are_refused():
    def program():
        z = one(jnp.zeros((100, 2)))
        step = lambda carry, z: ((carry[1], z), carry[0] * z)
        return jnp.sum(1.0 * lax.scan(step, (0, 0), z)[1])

    with pytest.raises(errors.TooManyJointStates, match=r"test_loops_along_lanes.*100 scan steps"):
        ppl.expectation(program)(KEY)
