"""The `sample` statement and staging: every form of control flow, every kind of program."""

import functools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from jax import lax
from jax.scipy.stats import norm

import ppl
from ppl import sample
from tests.ppl.programs import CASES, THETA

RUNS, FEW = 4000, 20
KEYS = jax.random.split(jax.random.key(11), RUNS)
each_case = pytest.mark.parametrize("index", range(len(CASES)), ids=map(repr, CASES))


def many(run):
    """`run` for each key, compiled in a hurry."""
    return jax.jit(jax.vmap(run), compiler_options={"xla_backend_optimization_level": 0})


@functools.cache
def traces(index):
    program = CASES[index].program
    run = ppl.seed(lambda: ppl.simulate(program, THETA))
    return jax.tree.map(np.asarray, many(run)(KEYS))


def few(tree):
    return jax.tree.map(lambda x: x[:FEW], tree)


def assert_within_standard_errors(samples, exact, what, limit=5.0):
    """The mean of `samples` over its first axis, entry by entry."""
    error = samples.std(0) / np.sqrt(len(samples))
    z = (samples.mean(0) - exact) / np.where(error > 0, error, 1.0)
    z = np.where((error == 0) & (np.abs(samples.mean(0) - exact) > 1e-6), np.inf, z)
    assert np.abs(z).max() < limit, f"{what}: z-scores {z}"


# --- forms of control flow ------------------------------------------------------------------------


@each_case
def test_seed_draws_with_exact_moments(index):
    """The covariances show lanes and steps to be independent where they should be."""
    case = CASES[index]
    draw = many(lambda key: ppl.seed(case.program)(key, THETA))
    values = np.asarray(draw(KEYS), np.float64).reshape(RUNS, -1)
    assert_within_standard_errors(values, case.mean, "mean")
    centred = values - case.mean
    products = centred[:, :, None] * centred[:, None, :]
    assert_within_standard_errors(products, case.cov, "covariance")


@each_case
def test_choices_are_laid_out_as_the_program_is_written(index):
    case, trace = CASES[index], traces(index)
    assert {name: x.shape[1:] for name, x in trace.choices.items()} == case.shapes


@each_case
def test_every_draw_is_fresh(index):
    case, trace = CASES[index], traces(index)
    drawn = trace.choices if not case.endless else {"value": trace.value}
    for address, draws in drawn.items():
        if not np.issubdtype(draws.dtype, np.floating):
            continue
        reached = trace.valid.get(address, draws != 0.0)
        for row, real in zip(draws, reached, strict=True):
            assert np.unique(row[real]).size == real.sum(), f"{address!r} repeats itself"


@each_case
def test_simulate_records_the_density_by_hand(index):
    case, trace = CASES[index], few(traces(index))
    at = trace.value if case.endless else trace.choices
    by_hand = jax.vmap(partial(case.density, THETA))(at)
    np.testing.assert_allclose(trace.log_density, by_hand, rtol=2e-5, atol=2e-5)
    assert not trace.log_likelihood.any()


@each_case
def test_branches_not_taken_are_flagged(index):
    case, trace = CASES[index], traces(index)
    for i in range(FEW):
        flags = jax.tree.map(lambda x, i=i: x[i], trace.valid)
        expected = case.valid(jax.tree.map(lambda x, i=i: x[i], trace.choices))
        assert flags.keys() == expected.keys()
        for address, flag in flags.items():
            np.testing.assert_array_equal(flag, expected[address])


@pytest.mark.parametrize(
    "case", [c for c in CASES if not c.endless], ids=lambda case: case.program.__name__
)
def test_log_density_is_the_sum_by_hand(case):
    choices = few(traces(CASES.index(case)).choices)
    score = many(lambda c: ppl.log_density(case.program, c, THETA))
    by_hand = jax.vmap(partial(case.density, THETA))(choices)
    np.testing.assert_allclose(score(choices), by_hand, rtol=2e-5, atol=2e-5)


def _custom(kind):
    @kind
    def inner(m):
        return 2.0 * sample("x", dist.Normal(m, 1.0))

    if kind is jax.custom_jvp:
        inner.defjvp(lambda primals, tangents: (inner(*primals), 7.0 * tangents[0]))
    else:
        inner.defvjp(lambda m: (inner(m), None), lambda _, g: (7.0 * g,))
    return inner


@pytest.mark.parametrize("kind", [jax.custom_jvp, jax.custom_vjp], ids=lambda k: k.__name__)
def test_custom_derivative_functions_are_entered_with_a_warning(kind):
    program = _custom(kind)
    with pytest.warns(ppl.errors.CustomRuleIgnored, match=r"'x' at .*test_front_end\.py:\d+"):
        draws = jax.vmap(lambda key: ppl.seed(program)(key, 1.5))(KEYS)
    assert_within_standard_errors(np.asarray(draws), 3.0, "mean")
    assert_within_standard_errors((np.asarray(draws) - 3.0) ** 2, 4.0, "variance")
    with pytest.warns(ppl.errors.CustomRuleIgnored):
        trace = ppl.seed(lambda: ppl.simulate(program, 1.5))(KEYS[0])
    x = trace.choices["x"]
    assert trace.value == 2.0 * x
    with pytest.warns(ppl.errors.CustomRuleIgnored):
        density, slope = jax.value_and_grad(lambda m: ppl.log_density(program, {"x": x}, m))(1.5)
    np.testing.assert_allclose([density, trace.log_density], norm.logpdf(x, 1.5), rtol=1e-6)
    np.testing.assert_allclose(slope, x - 1.5, rtol=1e-5)


DATA = np.array([0.3, -1.0, 2.0, 0.7], np.float32)


def _state_space(theta, y, x, suffix=""):
    x = sample("x" + suffix, dist.Normal(theta * x, 1.0))
    sample("y" + suffix, dist.Normal(x**2, 0.5), obs=y)
    return x


def test_a_scan_is_its_unrolled_program():
    def looped(theta):
        step = lambda x, y: 2 * (_state_space(theta, y, x),)
        return lax.scan(step, 0.0, DATA)[1]

    def unrolled(theta):
        x, xs = 0.0, []
        for t, y in enumerate(DATA):
            x = _state_space(theta, y, x, str(t))
            xs.append(x)
        return jnp.stack(xs)

    xs = np.array([0.1, -0.5, 1.2, 0.4], np.float32)
    before = np.concatenate([[0.0], xs[:-1]])
    by_hand = norm.logpdf(xs, THETA * before).sum() + norm.logpdf(DATA, xs**2, 0.5).sum()
    apart = {f"x{t}": x for t, x in enumerate(xs)}
    slope = jax.grad(lambda t: ppl.log_density(looped, {"x": xs}, t))(THETA)
    np.testing.assert_allclose(ppl.log_density(looped, {"x": xs}, THETA), by_hand, rtol=1e-5)
    np.testing.assert_allclose(ppl.log_density(unrolled, apart, THETA), by_hand, rtol=1e-5)
    np.testing.assert_allclose(slope, ((xs - THETA * before) * before).sum(), rtol=1e-4)
    forced = ppl.seed(ppl.intervene(looped, {"x": xs}))
    np.testing.assert_array_equal(forced(KEYS[0], THETA), xs)


# --- functions that JAX traced once and cached ----------------------------------------------------


@jax.jit
def cached(mean):
    return sample("x", dist.Normal(mean, 1.0))


def test_a_cached_function_under_two_scopes():
    def program():
        return ppl.scope(cached, "a")(1.0) + ppl.scope(cached, "b")(1.0)

    trace = ppl.seed(lambda: ppl.simulate(program))(KEYS[0])
    a, b = trace.choices["a"]["x"], trace.choices["b"]["x"]
    assert a != b and trace.value == a + b
    density = ppl.log_density(program, {"a": {"x": 0.0}, "b/x": 3.0})
    np.testing.assert_allclose(density, norm.logpdf(0.0, 1.0) + norm.logpdf(3.0, 1.0), rtol=1e-6)


def test_a_cached_function_under_two_sets_of_observations():
    for data in (0.0, 2.0, -1.0):
        observed = ppl.condition(cached, {"x": data})
        trace = ppl.seed(lambda p=observed: ppl.simulate(p, 1.0))(KEYS[0])
        assert trace.choices == {} and trace.value == data
        np.testing.assert_allclose(trace.log_likelihood, norm.logpdf(data, 1.0), rtol=1e-6)
    assert ppl.seed(cached)(KEYS[0], 1.0) not in (0.0, 2.0, -1.0)


def test_a_cached_function_under_two_estimators():
    """With one draw x, E[x³] has the derivative 3x² by the path and x³(x - m) by the score."""
    for _ in range(2):
        for estimator, slope in [
            (ppl.Reparameterized(), lambda x: 3 * x**2),
            (ppl.ScoreFunction(), lambda x: x**3 * (x - 1.0)),
        ]:
            chosen = ppl.with_estimators(cached, {"x": estimator})
            estimate = ppl.expectation(lambda m, p=chosen: p(m) ** 3)
            value, grad = jax.value_and_grad(estimate, argnums=1)(KEYS[0], 1.0)
            np.testing.assert_allclose(grad, slope(np.cbrt(value)), rtol=1e-4)


# --- an observation that nobody reads -------------------------------------------------------------


def unread():
    sample("y", dist.Normal(0.5, 2.0), obs=1.5)
    return 0.0


def _branch():
    return lax.cond(jnp.array(True), unread, lambda: 0.0)


UNREAD = [
    (unread, 1),
    (jax.jit(unread), 1),
    (jax.checkpoint(unread), 1),
    (jax.jit(jax.checkpoint(jax.jit(unread))), 1),
    (lambda: lax.scan(lambda c, _: (c, unread()), 0.0, None, length=3)[0], 3),
    (lambda: lax.fori_loop(0, 4, lambda i, c: c + 0.0 * unread(), 0.0), 4),
    (lambda: jax.vmap(lambda _: unread())(B := jnp.arange(2)) + 0 * B, 2),
    (_branch, 1),
    (lambda: jax.vmap(lambda f: lax.cond(f, unread, lambda: 0.0))(jnp.array([True, False])), 1),
]


@pytest.mark.parametrize("program, times", UNREAD)
def test_an_observation_that_nobody_reads_counts(program, times):
    exact = times * norm.logpdf(1.5, 0.5, 2.0)
    trace = jax.jit(ppl.seed(lambda: ppl.simulate(program)))(KEYS[0])
    objective = jax.jit(lambda: ppl.log_density(program, {}))
    found = [trace.log_likelihood, objective(), ppl.expectation(objective)(KEYS[0])]
    np.testing.assert_allclose(found, exact, rtol=1e-5)
    assert trace.choices == {} and trace.log_density == 0.0
