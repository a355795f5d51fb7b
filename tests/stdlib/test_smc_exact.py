"""Particles that sum out what they can: `SMC(n, exact=...)`, against enumeration and quadrature."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from jax import lax

import ppl
from ppl import errors, sample
from ppl.extend import Target
from stdlib.inference import SMC, Exact, ParticleGibbs, RandomWalk
from stdlib.testing import assert_unbiased

KEY = jax.random.key(7)
TURNS = jnp.array([[[0.9, 0.3], [0.0, 0.8]], [[0.5, -0.4], [0.4, 0.5]]])
Y = jnp.array([0.3, 1.8, -0.9, 0.4, 1.1, -0.2, 0.5, 2.0, 1.4, 0.1])


def switching(t, length=2):
    """Linear dynamics, by regimes."""

    def step(carry, _):
        z, x = carry
        z = sample("z", dist.Bernoulli(jnp.where(z == 1, 0.85, 0.2)))
        x = sample("x", dist.Normal(TURNS[z] @ x + t * z, jnp.where(z == 1, 1.5, 0.3)).to_event(1))
        sample("y", dist.Normal(x[0], 0.4))
        return (z, x), None

    start = sample("start", dist.Normal(jnp.array([0.5, 0.0]), 1.0).to_event(1))
    lax.scan(step, (0, start), length=length)


HIDDEN = ("x", "start")


def evidence(model, t, data):
    return Exact().log_evidence(Target(lambda: model(t), {"y": data}))


# --- the laws ------------------------------------------------------------------------------------


def test_marginals_obey_the_law():
    """E[w] = p(y) when scored, E[1/w | y] = 1/p(y) when simulated; and so do their gradients."""

    def program(t):
        return ppl.marginal(switching, "y", SMC(3, exact=HIDDEN))(t)

    def objective(args):
        trace = ppl.simulate(program, args["simulated"])
        y = trace.choices["y"]
        inverse = jnp.exp(evidence(switching, args["simulated"], y) - trace.log_density)
        scored = jnp.exp(ppl.log_density(program, {"y": Y[:2]}, args["scored"]))
        return args["a"] * scored + args["b"] * inverse * jnp.cos(y[0])

    def exact(args):
        density = jnp.exp(evidence(switching, args["scored"], Y[:2]))
        means = TURNS[:, 0] @ jnp.array([0.5, 0.0]) + args["simulated"] * jnp.arange(2.0)
        variances = jnp.sum(TURNS[:, 0] ** 2, 1) + jnp.array([0.3, 1.5]) ** 2 + 0.16
        waves = jnp.array([0.8, 0.2]) @ (jnp.cos(means) * jnp.exp(-0.5 * variances))
        return args["a"] * density + args["b"] * waves

    args = {"scored": 0.6, "simulated": 0.7, "a": 1.0, "b": 1.0}
    assert_unbiased(objective, args, exact=exact, key=KEY, num_samples=40_000)


@pytest.mark.law
def test_posteriors_obey_the_law():
    """What is drawn, u, and the estimates of its density agree: E[1/w | u] q(u) = 1, E[w] = q(u).

    With q unknown: E over draws of g(u)/w is ∫ g, and E of w at draws of g, over g, is E[f(u)].
    """
    program = ppl.normalize(lambda: switching(0.7), {"y": Y[:2]}, SMC(3, exact=HIDDEN))

    def spread():
        """A density of all hidden choices, wider than the posterior."""
        sample("z", dist.Bernoulli(jnp.array([0.5, 0.5])))
        sample("x", dist.Normal(jnp.array([[0.3, 0.0], [1.4, 0.0]]), 1.2))
        sample("start", dist.Normal(jnp.array([0.3, 0.0]), 1.2))

    def narrow():
        """A density narrower than that, of the same form."""

        def step(x, _):
            z = sample("z", dist.Bernoulli(0.5))
            mean = TURNS[z] @ x + 0.7 * z
            return sample("x", dist.Normal(mean, jnp.where(z == 1, 0.35, 0.2)).to_event(1)), None

        lax.scan(step, sample("start", dist.Normal(jnp.array([0.3, 0.0]), 0.2)), length=2)

    def f(choices):
        return jnp.sin(choices["x"][1, 0] + choices["z"][1]) + choices["z"][0]

    def objective(by):
        trace = ppl.simulate(program)
        inverse = jnp.exp(ppl.log_density(narrow, trace.choices) - trace.log_density)
        at = ppl.simulate(spread)
        weight = jnp.exp(ppl.log_density(program, at.choices) - at.log_density)
        return by * inverse + f(trace.choices) - f(at.choices) * weight

    assert_unbiased(objective, 1.0, exact=lambda by: by, key=KEY, num_samples=40_000)


def test_evidence_of_ten_steps_is_unbiased():
    """Against all 1024 paths of regimes; and it varies less than that of plain particles."""
    target = Target(lambda: switching(0.7, 10), {"y": Y})
    exact = jax.jit(lambda: Exact().log_evidence(target))()
    deviations = {}
    for name, smc in {"plain": SMC(32), "exact": SMC(8, exact=HIDDEN)}.items():
        one = ppl.seed(lambda smc=smc: jnp.exp(smc.log_evidence(target) - exact))
        weights = np.asarray(jax.jit(jax.vmap(one))(jax.random.split(KEY, 4_000)))
        assert abs(weights.mean() - 1.0) < 5 * weights.std() / 4_000**0.5
        deviations[name] = weights.std()
    assert deviations["exact"] < 0.5 * deviations["plain"]


@pytest.mark.law
def test_particle_gibbs_leaves_the_posterior():
    kernel = ParticleGibbs(SMC(3, exact=HIDDEN))
    target = Target(lambda: switching(0.7), {"y": Y[:2]})

    def f(choices):
        return choices["z"][0] * choices["start"][0] + jnp.sin(choices["x"][1, 0])

    def objective(by):
        choices = Exact().simulate(target)[0]
        return by * (f(kernel.step(target, choices)) - f(choices))

    assert_unbiased(objective, 1.0, exact=lambda by: 0.0 * by, key=KEY, num_samples=10_000)


# --- other programs ------------------------------------------------------------------------------


def volatile(t):
    """A scale that is drawn, from a start that is, and a level that is not; with data before."""
    before = sample("before", dist.Normal(0.0, 0.5))
    level = sample("level", dist.Normal(before, 1.0))
    sample("seen", dist.Normal(level, 0.5), obs=0.4)

    def step(carry, v):
        log_scale, x, count = carry
        log_scale = sample("log_scale", dist.Normal(t * log_scale, 0.5))
        noise = sample("noise", dist.Normal(0.0, 1.0))
        x = 0.8 * x + jnp.exp(log_scale) * noise + 0.1 * count
        sample("y", dist.Normal(v * x, 0.4))
        return (log_scale, x, count + 1), None

    lax.scan(step, (before, level, 0), jnp.array([1.0, 0.5]))


def by_quadrature(t):
    nodes, weights = np.polynomial.hermite_e.hermegauss(12)
    grid = jnp.asarray(np.stack(np.meshgrid(nodes, nodes, nodes), -1).reshape(-1, 3))
    each = jnp.asarray(np.prod(np.stack(np.meshgrid(weights, weights, weights), -1), -1).ravel())

    def given(noise):
        before = 0.5 * noise[0]
        first = t * before + 0.5 * noise[1]
        scales = jnp.stack([first, t * first + 0.5 * noise[2]])
        drawn = {"before": before, "log_scale": scales}
        log_prior = dist.Normal(0.0, 1.0).log_prob(noise).sum() + 3 * jnp.log(2.0)
        target = Target(lambda: volatile(t), {"y": Y[:2], **drawn})
        return Exact().log_evidence(target) - log_prior

    log_weights = jnp.log(each) - 1.5 * jnp.log(2 * jnp.pi)
    return jax.nn.logsumexp(lax.map(given, grid) + log_weights)


def guided(t, previous, observed):
    sample("log_scale", dist.Normal(0.5 * previous["log_scale"] + 0.1 * observed["y"], 0.7))


FILTERS = {
    "own step": SMC(4, exact=("noise", "level")),
    "proposal": SMC(4, guided, exact=["noise", "level"]),
    "moved": SMC(4, rejuvenation=RandomWalk(0.5), exact=("noise", "level")),
}


@pytest.mark.parametrize(
    "name", ["own step", *(pytest.param(n, marks=pytest.mark.law) for n in ("proposal", "moved"))]
)
def test_evidence_of_volatile_levels(name):
    """With its gradient."""
    shift = jax.jit(by_quadrature)(0.7)

    def objective(t):
        return jnp.exp(
            FILTERS[name].log_evidence(Target(lambda: volatile(t), {"y": Y[:2]})) - shift
        )

    exact = lambda t: jnp.exp(by_quadrature(t) - shift)
    assert_unbiased(objective, 0.7, exact=exact, key=KEY, num_samples=40_000)


def outliers(t):
    """What each step sums out is its own: a level drawn, finite noise and its size not."""

    def step(x, _):
        x = sample("x", dist.Normal(t * x, 1.0))
        z = sample("z", dist.Bernoulli(0.2))
        sample("y", dist.Normal(x, jnp.where(z == 1, 3.0, 0.5)))
        return x, None

    lax.scan(step, 0.0, length=3)


def test_choices_of_single_steps():
    """By the sum over them all, where the levels are integrated out; and they are drawn too."""
    target = lambda t: Target(lambda: outliers(t), {"y": Y[:3]})
    shift = jax.jit(lambda: Exact().log_evidence(target(0.7)))()
    objective = lambda t: jnp.exp(SMC(4, exact="z").log_evidence(target(t)) - shift)
    exact = lambda t: jnp.exp(Exact().log_evidence(target(t)) - shift)
    assert_unbiased(objective, 0.7, exact=exact, key=KEY, num_samples=20_000)
    choices, _ = jax.jit(ppl.seed(lambda: SMC(4, exact="z").simulate(target(0.7))))(KEY)
    assert choices["z"].shape == choices["x"].shape == (3,)


# --- refusals ------------------------------------------------------------------------------------


def stepping(step, start=0.0):
    def model():
        lax.scan(lambda x, _: (step(x), None), start, length=3)

    return model


def bent(x):
    z = sample("z", dist.Normal(0.0, 1.0))
    x = sample("x", dist.Normal(jnp.sin(x) + z, 1.0))
    sample("y", dist.Normal(x, 1.0))
    return x


def read_by_drawn(x):
    x = sample("x", dist.Normal(x, 1.0))
    sample("y", dist.Normal(sample("z", dist.Normal(x, 1.0)), 1.0))
    return x


def jumping(x):
    z = sample("z", dist.Normal(0.0, 1.0))
    x = sample("x", dist.Normal(x, 1.0))
    sample("y", dist.Normal(x, 1.0))
    return jnp.abs(x) + z


def positive(x):
    z = sample("z", dist.Normal(0.0, 1.0))
    x = x + sample("x", dist.HalfNormal(1.0)) + z
    sample("y", dist.Normal(x, 1.0))
    return x


def finite(x):
    z = sample("z", dist.Normal(0.0, 1.0))
    x = sample("x", dist.Bernoulli(jnp.where(x == 1, 0.3, 0.4)))
    sample("y", dist.Normal(x + z, 1.0))
    return x


REFUSED = {
    "bent": (stepping(bent), r"(?s)'x' \(Normal at .*not quadratic.*`sin`"),
    "read by drawn": (stepping(read_by_drawn), r"(?s)'x' \(Normal at .*draws \('z'\) reads them"),
    "jumping": (stepping(jumping), r"(?s)'x' \(Normal at .*hands on is not linear.*`abs`"),
    "positive": (stepping(positive), r"(?s)'x' \(HalfNormal at .*any real number"),
    "finite": (stepping(finite, 0), r"(?s)'x' \(BernoulliProbs at .*not quadratic.*`eq`"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_summed_out_is_refused(name):
    model, words = REFUSED[name]
    with pytest.raises(
        errors.UnsuitableEstimator, match=f"{words}.*Leave the others out of exact="
    ):
        ppl.seed(SMC(4, exact="x").log_evidence)(KEY, Target(model, {"y": Y[:3]}))


def test_settings_are_checked():
    target = Target(lambda: switching(0.7), {"y": Y[:2]})
    with pytest.raises(
        errors.InvalidSetting, match="'w' is none of them: these are 'start', 'x', 'z'"
    ):
        ppl.seed(SMC(4, exact=("x", "w")).log_evidence)(KEY, target)
    with pytest.raises(errors.InvalidSetting, match="`exact` is for the steps"):
        SMC(4, schedule=3, exact="x")
