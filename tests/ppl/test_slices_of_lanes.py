"""Slices of the lanes of a batch, and neighbours that meet."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from tests.ppl.all_states import check_sums, state, table

T = 0.4


def coins(t, *shape):
    chances = 0.5 + 0.3 * jnp.sin(t * (1.0 + jnp.arange(np.prod(shape)).reshape(shape)))
    return state("z", jnp.stack([1.0 - chances, chances], -1))


def numbers(t, *shape):
    return 1.0 * coins(t, *shape)


def cost(before, z, t):
    return jnp.sin(t + 2.0 * before * z + before - z)


def chain(t, length, reverse=False):
    def step(z, x):
        z = state("z", table(t + x, 2)[z])
        return z, z

    return lax.scan(step, 0, jnp.arange(1.0 * length), reverse=reverse)[1]


def stretches(t):
    z = numbers(t, 6)
    return jnp.sum(jnp.sin(t * z[2:5])) + jnp.sum(jnp.cos(z[:2] + t)) - jnp.sum(z[4:] * t)


def parts(t):
    first, second = jnp.split(numbers(t, 5), [2])
    return jnp.sum(jnp.sin(t * first)) + jnp.sum(jnp.cos(t * second))


def put_together(t):
    z = numbers(t, 5)
    again = jnp.concatenate([jnp.sin(z[:3]), jnp.cos(z[3:])])
    return jnp.sum(again * z * t)


def put_together_otherwise(t):
    z = numbers(t, 4)
    return jnp.sum(jnp.roll(z, 1) * z * t + z)


def put_beside_others(t):
    z = numbers(t, 4)
    before = jnp.concatenate([jnp.ones(1), z[:-1]])
    after = jnp.concatenate([z[1:], jnp.ones(1)])
    return jnp.sum(cost(before, z, t)) + jnp.sum(jnp.sin(after * t))


def neighbours(t):
    z = numbers(t, 5)
    return jnp.sum(cost(z[:-1], z[1:], t) * jnp.arange(1.0, 5.0)) + jnp.sum(jnp.sin(z * t))


def differences(t):
    return jnp.sum(jnp.abs(jnp.diff(numbers(t, 5))) * t)


def in_a_table(t):
    z = coins(t, 5)
    return jnp.sum(jnp.log(table(t, 2))[z[:-1], z[1:]])


def within_a_slice(t):
    z = numbers(t, 6)[1:]
    return jnp.sum(cost(z[:-1], z[1:], t)[1:])


def three_in_a_row(t):
    z = numbers(t, 5)
    return jnp.sum(jnp.sin(t + z[2:] * z[1:-1] + 2.0 * z[:-2]))


def two_apart(t):
    z = numbers(t, 5)
    return jnp.sum(cost(z[:-2], z[2:], t))


def multiplied(t):
    z = numbers(t, 4)
    return jnp.prod(1.0 + z[1:] * z[:-1] * t) + jnp.sum(cost(z[:-1], z[1:], t))


def and_all_together(t):
    z = numbers(t, 4)
    return jnp.sum(cost(z[:-1], z[1:], t)) * jnp.cos(t * jnp.sum(z)) + jnp.sum(jnp.sin(z[2:] * t))


def rows(t):
    z = numbers(t, 2, 3)
    return jnp.sum(cost(z[:, :-1], z[:, 1:], t)) + jnp.sum(jnp.sin(z[1] * t))


def grid(t):
    z = numbers(t, 2, 3)
    return jnp.sum(cost(z[:, :-1], z[:, 1:], t)) + jnp.sum(cost(z[:-1], z[1:], t))


def diagonals(t):
    z = numbers(t, 3, 2)
    return jnp.sum(cost(z[:-1, :-1], z[1:, 1:], t))


def mapped(t):
    z = numbers(t, 2, 3)
    return jnp.sum(jax.vmap(lambda z: jnp.sum(cost(z[:-1], z[1:], t)))(z))


def of_a_chain(t):
    z = chain(t, 4)
    return jnp.sum(cost(z[:-1], z[1:], t)) + jnp.sum(jnp.sin(t * z[1:]))


def of_a_chain_backwards(t):
    z = chain(t, 4, reverse=True)
    return jnp.sum(cost(z[:-1], z[1:], t))


def and_a_loop(t):
    z = coins(t, 4)
    costs = lax.scan(lambda before, z: (z, cost(before, z, t)), 1, z)[1]
    return jnp.sum(costs) + jnp.sum(cost(z[:-1], z[1:], 2.0 * t))


def and_a_loop_backwards(t):
    z = coins(t, 4)
    costs = lax.scan(lambda after, z: (z, cost(after, z, t)), 1, z, reverse=True)[1]
    return jnp.sum(costs) + jnp.sum(cost(z[:-1], z[1:], 2.0 * t))


def into_a_loop(t):
    z = coins(t, 4)
    costs = lax.scan(lambda before, z: (z, cost(before, z, t)), z[0], z[1:])[1]
    return jnp.sum(costs)


def into_sites(t):
    z = coins(t, 3)
    y = state("y", table(t, 2)[z[1:]])
    return jnp.sum(jnp.sin(t * y + z[:-1])) + jnp.sum(y * z[1:])


def beside_others(t):
    z, y = numbers(t, 4), state("y", table(t, 2)[jnp.array([0, 1, 1])])
    return jnp.sum(jnp.sin(t * y + z[1:]))


def below_a_choice(t):
    a = state("a", table(t, 2)[0])
    z = numbers(t * (1.0 + a), 4)
    return jnp.sum(cost(z[:-1], z[1:], t)) * (1.0 + a)


def in_a_branch(t):
    z = numbers(t, 4)
    z = lax.cond(state("a", table(t, 2)[0]) > 0, lambda z: z[1:] * t, lambda z: z[:-1], z)
    return jnp.sum(jnp.sin(z))


def in_a_checkpoint(t):
    body = jax.checkpoint(lambda z: jnp.sum(cost(z[:-1], z[1:], t)) + jnp.sum(z[2:]))
    return body(numbers(t, 4))


def cumulated(t):
    z = numbers(t, 4)
    return jnp.sum(jnp.sin(t * jnp.cumsum(z[1:])))


def an_edge_again(t):
    z = numbers(t, 4)
    after = jnp.concatenate([z[1:], z[-1:]])
    return jnp.sum(cost(z, after, t)) + jnp.sum(after * jnp.arange(4.0))


def overlapping(t):
    z = numbers(t, 4)
    twice = jnp.concatenate([z[1:3], z[2:]])
    return jnp.sum(jnp.sin(twice * z + twice * t)) + t * jnp.sum(jnp.sin(z[:1]))


def an_end_twice(t):
    z = numbers(t, 5)
    end = jnp.concatenate([z[3:], z[-1:]])
    return jnp.sum(cost(z[2:], end, t)) + jnp.sum(jnp.sin(t * end * jnp.arange(1.0, 4.0)))


def an_edge_again_as_a_parent(t):
    w = coins(t, 3)
    y = state("y", table(t, 2)[jnp.concatenate([w[1:], w[-1:]])])
    return jnp.sum(jnp.sin(t + y * w))


def empty(t):
    z = numbers(t, 3)
    padded = jnp.pad(z, (0, 1), mode="edge")
    return sum(jnp.sum(part) ** 2 for part in (z[:0], z[1:])) + jnp.sum(jnp.sin(t * padded))


PROGRAMS = (
    *(an_edge_again, overlapping, an_end_twice, an_edge_again_as_a_parent, empty),
    *(stretches, parts, put_together, put_together_otherwise, put_beside_others, neighbours),
    *(differences, in_a_table, within_a_slice, three_in_a_row, two_apart, multiplied),
    *(and_all_together, rows, grid, diagonals, mapped, of_a_chain, of_a_chain_backwards),
    *(and_a_loop, and_a_loop_backwards, into_a_loop, into_sites, beside_others, below_a_choice),
    *(in_a_branch, in_a_checkpoint, cumulated),
)


@pytest.mark.parametrize("program", PROGRAMS)
def test_sums_over_all_states(program):
    check_sums(program, T, dict.fromkeys("azy", 2))
