"""The meanings of a program: one law each, against sums and derivatives worked out by hand."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from jax import lax
from jax.scipy.stats import bernoulli, norm

import ppl
from ppl import sample
from tests.ppl.programs import CASES, THETA, in_scan_of_vmap_of_scan, in_vmap_of_scan, straight

KEY = jax.random.key(3)
SCORED = [case for case in CASES if not case.endless]
each_program = pytest.mark.parametrize("case", SCORED, ids=map(repr, SCORED))


def hurried(fn):
    """`jax.jit`, compiled in a hurry."""
    return jax.jit(fn, compiler_options={"xla_backend_optimization_level": 0})


def close(found, exact, tolerance=2e-5):
    np.testing.assert_allclose(found, exact, rtol=tolerance, atol=tolerance)


def trace_of(program, *args, key=KEY):
    return hurried(ppl.seed(lambda: ppl.simulate(program, *args)))(key)


def observed_twin(case):
    """The program with a further observed site in front."""

    def program(theta):
        sample("data", dist.Normal(theta, 2.0), obs=1.0)
        return case.program(theta)

    return program


# --- simulate and log_density ---------------------------------------------------------------------


@each_program
def test_density_of_what_was_simulated(case):
    program = observed_twin(case)
    trace = trace_of(program, THETA)
    joint = hurried(lambda c: ppl.log_density(program, c, THETA))(trace.choices)
    close(trace.log_likelihood, norm.logpdf(1.0, THETA, 2.0))
    close(joint, trace.log_density + trace.log_likelihood)


@each_program
def test_derivatives_of_the_density(case):
    choices = trace_of(case.program, THETA).choices
    by_hand = hurried(jax.grad(case.density))(THETA, choices)
    slope = hurried(jax.grad(lambda t: ppl.log_density(case.program, choices, t)))(THETA)
    close(slope, by_hand, 1e-4)


def test_derivative_in_the_choices_is_a_closed_form():
    slope = jax.grad(lambda x: ppl.log_density(straight, {"x": x, "y": 2.0}, THETA))(1.0)
    close(slope, -(1.0 - THETA) + (2.0 - 1.0) / 0.25)
    x = jnp.arange(6.0).reshape(2, 3)
    score = lambda x: ppl.log_density(in_vmap_of_scan, {"x": x}, 0.0)
    second = hurried(jax.hessian(score))(x).reshape(6, 6)
    walk = np.array([[-2, 1, 0], [1, -2, 1], [0, 1, -1]])
    close(second, np.kron(np.eye(2), walk))


def test_log_density_in_vmap_and_scan():
    """Inside a program of its own, `log_density` is a function like any other."""
    xs = jnp.array([0.0, 1.0, 2.0])
    score = lambda x: ppl.log_density(straight, {"x": x, "y": 1.0}, THETA)
    exact = norm.logpdf(xs, THETA) + norm.logpdf(1.0, xs, 0.5)
    close(jax.vmap(score)(xs), exact)
    close(lax.scan(lambda c, x: (c, score(x)), 0.0, xs)[1], exact)


def test_simulate_in_vmap_and_scan():
    """Traces are pytrees; their sites stay those of the enclosing program."""

    def outer():
        lanes = jax.vmap(lambda t: ppl.simulate(straight, t))(jnp.array([0.0, 5.0]))
        step = lambda c, t: (c, ppl.simulate(ppl.scope(straight, "steps"), t))
        return lanes, lax.scan(step, 0.0, jnp.array([0.0, 5.0]))[1]

    whole = trace_of(outer)
    for trace, c in zip(whole.value, [whole.choices, whole.choices["steps"]], strict=True):
        mine = trace.choices.get("steps", trace.choices)
        np.testing.assert_array_equal(mine["x"], c["x"])
        exact = norm.logpdf(c["x"], jnp.array([0.0, 5.0])) + norm.logpdf(c["y"], c["x"], 0.5)
        close(trace.log_density, exact)


# --- seed -----------------------------------------------------------------------------------------

NAMES = ["straight", "in_scan_of_vmap", "in_switch", "cond_in_vmap", "in_while_loop"]
SEEDED = [case for case in CASES if repr(case) in NAMES]


@pytest.mark.parametrize("case", SEEDED, ids=map(repr, SEEDED))
def test_seed_commutes_with_jit_and_vmap(case):
    run, keys = ppl.seed(case.program), jax.random.split(KEY, 3)
    eager = np.stack([run(key, THETA) for key in keys])
    close(hurried(run)(keys[0], THETA), eager[0], 1e-6)
    close(hurried(jax.vmap(run, (0, None)))(keys, THETA), eager, 1e-6)
    close(hurried(lambda k: lax.map(lambda key: run(key, THETA), k))(keys), eager, 1e-6)
    legacy = hurried(run)(jax.random.key_data(keys[0]), THETA)
    close(legacy, eager[0], 1e-6)


def test_typed_and_legacy_keys_draw_the_same():
    typed, legacy = jax.random.key(9), jax.random.PRNGKey(9)
    run = ppl.seed(straight)
    np.testing.assert_array_equal(run(typed, THETA), run(legacy, THETA))
    estimate = ppl.expectation(lambda: straight(THETA).sum())
    assert estimate(typed) == estimate(legacy) != estimate(jax.random.key(10))


# --- condition and intervene ----------------------------------------------------------------------


@each_program
def test_conditioning_on_every_site_leaves_the_likelihood(case):
    choices = trace_of(case.program, THETA).choices
    trace = trace_of(ppl.condition(case.program, choices), THETA, key=jax.random.key(99))
    assert trace.choices == {} and trace.log_density == 0.0
    close(trace.log_likelihood, case.density(THETA, choices))


@each_program
def test_intervening_on_every_site_leaves_nothing(case):
    """The value is that of the run whose choices are put back; the density is gone."""
    original = trace_of(case.program, THETA)
    trace = trace_of(ppl.intervene(case.program, original.choices), THETA)
    close(trace.value, original.value, 1e-6)
    assert trace.choices == {} and trace.log_density == trace.log_likelihood == 0.0


def test_condition_scores_and_intervene_cuts():
    observed, forced = ppl.condition(straight, {"x": 3.0}), ppl.intervene(straight, {"x": 3.0})
    for program, likelihood in [(observed, norm.logpdf(3.0, THETA)), (forced, 0.0)]:
        trace = trace_of(program, THETA)
        assert list(trace.choices) == ["y"] and trace.value[0] == 3.0
        close(trace.log_density, norm.logpdf(trace.choices["y"], 3.0, 0.5))
        close(trace.log_likelihood, likelihood)
        close(ppl.log_density(program, {"y": 2.0}, THETA), likelihood + norm.logpdf(2.0, 3.0, 0.5))
    twice = ppl.condition(ppl.condition(straight, {"x": 3.0}), {"y": 2.0})
    close(ppl.log_density(twice, {}, THETA), norm.logpdf(3.0, THETA) + norm.logpdf(2.0, 3.0, 0.5))


def test_conditioning_one_site_in_a_loop_leaves_the_other():
    def program():
        def step(x, _):
            x = sample("x", dist.Normal(x, 1.0))
            return x, sample("y", dist.Normal(x, 0.5))

        return jax.vmap(lambda m: lax.scan(step, m, None, length=3)[1])(jnp.array([0.0, 9.0]))

    y = jnp.arange(6.0).reshape(2, 3)
    trace = trace_of(ppl.condition(program, {"y": y}))
    x = trace.choices["x"]
    np.testing.assert_array_equal(trace.value, y)
    close(trace.log_likelihood, norm.logpdf(y, x, 0.5).sum())
    forced = trace_of(ppl.intervene(program, {"x": 100.0 * y}))
    assert np.abs(forced.value - 100.0 * y).max() < 3.0
    close(forced.log_density, norm.logpdf(forced.value, 100.0 * y, 0.5).sum())


# --- scope ----------------------------------------------------------------------------------------


def test_scopes_nest_and_keep_programs_apart():
    def program(theta):
        a = ppl.scope(ppl.scope(straight, "inner"), "outer")(theta)
        return a + ppl.scope(straight, "outer/other")(a[0])

    trace = trace_of(program, THETA)
    inner, other = trace.choices["outer"]["inner"], trace.choices["outer"]["other"]
    close(trace.value[0], inner["x"] + other["x"], 1e-6)
    one = norm.logpdf(inner["x"], THETA) + norm.logpdf(inner["y"], inner["x"], 0.5)
    two = norm.logpdf(other["x"], inner["x"]) + norm.logpdf(other["y"], other["x"], 0.5)
    close([trace.log_density, ppl.log_density(program, trace.choices, THETA)], [one + two] * 2)
    flat = {"outer/inner": inner, "outer": {"other/x": other["x"], "other": {"y": other["y"]}}}
    close(ppl.log_density(program, flat, THETA), one + two)


def test_scope_of_loops():
    x = np.arange(24.0).reshape(4, 2, 3)
    score = partial(ppl.log_density, ppl.scope(in_scan_of_vmap_of_scan, "s"))
    plain = ppl.log_density(in_scan_of_vmap_of_scan, {"x": x}, THETA)
    close(score({"s": {"x": x}}, THETA), plain)


# --- with_estimators ------------------------------------------------------------------------------

PATH, SCORE = ppl.Reparameterized(), ppl.ScoreFunction()


def layers(m):
    a = ppl.scope(lambda: sample("z", dist.Normal(m, 1.0)), "layer/1")()
    return a + ppl.scope(lambda: sample("z", dist.Normal(m, 1.0)), "layer/2")()


@pytest.mark.parametrize(
    "patterns, scored",
    [
        ({"layer/1/z": SCORE}, (True, False)),
        ({"layer/*": SCORE}, (True, True)),
        ({"*": SCORE, "layer/2/*": PATH}, (True, False)),
        ({"layer/2/*": PATH, "*": SCORE}, (True, True)),
        ({"layer/?/z": SCORE, "layer/[1]/z": PATH}, (False, True)),
        ({}, (False, False)),
    ],
)
def test_patterns_choose_estimators(patterns, scored):
    """Of a + b with a, b ~ N(m, 1): a path has the derivative 1, a score a(a - m)."""
    m, draws = 0.5, ppl.seed(lambda m: ppl.simulate(layers, m))(KEY, 0.5).choices["layer"]
    chosen = ppl.with_estimators(layers, patterns)
    objective = ppl.with_estimators(lambda m: ppl.simulate(layers, m).value, patterns)
    exact = sum(
        z * (z - m) if by_score else 1.0
        for z, by_score in zip((draws["1"]["z"], draws["2"]["z"]), scored, strict=True)
    )
    for program in (chosen, objective, lambda m: ppl.simulate(chosen, m).value):
        value, slope = jax.value_and_grad(ppl.expectation(program), argnums=1)(KEY, m)
        close([value, slope], [draws["1"]["z"] + draws["2"]["z"], exact])
    density = ppl.log_density(chosen, {"layer": draws}, m)
    close(density, sum(norm.logpdf(draws[i]["z"], m) for i in "12"))


def test_a_function_of_the_site_s_own_estimator_chooses_another():
    """It sees the default, what the program says, and what earlier patterns chose."""
    seen = []

    def noted(own):
        seen.append(own)
        return SCORE

    def program(m):
        sample("count", dist.Poisson(m))
        return sample("x", dist.Normal(m, 1.0)) + sample("y", dist.Normal(m, 1.0), SCORE)

    chosen = ppl.with_estimators(program, {"x": noted, "[yc]*": noted})
    scored = ppl.with_estimators(program, {"x": SCORE})
    slopes = [jax.grad(ppl.expectation(f), argnums=1)(KEY, 0.5) for f in (chosen, scored)]
    assert [type(own) for own in seen] == [type(SCORE), type(PATH), type(SCORE)]
    close(*slopes)
    later = ppl.with_estimators(program, {"x": SCORE, "?": noted})
    ppl.show(later, 0.5)
    assert seen[3:] == [SCORE, SCORE]


# --- observed sites -------------------------------------------------------------------------------


def test_observed_sites_return_their_data_and_count():
    def program(p):
        y = sample("y", dist.Bernoulli(p), obs=jnp.array(1))
        x = sample("x", dist.Normal(y, 1.0))
        return y, sample("n", dist.Normal(x, 1.0), obs=2)

    trace = trace_of(program, 0.3)
    assert trace.value == (1, 2.0) and list(trace.choices) == ["x"]
    x = trace.choices["x"]
    close(trace.log_density, norm.logpdf(x, 1.0))
    close(trace.log_likelihood, bernoulli.logpmf(1, 0.3) + norm.logpdf(2.0, x))
    slope = jax.grad(lambda p: ppl.log_density(program, {"x": 0.5}, p))(0.3)
    close(slope, 1 / 0.3)
