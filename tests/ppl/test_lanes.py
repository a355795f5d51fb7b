"""Lanes: independent elements of batched sites stay apart, dimension by dimension."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from jax import lax

import ppl
from ppl import ScoreFunction, errors, sample
from ppl._expectation.values.dimensions import ANTICAUSAL, CAUSAL, EXACT, Along
from ppl._expectation.values.lanes import Deps, flow
from stdlib.estimators import Enumerate, MeasureValued
from stdlib.testing import assert_unbiased

KEY = jax.random.key(3)
X = jnp.asarray(np.random.default_rng(0).normal(size=(3, 4)), jnp.float32)
A, B = Along(0), Along(1)

# --- provenance, against what changes when one lane of the input does -----------------------------

INDEX, LOWER = jnp.array([2, 0, 1]), jnp.tril(jnp.ones((4, 4)))
KEPT = {
    "elementwise": (lambda x: jnp.sin(x) * 2.0 + x, (A, B)),
    "row added": (lambda x: x + jnp.arange(4.0), (A, B)),
    "where": (lambda x: jnp.where(x > 0, x, 0.1 * x), (A, B)),
    "sum over columns": (lambda x: jnp.sum(x, 1), (A, None)),
    "sum over rows": (lambda x: jnp.sum(x, 0), (None, A)),
    "maximum kept": (lambda x: jnp.max(x, 1, keepdims=True) + jnp.zeros((3, 4)), (A, None)),
    "transpose": (lambda x: x.T, (B, A)),
    "new dimension": (lambda x: x[:, None] * jnp.ones((3, 2, 4)), (A, Along(2))),
    "reshape, whole rows": (lambda x: x.reshape(3, 2, 2), (A, None)),
    "flattened": (lambda x: x.reshape(12), (None, None)),
    "squeezed": (lambda x: x.reshape(3, 1, 4)[:, 0], (A, B)),
    "matrix product": (lambda x: x @ jnp.ones((4, 5)), (A, None)),
    "batched product": (lambda x: jnp.einsum("ij,ij->i", x, x), (A, None)),
    "outer product of rows": (lambda x: x @ x.T, (None, None)),
    "softmax": (lambda x: jax.nn.softmax(x, -1), (A, None)),
    "logsumexp": (lambda x: jax.nn.logsumexp(x, axis=0), (None, A)),
    "slice of columns": (lambda x: x[:, 1:3], (A, Along(1, start=1))),
    "every other column": (lambda x: x[:, ::2], (A, None)),
    "split columns": (lambda x: jnp.split(x, [3], 1)[1], (A, Along(1, start=3))),
    "put together": (lambda x: jnp.concatenate([x[:, :1], x[:, 1:]], 1), (A, Along(1, start=0))),
    "put together otherwise": (lambda x: jnp.roll(x, 1, 1), (A, None)),
    "beside a constant": (lambda x: jnp.concatenate([x[:, 1:], jnp.ones((3, 1))], 1), (A, None)),
    "one row": (lambda x: x[1], (None, A)),
    "concatenated": (lambda x: jnp.concatenate([x, x], 1), (A, None)),
    "stacked": (lambda x: jnp.stack([x, 2 * x], 1), (A, Along(2))),
    "padded": (lambda x: jnp.pad(x, ((0, 0), (1, 0))), (A, None)),
    "reversed columns": (lambda x: x[:, ::-1], (A, None)),
    "cumulative": (lambda x: jnp.cumsum(x, 1), (A, Along(1, CAUSAL))),
    "cumulative, reversed": (lambda x: lax.cumsum(x, 1, reverse=True), (A, Along(1, ANTICAUSAL))),
    "sorted columns": (lambda x: jnp.sort(x, 1), (A, None)),
    "top_k of rows, values": (lambda x: lax.top_k(x, 2)[0], (A, None)),
    "top_k of rows, indices": (lambda x: lax.top_k(x, 2)[1], (A, None)),
    "top_k of columns": (jax.vmap(lambda x: lax.top_k(x, 2)[0], 1, 1), (None, B)),
    "argmax": (lambda x: jnp.argmax(x, 1) * 1.0, (A, None)),
    "taken along": (lambda x: jnp.take_along_axis(x, jnp.array([[1], [0], [3]]), 1), (A, None)),
    "permuted rows": (lambda x: x[INDEX], (None, B)),
    "mapped lookup": (lambda x: jax.vmap(lambda r, i: r[i])(x, INDEX), (A, None)),
    "updated": (lambda x: lax.dynamic_update_slice(x, jnp.zeros((3, 1)), (0, 1)), (A, B)),
    "stopped": (lambda x: lax.stop_gradient(x), (A, B)),
    "jitted": (jax.jit(lambda x: jnp.tanh(x).sum(1)), (A, None)),
    "relu": (jax.nn.relu, (A, B)),
    "checkpoint": (jax.checkpoint(lambda x: jnp.cos(x)), (A, B)),
    "triangular solve": (
        lambda x: lax.linalg.triangular_solve(
            jnp.tile(jnp.eye(4) * 2.0, (3, 1, 1)), x[:, :, None], left_side=True, lower=True
        ),
        (A, None),
    ),
    "triangular solve of columns": (
        lambda x: lax.linalg.triangular_solve(LOWER[:3, :3], x, left_side=True, lower=True),
        (None, B),
    ),
    "triangular solve of rows": (
        lambda x: lax.linalg.triangular_solve(LOWER, x, left_side=False, lower=True),
        (A, None),
    ),
    "scan over rows": (
        lambda x: lax.scan(lambda c, r: (c, jnp.sin(r) * 2.0), 0.0, x)[1], (A, B)),
    "scan over rows, carried": (
        lambda x: lax.scan(lambda c, r: (c + r, c * r), jnp.zeros(4), x)[1],
        (Along(0, CAUSAL), B),
    ),
    "scan from the end": (
        lambda x: lax.scan(lambda c, r: (c + r, c * r), jnp.zeros(4), x, reverse=True)[1],
        (Along(0, ANTICAUSAL), B),
    ),
    "end of a scan": (
        lambda x: lax.scan(lambda c, r: (c + r, None), jnp.zeros(4), x)[0], (None, A)),
    "branches": (lambda x: lax.cond(KEY is None, jnp.sin, jnp.cos, x), (A, B)),
    "while": (
        lambda x: lax.while_loop(lambda s: s[0] < 2, lambda s: (s[0] + 1, s[1] * 2), (0, x))[1],
        (None, None),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", KEPT)
def test_relation(name):
    fn, expected = KEPT[name]
    closed = jax.make_jaxpr(fn)(X)
    (out,) = flow(closed.jaxpr, [Deps(1, {0: (A, B)})])
    assert out.sites == 1
    assert out.relations.get(0, (None, None)) == expected


@pytest.mark.parametrize("name", KEPT)
def test_relation_is_sound(name):
    """Where lanes are said to be apart, changing one lane changes no other index."""
    fn, relation = KEPT[name]
    for lane, along in enumerate(relation):
        if along is None:
            continue
        for i in range(X.shape[lane]):
            changed = jnp.moveaxis(jnp.moveaxis(X, lane, 0).at[i].add(1.7), 0, lane)
            differs = np.moveaxis(np.asarray(fn(changed) != fn(X)), along.dim, 0)
            for j in np.nonzero(differs.reshape(len(differs), -1).any(1))[0] + (along.start or 0):
                allowed = {EXACT: j == i, CAUSAL: j >= i, ANTICAUSAL: j <= i}
                assert allowed[along.how]


# --- enumeration ----------------------------------------------------------------------------------

P = jnp.linspace(0.1, 0.9, 20)


def separate(p):
    x = jax.vmap(lambda q: sample("x", dist.Bernoulli(q), Enumerate()))(p)
    return jnp.sum(jnp.sin(2.0 * x + p))


def test_many_lanes_are_summed_one_by_one():
    exact = lambda p: jnp.sum(p * jnp.sin(2.0 + p) + (1 - p) * jnp.sin(p))
    assert_unbiased(separate, P, exact=exact, key=KEY, num_samples=4)


def tilted(x):
    return x[..., None] * jnp.array([0.5, -1.0, 0.2, 0.0])


def test_batch_with_a_batch_downstream():
    def program(p):
        x = sample("x", dist.Bernoulli(p), Enumerate())
        y = sample("y", dist.Categorical(logits=tilted(1.0 * x)), Enumerate())
        return jnp.mean(jnp.cos(x + 2.0 * y))

    def exact(p):
        def total(x, chance):
            mass = jax.nn.softmax(tilted(jnp.float32(x)))
            return chance * jnp.sum(mass * jnp.cos(x + 2.0 * jnp.arange(4)))

        return jnp.mean(jax.vmap(lambda p: total(0.0, 1 - p) + total(1.0, p))(p))

    assert_unbiased(program, P, exact=exact, key=KEY, num_samples=4)


def flops(program, *args):
    compiled = jax.jit(jax.grad(ppl.expectation(program), argnums=1)).lower(KEY, *args).compile()
    return compiled.cost_analysis()["flops"]


def test_lanes_cost_their_number():
    assert flops(separate, jnp.linspace(0.1, 0.9, 400)) <= 2.1 * flops(
        separate, jnp.linspace(0.1, 0.9, 200)
    )


def test_mixed_within_an_image_apart_across_images():
    """Five images of three units each: 5 · 2³ states, not 2¹⁵."""
    logits = jnp.asarray(np.random.default_rng(1).normal(size=(5, 3)), jnp.float32)

    def cost(z):
        return jnp.sin(jnp.sum(z * jnp.arange(1.0, 4.0)))

    def program(logits):
        def image(l):  # noqa: E741
            return cost(sample("z", dist.Bernoulli(logits=l), Enumerate()))

        return jnp.sum(jax.vmap(image)(logits) * jnp.arange(5.0))

    def exact(logits):
        states = jnp.asarray(list(itertools.product([0.0, 1.0], repeat=3)))

        def image(l):  # noqa: E741
            chances = jnp.prod(jax.nn.sigmoid(l * (2 * states - 1)), -1)
            return jnp.sum(chances * jax.vmap(cost)(states))

        return jnp.sum(jax.vmap(image)(logits) * jnp.arange(5.0))

    assert_unbiased(program, logits, exact=exact, key=KEY, num_samples=4)


@pytest.mark.parametrize("estimator", [Enumerate(), ScoreFunction(), MeasureValued()], ids=str)
def test_lane_spread_over_many_elements(estimator):
    """JAX adds and subtracts arrays of shapes (1, 2) and (3, 2) in one equation, unexpanded."""
    shifts = jnp.arange(1.0, 7.0).reshape(3, 2)

    def cost(z, p):
        return jnp.prod(1.0 + jnp.sum((z + shifts) ** 2, -1) / 9.0) + jnp.sum(shifts * z - p)

    def program(p):
        z = jax.vmap(lambda p: sample("z", dist.Bernoulli(p), estimator))(p)
        return cost(z, p) + jnp.sum(shifts + jnp.sin(z) * p)

    def exact(p):
        states = jnp.asarray(list(itertools.product([0.0, 1.0], repeat=2)))[:, None]
        chances = jnp.prod(jnp.where(states == 1, p, 1 - p), (1, 2))
        costs = jax.vmap(lambda z: cost(z, p) + jnp.sum(shifts + jnp.sin(z) * p))(states)
        return jnp.sum(chances * costs)

    assert_unbiased(program, jnp.array([[0.3, 0.6]]), exact=exact, key=KEY, num_samples=50_000)


def ranked(x, p, lanes):
    """A cost of each lane that reads the values and the places of its two largest scores."""
    scores = jnp.stack([x * p, 0.5 * (1 - x) * p**2, jnp.sin(p + x) - 0.4], 1 - lanes)
    values, places = jax.vmap(lambda s: lax.top_k(s, 2), lanes, 1)(scores)
    return jnp.sin(2.0 * values[0] - values[1]) + values[0] * (places[0] + 3.0 * places[1])


def ranked_program(p, lanes):
    x = sample("x", dist.Bernoulli(p), Enumerate())
    return jnp.sum(ranked(1.0 * x, p, lanes) * jnp.arange(1.0, 1.0 + len(p)))


@pytest.mark.parametrize("lanes", [0, 1])
def test_top_k_within_lanes_against_the_joint_states(lanes):
    def exact(p):
        states = jnp.asarray(list(itertools.product([0.0, 1.0], repeat=3)))
        chances = jnp.prod(jnp.where(states == 1, p, 1 - p), 1)
        costs = jax.vmap(lambda x: ranked(x, p, lanes))(states)
        return jnp.sum(chances[:, None] * costs * jnp.arange(1.0, 4.0))

    program = functools.partial(ranked_program, lanes=lanes)
    p = jnp.array([0.2, 0.5, 0.7])
    assert_unbiased(program, p, exact=exact, key=KEY, num_samples=4)


@pytest.mark.parametrize("lanes", [0, 1])
def test_top_k_of_many_lanes(lanes):
    """Twenty lanes are summed one by one, and twice as many cost twice as much."""

    def exact(p):
        off, on = (ranked(jnp.full(len(p), x), p, lanes) for x in (0.0, 1.0))
        return jnp.sum(((1 - p) * off + p * on) * jnp.arange(1.0, 21.0))

    program = functools.partial(ranked_program, lanes=lanes)
    assert_unbiased(program, P, exact=exact, key=KEY, num_samples=4)
    few, many = (jnp.linspace(0.1, 0.9, n) for n in (200, 400))
    assert flops(program, many) <= 2.1 * flops(program, few)


RUNNING = {
    "sum": jnp.cumsum,
    "sum from the end": lambda x: lax.cumsum(x, reverse=True),
    "product": lambda x: lax.cumprod(x + 1.0),
    "maximum": lax.cummax,
    "both ways": lambda x: lax.cumsum(x, reverse=True) * jnp.cumsum(x),
    "scan": lambda x: lax.scan(lambda total, now: (total + now,) * 2, 0.0, x)[1],
}


@pytest.mark.parametrize("name", RUNNING)
@pytest.mark.parametrize("estimator", [Enumerate(), MeasureValued()], ids=repr)
@pytest.mark.parametrize("drawn", ["a batch", "a chain"])
def test_running_sums_mix_the_lanes_of_several_particles(name, estimator, drawn):
    """Scores meet the costs from their lane on, but particles are those of one lane alone."""
    logits = jnp.array([0.3, -0.5, 1.0])

    def cost(x):
        return jnp.sum(jnp.tanh(0.7 * RUNNING[name](x)))

    def log_odds(state, logit):
        return logit + (state if drawn == "a chain" else 0.0)

    def program(logits):
        if drawn == "a batch":
            return cost(1.0 * sample("x", dist.Bernoulli(logits=logits), estimator))

        def step(state, logit):
            x = 1.0 * sample("x", dist.Bernoulli(logits=log_odds(state, logit)), estimator)
            return x, x

        return cost(lax.scan(step, 0.0, logits)[1])

    def exact(logits):
        total = 0.0
        for x in itertools.product((0.0, 1.0), repeat=3):
            odds = [log_odds(*now) for now in zip((0.0, *x), logits, strict=False)]
            signs = 2 * jnp.array(x) - 1
            total += jnp.prod(jax.nn.sigmoid(signs * jnp.stack(odds))) * cost(jnp.array(x))
        return total

    samples = 2 if isinstance(estimator, Enumerate) else 4_000
    assert_unbiased(program, logits, exact=exact, key=KEY, num_samples=samples)


def test_too_many_mixed_lanes_are_an_error():
    def program(p):
        x = sample("x", dist.Bernoulli(p), Enumerate())
        return jnp.sum(x) ** 2.0

    with pytest.raises(errors.TooManyJointStates) as failure:
        ppl.expectation(program)(KEY, P)
    for words in ("'x'", "20 elements", "2**20", "reduce_sum", "test_lanes.py", "jax.vmap"):
        assert words in str(failure.value)


def test_index_by_an_enumerated_state_gathers_nothing():
    table = jnp.asarray(np.random.default_rng(2).normal(size=(3, 5)), jnp.float32)

    def program(table):
        z = sample("z", dist.Categorical(logits=jnp.arange(3.0)), Enumerate())
        return jnp.sum(jnp.sin(table[z]) * table[:, 1][z])

    text = str(jax.make_jaxpr(ppl.expectation(program))(KEY, table))
    assert "gather" not in text and "dynamic_slice" not in text
    chances = jax.nn.softmax(jnp.arange(3.0))
    exact = lambda t: jnp.sum(chances * jnp.sum(jnp.sin(t) * t[:, 1:2], 1))
    assert_unbiased(program, table, exact=exact, key=KEY, num_samples=4)


# --- score functions ------------------------------------------------------------------------------


def test_scores_multiply_the_costs_of_their_own_lane():
    """Sample by sample: the gradient in lane l is its cost times its score."""

    def program(logits):
        x = jax.vmap(lambda l: sample("x", dist.Bernoulli(logits=l)))(logits)  # noqa: E741
        return jnp.sum(jnp.exp(1.0 * x) * jnp.arange(1.0, 5.0)), x

    grad = jax.grad(ppl.expectation(program, has_aux=True), argnums=1, has_aux=True)
    logits = jnp.array([0.3, -0.2, 0.8, 0.1])
    slope, x = jax.vmap(grad, (0, None))(jax.random.split(KEY, 50), logits)
    score = x - jax.nn.sigmoid(logits)
    np.testing.assert_allclose(slope, jnp.exp(1.0 * x) * jnp.arange(1.0, 5.0) * score, rtol=1e-5)


def reward_to_go(logits):
    def step(state, logit):
        x = sample("x", dist.Bernoulli(logits=logit), ScoreFunction())
        return 0.5 * state + x, (jnp.sin(state + x), x)

    _, (costs, x) = lax.scan(step, jnp.float32(0.0), logits)
    return jnp.sum(costs), (costs, x)


def test_scores_of_a_loop_multiply_the_costs_from_their_step_on():
    grad = jax.grad(ppl.expectation(reward_to_go, has_aux=True), argnums=1, has_aux=True)
    logits = jnp.linspace(-1.0, 1.0, 6)
    slope, (costs, x) = jax.vmap(grad, (0, None))(jax.random.split(KEY, 50), logits)
    to_go = jnp.cumsum(costs[:, ::-1], axis=1)[:, ::-1]
    np.testing.assert_allclose(slope, to_go * (x - jax.nn.sigmoid(logits)), rtol=1e-4, atol=1e-5)


def test_scores_of_a_chain_multiply_the_costs_of_later_states():
    """A cost that reads its own state alone meets the scores of all that led to it."""

    def program(logit):
        def step(state, _):
            x = 1.0 * sample("x", dist.Bernoulli(logits=logit + state))
            return x, x

        x = lax.scan(step, 0.0 * logit, None, length=3)[1]
        return jnp.sum(x), x

    grad = jax.grad(ppl.expectation(program, has_aux=True), argnums=1, has_aux=True)
    slope, x = jax.vmap(grad, (0, None))(jax.random.split(KEY, 50), 0.3)
    before = jnp.concatenate([jnp.zeros((50, 1)), x[:, :-1]], 1)
    score = x - jax.nn.sigmoid(0.3 + before)
    to_go = jnp.cumsum(x[:, ::-1], 1)[:, ::-1]
    np.testing.assert_allclose(slope, jnp.sum(score * to_go, 1), rtol=1e-4, atol=1e-5)


def test_scores_of_sites_that_lead_to_one_another_across_steps():
    """The weight of the first site depends on the second one of the steps before."""

    def chance(x, logit):
        return jnp.where(x == 1, jax.nn.sigmoid(logit), jax.nn.sigmoid(-logit))

    def program(theta):
        def step(last, _):
            a = sample("a", dist.Bernoulli(logits=theta * last - 0.3))
            b = sample("b", dist.Bernoulli(logits=theta + a))
            return 1.0 * b, jnp.sin(a + 2.0 * b + 0.5 * last)

        return jnp.sum(lax.scan(step, 0.0, length=3)[1])

    def exact(theta):
        last, a, b = jnp.meshgrid(*[jnp.arange(2.0)] * 3, indexing="ij")
        steps = chance(a, theta * last - 0.3) * chance(b, theta + a)
        total, state = 0.0, jnp.array([1.0, 0.0])
        for _ in range(3):
            joint = state[:, None, None] * steps
            total = total + jnp.sum(joint * jnp.sin(a + 2.0 * b + 0.5 * last))
            state = jnp.sum(joint, (0, 1))
        return total

    assert_unbiased(program, 0.7, exact=exact, key=KEY, num_samples=100_000, second=True)


MOVED = {
    "as it is": lambda w: w,
    "a row": lambda w: w[None] * jnp.array([[1.0], [2.0]]),
    "a column": lambda w: w.reshape(3, 1) + jnp.arange(2.0),
    "turned": lambda w: jnp.broadcast_to(w, (2, 3)).T,
    "a part": lambda w: w[1:],
    "reversed": lambda w: w[::-1] * jnp.arange(3.0),
    "held": lambda w: w * lax.stop_gradient(w),
    "squeezed": lambda w: (2.0 * w)[:, None].reshape(1, 3, 1)[0, :, 0],
}


@pytest.mark.parametrize("name", MOVED)
def test_a_table_looked_up_by_all_lanes_is_moved_about(name):
    """It is the same for all of them, and computed once: dimension by dimension, as it goes."""
    table, states = jnp.array([0.3, -1.0, 0.7, 2.0]), jnp.indices((4, 4, 4)).reshape(3, -1).T

    def cost(table, x):
        return jnp.sum(jnp.sin(MOVED[name](table[x])) * 1.7)

    def program(logits, table):
        return cost(table, sample("x", dist.Categorical(logits=logits), Enumerate()))

    def exact(logits, table):
        chances = jax.nn.softmax(logits)[jnp.arange(3), states]
        return jnp.sum(jnp.prod(chances, 1) * jax.vmap(lambda x: cost(table, x))(states))

    logits = 0.3 * X
    ours = lambda *args: ppl.expectation(program)(KEY, *args)
    found, expected = (jax.jit(jax.value_and_grad(f, (0, 1)))(logits, table) for f in (ours, exact))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6), found, expected
    )
