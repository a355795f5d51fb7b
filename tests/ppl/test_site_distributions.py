"""`distributions`: what sites draw from, their law, lanes and loops, what is left out, errors."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

import ppl
from ppl import sample
from ppl.errors import MissingChoice
from stdlib.inference import Importance


def drawn(program, *args):
    return ppl.seed(lambda: ppl.simulate(program, *args))(jax.random.key(0))


def mapped(lanes, fn):
    for _ in range(lanes):
        fn = jax.vmap(fn)
    return fn


def log_prob(distribution, value):
    return distribution.log_prob(value)


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


def test_the_sum_of_the_log_probs_is_the_log_density():
    starts = jnp.array([0.1, 0.2])
    trace = drawn(nested, starts)
    found = ppl.distributions(nested, trace.choices, starts)
    assert jax.tree.map(jnp.shape, found["z"].loc) == (2, 4, 3)
    total = jnp.sum(mapped(3, log_prob)(found["z"], trace.choices["z"]))
    total += found["inner"]["w"].log_prob(trace.choices["inner"]["w"])
    np.testing.assert_allclose(total, trace.log_density, rtol=1e-5)


def test_they_are_differentiable_in_choices_and_arguments():
    def chain(mean):
        x = sample("x", dist.Normal(mean, 1.0))
        sample("y", dist.Normal(3.0 * x, 1.0))

    def mean_of(address, x, mean):
        return ppl.distributions(chain, {"x": x, "y": 0.0}, mean)[address].mean

    assert jax.grad(mean_of, argnums=1)("y", 1.0, 2.0) == 3.0
    assert jax.grad(mean_of, argnums=2)("x", 1.0, 2.0) == 1.0


def test_sites_in_branches_and_compound_ones_are_left_out():
    def program(flag):
        sample("plain", dist.Normal(0.0, 1.0))
        ppl.scale(lambda: sample("scaled", dist.Normal(0.0, 1.0)), 2.0)()
        ppl.mask(lambda: sample("masked", dist.Normal(0.0, 1.0)), flag)()
        branch = lambda mean: lambda: sample("branch", dist.Normal(mean, 1.0))
        jax.lax.cond(flag, branch(0.0), branch(1.0))
        jax.vmap(lambda f: jax.lax.cond(f, lambda: sample("lane", dist.Normal(0.0, 1.0)), float))(
            jnp.array([True, False])
        )
        hidden = lambda: sample("kept", dist.Normal(sample("u", dist.Normal(0.0, 1.0)), 1.0))
        ppl.marginal(hidden, "kept", Importance(1))()
        sample("data", dist.Normal(0.0, 1.0), obs=1.0)

    trace = drawn(program, True)
    assert set(ppl.distributions(program, trace.choices, True)) == {"plain", "scaled", "masked"}


def test_its_errors_are_those_of_log_density():
    with pytest.raises(MissingChoice, match="has a site at 'x'"):
        ppl.distributions(lambda: sample("x", dist.Normal(0.0, 1.0)), {})
