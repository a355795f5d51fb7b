"""`replay` and `Trace.sites`: the run at given choices, and what each site did in a run."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from jax.scipy.stats import norm

import ppl
from ppl import sample
from ppl.errors import BranchMismatch, MissingChoice, ObservedChoice
from stdlib.inference import Exact
from stdlib.testing import QUICK
from tests.ppl.programs import CASES, THETA

KEY = jax.random.key(3)
CONTROL_FLOW = [case for case in CASES if not case.endless]


def compiled(f):
    return jax.jit(f, compiler_options=QUICK)


def sites_sum(trace):
    """What the sites' own terms add up to."""
    total = 0.0
    for site in trace.sites.values():
        if site.log_prob is None:
            total += np.sum(site.log_density)
        else:
            flags = site.valid.reshape(
                site.valid.shape + (1,) * (site.factor.ndim - site.valid.ndim)
            )
            counts = flags & (site.factor != 0)
            total += np.sum(np.where(counts, site.factor * site.log_prob, 0.0))
    return total


def close(found, wanted, rtol=2e-5):
    np.testing.assert_allclose(found, wanted, rtol=rtol, atol=2e-5)


def check_laws(program, *args):
    """`replay` at what was simulated is the same trace; the sites' terms sum to its densities."""

    def both(key):
        trace = ppl.seed(partial(ppl.simulate, program))(key, *args)
        return trace, ppl.replay(program, trace.choices, *args)

    trace, again = compiled(both)(KEY)
    assert jax.tree.structure(trace) == jax.tree.structure(again)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5), trace, again)
    total = trace.log_density + trace.log_likelihood
    close(sites_sum(trace), total)
    close(sum(np.sum(site.log_density) for site in trace.sites.values()), total)
    drawn = [site.log_density for site in trace.sites.values() if not site.observed]
    close(sum(map(np.sum, drawn)), trace.log_density)
    close(ppl.log_density(program, trace.choices, *args), total)
    return trace


@pytest.mark.parametrize("case", CONTROL_FLOW, ids=repr)
def test_laws_in_control_flow(case):
    trace = check_laws(case.program, THETA)
    shapes = {address: site.value.shape for address, site in trace.sites.items()}
    assert shapes == case.shapes
    valid = {a: site.valid for a, site in trace.sites.items() if site.conditional}
    jax.tree.map(np.testing.assert_array_equal, valid, case.valid(trace.choices))


def weighted(theta):
    """Scaled, masked by element and lane, scoped, observed, with data that are missing."""
    z = sample("z", dist.Normal(theta, 1.0).expand([3]))
    keep = jnp.array([True, False, True])

    def lane(m, flag, y):
        x = ppl.mask(lambda: sample("x", dist.Normal(m, 2.0)), flag)()
        observed = lambda: sample("y", dist.Normal(x, 1.0), obs=y)
        ppl.scale(ppl.mask(observed, flag), 3.0)()
        return x

    xs = jax.vmap(lane)(z, keep, jnp.array([0.5, jnp.nan, -0.5]))

    def step(carry, y):
        carry = sample("c", dist.Normal(carry, 1.0))
        scaled = lambda: sample("w", dist.Normal(carry * jnp.ones(2), 1.0), obs=y * jnp.ones(2))
        ppl.scale(ppl.scope(scaled, "deep"), jnp.array([0.5, 2.0]))()
        return carry, None

    return jax.lax.scan(step, xs.sum(), jnp.arange(4.0))[0]


def test_laws_under_scale_mask_and_scope():
    trace = check_laws(weighted, THETA)
    sites = trace.sites
    assert set(sites) == {"z", "x", "y", "c", "deep/w"}
    assert [a for a in sites if sites[a].observed] == [a for a in ("deep/w", "y") if a in sites]
    np.testing.assert_array_equal(sites["y"].factor, [3.0, 0.0, 3.0])
    np.testing.assert_array_equal(sites["deep/w"].factor, np.tile([0.5, 2.0], (4, 1)))
    # what a mask leaves out is scored at its own value
    close(sites["x"].log_prob, norm.logpdf(trace.choices["x"], trace.choices["z"], 2.0))
    assert np.isnan(sites["y"].log_prob[1]) and np.isfinite(sites["y"].log_prob[::2]).all()


def test_held_out_data_are_scored_before_the_mask():
    """Pointwise predictive densities of what the mask leaves out of the fit."""
    y, train = jnp.array([0.3, 5.0, 1.0]), jnp.array([True, False, True])

    def model():
        m = sample("m", dist.Normal(0.0, 1.0))
        ppl.mask(lambda: sample("y", dist.Normal(m * jnp.ones(3), 1.0), obs=y), train)()

    site = ppl.replay(model, {"m": 0.2}).sites["y"]
    close(site.log_prob, norm.logpdf(y, 0.2, 1.0))
    slope = jax.grad(lambda m: ppl.replay(model, {"m": m}).sites["y"].log_prob[1])(0.2)
    close(slope, 4.8)


def test_laws_with_compound_sites():
    def hidden():
        b = sample("b", dist.Bernoulli(0.3))
        sample("u", dist.Normal(2.0 * b, 1.0))
        return sample("x", dist.Normal(1.0 - b, 0.5))

    def program():
        both = ppl.marginal(hidden, ["u", "x"], Exact())
        kept = jax.vmap(lambda _: both()["x"])(jnp.arange(2))
        ppl.scope(ppl.condition(ppl.marginal(hidden, "x", Exact()), {"x": 0.4}), "seen")()
        ppl.scale(ppl.scope(ppl.marginal(hidden, "x", Exact()), "scaled"), 2.0)()
        return kept

    sites = check_laws(program).sites
    assert all(site.distribution is None for site in sites.values())
    assert sites["u"].log_prob.shape == (2,) and sites["x"].log_prob is None
    assert sites["seen/x"].observed and not sites["x"].observed


def test_branches_of_other_distributions():
    """One address, other families: the log density of the one taken, and no distribution."""

    def program(flag):
        normal = lambda: sample("x", dist.Normal(jnp.ones(2), 1.0))
        joint = lambda: sample("x", dist.MultivariateNormal(jnp.zeros(2), jnp.eye(2)))
        laplace = lambda: sample("y", dist.Laplace(jnp.ones(2), 1.0))
        scaled = ppl.scale(lambda: sample("y", dist.Normal(jnp.ones(2), 1.0)), 2.0)
        jax.lax.cond(flag, normal, joint)
        return jax.lax.cond(flag, laplace, scaled)

    for flag in (True, False):
        trace = compiled(ppl.seed(partial(ppl.simulate, program, flag)))(KEY)
        x, y = trace.sites["x"], trace.sites["y"]
        assert x.log_prob is None and x.distribution is None and y.distribution is None
        wanted = dist.Laplace(1.0, 1.0) if flag else dist.Normal(1.0, 1.0)
        close(y.log_prob, wanted.log_prob(y.value))
        np.testing.assert_array_equal(y.factor, np.full(2, 1.0 if flag else 2.0))
        again = ppl.replay(program, trace.choices, flag)
        close(again.log_density, trace.log_density)


def test_lanes_of_a_batched_cond():
    """Each lane has the distribution of the branch that it takes."""

    def lane(flag, m):
        draw = lambda m: sample("x", dist.Normal(m, 1.0))
        only = lambda m: sample("only", dist.Normal(m, 1.0), obs=0.3)
        jax.lax.cond(flag, only, lambda m: m, m)
        return jax.lax.cond(flag, draw, lambda m: draw(-m), m)

    flags = jnp.array([True, False, True])
    trace = check_laws(lambda: jax.vmap(lane)(flags, jnp.arange(1.0, 4.0)))
    close(trace.sites["x"].distribution.loc, [1.0, -2.0, 3.0])
    np.testing.assert_array_equal(trace.sites["only"].valid, flags)
    assert "only" not in trace.choices and set(trace.valid) == {"x"}


def test_what_a_site_is_observed_in_one_branch_alone_is_an_error():
    def program(flag):
        drawn = lambda: sample("x", dist.Normal(0.0, 1.0))
        return jax.lax.cond(flag, drawn, lambda: sample("x", dist.Normal(0.0, 1.0), obs=1.0))

    for run in (lambda: program(True), lambda: jax.vmap(program)(jnp.array([True, False]))):
        with pytest.raises(BranchMismatch, match=r"'x' .* and is observed .*data in both"):
            ppl.seed(lambda run=run: ppl.simulate(run))(KEY)


def nested(starts):
    """A site in lanes, in steps, in lanes; one of a batch; data."""

    def walk(start):
        def step(position, _):
            lane = lambda shift: sample("z", dist.Normal(position + shift, 1.0))
            return jnp.sum(jax.vmap(lane)(jnp.arange(3.0))), None

        return jax.lax.scan(step, start, None, length=4)[0]

    ends = jax.vmap(walk)(starts)
    w = ppl.scope(lambda: sample("w", dist.Gamma(jnp.ones(2), 2.0).to_event(1)), "inner")()
    sample("x", dist.Normal(jnp.sum(ends) + w.sum(), 1.0), obs=0.3)


def test_distributions_are_stacked_as_choices_are():
    trace = check_laws(nested, jnp.array([0.1, 0.2]))
    z, w = trace.sites["z"], trace.sites["inner/w"]
    assert z.distribution.loc.shape == z.distribution.scale.shape == z.log_prob.shape == (2, 4, 3)
    close(z.each(lambda d, x: d.log_prob(x)), z.log_prob)
    close(w.distribution.log_prob(w.value), w.log_prob)
    close(z.each(lambda d, x: d.variance), np.ones((2, 4, 3)))


def test_they_are_differentiable_in_choices_and_arguments():
    def chain(mean):
        x = sample("x", dist.Normal(mean, 1.0))
        sample("y", dist.Normal(3.0 * x, 1.0))

    def mean_of(address, x, mean):
        return ppl.replay(chain, {"x": x, "y": 0.0}, mean).sites[address].distribution.mean

    assert jax.grad(mean_of, argnums=1)("y", 1.0, 2.0) == 3.0
    assert jax.grad(mean_of, argnums=2)("x", 1.0, 2.0) == 1.0


def test_traces_pass_transformations():
    """A trace is a pytree: out of `jit` and `vmap`, and out of an objective's own loops."""
    runs = compiled(jax.vmap(ppl.seed(partial(ppl.simulate, nested)), (0, None)))(
        jax.random.split(KEY, 5), jnp.array([0.1, 0.2])
    )
    assert isinstance(runs.sites["z"], ppl.SiteRecord)
    assert runs.sites["z"].log_prob.shape == runs.choices["z"].shape == (5, 2, 4, 3)
    close(runs.sites["z"].each(lambda d, x: d.log_prob(x)), runs.sites["z"].log_prob)

    def objective(mean):
        model = lambda m: sample("x", dist.Normal(m, 1.0))
        entropy = lambda m: ppl.simulate(model, m).sites["x"].each(lambda d, x: (x - d.loc) ** 2)
        return jax.lax.map(entropy, mean * jnp.arange(3.0)).sum()

    value, slope = jax.value_and_grad(ppl.expectation(objective), 1)(KEY, 0.5)
    assert value > 0 and abs(slope) < 1e-6  # (x - loc)² does not move with loc


def test_what_nobody_reads_is_not_compiled():
    """Records of a loop's sites, and of masked ones, cost nothing in an objective."""

    def program(theta):
        def step(x, _):
            x = ppl.mask(lambda: sample("x", dist.Normal(theta * x, 1.0)), theta > 0)()
            return x, None

        return jax.lax.scan(step, 0.0, None, length=50)[0]

    def cost(objective):
        run = jax.value_and_grad(ppl.expectation(objective), 1)
        return jax.jit(run).lower(KEY, 0.5).compile().cost_analysis()["flops"]

    plain = cost(program)
    traced = cost(lambda theta: ppl.simulate(program, theta).value)
    read = cost(lambda theta: ppl.simulate(program, theta).log_density)
    assert traced == plain < read


def test_choices_flat_and_nested():
    trace = check_laws(ppl.scope(nested, "a/b"), jnp.array([0.1]))
    flat = ppl.flatten_choices(trace.choices)
    assert set(flat) == {a for a, site in trace.sites.items() if not site.observed}
    assert jax.tree.structure(ppl.nest_choices(flat)) == jax.tree.structure(trace.choices)


def test_errors_are_those_of_log_density():
    program = lambda: sample("y", dist.Normal(sample("x", dist.Normal(0.0, 1.0)), 1.0), obs=1.0)
    with pytest.raises(MissingChoice, match="has a site at 'x'"):
        ppl.replay(program, {})
    with pytest.raises(ObservedChoice, match="'y'"):
        ppl.replay(program, {"x": 0.0, "y": 1.0})
