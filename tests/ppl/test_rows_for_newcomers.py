"""Rows of the guide's table for those who come from NumPyro, Pyro or GenJAX, as they stand."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist

import ppl
from ppl import sample
from stdlib.inference import Exact, Importance
from stdlib.objectives import elbo

KEY = jax.random.key(5)
NORMAL = dist.Normal(0.0, 1.0)
close = partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6)


def f(scale=1.0):
    x = sample("x", dist.Normal(0.0, scale))
    return sample("y", dist.Normal(x, 1.0))


def test_lift_is_a_program_of_its_parameters():
    prior = lambda: sample("scale", dist.LogNormal(0.0, 1.0))
    lifted = lambda: f(prior())
    found = ppl.log_density(lifted, {"scale": 2.0, "x": 0.5, "y": 1.0})
    close(
        found,
        dist.LogNormal(0.0, 1.0).log_prob(2.0) + ppl.log_density(f, {"x": 0.5, "y": 1.0}, 2.0),
    )


def test_substitute_is_a_replay():
    choices = ppl.seed(partial(ppl.simulate, f))(KEY).choices
    trace = ppl.replay(f, choices)
    assert trace.value == choices["y"]
    close(trace.log_density, ppl.log_density(f, choices))


def test_uncondition_and_other_data():
    seen = ppl.condition(f, {"y": 1.0})
    assert set(ppl.seed(partial(ppl.simulate, ppl.uncondition(seen)))(KEY).choices) == {"x", "y"}
    again = ppl.condition(ppl.uncondition(seen, "y"), {"y": 2.0})
    close(ppl.log_density(again, {"x": 0.0}), ppl.log_density(f, {"x": 0.0, "y": 2.0}))


def test_block_hides_some_sites_or_all():
    only_y = ppl.marginal(f, hide="x", algorithm=Importance(1))
    assert list(ppl.seed(partial(ppl.simulate, only_y))(KEY).choices) == ["y"]
    value = lambda: 2.0 * ppl.seed(f)(ppl.fresh_key(), 1.0)
    assert ppl.seed(partial(ppl.simulate, value))(KEY).choices == {}


def test_an_auxiliary_site_of_a_guide():
    model = lambda: f(1.0)
    guide = lambda: sample("x", dist.Normal(sample("u", NORMAL), 0.5))
    hidden = ppl.marginal(guide, hide="u", algorithm=Importance(1))
    assert jnp.isfinite(ppl.expectation(lambda: elbo(model, hidden, {"y": 1.0}))(KEY))


def test_posterior_marginals():
    """Of Gaussian choices a program, drawn and scored, in lanes too; of finite ones a table."""

    def model(y):
        a = sample("a", NORMAL)
        sample("y", dist.Normal(sample("b", dist.Normal(a, 1.0)), 1.0), obs=y)

    def only_a(y):
        return ppl.normalize(ppl.marginal(lambda: model(y), "a", Exact()), {}, Exact())

    exact = lambda y: dist.Normal(y / 3.0, (2.0 / 3.0) ** 0.5)
    close(ppl.log_density(only_a(1.5), {"a": 0.2}), exact(1.5).log_prob(0.2))
    ys = jnp.array([1.5, -0.3])
    lanes = lambda: jax.vmap(lambda y: only_a(y)())(ys)
    trace = ppl.seed(partial(ppl.simulate, lanes))(KEY)
    close(trace.log_density, exact(ys).log_prob(trace.choices["a"]).sum())

    def coins():
        a = sample("a", dist.Bernoulli(0.3))
        b = sample("b", dist.Bernoulli(0.2 + 0.5 * a))
        sample("y", dist.Normal(1.0 * b, 1.0), obs=0.7)

    joint = ppl.marginal(coins, "a", Exact())
    table = jax.nn.softmax(jax.vmap(lambda a: ppl.log_density(joint, {"a": a}))(jnp.arange(2)))
    likelihood = np.exp(-0.5 * (0.7 - np.arange(2)) ** 2)
    weights = np.array([0.7, 0.3]) * (np.array([[0.8, 0.2], [0.3, 0.7]]) @ likelihood)
    close(table, weights / weights.sum())
