"""Sites of several particles in `scan`: the forward recursion, and what is written out."""

import itertools
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from jax import lax

import ppl
from ppl import ScoreFunction, errors, sample
from stdlib.estimators import Enumerate
from stdlib.objectives import elbo
from stdlib.testing import assert_unbiased

KEY = jax.random.key(9)
STATES = 3
TABLE = jnp.asarray(np.random.default_rng(0).normal(size=(STATES, STATES)), jnp.float32)
Y = jnp.asarray(np.random.default_rng(1).normal(size=1000), jnp.float32)


def model(table, y):
    def step(z, y):
        z = sample("z", dist.Categorical(logits=table[z]))
        sample("y", dist.Normal(1.0 * z, 1.0), obs=y)
        return z, None

    lax.scan(step, 0, y)


def guide(logits):
    def step(z, logits):
        return sample("z", dist.Categorical(logits=logits[z]), Enumerate()), None

    lax.scan(step, 0, logits)


def bound(p, y):
    return elbo(lambda: model(p["table"], y), lambda: guide(p["guide"]), {})


def forward(p, y):
    """The ELBO by a forward recursion of marginals."""

    def step(state, x):
        logits, y = x
        q, log_q = jax.nn.softmax(logits), jax.nn.log_softmax(logits)
        log_p = jax.nn.log_softmax(p["table"]) + dist.Normal(jnp.arange(3.0), 1.0).log_prob(y)
        return state @ q, jnp.sum(state[:, None] * q * (log_p - log_q))

    return jnp.sum(lax.scan(step, jnp.eye(STATES)[0], (p["guide"], y))[1])


def parameters(length):
    guide = np.random.default_rng(length).normal(size=(length, STATES, STATES))
    return {"table": TABLE, "guide": jnp.asarray(guide, jnp.float32)}


@pytest.mark.parametrize("length", [1, 2, 7, 300])
def test_chain_equals_the_forward_recursion(length):
    p, y = parameters(length), Y[:length]
    assert_unbiased(bound, p, y, exact=forward, key=KEY, num_samples=1, tolerance=2e-4)


def test_cost_is_linear_and_the_program_as_long_at_any_length():
    programs, flops = {}, {}
    for length in (100, 200):
        args = (KEY, parameters(length), Y[:length])
        gradient = jax.grad(ppl.expectation(bound), argnums=1)
        programs[length] = str(jax.make_jaxpr(gradient)(*args)).count(" = ")
        flops[length] = jax.jit(gradient).lower(*args).compile().cost_analysis()["flops"]
    assert programs[100] == programs[200]
    assert flops[200] <= 2.1 * flops[100]


# --- other loops, against sums over all paths -----------------------------------------------------

LOGITS = jnp.asarray(np.random.default_rng(2).normal(size=(3, 2, 2)), jnp.float32)
STEPS = LOGITS.shape[0]


def paths(cost):
    """E[cost(path)] of a chain of coins from state 0 with logits (steps, 2, 2), by enumeration."""

    def exact(logits):
        total = 0.0
        chances = jax.nn.softmax(logits, -1)
        for path in itertools.product((0, 1), repeat=STEPS):
            chance, state = 1.0, 0
            for t, z in enumerate(path):
                chance, state = chance * chances[t, state, z], z
            total = total + chance * cost(jnp.asarray(path, jnp.float32))
        return total

    return exact


def chain(logits, reverse=False):
    def step(z, logits):
        z = sample("z", dist.Categorical(logits=logits[z]), Enumerate())
        return z, z

    return lax.scan(step, 0, logits, reverse=reverse)


def test_end_of_a_chain():
    program = lambda logits: jnp.sin(1.0 + chain(logits)[0])
    exact = paths(lambda z: jnp.sin(1.0 + z[-1]))
    assert_unbiased(program, LOGITS, exact=exact, key=KEY, num_samples=1)


def test_a_loop_over_the_states_of_another():
    def program(logits):
        _, z = chain(logits)
        steps = lax.scan(lambda c, z: (z, jnp.sin(1.0 + c + 2.0 * z * c)), 1, z)[1]
        return jnp.sum(steps * jnp.arange(3.0))

    def cost(z):
        before = jnp.concatenate([jnp.ones(1), z[:-1]])
        return jnp.sum(jnp.sin(1.0 + before + 2.0 * z * before) * jnp.arange(3.0))

    assert_unbiased(program, LOGITS, exact=paths(cost), key=KEY, num_samples=1)


def test_a_chain_backwards():
    program = lambda logits: jnp.sum(chain(logits, True)[1] * jnp.arange(1.0, 4.0))
    exact = paths(lambda z: jnp.sum(z * jnp.arange(3.0, 0.0, -1.0)))
    reversed_exact = lambda logits: exact(logits[::-1])
    assert_unbiased(program, LOGITS, exact=reversed_exact, key=KEY, num_samples=1)


def test_a_loop_against_the_direction_of_the_chain():
    def program(logits):
        _, z = chain(logits)
        return jnp.sum(lax.scan(lambda c, z: (z, jnp.cos(c + 2.0 * z)), 0, z, reverse=True)[1])

    def cost(z):
        return jnp.sum(jnp.cos(jnp.concatenate([z[1:], jnp.zeros(1)]) + 2.0 * z))

    assert_unbiased(program, LOGITS, exact=paths(cost), key=KEY, num_samples=1)


def test_paths_that_mix_are_written_out():
    program = lambda logits: jnp.sum(chain(logits)[1] * jnp.arange(1.0, 4.0)) ** 2
    exact = paths(lambda z: jnp.sum(z * jnp.arange(1.0, 4.0)) ** 2)
    assert_unbiased(program, LOGITS, exact=exact, key=KEY, num_samples=1)


def test_a_carry_that_keeps_older_states_is_written_out():
    def program(logits):
        def step(carry, logits):
            z, total = carry
            z = sample("z", dist.Categorical(logits=logits[z]), Enumerate())
            return (z, total + z), jnp.sin(1.0 * total * z)

        return jnp.sum(lax.scan(step, (0, 0), logits)[1])

    def cost(z):
        return jnp.sum(jnp.sin(jnp.concatenate([jnp.zeros(1), jnp.cumsum(z)[:-1]]) * z))

    assert_unbiased(program, LOGITS, exact=paths(cost), key=KEY, num_samples=1)


class Counted(ScoreFunction):
    """Counts how often the site that it is given to is measured: once an evaluation."""

    count: ClassVar = []

    def particles(self, key, distribution):
        self.count.append(1)
        return super().particles(key, distribution)


def whole_path(logits, name):
    """A square of a whole path: its steps meet after the loop."""

    def step(z, logits):
        z = sample(name, dist.Categorical(logits=logits[z]), Enumerate())
        return z, 1.0 * z

    return jnp.sum(lax.scan(step, 0, logits)[1]) ** 2


def beside_a_batch(logits, name):
    """A chain beside a batch in its loop: the two meet as sites are summed out."""

    def step(z, logits):
        z = sample(name, dist.Categorical(logits=logits[z]), Enumerate())
        pair = sample(f"{name} pair", dist.Bernoulli(jnp.full(2, 0.25)), Enumerate())
        return z, 1.0 * z * jnp.sum(pair)

    return jnp.sum(lax.scan(step, 0, logits)[1])


def before_the_last(logits, name):
    """A carry of two states: its own steps meet in the loop."""

    def step(carry, logits):
        older, old = carry
        z = sample(name, dist.Categorical(logits=logits[old]), Enumerate())
        return (old, z), 1.0 * older * z

    return jnp.sum(lax.scan(step, (0, 0), logits)[1])


MIXING = {
    "after their loops": ([whole_path] * 3, 2),
    "as sites are summed out": ([beside_a_batch] * 3, 2),
    "in their loops": ([before_the_last] * 3, 1),
    "everywhere": ([whole_path, beside_a_batch, before_the_last, whole_path], 2),
}


@pytest.mark.parametrize("where", MIXING)
def test_loops_that_mix_are_found_together(where):
    """The estimate is a sum of independent ones, and two evaluations find it, however many."""
    loops, evaluations = MIXING[where]
    names = [f"z{i}" for i in range(len(loops))]

    def program(logits):
        sample("counted", dist.Bernoulli(0.5), Counted())
        return sum(loop(logits, name) for loop, name in zip(loops, names, strict=True))

    alone = {loop: jax.jit(ppl.expectation(lambda x, f=loop: f(x, "z"))) for loop in set(loops)}
    wanted = sum(alone[loop](KEY, LOGITS) for loop in loops)
    Counted.count.clear()
    found = jax.jit(ppl.expectation(program))(KEY, LOGITS)
    assert len(Counted.count) == evaluations
    np.testing.assert_allclose(found, wanted, rtol=1e-5)


def test_a_loop_that_reads_a_path_that_mixes():
    """The second loop is looked at with the first one's path in place, and then written out too."""

    def program(logits):
        first = jnp.sum(chain(logits)[1]) ** 2 / 9.0

        def step(z, logits):
            z = sample("next", dist.Bernoulli(logits=first + logits[0, 1] * z), Enumerate())
            return z, z

        return first * jnp.sum(lax.scan(step, 0, logits)[1]) ** 2

    def cost(z):
        first, total = jnp.sum(z) ** 2 / 9.0, 0.0
        for path in itertools.product((0, 1), repeat=STEPS):
            chance, state = 1.0, 0
            for t, new in enumerate(path):
                up = jax.nn.sigmoid(first + LOGITS[t, 0, 1] * state)
                chance, state = chance * (up if new else 1.0 - up), new
            total = total + chance * sum(path) ** 2
        return first * total

    found = jax.jit(ppl.expectation(program))(KEY, LOGITS)
    np.testing.assert_allclose(found, paths(cost)(LOGITS), rtol=1e-5)


def test_a_chain_in_lanes():
    def program(logits):
        def one(shift):
            return jnp.sum(jnp.sin(shift + chain(logits + shift)[1]))

        return jnp.sum(jax.vmap(one)(jnp.array([0.0, 0.7])) * jnp.array([1.0, -2.0]))

    def exact(logits):
        first, second = (
            paths(lambda z, s=s: jnp.sum(jnp.sin(s + z)))(logits + s) for s in (0.0, 0.7)
        )
        return first - 2.0 * second

    assert_unbiased(program, LOGITS, exact=exact, key=KEY, num_samples=1)


def test_a_chain_below_a_choice():
    def program(logits):
        k = sample("k", dist.Bernoulli(0.3), Enumerate())
        return jnp.sum(jnp.sin(k + 1.0 + chain(logits * (1.0 + k))[1]))

    def exact(logits):
        return sum(
            c * paths(lambda z, k=k: jnp.sum(jnp.sin(k + 1.0 + z)))(logits * (1 + k))
            for k, c in ((0.0, 0.7), (1.0, 0.3))
        )

    assert_unbiased(program, LOGITS, exact=exact, key=KEY, num_samples=1)


def two_sites(second):
    def program(logits):
        def step(z, logits):
            z = sample("z", dist.Categorical(logits=logits[z]), Enumerate())
            u = sample("u", dist.Bernoulli(0.3 + 0.4 * z), second)
            return z, jnp.sin(1.0 + z + 2.0 * u)

        return jnp.sum(lax.scan(step, 0, logits)[1] * jnp.arange(1.0, 4.0))

    return program


@pytest.mark.parametrize("second", [Enumerate(), ScoreFunction()], ids=["enumerated", "scored"])
def test_two_sites_a_step(second):
    def cost(z):
        mean = 0.3 + 0.4 * z
        value = mean * jnp.sin(3.0 + z) + (1 - mean) * jnp.sin(1.0 + z)
        return jnp.sum(value * jnp.arange(1.0, 4.0))

    samples = 1 if isinstance(second, Enumerate) else 20_000
    assert_unbiased(two_sites(second), LOGITS, exact=paths(cost), key=KEY, num_samples=samples)


def test_a_state_that_depends_on_another_site():
    """Two enumerated sites a step, both carried."""

    def program(p):
        def step(carry, _):
            a, b = carry
            a = sample("a", dist.Bernoulli(0.2 + p * b), Enumerate())
            b = sample("b", dist.Bernoulli(0.3 + 0.5 * p * a), Enumerate())
            return (a, b), jnp.sin(1.0 * a + 2.0 * b)

        return jnp.sum(lax.scan(step, (0, 1), None, length=4)[1])

    def exact(p):
        state, total = jnp.zeros((2, 2)).at[0, 1].set(1.0), 0.0
        bits = jnp.arange(2)
        for _ in range(4):
            heads_a = 0.2 + p * bits
            chance_a = jnp.stack([1 - heads_a, heads_a], -1)
            heads_b = 0.3 + 0.5 * p * bits
            chance_b = jnp.stack([1 - heads_b, heads_b], -1)
            state = jnp.einsum("ab,bc,cd->cd", state, chance_a, chance_b)
            total = total + jnp.sum(state * jnp.sin(bits[:, None] + 2.0 * bits))
        return total

    assert_unbiased(program, 0.4, exact=exact, key=KEY, num_samples=1)


def test_too_long_to_write_out():
    def program(logits):
        return jnp.sum(chain(logits)[1]) ** 2.0

    with pytest.raises(errors.TooManyJointStates) as failure:
        ppl.expectation(program)(KEY, jnp.zeros((70, 2, 2)))
    for words in ("'z'", "test_chains.py", "70 scan steps", "64", "stacked outputs"):
        assert words in str(failure.value)


# --- log E[exp(...)] ------------------------------------------------------------------------------


def assert_equal(ours, theirs, at, rtol=1e-4, atol=1e-5):
    """Values and gradients of two functions."""
    both = jax.jit(lambda at: [jax.value_and_grad(f)(at) for f in (ours, theirs)])
    for found, wanted in zip(*map(jax.tree.leaves, both(at)), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=rtol, atol=atol)


def evidence(table, y):
    states = ppl.with_estimators(lambda: model(table, y), {"z": Enumerate()})
    return ppl.simulate(states).log_likelihood


def forward_algorithm(table, y):
    def step(state, y):
        moved = jax.nn.logsumexp(state[:, None] + jax.nn.log_softmax(table), axis=0)
        return moved + dist.Normal(jnp.arange(3.0), 1.0).log_prob(y), None

    start = jnp.where(jnp.arange(STATES) == 0, 0.0, -jnp.inf)
    return jax.nn.logsumexp(lax.scan(step, start, y)[0])


@pytest.mark.parametrize("length", [1, 2, 7, 300])
def test_log_marginal_likelihood_of_a_chain(length):
    ours, theirs = (
        lambda table, f=f: f(table, Y[:length])
        for f in (ppl.log_expectation(evidence), forward_algorithm)
    )
    assert_equal(ours, theirs, TABLE, rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("reverse", [False, True])
def test_log_marginal_likelihood_from_a_start_that_is_drawn(reverse):
    """The same transitions at each step, some impossible; before the first, another's states."""
    table, y = TABLE.at[0, 1].set(-jnp.inf), Y[:5]

    def program(table):
        def step(z, y):
            z = sample("z", dist.Categorical(logits=table[z]), Enumerate())
            sample("y", dist.Normal(z, 1.0), obs=y)
            return z, None

        start = sample("start", dist.Categorical(jnp.array([0.2, 0.5, 0.3])), Enumerate())
        lax.scan(step, start, y, reverse=reverse)

    def exact(table):
        chances = jax.nn.softmax(table)
        state = jnp.array([0.2, 0.5, 0.3])
        for value in y[::-1] if reverse else y:
            state = (state @ chances) * jnp.exp(dist.Normal(jnp.arange(3.0), 1.0).log_prob(value))
        return jnp.log(jnp.sum(state))

    likelihood = ppl.log_expectation(lambda table: ppl.simulate(program, table).log_likelihood)
    assert_equal(likelihood, exact, table)


def test_transitions_alike_are_not_spread_over_the_steps():
    def accessed(f):
        compiled = jax.jit(jax.value_and_grad(f)).lower(TABLE, Y).compile()
        return compiled.cost_analysis()["bytes accessed"]

    assert accessed(ppl.log_expectation(evidence)) < 5 * accessed(forward_algorithm)


def paths_cost(z):
    return jnp.sum(jnp.sin(1.0 + z + jnp.concatenate([jnp.zeros(1), z[:-1]])))


def summed_cost(logits):
    _, z = chain(logits)
    steps = lax.scan(lambda c, z: (z, jnp.sin(1.0 + c + z)), 0, z)[1]
    return jnp.sum(steps)


LOG_PROGRAMS = {
    "stacked costs": (summed_cost, paths_cost),
    "mixed": (lambda logits: jnp.sum(chain(logits)[1]) ** 2.0, lambda z: jnp.sum(z) ** 2),
    "the end": (lambda logits: 2.0 * chain(logits)[0], lambda z: 2.0 * z[-1]),
}


@pytest.mark.parametrize("name", LOG_PROGRAMS)
def test_log_expectation_sums_over_paths(name):
    program, cost = LOG_PROGRAMS[name]
    exact = lambda logits: jnp.log(paths(lambda z: jnp.exp(cost(z)))(logits))
    assert_equal(ppl.log_expectation(program), exact, LOGITS)


def test_log_expectation_with_lanes_and_a_choice_above_them():
    heads = jnp.array([0.2, 0.5, 0.7])

    def program(p):
        k = sample("k", dist.Bernoulli(0.4), Enumerate())
        z = sample("z", dist.Bernoulli(p + 0.1 * k), Enumerate())
        return jnp.sum(jnp.sin(2.0 * z + k)) + z[0] * z[1]

    def exact(p):
        total = 0.0
        for k, *bits in itertools.product((0.0, 1.0), repeat=4):
            z = jnp.asarray(bits)
            chances = jnp.where(z == 1, p + 0.1 * k, 1 - p - 0.1 * k)
            chance = (0.4 if k else 0.6) * jnp.prod(chances)
            total = total + chance * jnp.exp(jnp.sum(jnp.sin(2.0 * z + k)) + z[0] * z[1])
        return jnp.log(total)

    assert_equal(ppl.log_expectation(program), exact, heads)


def test_log_expectation_of_independent_lanes():
    """A mixture: each point's states summed by themselves."""
    y, p = Y[:50], jnp.linspace(0.1, 0.9, 50)

    def program(p):
        def point(p, y):
            z = sample("z", dist.Bernoulli(p), Enumerate())
            sample("y", dist.Normal(2.0 * z, 1.0), obs=y)

        return ppl.simulate(jax.vmap(point), p, y).log_likelihood

    def exact(p):
        on = jnp.log(p) + dist.Normal(2.0, 1.0).log_prob(y)
        return jnp.sum(jnp.logaddexp(on, jnp.log1p(-p) + dist.Normal(0.0, 1.0).log_prob(y)))

    assert_equal(ppl.log_expectation(program), exact, p)


@pytest.mark.parametrize("estimator", [ScoreFunction(), None], ids=["scored", "default"])
def test_log_expectation_draws_nothing(estimator):
    def program():
        return 1.0 * sample("x", dist.Normal(0.0, 1.0), estimator)

    with pytest.raises(errors.UnsuitableEstimator, match=r"'x'.*test_chains.py.*Enumerate\(\)"):
        ppl.log_expectation(program)()


def test_independent_steps_whose_neighbours_meet_are_summed_in_the_loop():
    """However long the loop is: T·K² operations, nothing is written out."""

    def neighbours(p):
        def step(before, _):
            b = 1.0 * sample("b", dist.Bernoulli(p), Enumerate())
            return b, before * b + 0.5 * b**2

        return jnp.sum(jax.lax.scan(step, 1.0, length=200)[1])

    found = jax.value_and_grad(ppl.expectation(neighbours), argnums=1)(jax.random.key(0), 0.3)
    exact = 199 * 0.09 + 0.3 + 200 * 0.15
    np.testing.assert_allclose(found, (exact, 199 * 0.6 + 1.0 + 100.0), rtol=1e-5)
