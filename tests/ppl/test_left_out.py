"""What a mask or a branch leaves out has no part in a derivative, whatever is there.

Each program is compared with the same one written without what is left out.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from jax import lax

import ppl
from ppl import Reparameterized, ScoreFunction, sample
from stdlib.distributions import FloatBernoulli
from stdlib.estimators import (
    Enumerate,
    LeaveOneOut,
    MeasureValued,
    Rebar,
    StochasticTriple,
    WithoutReplacement,
)
from stdlib.inference import SMC, Exact, Importance
from stdlib.objectives import elbo

KEY = jax.random.key(0)
NAN, INF = jnp.nan, jnp.inf
SEEN = jnp.array([True, False, True])


def close(one, other, rtol=1e-4):
    jax.tree.map(partial(np.testing.assert_allclose, rtol=rtol, atol=1e-5), one, other)


def scored(program, *args):
    """The density, its first derivative by both modes, and its second, in the first argument."""
    density = partial(ppl.log_density, program, {})
    slope = jax.grad(density)
    return density(*args), slope(*args), jax.jacfwd(density)(*args), jax.grad(slope)(*args)


# --- data -----------------------------------------------------------------------------------------

FAMILIES = {
    "normal": (lambda t: dist.Normal(t, 1.0 + t), [0.3, 1.0]),
    "gamma": (lambda t: dist.Gamma(t, 1.0), [0.3, 1.0]),
    "beta": (lambda t: dist.Beta(t, 2.0), [0.3, 0.5]),
    "uniform": (lambda t: dist.Uniform(0.0, t + 2.0), [0.3, 0.5]),
    "pareto": (lambda t: dist.Pareto(0.1, t), [0.3, 0.5]),
    "von Mises": (lambda t: dist.VonMises(t, 1.0), [0.3, 0.5]),
    "truncated normal": (lambda t: dist.TruncatedNormal(t, 1.0, low=0.0, high=2.0), [0.3, 1.0]),
    "bernoulli": (lambda t: dist.Bernoulli(t), [0.0, 1.0]),
    "poisson": (lambda t: dist.Poisson(t), [0.0, 3.0]),
    "categorical": (lambda t: dist.Categorical(logits=t * jnp.arange(3.0)), [0.0, 2.0]),
    "multivariate normal": (
        lambda t: dist.MultivariateNormal(t * jnp.ones(2), jnp.eye(2) + t), [[0.3, 0.1], [1.0, 2.0]]
    ),
    "dirichlet": (lambda t: dist.Dirichlet(t * jnp.ones(2)), [[0.3, 0.7], [0.6, 0.4]]),
    "cholesky factors": (
        lambda t: dist.LKJCholesky(2, t), [[[1.0, 0.0], [0.6, 0.8]], [[1.0, 0.0], [0.0, 1.0]]]
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FAMILIES)
def test_missing_data(name):
    family, (first, second) = FAMILIES[name]

    def elements(t, data):
        sample("y", family(t).expand([3]), obs=data)

    def lanes(t, data):
        row = lambda y, ok: ppl.mask(lambda: sample("y", family(t), obs=y), ok)()
        jax.vmap(row)(data, SEEN)

    def choices(t, data):
        return ppl.log_density(
            ppl.mask(lambda: sample("y", family(t).expand([3])), SEEN), {"y": data}
        )

    def all_ways(t, data):
        masked = ppl.mask(elements, SEEN)
        return [scored(masked, t, data), scored(lanes, t, data),
                jax.value_and_grad(choices)(t, data)]  # fmt: skip

    first, second = jnp.asarray(first), jnp.asarray(second)
    kept = lambda t: sample("y", family(t).expand([2]), obs=jnp.stack([first, second]))
    value, slope, _, curve = exact = jax.jit(partial(scored, kept))(0.4)
    run = jax.jit(all_ways)
    for missing in (NAN, INF, -INF):
        data = jnp.stack([first, jnp.full_like(first, missing), second])
        close(run(0.4, data), [exact, (value, slope, slope, curve), (value, slope)], rtol=1e-3)


def test_data_without_a_support_to_stand_in():
    class Flat(dist.Distribution):
        pytree_data_fields = ("scale",)
        support = None

        def __init__(self, scale):
            self.scale = scale
            super().__init__(jnp.shape(scale), ())

        def sample(self, key, sample_shape=()):
            return jax.random.normal(key, self.batch_shape) * self.scale

        def log_prob(self, value):
            return -jnp.sqrt(value * self.scale)

    program = lambda t: sample("y", Flat(t * jnp.ones(3)), obs=jnp.array([4.0, NAN, 1.0]))
    value, slope, *_ = jax.jit(partial(scored, ppl.mask(program, SEEN)))(4.0)
    np.testing.assert_allclose([value, slope], [-6.0, -0.75], rtol=1e-5)


# --- parameters -----------------------------------------------------------------------------------


def test_parameters_of_masked_lanes():
    """Scales of 1, -1 and 4: the second is the root of a negative number."""
    squares = jnp.array([1.0, -1.0, 16.0])
    row = lambda t, s, ok: ppl.mask(lambda: sample("y", dist.Normal(t, jnp.sqrt(s)), obs=2.0), ok)()
    rows = lambda t, s: (jax.vmap(row, (None, 0, 0))(t, s, SEEN), None)[1]
    exact = lambda t: dist.Normal(t, jnp.array([1.0, 4.0])).log_prob(2.0).sum()
    value, slope, forward, curve = jax.jit(partial(scored, rows))(0.5, squares)
    want = jax.jit(jax.value_and_grad(exact))(0.5)
    close([(value, slope), (value, forward), curve], [want, want, -1 - 1 / 16])
    wholly = lambda t: ppl.log_density(ppl.mask(partial(row, ok=True), False), {}, t, -1.0)
    assert jax.grad(wholly)(0.3) == 0.0


def roots(t, value=None):
    """A branch that can be taken where a > 0 alone: it reads √a in value and parameters."""

    def one(a):
        root = lambda: sample("y", dist.Normal(jnp.sqrt(a) * t, jnp.sqrt(a)), obs=value)
        other = lambda: sample("z", dist.Exponential(jnp.sqrt(-a) * t), obs=value)
        return lax.cond(a > 0, root, other)

    return jax.vmap(one)(jnp.array([1.0, -4.0, 4.0]))


def test_branches_that_are_not_taken():
    def by_hand(t):
        both = dist.Normal(jnp.array([1.0, 2.0]) * t, jnp.array([1.0, 2.0])).log_prob(0.7)
        return both.sum() + dist.Exponential(2.0 * t).log_prob(0.7)

    observed = jax.jit(partial(scored, partial(roots, value=0.7)))(0.3)
    value, slope = jax.jit(jax.value_and_grad(by_hand))(0.3)
    close(observed, (value, slope, slope, jax.grad(jax.grad(by_hand))(0.3)))
    given = {"y": jnp.array([0.7, 0.0, 0.7]), "z": jnp.array([0.0, 0.7, 0.0])}
    score = lambda t, c: ppl.log_density(roots, c, t)
    close(jax.jit(jax.value_and_grad(score))(0.3, given), (value, slope))
    missing = {"y": jnp.array([0.7, NAN, 0.7]), "z": jnp.array([-INF, 0.7, NAN])}
    close(jax.jit(jax.value_and_grad(score))(0.3, missing), (value, slope))


def test_draws_and_traces_of_branches_that_are_not_taken():
    """Pathwise derivatives of one run: of t + noise, of 2t + noise, and of noise/(2t)."""
    run = lambda t: jnp.sum(ppl.seed(roots)(KEY, t))
    slope = jax.jit(jax.grad(run))(0.3)
    draws = ppl.seed(roots)(KEY, 0.3)
    np.testing.assert_allclose(slope, 1.0 + 2.0 - draws[1] / 0.3, rtol=1e-4)

    def traced(t):
        trace = ppl.seed(lambda: ppl.simulate(roots, t))(KEY)
        return trace.log_density, trace.valid

    (value, valid), slopes = jax.value_and_grad(traced, has_aux=True)(0.3)
    np.testing.assert_array_equal(valid["y"], [True, False, True])
    assert np.isfinite(value)
    np.testing.assert_allclose(slopes, 1 / 0.3, rtol=1e-4)


def test_switch_and_loops():
    """Of three branches each lane of each step takes one; the others have NaN parameters."""

    def step(c, x):
        t, k = x

        def lane(k):
            bad = jnp.log(0.0 - k)
            branches = [
                lambda: sample("a", dist.Normal(c * t, 1.0 + jnp.sqrt(0.5 - k)), obs=1.0),
                lambda: sample("b", dist.Normal(c * t, jnp.exp(bad * 0.0 + k) * 0 + 2.0), obs=1.0),
                lambda: sample("c", dist.Gamma(c * t, jnp.sqrt(k - 1.5)), obs=1.0),
            ]
            return lax.switch(k.astype(int), branches)

        return c, jax.vmap(lane)(k)

    def program(c, lanes):
        lax.scan(step, c, (jnp.array([1.0, 2.0]), lanes))

    lanes = jnp.array([[0.0, 2.0], [2.0, 0.0]])

    def by_hand(c):
        total = 0.0
        for t, row in zip((1.0, 2.0), np.array(lanes), strict=True):
            for k in row:
                first = dist.Normal(c * t, 1.0 + 0.5**0.5).log_prob(1.0)
                total += first if k == 0 else dist.Gamma(c * t, 0.5**0.5).log_prob(1.0)
        return total

    value, slope, forward, _ = jax.jit(partial(scored, program))(0.7, lanes)
    close((value, slope), jax.jit(jax.value_and_grad(by_hand))(0.7))
    close(forward, slope)


# --- expectations ---------------------------------------------------------------------------------

COINS = {
    "enumerated": (dist.Bernoulli, Enumerate()),
    "score": (dist.Bernoulli, ScoreFunction()),
    "leave one out": (dist.Bernoulli, LeaveOneOut(2)),
    "measure-valued": (dist.Bernoulli, MeasureValued()),
    "triple": (dist.Bernoulli, StochasticTriple()),
    "without replacement": (lambda p: dist.Categorical(probs=jnp.stack([1 - p, p])),
                            WithoutReplacement(2)),
    "rebar": (FloatBernoulli, Rebar(0.5)),
    "reparameterised": (lambda p: dist.Normal(p, p), Reparameterized()),
}  # fmt: skip


@pytest.mark.parametrize("name", COINS)
def test_gradients_of_expectations(name):
    """E[b] = √a·t where a > 0: over two lanes that can be taken and one that cannot, 3t + 2."""
    family, estimator = COINS[name]

    def lane(t, a):
        coin = lambda: 1.0 * sample("b", family(jnp.sqrt(a) * t), estimator)
        return lax.cond(a > 0, coin, lambda: 2.0)

    lanes = lambda t: jnp.sum(jax.vmap(lane, (None, 0))(t, jnp.array([1.0, -1.0, 4.0])))
    one = jax.jit(jax.vmap(jax.value_and_grad(ppl.expectation(lanes), 1), (0, None)))
    draws = one(jax.random.split(KEY, 4000), 0.3)
    for found, exact in zip(draws, (2.9, 3.0), strict=True):
        assert abs(found.mean() - exact) <= 5 * found.std() / np.sqrt(4000) + 1e-5


def test_settings_that_lanes_share_stay_shared():
    """The constants of runs are of one eta, whichever lanes are reached: E = 3t + 2."""

    def lanes(t, eta):
        coin = lambda a: sample("b", FloatBernoulli(jnp.sqrt(a) * t), Rebar(0.5, eta))
        lane = lambda a: lax.cond(a > 0, lambda: coin(a), lambda: 2.0)
        return jnp.sum(jax.vmap(lane)(jnp.array([1.0, -1.0, 4.0])))

    one = jax.jit(jax.vmap(jax.grad(ppl.expectation(lanes), 1), (0, None, None)))
    slopes = one(jax.random.split(KEY, 2000), 0.3, 0.8)
    assert abs(slopes.mean() - 3.0) <= 5 * slopes.std() / np.sqrt(2000)


def test_masks_of_distributions():
    """`dist.mask` leaves out the data and the parameters of an element or of a lane as well."""
    scales, data = jnp.array([1.0, -1.0, 2.0]), jnp.array([0.5, NAN, 1.0])
    lane = lambda t, s, y, ok: sample("y", dist.LogNormal(t, jnp.sqrt(s)).mask(ok), obs=y)
    lanes = lambda t: (jax.vmap(lane, (None, 0, 0, 0))(t, scales, data, SEEN), None)[1]
    elements = lambda t: sample("y", dist.LogNormal(t, 1.5).expand([3]).mask(SEEN), obs=data)
    kept = jnp.array([0, 2])
    for program, scale in ((lanes, jnp.sqrt(scales)[kept]), (elements, 1.5)):
        exact = lambda t, s=scale: dist.LogNormal(t, s).log_prob(data[kept]).sum()
        value, slope, forward, _ = jax.jit(partial(scored, program))(0.4)
        close([(value, slope), (value, forward)], [jax.jit(jax.value_and_grad(exact))(0.4)] * 2)


def test_branches_of_one_choice():
    """x in {0, 1}: where it is 1, b ~ Bernoulli(√(x - 1/2)·t); all the branches are evaluated."""

    def objective(t):
        x = 1.0 * sample("x", dist.Bernoulli(0.4), Enumerate())
        coin = lambda: 1.0 * sample("b", dist.Bernoulli(jnp.sqrt(x - 0.5) * t), Enumerate())
        return lax.cond(x > 0, coin, lambda: t)

    found = jax.value_and_grad(ppl.expectation(objective), 1)(KEY, 0.3)
    slope = 0.6 + 0.4 * 0.5**0.5
    close(found, (slope * 0.3, slope))


def test_what_is_not_reached_costs_nothing_more():
    """Weights that lanes share are not spread over them, nor over particles."""
    weights = jnp.ones((40, 40))

    def lane(w, x, ok):
        return lax.cond(ok, lambda: sample("y", dist.Normal(jnp.sum(w @ x), 1.0)), lambda: 0.0)

    def total(key, w, x):
        return jnp.sum(ppl.seed(lambda: jax.vmap(lane, (None, 0, 0))(w, x, x[:, 0] > 0))(key))

    x = jnp.ones((64, 40))
    compiled = jax.jit(jax.grad(total, 1)).lower(KEY, weights, x).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 4 * 64 * 40 * 40


# --- algorithms -----------------------------------------------------------------------------------


def test_exact_evidence_of_partly_missing_rows():
    """x ~ N(0, 1), y | x ~ N(x, 1/4) seen twice; and a coin's bias from the flips that are seen."""
    data = jnp.array([1.0, NAN, 0.5])
    row = lambda x, y, ok: ppl.mask(lambda: sample("y", dist.Normal(x, 0.5), obs=y), ok)()

    def gaussian(scale):
        x = sample("x", dist.Normal(0.0, scale))
        jax.vmap(row, (None, 0, 0))(x, data, SEEN)

    def joint(scale):
        cov = scale**2 + 0.25 * jnp.eye(2)
        return dist.MultivariateNormal(jnp.zeros(2), cov).log_prob(jnp.array([1.0, 0.5]))

    evidence = lambda s: Exact().log_evidence(ppl.extend.Target(partial(gaussian, s), {}))
    close(jax.jit(jax.value_and_grad(evidence))(1.3), jax.value_and_grad(joint)(1.3), rtol=1e-3)

    def conjugate(a):
        bias = sample("bias", dist.Beta(a, 2.0))
        flips = lambda: sample(
            "y", dist.Bernoulli(bias * jnp.ones(3)), obs=jnp.array([1.0, NAN, 0.0])
        )
        ppl.mask(flips, SEEN)()

    chance = lambda a: jnp.log(a / (a + 2.0) * 2.0 / (a + 3.0))
    evidence = lambda a: Exact().log_evidence(ppl.extend.Target(partial(conjugate, a), {}))
    close(jax.jit(jax.value_and_grad(evidence))(1.5), jax.value_and_grad(chance)(1.5), rtol=1e-3)

    def mixture(p):
        z = sample("z", dist.Bernoulli(p))
        jax.vmap(row, (None, 0, 0))(1.0 * z, data, SEEN)

    likelihood = lambda z: dist.Normal(z, 0.5).log_prob(jnp.array([1.0, 0.5])).sum()
    total = lambda p: jnp.log((1 - p) * jnp.exp(likelihood(0.0)) + p * jnp.exp(likelihood(1.0)))
    evidence = lambda p: Exact().log_evidence(ppl.extend.Target(partial(mixture, p), {}))
    close(jax.jit(jax.value_and_grad(evidence))(0.3), jax.jit(jax.value_and_grad(total))(0.3))


def test_bounds_and_filters_of_partly_missing_series():
    """A random walk seen at two of four times: the evidence of a bivariate normal."""
    series = jnp.array([NAN, 0.8, NAN, -0.2])

    def walk(t):
        def step(x, y):
            x = sample("x", dist.Normal(x, t))
            ppl.mask(lambda: sample("y", dist.Normal(x, 1.0), obs=y), ~jnp.isnan(y))()
            return x, None

        lax.scan(step, 0.0, series)

    exact = lambda t: dist.MultivariateNormal(
        jnp.zeros(2), t**2 * jnp.array([[2.0, 2.0], [2.0, 4.0]]) + jnp.eye(2)
    ).log_prob(jnp.array([0.8, -0.2]))
    log_p, slope = jax.jit(jax.value_and_grad(exact))(0.9)
    for algorithm in (SMC(20), Importance(20)):
        estimate = ppl.expectation(
            lambda t, a=algorithm: a.log_evidence(ppl.extend.Target(partial(walk, t), {}))
        )
        run = jax.jit(jax.vmap(jax.value_and_grad(estimate, 1), (0, None)))
        logs, slopes = run(jax.random.split(KEY, 300), 0.9)
        ratios = np.exp(np.array(logs) - log_p)
        assert abs(ratios.mean() - 1.0) < 5 * ratios.std() / np.sqrt(300)
        assert np.isfinite(slopes).all()
    close(Exact().log_evidence(ppl.extend.Target(partial(walk, 0.9), {})), log_p, rtol=1e-3)
    guide = lambda m: lax.scan(lambda c, _: (c, sample("x", dist.Normal(m, 1.0))), 0.0, length=4)
    bound = lambda m: elbo(partial(walk, 0.9), partial(guide, m), {})
    found = jax.vmap(jax.grad(ppl.expectation(bound), 1), (0, None))(jax.random.split(KEY, 3), 0.1)
    assert np.isfinite(found).all() and slope != 0.0
