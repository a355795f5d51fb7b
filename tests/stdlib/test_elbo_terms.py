"""`elbo_terms`: the bound by address sums to the bound, run by run; and means in closed form."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from jax import lax

import ppl
from ppl import errors, sample
from stdlib.diagnostics import elbo_terms
from stdlib.estimators import Enumerate
from stdlib.inference import Exact, Importance
from stdlib.objectives import elbo

KEY = jax.random.key(8)
NORMAL = dist.Normal(0.0, 1.0)


def everywhere():
    """Loops, lanes, branches, factors, masked and scaled data, and marginals."""
    z = sample("z", NORMAL)

    def step(x, y):
        x = sample("x", dist.Normal(0.8 * x + z, 0.5))
        return x, sample("y", dist.Normal(x, 1.0), obs=y)

    def lane(y):
        k = sample("k", dist.Bernoulli(0.3))
        near, far = (partial(sample, "w", dist.Normal(m, 1.0)) for m in (0.0, 3.0))
        sample("v", dist.Normal(lax.cond(k == 1, far, near), 1.0), obs=y)

    lax.scan(step, 0.0, jnp.array([0.5, 1.0, -0.3]))
    jax.vmap(lane)(jnp.array([0.1, 2.0]))
    sample("f", dist.Unit(0.3 * z), obs=jnp.zeros(0))
    ppl.scale(ppl.mask(data, jnp.array([True, False, True])), 2.5)(z)
    ppl.marginal(lambda: sample("b", dist.Normal(sample("a", NORMAL), 1.0)), "b", Exact())()
    pair = lambda: sample("d", dist.Normal(sample("c", NORMAL), 1.0), obs=0.4)
    ppl.marginal(pair, [], Exact())()


def data(z):
    sample("u", dist.Poisson(jnp.exp(z) * jnp.ones(3)), obs=jnp.array([1, 2, 0]))


def guide(shift=0.2):
    sample("z", dist.Normal(shift, 0.6))
    lax.scan(lambda c, m: (c, sample("x", dist.Normal(m, 0.7))), 0.0, jnp.array([0.1, 0.4, 0.0]))

    def lane(p):
        k = sample("k", dist.Bernoulli(p))
        sides = [partial(sample, "w", dist.Normal(m, s)) for m, s in ((0.2, 1.0), (2.5, 0.8))]
        lax.cond(k == 1, *sides[::-1])

    jax.vmap(lane)(jnp.array([0.4, 0.6]))
    hidden = lambda: sample("b", dist.Normal(sample("e", NORMAL), 0.9))
    ppl.marginal(hidden, hide="e", algorithm=Importance(2))()


def test_terms_sum_to_the_bound_run_by_run():
    keys = jax.random.split(KEY, 200)
    estimate = lambda objective: jax.jit(
        jax.vmap(ppl.expectation(lambda: objective(everywhere, guide, {})))
    )(keys)
    terms, whole = estimate(elbo_terms), estimate(elbo)
    assert set(terms) == {*"zxykwvfub", "(no address)"}
    np.testing.assert_allclose(sum(terms.values()), whole, rtol=1e-4, atol=1e-4)
    evidence = dist.Normal(0.0, 2.0**0.5).log_prob(0.4)
    np.testing.assert_allclose(terms["(no address)"], evidence * np.ones(200), atol=1e-4)


def test_gradients_of_the_terms_sum_too():
    objective = lambda terms: lambda s: terms(everywhere, partial(guide, s), {})
    slopes = jax.jit(jax.jacrev(ppl.expectation(objective(elbo_terms)), argnums=1))(KEY, 0.2)
    whole = jax.jit(jax.grad(ppl.expectation(objective(elbo)), argnums=1))(KEY, 0.2)
    np.testing.assert_allclose(sum(slopes.values()), whole, rtol=1e-3)


def test_means_in_closed_form():
    """-KL of each choice, and the expected log likelihood, where all is summed."""

    def model():
        k = sample("k", dist.Bernoulli(0.3))
        sample("y", dist.Normal(1.0 * k, 1.0))

    q = lambda: sample("k", dist.Bernoulli(0.8), Enumerate())
    terms = ppl.expectation(lambda: elbo_terms(model, q, {"y": 0.7}))(KEY)
    divergence = 0.8 * np.log(0.8 / 0.3) + 0.2 * np.log(0.2 / 0.7)
    logs = 0.8 * dist.Normal(1.0, 1.0).log_prob(0.7) + 0.2 * NORMAL.log_prob(0.7)
    np.testing.assert_allclose([terms["k"], terms["y"]], [-divergence, logs], rtol=1e-5)


def test_it_refuses_what_the_bound_refuses():
    with pytest.raises(errors.UnusedChoice, match=r"'extra' at .*ppl\.marginal\(guide"):
        extra = lambda: (sample("z", NORMAL), sample("extra", NORMAL))
        ppl.expectation(lambda: elbo_terms(lambda: sample("z", NORMAL), extra, {}))(KEY)
