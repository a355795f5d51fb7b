"""Inference algorithms: the laws of their densities, against closed forms and exact sums."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from jax import lax

import ppl
from ppl import errors, sample
from stdlib.inference import (
    AIS,
    HMC,
    MALA,
    NUTS,
    SIR,
    SMC,
    Exact,
    Importance,
    ParticleGibbs,
    RandomWalk,
    chain,
)
from stdlib.inference.resampling import SCHEMES
from stdlib.testing import assert_unbiased
from tests.stdlib.state_spaces import Y, guided, kalman, linear_gaussian

KEY = jax.random.key(5)
GRID = jnp.asarray(np.linspace(-12.0, 12.0, 2401), jnp.float32)
STEP = 0.01


def noisy(scale):
    u = sample("u", dist.Normal(0.0, 1.0))
    sample("x", dist.Normal(u, scale))


def evidence(scale, x):
    return dist.Normal(0.0, jnp.sqrt(1.0 + scale**2)).log_prob(x)


# --- one law for all -----------------------------------------------------------------------------

WALK = RandomWalk(0.7)
ALGORITHMS = {
    "importance": Importance(3),
    "proposal": SIR(2, lambda kept: sample("u", dist.Normal(0.4 * kept["x"], 0.8))),
    "annealed, random walk": AIS(2, 3, WALK),
    "annealed, Hamiltonian": AIS(1, [0.3, 1.0], HMC(0.4, 2)),
    "annealed, Langevin": AIS(1, 2, MALA(0.5)),
    "sequential": SMC(3, schedule=2, rejuvenation=WALK),
}


ONE_OF_EACH = ["importance", "annealed, random walk", "sequential"]
each_algorithm = pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.mechanism if name in ONE_OF_EACH else pytest.mark.law)
        for name in ALGORITHMS
    ],
)


@each_algorithm
def test_marginals_obey_the_law(name):
    """E[w] = p(x) when scored, E[1/w | x] = 1/p(x) when simulated; and so do their gradients."""

    def program(scale):
        return ppl.marginal(noisy, "x", ALGORITHMS[name])(scale)

    def objective(args):
        trace = ppl.simulate(program, args["simulated"])
        x = trace.choices["x"]
        inverse = jnp.exp(evidence(args["simulated"], x) - trace.log_density)
        scored = jnp.exp(ppl.log_density(program, {"x": 1.5}, args["scored"]))
        return args["a"] * scored + args["b"] * inverse * jnp.sin(x + 0.5)

    def exact(args):
        density = jnp.exp(evidence(args["simulated"], GRID))
        waves = jnp.sum(density * jnp.sin(GRID + 0.5)) * STEP
        return args["a"] * jnp.exp(evidence(args["scored"], 1.5)) + args["b"] * waves

    args = {"scored": 0.6, "simulated": 0.7, "a": 1.0, "b": 1.0}
    assert_unbiased(objective, args, exact=exact, key=KEY, num_samples=100_000)


@each_algorithm
def test_posteriors_obey_the_law(name):
    """What is drawn, u, and the estimates of its density agree: E[1/w | u] q(u) = 1, E[w] = q(u).

    With q unknown: E over draws of g(u)/w is ∫ g, and E of w at points of a grid sums to E[f(u)].
    """
    program = ppl.normalize(lambda: noisy(0.7), {"x": 1.5}, ALGORITHMS[name])

    def objective(by):
        trace = ppl.simulate(program)
        u = trace.choices["u"]
        inverse = jnp.exp(dist.Normal(0.9, 0.4).log_prob(u) - trace.log_density)
        at = sample("at", dist.Normal(0.8, 0.9))
        weight = jnp.exp(ppl.log_density(program, {"u": at}) - dist.Normal(0.8, 0.9).log_prob(at))
        return by * inverse + jnp.sin(2.0 * u) - jnp.sin(2.0 * at) * weight

    assert_unbiased(objective, 1.0, exact=lambda by: by, key=KEY, num_samples=100_000)


@pytest.mark.law
def test_posterior_by_many_particles_is_the_posterior():
    """Moments of the exact posterior Normal(μ, σ), within their standard errors."""
    precision = 1.0 + 1.0 / 0.7**2
    mean, deviation = 1.5 / 0.7**2 / precision, precision**-0.5
    cases = {
        "importance": SIR(400),
        "annealed": AIS(20, 30, HMC(0.3, 4)),
        "sequential": SMC(200, schedule=4, rejuvenation=WALK),
    }
    for algorithm in cases.values():
        draw = ppl.seed(ppl.normalize(lambda: noisy(0.7), {"x": 1.5}, algorithm))
        u = jax.jit(jax.vmap(draw))(jax.random.split(KEY, 4_000))["u"]
        z = (np.asarray(u) - mean) / deviation
        assert abs(z.mean()) < 5 / 4_000**0.5
        assert abs((z**2).mean() - 1.0) < 5 * (2 / 4_000) ** 0.5


# --- state-space models --------------------------------------------------------------------------

FILTERS = {
    "multinomial": SMC(4),
    "stratified": SMC(4, resampling="stratified"),
    "systematic": SMC(4, resampling="systematic"),
    "proposal": SMC(3, guided),
}


@pytest.mark.parametrize(
    "name",
    [
        *("multinomial", "proposal"),
        *(pytest.param(name, marks=pytest.mark.law) for name in ("stratified", "systematic")),
    ],
)
def test_evidence_of_a_filter_is_that_of_the_kalman_filter(name):
    def objective(a):
        program = ppl.marginal(lambda: linear_gaussian(a), "y", FILTERS[name])
        return jnp.exp(ppl.log_density(program, {"y": Y}))

    def exact(a):
        return jnp.exp(kalman(a, Y))

    assert_unbiased(objective, 0.9, exact=exact, key=KEY, num_samples=100_000)


def assert_evidence(algorithm):
    program = ppl.marginal(linear_gaussian, "y", algorithm)
    estimate = ppl.expectation(lambda a: ppl.log_density(program, {"y": Y}, a))
    run = jax.jit(jax.vmap(estimate, (0, None)))
    ratios = jnp.exp(run(jax.random.split(KEY, 20_000), 0.9) - kalman(0.9, Y))
    assert abs(ratios.mean() - 1.0) < 5 * ratios.std() / 20_000**0.5


@pytest.mark.law
def test_evidence_by_residual_resampling():
    assert_evidence(SMC(10, resampling="residual"))


def test_evidence_by_adaptive_resampling():
    """Whose gradient would be biased, as a warning says."""
    with pytest.warns(errors.DiscontinuousObjective, match="cond"):
        assert_evidence(SMC(10, ess_threshold=0.6))


def test_residual_resampling_has_no_gradient():
    def objective(a):
        algorithm = SMC(4, resampling="residual")
        return ppl.log_density(ppl.marginal(lambda: linear_gaussian(a), "y", algorithm), {"y": Y})

    with pytest.raises(errors.UnsuitableEstimator, match=r"residual.*unbiased gradient"):
        jax.grad(ppl.expectation(objective), 1)(KEY, 0.9)


@pytest.mark.parametrize(
    "algorithm",
    [
        pytest.param(SMC(4), id="own step", marks=pytest.mark.law),
        pytest.param(SMC(4, guided), id="proposal"),
    ],
)
def test_paths_obey_the_law(algorithm):
    """E[1/w | y] p(y) is one for every y: against a function of the y that are simulated."""

    def objective(a):
        trace = ppl.simulate(ppl.marginal(lambda: linear_gaussian(a, 1.5), "y", algorithm))
        y = trace.choices["y"]
        return jnp.exp(kalman(a, y, 1.5) - trace.log_density) * jnp.sin(0.5 * (y[0] + y[3]) + 0.5)

    def exact(a):  # y₁ + y₄ is normal
        variance = (1.0 + 1.5**2) + (1.0 + a**2 + a**4 + a**6 + 1.5**2) + 2.0 * a**3
        return jnp.sin(0.5) * jnp.exp(-variance / 8.0)

    assert_unbiased(objective, 0.8, exact=exact, key=KEY, num_samples=100_000)


def test_choices_before_the_loop():
    """An unknown start: it is drawn, kept and traced back with the path."""

    def program(a):
        linear_gaussian(a, 1.5, sample("start", dist.Normal(0.5, 0.8)))

    def objective(args):
        trace = ppl.simulate(ppl.marginal(program, "y", SMC(4)), args["a"])
        log_density = kalman(args["a"], trace.choices["y"], 1.5, 0.5, 0.64)
        scored = ppl.log_density(ppl.marginal(program, "y", SMC(4)), {"y": Y}, args["a"])
        return jnp.exp(scored) + args["by"] * jnp.exp(log_density - trace.log_density)

    def exact(args):
        return jnp.exp(kalman(args["a"], Y, 1.5, 0.5, 0.64)) + args["by"]

    args = {"a": 0.9, "by": 1e-2}
    assert_unbiased(objective, args, exact=exact, key=KEY, num_samples=100_000)


@pytest.mark.parametrize("name", SCHEMES)
def test_resampling_keeps_shares(name):
    """Each particle has its share of the descendants in the mean; the law sums to one."""
    log_weights = jnp.log(jnp.array([0.15, 0.5, 0.35]))
    draw = SCHEMES[name](log_weights + 3.0, 4)
    drawn = jax.vmap(draw.sample)(jax.random.split(KEY, 40_000))
    shares = jnp.mean(jnp.mean(drawn[..., None] == jnp.arange(3), 1), 0)
    assert jnp.max(jnp.abs(shares - jnp.exp(log_weights))) < 5 * 0.5 / 40_000**0.5
    if name != "residual":
        every = jnp.asarray(list(itertools.product(range(3), repeat=4)))
        law = jnp.exp(jax.vmap(draw.log_prob)(every))
        assert jnp.allclose(law.sum(), 1.0, atol=1e-5)
        code = drawn @ 3 ** jnp.arange(3, -1, -1)
        seen = np.bincount(np.asarray(code), minlength=81) / 40_000
        assert np.all(np.abs(seen - law) < 5 * np.sqrt(law * (1 - law) / 40_000) + 1e-5)


# --- exact ---------------------------------------------------------------------------------------

TABLE = jnp.asarray(np.random.default_rng(0).normal(size=(3, 3)), jnp.float32)


def hidden_markov(table):
    def step(z, y):
        z = sample("z", dist.Categorical(logits=table[z]))
        sample("y", dist.Normal(z, 1.0), obs=y)
        return z, None

    lax.scan(step, 0, Y)


def factor_graph(table):
    """A loop of three variables, and lanes of observations."""
    a = sample("a", dist.Bernoulli(logits=table[0, 0]))
    b = sample("b", dist.Binomial(2, logits=table[0, 1] + a))
    c = sample("c", dist.Categorical(logits=table[a] * (1.0 + b)))
    jax.vmap(lambda y: sample("y", dist.Normal(a + 0.5 * c - b, 1.0), obs=y))(Y)


def log_joint(program, names, sizes):
    states = jnp.asarray(list(itertools.product(*map(range, sizes))))
    split = (lambda s: {"z": s}) if names == ["z"] else (lambda s: dict(zip(names, s, strict=True)))
    return states, jax.vmap(lambda s: ppl.log_density(program, split(s)))(states)


GRAPHS = {
    "chain": (hidden_markov, ["z"], [3, 3, 3, 3]),
    "graph": (factor_graph, ["a", "b", "c"], [2, 3, 3]),
}


@pytest.mark.parametrize("name", GRAPHS)
def test_exact_sums_and_draws(name):
    """Evidence and its gradient, and every joint probability, against full enumeration."""
    program, names, sizes = GRAPHS[name]

    def ours(table):
        return Exact().log_evidence(ppl.extend.Target(lambda: program(table), {}))

    def by_hand(table):
        return jax.nn.logsumexp(log_joint(lambda: program(table), names, sizes)[1])

    value, slope = jax.jit(jax.value_and_grad(ours))(TABLE)
    exact, exact_slope = jax.jit(jax.value_and_grad(by_hand))(TABLE)
    assert jnp.allclose(value, exact, atol=1e-5)
    assert jnp.allclose(slope, exact_slope, atol=1e-4)
    states, logs = jax.jit(lambda table: log_joint(lambda: program(table), names, sizes))(TABLE)
    chances = np.asarray(jax.nn.softmax(logs))
    posterior = ppl.normalize(program, {}, Exact())
    drawn = jax.jit(jax.vmap(ppl.seed(posterior), (0, None)))(jax.random.split(KEY, 20_000), TABLE)
    values = drawn["z"] if names == ["z"] else jnp.stack([drawn[n] for n in names], -1)
    seen = np.ravel_multi_index(np.asarray(values).T.astype(int), sizes)
    seen = np.bincount(seen, minlength=len(states)) / 20_000
    assert np.all(np.abs(seen - chances) < 5 * np.sqrt(chances * (1 - chances) / 20_000) + 1e-4)
    trace = jax.jit(ppl.seed(lambda: ppl.simulate(posterior, TABLE)))(KEY)
    density = jax.jit(lambda choices: ppl.log_density(posterior, choices, TABLE))(trace.choices)
    assert jnp.allclose(trace.log_density, density, atol=1e-5)


def test_gradients_pass_exact_draws():
    """Through the score of the joint draw."""

    def objective(table):
        z = ppl.normalize(hidden_markov, {}, Exact())(table)["z"]
        return jnp.sin(z[0] + 2.0 * z[1] - z[3])

    def exact(table):
        states, logs = log_joint(lambda: hidden_markov(table), ["z"], [3, 3, 3, 3])
        values = jnp.sin(states[:, 0] + 2.0 * states[:, 1] - states[:, 3])
        return jnp.sum(jax.nn.softmax(logs) * values)

    assert_unbiased(objective, TABLE, exact=exact, key=KEY, num_samples=50_000)


# --- kernels -------------------------------------------------------------------------------------


def bounded():
    """A Beta posterior: three successes of four."""
    rate = sample("rate", dist.Beta(2.0, 2.0))
    sample("x", dist.Binomial(4, rate))


@pytest.mark.parametrize(
    "kernel", [RandomWalk(0.5), MALA(0.25), HMC(0.15, 4)], ids=lambda k: type(k).__name__
)
def test_kernels_leave_the_posterior_as_it_is(kernel):
    """From exact draws: the moments after three moves, near the ends of the support too."""
    target = ppl.extend.Target(bounded, {"x": 3})

    def moved(key):
        start, move = jax.random.split(key)
        rate = dist.Beta(5.0, 3.0).sample(start)
        end = ppl.seed(chain)(move, kernel, target, {"rate": rate}, 3)["rate"][-1]
        return rate, end

    start, end = jax.jit(jax.vmap(moved))(jax.random.split(KEY, 50_000))
    assert jnp.all((end > 0) & (end < 1)) and jnp.mean(start != end) > 0.5
    for power in (1, 2, 3):
        exact = np.prod([(5.0 + i) / (8.0 + i) for i in range(power)])
        values = np.asarray(end, float) ** power
        assert abs(values.mean() - exact) < 5 * values.std() / 50_000**0.5


def steep(a):
    """A normal of the cube: leapfrog steps overflow, and so do the densities of far steps."""
    x = sample("x", dist.Normal(0.0, 1.0))
    sample("y", dist.Normal(a * x**3, 0.5))


@pytest.mark.parametrize("level", [0, pytest.param(3, marks=pytest.mark.law)])
def test_moves_that_are_never_accepted_have_no_derivatives(level):
    """Finite gradients where proposals overflow, however XLA arranges the floats."""
    annealed = AIS(2, 2, HMC(0.7, 4))

    def objective(a):
        target = ppl.extend.Target(lambda: steep(a), {"y": 1.0})
        walked = [chain(k, target, {"x": 1.0}, 2)["x"] for k in (MALA(1.5), RandomWalk(1e12))]
        return annealed.log_evidence(target) + jnp.sum(jnp.stack(walked))

    estimate = jax.vmap(jax.value_and_grad(ppl.expectation(objective), argnums=1), (0, None))
    options = {"xla_backend_optimization_level": level}
    value, slope = jax.jit(estimate, compiler_options=options)(jax.random.split(KEY, 500), 1.0)
    assert jnp.all(jnp.isfinite(value)) and jnp.all(jnp.isfinite(slope))


def test_gradients_pass_moves_some_of_which_overflow():
    def objective(a):
        program = ppl.marginal(lambda: steep(a), "y", AIS(2, 2, HMC(0.7, 2)))
        return jnp.exp(ppl.log_density(program, {"y": 1.0}))

    def exact(a):
        masses = jnp.exp(dist.Normal(0.0, 1.0).log_prob(GRID)) * STEP
        return jnp.sum(masses * jnp.exp(dist.Normal(a * GRID**3, 0.5).log_prob(1.0)))

    assert_unbiased(objective, 1.0, exact=exact, key=KEY, num_samples=50_000)


def test_no_u_turn_sampler():
    target = ppl.extend.Target(lambda: noisy(0.7), {"x": 1.5})
    draws = ppl.seed(chain)(KEY, NUTS(0.9), target, {"u": 1.0}, 6_000)["u"]
    precision = 1.0 + 1.0 / 0.7**2
    z = (np.asarray(draws) - 1.5 / 0.7**2 / precision) * precision**0.5
    error = 3.0 / 6_000**0.5  # autocorrelated: no more than nine draws to an independent one
    assert abs(z.mean()) < 5 * error and abs((z**2).mean() - 1.0) < 5 * error * 2**0.5

    def objective(scale):
        return ppl.log_density(ppl.marginal(noisy, "x", AIS(1, 2, NUTS(0.5))), {"x": 1.5}, scale)

    with pytest.raises(errors.UnsuitableEstimator, match="NUTS"):
        jax.grad(ppl.expectation(objective), 1)(KEY, 0.7)


def test_particle_gibbs_leaves_the_posterior_as_it_is():
    """From exact draws of a discrete chain's posterior: the moments after two moves."""
    target = ppl.extend.Target(lambda: hidden_markov(TABLE), {})
    states, logs = log_joint(lambda: hidden_markov(TABLE), ["z"], [3, 3, 3, 3])
    kernel = ParticleGibbs(SMC(3))

    def moved(key):
        start, move = jax.random.split(key)
        z = states[jax.random.categorical(start, logs)]
        return ppl.seed(chain)(move, kernel, target, {"z": z}, 2)["z"][-1]

    z = jax.jit(jax.vmap(moved))(jax.random.split(KEY, 40_000))
    chances = jax.nn.softmax(logs)
    for at in range(4):
        for state in range(3):
            exact = float(jnp.sum(chances * (states[:, at] == state)))
            error = (exact * (1 - exact) / 40_000) ** 0.5
            assert abs(float(jnp.mean(z[:, at] == state)) - exact) < 5 * error


# --- bad input -----------------------------------------------------------------------------------

BAD = [
    (lambda: Importance(0), "at least one particle, got 0"),
    (lambda: SMC(1), "two particles or more, got 1"),
    (lambda: SMC(4, resampling="uniform"), "'uniform' is none of 'multinomial'"),
    (lambda: SMC(4, guided, schedule=3), "Leave out one of the two"),
    (lambda: SMC(4, guided, 3, WALK), "`proposal` is for the steps of a program's loop"),
    (lambda: AIS(2, [0.5, 0.4, 1.0], WALK), "rise to 1.0"),
    (lambda: AIS(2, 0, WALK), "1 or more"),
    (lambda: AIS(2, [0.2, 0.7], WALK), "rise to 1.0"),
]


@pytest.mark.parametrize(("make", "words"), BAD)
def test_settings_that_make_no_sense(make, words):
    with pytest.raises(errors.InvalidSetting, match=words):
        make()


def test_conditional_filters_are_multinomial():
    program = ppl.marginal(lambda: linear_gaussian(0.9), "y", SMC(4, resampling="stratified"))
    with pytest.raises(errors.InvalidSetting, match="Conditional SMC"):
        ppl.seed(lambda: ppl.simulate(program))(KEY)


def test_kernels_move_real_choices():
    def counts():
        sample("x", dist.Normal(sample("n", dist.Poisson(2.0)), 1.0))

    program = ppl.marginal(counts, "x", AIS(1, 2, WALK))
    with pytest.raises(errors.InvalidSetting, match="'n' of dtype int32"):
        ppl.seed(lambda: ppl.log_density(program, {"x": 1.0}))(KEY)


def test_exact_needs_finite_choices():
    def counts():
        sample("x", dist.Normal(sample("n", dist.Poisson(2.0)), 1.0))

    program = ppl.marginal(counts, "x", Exact())
    with pytest.raises(errors.UnsuitableEstimator, match="'n'"):
        ppl.log_density(program, {"x": 1.0})
