"""Loops of no step and of one, batches without elements, Python numbers in carries and draws."""

import itertools
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from jax import lax

import ppl
from ppl import Reparameterized, ScoreFunction, sample
from ppl.extend import Target
from stdlib.distributions import FloatBernoulli
from stdlib.estimators import DisArm, Enumerate, LeaveOneOut, MeasureValued, StochasticTriple
from stdlib.inference import SMC, Exact, ParticleGibbs, RandomWalk, chain
from stdlib.objectives import elbo
from stdlib.testing import assert_unbiased

KEY = jax.random.key(0)
ESTIMATORS = [
    ScoreFunction(),
    Enumerate(),
    LeaveOneOut(2),
    MeasureValued(),
    StochasticTriple(),
    DisArm(),
    Reparameterized(),
]
every_estimator = pytest.mark.parametrize("estimator", ESTIMATORS, ids=lambda e: type(e).__name__)


def draw(p, estimator, shape=()):
    """A site of mean p."""
    p = jnp.broadcast_to(p, shape)
    if isinstance(estimator, Reparameterized):
        return sample("b", dist.Normal(p, 1.0), estimator)
    family = FloatBernoulli if isinstance(estimator, DisArm) else dist.Bernoulli
    return 1.0 * sample("b", family(p), estimator)


def scanned(p, e, n, reverse=False):
    step = lambda c, _: (c + draw(p, e), c)
    total, before = lax.scan(step, 0.0, length=n, reverse=reverse)
    return total + jnp.sum(before)


LOOPS = {
    "scan": scanned,
    "scan from its end": lambda p, e, n: scanned(p, e, n, reverse=True),
    "states": lambda p, e, n: lax.scan(lambda c, _: (draw(p / (1 + c), e), c), 0.0, length=n)[0],
    "fori_loop": lambda p, e, n: lax.fori_loop(0, n, lambda i, c: c + draw(p, e), 0.0),
    "map": lambda p, e, n: jnp.sum(lax.map(lambda x: x * draw(p, e), jnp.ones(n))),
    "vmap": lambda p, e, n: jnp.sum(jax.vmap(lambda q: draw(q, e))(p * jnp.ones(n))),
    "batch": lambda p, e, n: jnp.sum(draw(p, e, (n, 2)), axis=0)[0],
    "batch, then scan": lambda p, e, n: lax.scan(lambda c, b: (c + b, b), 0.0, draw(p, e, (n,)))[0],
    "loop in a loop": lambda p, e, n: lax.fori_loop(0, n, lambda i, c: c + scanned(p, e, n), 0.0),
}
"""Of mean n·p, for n up to one."""


@every_estimator
def test_loops_of_no_step_leave_what_comes_in(estimator):
    @jax.jit
    def all_loops(p):
        one = lambda loop: ppl.expectation(lambda p: p**2 + loop(p, estimator, 0))
        return [jax.value_and_grad(one(loop), argnums=1)(KEY, p) for loop in LOOPS.values()]

    for name, found in zip(LOOPS, all_loops(0.3), strict=True):
        np.testing.assert_allclose(found, (0.09, 0.6), rtol=1e-6, err_msg=name)


@every_estimator
def test_loops_of_one_step_mean_their_body(estimator):
    parts = jnp.arange(1.0, 1.0 + len(LOOPS))

    def together(p):
        return jnp.sum(parts * jnp.stack([loop(p, estimator, 1) for loop in LOOPS.values()]))

    exact = lambda p: jnp.sum(parts) * p
    assert_unbiased(together, 0.3, exact=exact, key=KEY, num_samples=2_000)


@every_estimator
def test_a_site_without_elements_changes_nothing(estimator):
    def run(p):
        empty = draw(p, estimator, (0, 3))
        more = lambda c, _: (c + jnp.sum(draw(p, estimator, (0,))), None)
        reduced = jnp.prod(1.0 + jnp.sum(empty, axis=1)) + jnp.sum(jnp.prod(empty, axis=0))
        return reduced * p + lax.scan(more, 0.0, length=2)[0]

    found = jax.jit(jax.value_and_grad(ppl.expectation(run), argnums=1))(KEY, 0.3)
    np.testing.assert_allclose(found, (1.2, 4.0), rtol=1e-6)


@every_estimator
def test_a_scan_reads_a_batch_and_carries_its_last_element(estimator):
    def products(p):
        b = draw(p, estimator, (3,))
        return jnp.sum(lax.scan(lambda c, b: (b, c * b), 0.0, b)[1])

    exact = lambda p: 2.0 * p**2
    assert_unbiased(products, 0.3, exact=exact, key=KEY, num_samples=5_000)


def test_bounds_and_logarithms_over_nothing():
    def program(p, estimator=None):
        x = draw(p, estimator)
        lax.scan(lambda c, _: (c, sample("steps", dist.Bernoulli(p), estimator)), x, length=0)
        sample("batch", dist.Bernoulli(p * jnp.ones(0)), estimator)

    def bound(p):
        return elbo(lambda: program(0.5), lambda: program(p, Enumerate()), {})

    found = jax.value_and_grad(ppl.expectation(bound), argnums=1)(KEY, 0.3)
    divergence = lambda p: -p * jnp.log(p / 0.5) - (1 - p) * jnp.log((1 - p) / 0.5)
    np.testing.assert_allclose(found, jax.value_and_grad(divergence)(0.3), rtol=1e-4)
    totals = [ppl.log_expectation(lambda n=n: scanned(0.3, Enumerate(), n))() for n in (0, 1)]
    np.testing.assert_allclose(totals, (0.0, np.log(0.7 + 0.3 * np.e)), rtol=1e-5)


@every_estimator
def test_carries_of_python_and_numpy_numbers(estimator):
    def counted(p):
        def step(c, _):
            new = {**c, "sum": c["sum"] + c["two"] * draw(p, estimator), "n": c["n"] + 1}
            return {**new, "flag": False}, (3, c["none"])

        start = {"sum": 0.0, "two": np.float32(2), "n": 1, "none": np.zeros((0, 2)), "flag": True}
        end, (threes, _) = lax.scan(step, start, length=2)
        return end["sum"] * end["n"] + jnp.sum(threes)

    exact = lambda p: 12.0 * p + 6.0
    assert_unbiased(counted, 0.3, exact=exact, key=KEY, num_samples=2_000)


class Constant(eqx.Module):
    """A sampler of one number as it is; its density is a Python number too."""

    number: Callable = eqx.field(static=True)

    def sample(self, key):
        return self.number()

    def log_prob(self, value):
        return -0.5


@pytest.mark.parametrize("number", [0.5, True, 2, np.float32(0.5), np.int32(2)], ids=repr)
def test_samplers_of_python_and_numpy_numbers(number):
    lone = lambda e: 1.0 * sample("x", Constant(lambda: number), e)
    for estimator in (None, ScoreFunction(), Reparameterized(), LeaveOneOut(2)):
        lanes = lambda e=estimator: lone(e) + jnp.sum(jax.vmap(lambda _: lone(e))(jnp.ones(3)))
        np.testing.assert_allclose(ppl.expectation(lanes)(KEY), 4.0 * number, rtol=1e-6)
    drawn = ppl.seed(lambda: ppl.simulate(ppl.scale(lambda: lone(None), 2.0)))(KEY)
    assert drawn.choices["x"].dtype == jnp.asarray(number).dtype
    assert drawn.log_density == -1.0
    assert ppl.log_density(ppl.mask(lambda: lone(None), False), {"x": number}) == 0.0


def test_a_point_mass_at_a_python_number():
    assert ppl.expectation(lambda: sample("x", dist.Delta(0.5)))(KEY) == 0.5


def walk(length, begins):
    """A random walk with Python numbers in its carry; exact evidence by `Exact`."""
    start = sample("start", dist.Normal(0.0, 1.0)) if begins else 0.0
    if begins:
        sample("first", dist.Normal(start, 1.0), obs=0.4)

    def step(carry, _):
        x = sample("x", dist.Normal(carry["x"][0], 1.0))
        sample("y", dist.Normal(x, 1.0))
        return {**carry, "x": (x, False), "count": carry["count"] + 1}, None

    carry = {"x": (start, True), "count": 3, "scale": np.float32(2), "none": None}
    lax.scan(step, carry, length=length)


ALGORITHMS = [SMC(300), SMC(300, rejuvenation=RandomWalk(0.5)), SMC(300, schedule=2)]


@pytest.mark.parametrize("begins", [False, True])
@pytest.mark.parametrize("length", [0, 1, 3])
def test_algorithms_over_short_loops(length, begins):
    target = Target(lambda: walk(length, begins), {"y": jnp.full(length, 0.3)})
    chosen = ALGORITHMS if begins and length < 3 else ALGORITHMS[:1]
    found = jax.jit(ppl.seed(lambda: [a.log_evidence(target) for a in chosen]))(KEY)
    np.testing.assert_allclose(found, Exact().log_evidence(target), atol=0.3)


@pytest.mark.parametrize("begins", [False, True])
def test_paths_of_a_loop_of_no_steps(begins):
    target = Target(lambda: walk(0, begins), {"y": jnp.zeros(0)})
    initial = {"x": jnp.zeros(0), **({"start": 0.0} if begins else {})}
    run = lambda: (SMC(300).simulate(target), chain(ParticleGibbs(SMC(50)), target, initial, 400))
    (path, log_density), draws = jax.jit(ppl.seed(run))(KEY)
    assert path["x"].shape == (0,) and draws["x"].shape == (400, 0)
    if begins:  # the posterior of `start` is N(0.2, 1/2)
        exact = dist.Normal(0.2, 0.5**0.5).log_prob(path["start"])
        np.testing.assert_allclose(log_density, exact, atol=0.2)
        np.testing.assert_allclose(draws["start"].mean(), 0.2, atol=0.25)


def _beside_all(b, a, t):
    """A loop along lanes, whose steps read the sum of all lanes too."""
    return jnp.sum(lax.map(lambda x: jnp.sin(x) * (t + jnp.sum(b)), b + 3.0 * a))


def _nested(b, a, t):
    inner = lambda x: jnp.sum(lax.map(lambda y: jnp.sin(x * y) + b[0], b)) * a
    return jnp.sum(lax.map(lambda x: inner(x * t) ** 2, b))


@pytest.mark.parametrize("cost", [_beside_all, _nested])
def test_a_loop_along_enumerated_lanes_may_read_the_other_lanes(cost):
    scales = jnp.arange(1.0, 3.0)

    def objective(t):
        b = sample("b", dist.Bernoulli(jax.nn.sigmoid(t * scales)), Enumerate())
        a = sample("a", dist.Bernoulli(jax.nn.sigmoid(t)), Enumerate())
        return cost(1.0 * b, 1.0 * a, t)

    def by_hand(t):
        chances = jax.nn.sigmoid(t * jnp.append(scales, 1.0))
        states = jnp.array(list(itertools.product([0.0, 1.0], repeat=3)))
        weights = jnp.prod(jnp.where(states == 1, chances, 1 - chances), axis=1)
        return sum(w * cost(s[:2], s[2], t) for w, s in zip(weights, states, strict=True))

    found = jax.jit(jax.value_and_grad(lambda t: ppl.expectation(objective)(KEY, t)))(0.4)
    np.testing.assert_allclose(found, jax.jit(jax.value_and_grad(by_hand))(0.4), rtol=1e-4)


def test_lanes_are_mixed_beside_a_loop_that_is_found_to_be_written_out():
    scales = jnp.arange(1.0, 3.0)

    def objective(t):
        b = 1.0 * sample("b", dist.Bernoulli(jax.nn.sigmoid(t * scales)), Enumerate())
        step = lambda x: x * sample("m", dist.Bernoulli(jax.nn.sigmoid(x + t)), Enumerate())
        steps = lax.map(step, b)
        c = sample("c", dist.Bernoulli(jax.nn.sigmoid(b - t)), Enumerate())
        return jnp.prod(steps) + t * jnp.prod(c)

    def by_hand(t):
        total, chances = 0.0, jax.nn.sigmoid(t * scales)
        for b in np.array(list(itertools.product([0.0, 1.0], repeat=2))):
            weight = jnp.prod(jnp.where(b == 1, chances, 1 - chances))
            means = jnp.prod(b * jax.nn.sigmoid(b + t)), jnp.prod(jax.nn.sigmoid(b - t))
            total += weight * (means[0] + t * means[1])
        return total

    found = jax.jit(jax.value_and_grad(lambda t: ppl.expectation(objective)(KEY, t)))(0.4)
    np.testing.assert_allclose(found, jax.jit(jax.value_and_grad(by_hand))(0.4), rtol=1e-4)
