"""`uncondition`: observations taken back, and others put in their place."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from jax import lax

import ppl
from ppl import errors, sample
from stdlib.inference import Exact
from stdlib.objectives import elbo
from tests.ppl.programs import CASES, THETA

KEY = jax.random.key(1)
NORMAL = dist.Normal(0.0, 1.0)


def same(one, other):
    jax.tree.map(lambda x, y: np.testing.assert_array_equal(x, y), one, other)


@pytest.mark.parametrize("case", [c for c in CASES if not c.endless], ids=repr)
def test_it_undoes_condition(case):
    """The same choices by the same key, and the same densities; in all control flow."""
    run = lambda program: jax.jit(ppl.seed(lambda: _parts(ppl.simulate(program, THETA))))(KEY)
    trace = run(case.program)
    observed = ppl.condition(case.program, trace[0])
    same(run(ppl.uncondition(observed)), trace)


def _parts(trace):
    return trace.choices, trace.log_density, trace.log_likelihood


def model():
    z = sample("z", NORMAL)
    sample("a/x", dist.Normal(z, 1.0), obs=1.0)
    sample("a/y", dist.Poisson(jnp.exp(z)), obs=2.0)
    lax.scan(lambda c, x: (c, sample("b", dist.Normal(z, 0.5), obs=x)), 0.0, jnp.arange(3.0))


def test_addresses_and_globs():
    choices = lambda *patterns: {
        "/".join(path)
        for path in _paths(ppl.seed(lambda: ppl.simulate(ppl.uncondition(model, *patterns)))(KEY))
    }
    assert choices() == {"z", "a/x", "a/y", "b"}
    assert choices("a/*") == {"z", "a/x", "a/y"}
    assert choices(["a/y", "b"]) == {"z", "a/y", "b"}


def _paths(trace):
    leaves = jax.tree_util.tree_leaves_with_path(trace.choices)
    return [tuple(str(key.key) for key in path) for path, _ in leaves]


def test_other_data_in_place_of_the_old():
    data = {"b": jnp.array([0.5, -1.0, 2.0])}
    again = ppl.condition(ppl.uncondition(model, "b"), data)
    found = ppl.log_density(again, {"z": 0.3}) - ppl.log_density(model, {"z": 0.3})
    logs = lambda x: dist.Normal(0.3, 0.5).log_prob(x).sum()
    np.testing.assert_allclose(found, logs(data["b"]) - logs(jnp.arange(3.0)), rtol=1e-5)
    guide = lambda: sample("z", NORMAL)
    bounds = [ppl.expectation(lambda m=m: elbo(m, guide, {}))(KEY) for m in (again, model)]
    z = ppl.seed(guide)(KEY)
    gain = jnp.sum(dist.Normal(z, 0.5).log_prob(data["b"]))
    loss = jnp.sum(dist.Normal(z, 0.5).log_prob(jnp.arange(3.0)))
    np.testing.assert_allclose(bounds[0] - bounds[1], gain - loss, rtol=1e-4)


def test_marginals_and_scaled_and_masked_sites():
    pair = lambda: sample("x", dist.Normal(sample("u", NORMAL), 1.0))
    only_x = ppl.condition(ppl.marginal(pair, "x", Exact()), {"x": 0.7})
    trace = ppl.seed(lambda: ppl.simulate(ppl.uncondition(only_x)))(KEY)
    exact = dist.Normal(0.0, 2.0**0.5).log_prob(trace.choices["x"])
    np.testing.assert_allclose(trace.log_density, exact, rtol=1e-5)
    halved = ppl.scale(ppl.mask(lambda: sample("x", NORMAL, obs=0.7), jnp.array(True)), 0.5)
    found = ppl.log_density(ppl.uncondition(halved, "x"), {"x": 0.1})
    np.testing.assert_allclose(found, 0.5 * NORMAL.log_prob(0.1), rtol=1e-6)


def test_errors():
    with pytest.raises(errors.UnmatchedPattern, match=r"'a/z' .*no observed site .*'model'.*'a/x'"):
        ppl.seed(ppl.uncondition(model, "a/z"))(KEY)
    with pytest.raises(errors.UnmatchedPattern, match=r"'z' of ppl\.uncondition"):
        ppl.seed(ppl.uncondition(model, "z"))(KEY)
    factor = lambda: sample("f", dist.Unit(2.0), obs=jnp.zeros(0))
    assert ppl.log_density(factor, {}) == 2.0
