"""Particle filters whose particles a Markov kernel moves: the same laws, and what it is for."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from jax import lax

import ppl
from ppl import errors, sample
from stdlib.inference import HMC, MALA, NUTS, SMC, ParticleGibbs, RandomWalk, chain
from stdlib.testing import assert_unbiased
from tests.stdlib.state_spaces import Y, guided, kalman, linear_gaussian

KEY = jax.random.key(7)
WALK = RandomWalk(0.7)
SMALL = (1.0, 0.1, 0.1, 0.1)
"""After a wide first step, small ones, which alone hardly part the copies of a particle."""


def by_noise(a, noise=0.5):
    """The same law of y, from choices that are not the state."""

    def step(x, scale):
        x = a * x + scale * sample("e", dist.Normal(0.0, 1.0))
        sample("y", dist.Normal(x, noise))
        return x, None

    lax.scan(step, 0.0, jnp.ones(4))


CASES = {
    "random walk": (linear_gaussian, lambda s: SMC(3, rejuvenation=RandomWalk(s))),
    "Langevin": (linear_gaussian, lambda s: SMC(3, rejuvenation=MALA(s))),
    "Hamiltonian": (linear_gaussian, lambda s: SMC(3, rejuvenation=HMC(0.6 * s, 2))),
    "proposal": (linear_gaussian, lambda s: SMC(3, guided, rejuvenation=RandomWalk(s))),
    "by noise": (by_noise, lambda s: SMC(3, rejuvenation=HMC(0.6 * s, 2))),
}


each_case = pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[] if name == "proposal" else pytest.mark.law) for name in CASES],
)


@each_case
def test_evidence_is_that_of_the_kalman_filter(name):
    """Whatever the kernel's step: its gradient is zero in the mean."""
    model, algorithm = CASES[name]

    def objective(args):
        program = ppl.marginal(lambda: model(args["a"]), "y", algorithm(args["step"]))
        return jnp.exp(ppl.log_density(program, {"y": Y}))

    def exact(args):
        return jnp.exp(kalman(args["a"], Y)) + 0.0 * args["step"]

    args = {"a": 0.9, "step": 0.7}
    assert_unbiased(objective, args, exact=exact, key=KEY, num_samples=50_000)


@pytest.mark.law
@each_case
def test_paths_obey_the_law(name):
    """E[1/w | y] p(y) is one for every y: against a function of the y that are simulated."""
    model, algorithm = CASES[name]

    def objective(args):
        program = ppl.marginal(lambda: model(args["a"], 1.5), "y", algorithm(args["step"]))
        trace = ppl.simulate(program)
        y = trace.choices["y"]
        inverse = jnp.exp(kalman(args["a"], y, 1.5) - trace.log_density)
        return inverse * jnp.sin(0.5 * (y[0] + y[3]) + 0.5)

    def exact(args):  # y₁ + y₄ is normal
        a = args["a"] + 0.0 * args["step"]
        variance = (1.0 + 1.5**2) + (1.0 + a**2 + a**4 + a**6 + 1.5**2) + 2.0 * a**3
        return jnp.sin(0.5) * jnp.exp(-variance / 8.0)

    args = {"a": 0.8, "step": 0.9}
    assert_unbiased(objective, args, exact=exact, key=KEY, num_samples=50_000)


@pytest.mark.law
def test_evidence_by_the_no_u_turn_sampler():
    """Whose moves have no gradient: the value alone."""
    algorithm = SMC(4, rejuvenation=NUTS(0.6, 3))
    program = ppl.marginal(lambda: linear_gaussian(0.9), "y", algorithm)
    estimate = ppl.expectation(lambda: ppl.log_density(program, {"y": Y}))
    logs = jax.jit(jax.vmap(estimate))(jax.random.split(KEY, 4_000))
    ratios = np.asarray(jnp.exp(logs - kalman(0.9, Y)), float)
    assert abs(ratios.mean() - 1.0) < 5 * ratios.std() / 4_000**0.5


@pytest.mark.law
def test_choices_before_the_loop_stay():
    """An unknown start, which also makes the inputs of the steps each particle's own."""

    def program(a):
        start = sample("start", dist.Normal(0.5, 0.8))
        linear_gaussian(a, 1.5, start, jnp.full(4, 1.0 + 0.0 * start))

    def objective(args):
        only_y = ppl.marginal(program, "y", SMC(3, rejuvenation=WALK))
        trace = ppl.simulate(only_y, args["a"])
        log_density = kalman(args["a"], trace.choices["y"], 1.5, 0.5, 0.64)
        scored = ppl.log_density(only_y, {"y": Y}, args["a"])
        return jnp.exp(scored) + args["by"] * jnp.exp(log_density - trace.log_density)

    def exact(args):
        return jnp.exp(kalman(args["a"], Y, 1.5, 0.5, 0.64)) + args["by"]

    args = {"a": 0.9, "by": 1e-2}
    assert_unbiased(objective, args, exact=exact, key=KEY, num_samples=50_000)


@pytest.mark.law
def test_density_of_what_is_drawn():
    """As for any algorithm: E[1/w | u] q(u) = 1 of the draws, E[w] = q(u) at given choices."""
    program = ppl.normalize(lambda: linear_gaussian(0.9), {"y": Y}, SMC(3, rejuvenation=WALK))
    mean, covariance = smoothed()
    near = dist.MultivariateNormal(mean, 0.8 * covariance)
    wide = dist.MultivariateNormal(mean, 1.5 * covariance)

    def objective(by):
        trace = ppl.simulate(program)
        u = trace.choices["x"]
        inverse = jnp.exp(near.log_prob(u) - trace.log_density)
        at = sample("at", wide)
        weight = jnp.exp(ppl.log_density(program, {"x": at}) - wide.log_prob(at))
        return by * inverse + jnp.sin(u[0] - u[2]) - jnp.sin(at[0] - at[2]) * weight

    assert_unbiased(objective, 1.0, exact=lambda by: by, key=KEY, num_samples=50_000)


@pytest.mark.law
def test_the_retained_path_is_weighed_before_its_moves():
    """E[1/w] = 1/p(y) of a path from the posterior, at data that few particles come near.

    Where steps are small, all weights of a path would hang on its first choice: moves part them.
    """
    far = jnp.full(4, 3.0)
    mean, covariance = smoothed(1.0, 1.2, SMALL, far)
    target = ppl.extend.Target(lambda: linear_gaussian(1.0, 1.2, scales=SMALL), {"y": far})
    algorithm = SMC(2, rejuvenation=HMC(0.4, 4))

    def ratio():
        x = sample("x", dist.MultivariateNormal(mean, covariance))
        log_evidence = algorithm.log_evidence_given(target, {"x": x})
        return jnp.exp(kalman(1.0, far, 1.2, scales=SMALL) - log_evidence)

    ratios = np.asarray(jax.jit(jax.vmap(ppl.seed(ratio)))(jax.random.split(KEY, 100_000)), float)
    assert abs(ratios.mean() - 1.0) < 5 * ratios.std() / 100_000**0.5


# --- the posterior -------------------------------------------------------------------------------


def smoothed(a=0.9, noise=0.5, scales=(1.0, 1.0, 1.0, 1.0), y=Y):
    """Mean and covariance of the states given all of y."""
    lag = (jnp.eye(4) - a * jnp.eye(4, k=-1)) / jnp.asarray(scales)[:, None]
    covariance = jnp.linalg.inv(lag.T @ lag + jnp.eye(4) / noise**2)
    return covariance @ y / noise**2, covariance


def assert_smoothed(x):
    mean, covariance = smoothed()
    z = np.asarray(jnp.linalg.solve(jnp.linalg.cholesky(covariance), (x - mean).T))
    count = z.shape[1]
    assert np.all(np.abs(z.mean(1)) < 5 / count**0.5)
    assert np.all(np.abs(z @ z.T / count - np.eye(4)) < 5 * (2 / count) ** 0.5)


@pytest.mark.law
@pytest.mark.parametrize("proposal", [None, guided])
def test_paths_by_many_particles_are_draws_from_the_posterior(proposal):
    algorithm = SMC(100, proposal, rejuvenation=HMC(0.4, 2))
    draw = ppl.seed(ppl.normalize(lambda: linear_gaussian(0.9), {"y": Y}, algorithm))
    assert_smoothed(jax.jit(jax.vmap(draw))(jax.random.split(KEY, 4_000))["x"])


@pytest.mark.law
@pytest.mark.parametrize("kernel", [WALK, HMC(0.4, 2)], ids=["random walk", "Hamiltonian"])
def test_particle_gibbs_leaves_the_posterior_as_it_is(kernel):
    """From exact draws: the moments after two moves, of few particles."""
    target = ppl.extend.Target(lambda: linear_gaussian(0.9), {"y": Y})
    mean, covariance = smoothed()
    gibbs = ParticleGibbs(SMC(2, rejuvenation=kernel))

    def moved(key):
        start, move = jax.random.split(key)
        x = dist.MultivariateNormal(mean, covariance).sample(start)
        return ppl.seed(chain)(move, gibbs, target, {"x": x}, 2)["x"][-1]

    assert_smoothed(jax.jit(jax.vmap(moved))(jax.random.split(KEY, 100_000)))


# --- what it is for ------------------------------------------------------------------------------

NEAR = jnp.array([0.3, 0.8, 0.4, 0.6])


def slow():
    linear_gaussian(1.0, 0.3, scales=SMALL)


def test_moves_part_the_copies_of_a_particle():
    target = ppl.extend.Target(slow, {"y": NEAR})

    def distinct(rejuvenation):
        def program():
            run = SMC(50, rejuvenation=rejuvenation).conditional(target, {"x": NEAR})
            return jax.vmap(run.path)(jnp.arange(50))["x"]

        return [len(np.unique(start)) for start in jax.jit(ppl.seed(program))(KEY).T]

    alone, moved = distinct(None), distinct(HMC(0.15, 4))
    assert alone[0] < 10 and alone[-1] == 50
    assert moved[0] > 2 * alone[0] and moved[-1] == 50


@pytest.mark.law
@pytest.mark.parametrize("settings", [{}, {"resampling": "residual"}, {"ess_threshold": 0.6}])
@pytest.mark.filterwarnings("ignore::ppl.errors.DiscontinuousObjective")
def test_moves_lower_the_variance_of_the_evidence(settings):
    """By a third here; the mean stays, whether or not all steps resample."""

    def ratios(rejuvenation):
        algorithm = SMC(20, rejuvenation=rejuvenation, **settings)
        program = ppl.marginal(slow, "y", algorithm)
        estimate = ppl.expectation(lambda: ppl.log_density(program, {"y": NEAR}))
        logs = jax.jit(jax.vmap(estimate))(jax.random.split(KEY, 20_000))
        return np.asarray(jnp.exp(logs - kalman(1.0, NEAR, 0.3, scales=SMALL)), float)

    alone, moved = ratios(None), ratios(HMC(0.15, 4))
    for found in (alone, moved):
        assert abs(found.mean() - 1.0) < 5 * found.std() / 20_000**0.5
    assert moved.var() < 0.8 * alone.var()


def test_kernels_do_not_move_discrete_choices():
    def switching():
        def step(x, _):
            z = sample("regime/z", dist.Bernoulli(0.3))
            x = sample("x", dist.Normal(0.9 * x + z, 1.0))
            sample("y", dist.Normal(x, 0.5))
            return x, None

        lax.scan(step, 0.0, length=4)

    program = ppl.marginal(switching, "y", SMC(4, rejuvenation=WALK))
    with pytest.raises(errors.InvalidSetting, match=r"at 'regime/z' of dtype int32"):
        ppl.seed(lambda: ppl.log_density(program, {"y": Y}))(KEY)
