"""`marginal` and `normalize`: the laws of their densities, and how they combine with the rest."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from jax import lax
from jax.scipy.stats import norm

import ppl
from ppl import errors, sample
from stdlib.estimators import Enumerate
from stdlib.inference import Exact, Importance
from stdlib.objectives import elbo
from stdlib.testing import assert_unbiased

KEY = jax.random.key(11)
GRID = np.linspace(-14.0, 14.0, 2801)
STEP = GRID[1] - GRID[0]


def noisy(mean=0.0):
    """Marginally, x is Normal(mean, √2)."""
    u = sample("u", dist.Normal(mean, 1.0))
    return sample("x", dist.Normal(u, 1.0))


def density(mean, x):
    return dist.Normal(mean, 2.0**0.5).log_prob(x)


def over_grid(fn):
    return jnp.sum(jax.vmap(fn)(jnp.asarray(GRID, jnp.float32))) * STEP


def mixture(logit=-1.0):
    z = sample("z", dist.Bernoulli(logits=logit))
    return sample("x", dist.Normal(3.0 * z, 1.0))


def mixture_density(logit, x):
    return jnp.logaddexp(
        jax.nn.log_sigmoid(logit) + dist.Normal(3.0, 1.0).log_prob(x),
        jax.nn.log_sigmoid(-logit) + dist.Normal(0.0, 1.0).log_prob(x),
    )


def around(kept):
    """A proposal near the observed x."""
    sample("u", dist.Normal(0.4 * kept["x"], 0.9))


only_x = ppl.marginal(noisy, "x", Importance(2))
exact_x = ppl.marginal(mixture, "x", Exact())


class Prior(ppl.extend.Algorithm):
    """The two methods that an algorithm must have; the others follow."""

    def simulate(self, target):
        trace = ppl.simulate(target.prior)
        return trace.choices, trace.log_density

    def log_density(self, target, choices):
        return ppl.replay(target.prior, choices).log_density


# --- the laws ------------------------------------------------------------------------------------

ALGORITHMS = {"prior": Importance(1), "three": Importance(3), "proposal": Importance(2, around)}
ALGORITHMS["of two methods"] = Prior()


@pytest.mark.parametrize("name", ALGORITHMS)
def test_densities_of_a_marginal_are_unbiased(name):
    """E[w] = p(x) when scored, E[1/w | x] = 1/p(x) when simulated; with their gradients."""
    program = ppl.marginal(noisy, "x", ALGORITHMS[name])

    def objective(args):
        trace = ppl.simulate(program, args["simulated"])
        x = trace.choices["x"]
        inverse = jnp.exp(density(args["simulated"], x) - trace.log_density) * jnp.sin(x + 0.5)
        return jnp.exp(ppl.log_density(program, {"x": 1.3}, args["scored"])) + args["by"] * inverse

    def exact(args):
        mean = args["simulated"]
        waves = over_grid(lambda x: jnp.exp(density(mean, x)) * jnp.sin(x + 0.5))
        return jnp.exp(density(args["scored"], 1.3)) + args["by"] * waves

    args = {"scored": 0.2, "simulated": -0.4, "by": 1.0}
    assert_unbiased(objective, args, exact=exact, key=KEY, num_samples=100_000)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_densities_of_a_posterior_are_unbiased(name):
    """Σ over u of E[w(u)] f(u) is E[f(u)] over what is drawn; E[1/w | u] q(u) is one."""
    program = ppl.normalize(noisy, {"x": 1.3}, ALGORITHMS[name])

    def drawn(args):
        return jnp.sin(ppl.simulate(program, args["mean"]).choices["u"] + 0.3)

    def scored(args):
        at = sample("at", dist.Normal(0.5, 1.2))
        weight = jnp.exp(ppl.log_density(program, {"u": at}, args["mean"]))
        return jnp.sin(at + 0.3) * weight / jnp.exp(dist.Normal(0.5, 1.2).log_prob(at))

    def inverse(args):
        trace = ppl.simulate(program, args["mean"])
        u = trace.choices["u"]
        bump = dist.Normal(0.6, 0.4).log_prob(u)
        return jnp.exp(bump - trace.log_density)

    def difference(args):
        return drawn(args) - scored(args) + args["by"] * inverse(args)

    args = {"mean": 0.3, "by": 1.0}
    assert_unbiased(
        difference, args, exact=lambda args: args["by"] * 1.0, key=KEY, num_samples=200_000
    )


def test_exact_marginal_and_posterior():
    logit, x = -0.7, 1.2
    posterior = ppl.normalize(mixture, {"x": x}, Exact())

    @jax.jit
    def found(logit):
        draws = jax.vmap(ppl.seed(posterior), (0, None))(jax.random.split(KEY, 100_000), logit)
        scored = ppl.log_density(posterior, {"z": 1}, logit)
        return ppl.log_density(exact_x, {"x": x}, logit), scored, draws["z"]

    evidence, scored, draws = found(logit)
    assert jnp.allclose(evidence, mixture_density(logit, x), atol=1e-5)
    joint = jax.nn.log_sigmoid(logit) + dist.Normal(3.0, 1.0).log_prob(x)
    expected = joint - mixture_density(logit, x)
    assert jnp.allclose(scored, expected, atol=1e-5)
    spread = jnp.sqrt(jnp.exp(expected) * -jnp.expm1(expected) / 100_000)
    assert abs(jnp.mean(draws) - jnp.exp(expected)) < 5 * spread


def test_exact_posterior_as_a_guide_closes_the_bound():
    """With the posterior as guide the ELBO is the log evidence, for every draw."""

    def objective(logit):
        posterior = ppl.normalize(lambda: mixture(logit), {"x": 1.2}, Exact())
        return elbo(lambda: mixture(logit), posterior, {"x": 1.2})

    assert_unbiased(objective, -0.7, exact=lambda p: mixture_density(p, 1.2), key=KEY)
    estimates = jax.jit(jax.vmap(ppl.expectation(objective), (0, None)))
    values = estimates(jax.random.split(KEY, 100), -0.7)
    assert jnp.allclose(values, mixture_density(-0.7, 1.2), atol=1e-5)


# --- as a part of other programs -----------------------------------------------------------------


def lanes(means):
    return jax.vmap(lambda m: ppl.marginal(mixture, "x", Exact())(m)["x"])(means)


def steps(mean):
    def step(state, _):
        x = ppl.scope(ppl.marginal(mixture, "x", Exact()), "state")(0.3 * state - 1.0)["x"]
        return x, x

    return lax.scan(step, mean, length=3)[1]


def branches(mean):
    return lax.cond(mean > 0, lambda: exact_x(mean)["x"], lambda: sample("x", dist.Normal(mean, 1)))


def within_vmapped_branches(means):
    return jax.vmap(branches)(means)


def reference_lanes(choices, means):
    return jnp.sum(jax.vmap(mixture_density)(means, choices["x"]))


def reference_steps(choices, mean):
    before = jnp.append(mean, choices["state"]["x"][:-1])
    return jnp.sum(jax.vmap(mixture_density)(0.3 * before - 1.0, choices["state"]["x"]))


def reference_branches(choices, mean):
    x = choices["x"]
    return jnp.where(mean > 0, mixture_density(mean, x), dist.Normal(mean, 1).log_prob(x))


MEANS = jnp.array([0.4, -0.3, 0.1])
PLACES = {
    "lanes": (lanes, reference_lanes, MEANS),
    "steps": (steps, reference_steps, jnp.asarray(0.2)),
    "branch": (branches, reference_branches, jnp.asarray(0.4)),
    "other branch": (branches, reference_branches, jnp.asarray(-0.4)),
    "jit": (jax.jit(lanes), reference_lanes, MEANS),
    "checkpoint": (jax.checkpoint(lanes), reference_lanes, MEANS),
    "vmapped branches": (
        within_vmapped_branches,
        lambda choices, means: jnp.sum(jax.vmap(reference_branches)(choices, means)),
        MEANS,
    ),
}


@pytest.mark.parametrize("name", PLACES)
def test_densities_wherever_it_stands(name):
    """Simulated and scored densities agree with each other and with what is written by hand."""
    program, reference, at = PLACES[name]
    trace = jax.jit(ppl.seed(lambda: ppl.simulate(program, at)))(KEY)
    scored = lambda choices, at: ppl.log_density(program, choices, at)
    ours, exact = (
        jax.jit(jax.value_and_grad(f, 1))(trace.choices, at) for f in (scored, reference)
    )
    assert jnp.allclose(trace.log_density, exact[0], atol=1e-4)
    assert jnp.allclose(ours[0], exact[0], atol=1e-4)
    assert jnp.allclose(ours[1], exact[1], atol=1e-4)


def test_lanes_draw_independently():
    draws = jax.vmap(ppl.seed(lanes), (0, None))(jax.random.split(KEY, 20_000), jnp.zeros(2))
    assert abs(np.corrcoef(draws.T)[0, 1]) < 5 / 20_000**0.5
    assert abs(draws.mean() - 1.5) < 5 * draws.std() / 40_000**0.5


def nested():
    """A marginal inside a program that is marginalised again."""
    x = ppl.marginal(mixture, "x", Exact())(0.2)["x"]
    k = sample("k", dist.Bernoulli(0.3))
    return sample("y", dist.Normal(x + k, 0.5))


def test_marginals_nest():
    program = ppl.marginal(nested, ["x", "y"], Exact())
    expected = mixture_density(0.2, 1.0) + jnp.logaddexp(
        jnp.log(0.7) + dist.Normal(1.0, 0.5).log_prob(1.4),
        jnp.log(0.3) + dist.Normal(2.0, 0.5).log_prob(1.4),
    )
    assert jnp.allclose(ppl.log_density(program, {"x": 1.0, "y": 1.4}), expected, atol=1e-5)
    whole = ppl.marginal(nested, "y", Importance(2))

    def exact(_):
        def at(x):
            k = jnp.array([0.7, 0.3]) * jnp.exp(dist.Normal(x + jnp.arange(2.0), 0.5).log_prob(1.4))
            return jnp.exp(mixture_density(0.2, x)) * jnp.sum(k)

        return over_grid(at)

    assert_unbiased(
        lambda by: by * jnp.exp(ppl.log_density(whole, {"y": 1.4})),
        1.0,
        exact=lambda by: by * exact(by),
        key=KEY,
        num_samples=100_000,
    )


def test_meanings_of_a_compound_site():
    at = {"x": 1.0}
    plain = ppl.log_density(exact_x, at)
    assert jnp.allclose(ppl.log_density(ppl.scale(exact_x, 3.0), at), 3.0 * plain)
    assert ppl.log_density(ppl.mask(exact_x, False), at) == 0.0
    assert jnp.allclose(ppl.log_density(ppl.scope(exact_x, "a"), {"a": at}), plain)
    observed = ppl.seed(lambda: ppl.simulate(ppl.condition(exact_x, at)))(KEY)
    assert observed.choices == {} and observed.value == at
    assert jnp.allclose(observed.log_likelihood, plain)
    replaced = ppl.seed(lambda: ppl.simulate(ppl.intervene(exact_x, at)))(KEY)
    assert replaced.value == at and replaced.log_density == 0.0
    assert [site.address for site in ppl.sites(exact_x)] == ["x"]
    everything = ppl.marginal(noisy, ["u", "x"], Importance(1))
    both = {"u": 0.3, "x": 1.0}
    assert jnp.allclose(ppl.log_density(everything, both), ppl.log_density(noisy, both))
    assert ppl.log_density(ppl.frozen(exact_x), at) == plain


def seen():
    """A coin, and data that depend on it."""
    coin = sample("coin", dist.Bernoulli(0.6))
    sample("y", dist.Normal(1.0 * coin, 1.0), obs=0.0)


SEEN = float(jnp.log(0.4 * jnp.exp(norm.logpdf(0.0)) + 0.6 * jnp.exp(norm.logpdf(0.0, 1.0))))


@pytest.mark.parametrize("algorithm", [Exact(), Importance(1), Importance(3)], ids=repr)
def test_a_marginal_that_keeps_nothing_is_the_evidence(algorithm):
    program = ppl.marginal(seen, [], algorithm)
    scored = lambda: jnp.exp(ppl.log_density(program, {}))
    values = jax.jit(jax.vmap(ppl.seed(scored)))(jax.random.split(KEY, 5_000))
    error = 5 * values.std() / 5_000**0.5 + 1e-6
    assert abs(values.mean() - jnp.exp(SEEN)) < error
    assert jnp.allclose(ppl.log_density(ppl.marginal(lambda: None, [], algorithm), {}), 0.0)


def test_evidence_counts_wherever_it_stands():
    evidence = ppl.marginal(seen, [], Exact())

    def many(p):
        z = sample("z", dist.Normal(0.0, 1.0))
        evidence()
        ppl.scope(evidence, "a")()
        jax.vmap(lambda _: evidence())(jnp.arange(3))
        lax.scan(lambda c, _: (c, evidence()), 0.0, length=2)
        lax.cond(z > 0.0, evidence, dict)
        jax.vmap(lambda i: lax.cond(i > 0, evidence, dict))(jnp.arange(3))
        jax.vmap(lambda n: lax.while_loop(lambda i: i < n, counted, 0))(jnp.arange(3))
        sample("p", dist.Bernoulli(p), obs=1)

    def counted(i):
        evidence()
        return i + 1

    for z, count in ((1.0, 13), (-1.0, 12)):
        exact = count * SEEN + norm.logpdf(z) + jnp.log(0.3)
        assert jnp.allclose(ppl.log_density(many, {"z": z}, 0.3), exact, rtol=1e-5)
    assert ppl.log_density(ppl.mask(evidence, False), {}) == 0.0
    assert jnp.allclose(ppl.log_density(ppl.scale(evidence, 2.0), {}), 2.0 * SEEN)

    def bound(p):
        guide = lambda: sample("z", dist.Normal(0.0, 1.0), ppl.ScoreFunction())
        return elbo(lambda: many(p), guide, {})

    slope = jax.grad(ppl.expectation(bound), argnums=1)(KEY, 0.3)
    assert jnp.allclose(slope, 1 / 0.3, rtol=1e-5)
    with pytest.raises(errors.ObservedMarginal, match="keeps no choice of its marginal"):
        ppl.seed(lambda: ppl.simulate(evidence))(KEY)
    with pytest.raises(errors.ObservedMarginal, match="has an observed site"):
        ppl.seed(lambda: ppl.simulate(ppl.marginal(lambda: many(0.3), "z", Importance(1))))(KEY)


def test_keeping_a_scope_keeps_what_is_in_it():
    def two():
        ppl.scope(mixture, "a")()
        return ppl.scope(noisy, "b")()

    program = ppl.marginal(two, ["a/x", "b"], Exact())
    choices = {"a": {"x": 1.0}, "b": {"u": 0.2, "x": 0.4}}
    expected = mixture_density(-1.0, 1.0) + ppl.log_density(noisy, choices["b"])
    assert jnp.allclose(ppl.log_density(program, choices), expected, atol=1e-5)


def test_estimators_reach_the_sites_inside():
    """With its hidden site summed, a marginal's density by one particle has no variance."""
    program = ppl.marginal(mixture, "x", Importance(1))

    def objective(logit):
        return jnp.exp(ppl.log_density(program, {"x": 1.2}, logit))

    summed = ppl.with_estimators(objective, {"z": Enumerate()})
    value, slope = jax.jit(jax.value_and_grad(ppl.expectation(summed), 1))(KEY, -0.7)
    exact = jax.jit(jax.value_and_grad(lambda p: jnp.exp(mixture_density(p, 1.2))))(-0.7)
    assert jnp.allclose(jnp.array([value, slope]), jnp.array(exact), atol=1e-6)
    inside = ppl.with_estimators(program, {"z": Enumerate()})
    direct = ppl.expectation(lambda p: jnp.exp(ppl.log_density(inside, {"x": 1.2}, p)))
    assert jnp.allclose(jax.jit(direct)(KEY, -0.7), exact[0], atol=1e-6)
    with pytest.raises(errors.UnmatchedPattern, match="'w'"):
        ppl.seed(ppl.with_estimators(program, {"w": Enumerate()}))(KEY)


def test_a_marginal_drawn_without_its_density_is_the_program_itself():
    """An objective that reads only the values runs the program forward: no algorithm."""

    def objective(mean):
        return jnp.sin(only_x(mean)["x"])

    exact = lambda m: over_grid(lambda x: jnp.exp(density(m, x)) * jnp.sin(x))
    assert_unbiased(objective, 0.4, exact=exact, key=KEY)
    plain = ppl.expectation(lambda mean: jnp.sin(noisy(mean)))
    ours, theirs = (jax.make_jaxpr(f)(KEY, 0.4) for f in (ppl.expectation(objective), plain))
    assert len(ours.eqns) == len(theirs.eqns)


def test_supports_are_checked_site_by_site():
    def program():
        rate = sample("rate", dist.Exponential(1.0))
        jax.vmap(lambda r: sample("x", dist.Uniform(0.0, r)))(rate + jnp.arange(2.0))

    inside = {"rate": 0.5, "x": jnp.array([0.2, 1.2])}
    outside = {"rate": 0.5, "x": jnp.array([0.6, 1.2])}
    assert ppl.within_support(program, inside)
    assert not ppl.within_support(program, outside)
    assert ppl.extend.Target(program, {"rate": 0.5}).supports({"x": inside["x"]})
    assert not ppl.extend.Target(program, {"rate": 0.5}).supports({"x": outside["x"]})


def test_state_space_steps_are_those_of_the_program():
    def program(start):
        x = sample("x0", dist.Normal(start, 1.0))

        @jax.jit
        def run(x):
            def step(x, y):
                x = sample("x", dist.Normal(0.5 * x + start, 1.0))
                sample("y", dist.Normal(x, 1.0), obs=y)
                return x, None

            return lax.scan(step, x, jnp.array([0.3, -0.2, 0.9]))[0]

        return run(x)

    space = ppl.extend.state_space(program, 0.7)
    assert isinstance(space, ppl.extend.StateSpace) and space.length == 3
    choices = {"x0": 0.1, "x": jnp.array([0.5, -0.4, 1.1])}
    begun = ppl.simulate(ppl.condition(space.start, {"x0": 0.1}))
    (state, inputs), total = begun.value, begun.log_likelihood
    for t in range(3):
        at = {"x": choices["x"][t]}
        trace = ppl.simulate(ppl.condition(space.step, at), state, [x[t] for x in inputs])
        state, total = trace.value, total + trace.log_likelihood
    assert jnp.allclose(total, ppl.log_density(program, choices, 0.7))
