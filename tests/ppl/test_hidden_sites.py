"""Sites hidden from what is around: `marginal(..., hide=)`, and a part that is run by a key."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from jax import lax

import ppl
from ppl import errors, sample
from stdlib.estimators import Enumerate
from stdlib.inference import Exact, Importance
from stdlib.testing import assert_unbiased

KEY = jax.random.key(6)
NORMAL = dist.Normal(0.0, 1.0)
close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


# --- hidden from what is around: by importance weights of one draw from the program itself --------


def pair(chance=0.3):
    u = sample("u", dist.Bernoulli(chance))
    return sample("x", dist.Categorical(jnp.array([[0.2, 0.5, 0.3], [0.7, 0.2, 0.1]])[u]))


def stepping():
    step = lambda c, p: (pair(p), None)
    lax.scan(step, 0, jnp.array([0.3, 0.6]))


def branching():
    lax.cond(sample("k", dist.Bernoulli(0.4)) == 1, lambda: pair(0.2), lambda: pair(0.9))


def observing():
    u = sample("u", dist.Bernoulli(0.3))
    sample("y", dist.Normal(1.0 * u, 1.0), obs=0.5)
    sample("x", dist.Bernoulli(0.2 + 0.5 * u))


PROGRAMS = {
    "alone": (pair, {"x": 2}),
    "vmap": (lambda: jax.vmap(pair)(jnp.array([0.3, 0.6])), {"x": jnp.array([2, 0])}),
    "scan": (stepping, {"x": jnp.array([2, 0])}),
    "cond": (branching, {"x": 2, "k": 1}),
    "observed": (observing, {"x": 1}),
    "scaled": (ppl.scale(ppl.scope(pair, "a"), 2.0), {"a": {"x": 1}}),
}


def everywhere(objective):
    return jax.jit(ppl.expectation(ppl.with_estimators(objective, {"*": Enumerate()})))(KEY)


@pytest.mark.parametrize("name", PROGRAMS)
def test_hidden_sites_are_noise_of_the_prior(name):
    """E[w] = p(x), summed over all that is drawn, and E[1/w | x] = 1/p(x) where it is simulated."""
    program, choices = PROGRAMS[name]
    hide = "a/u" if name == "scaled" else "u"
    hidden = ppl.marginal(program, hide=hide, algorithm=Importance(1))
    kept = list(ppl.flatten_choices(choices))
    exact = ppl.log_density(ppl.marginal(program, kept, Exact()), choices)
    close(everywhere(lambda: jnp.exp(ppl.log_density(hidden, choices))), jnp.exp(exact))
    if name in ("observed", "scaled"):  # cannot be simulated; is no density
        return

    def share():
        trace = ppl.simulate(hidden)
        same = jax.tree.map(lambda a, b: jnp.all(a == b), trace.choices, choices)
        return jnp.exp(-trace.log_density) * jnp.all(jnp.stack(jax.tree.leaves(same)))

    close(everywhere(share), 1.0)


def test_all_sites_of_a_part_are_hidden_by_a_key():
    part = lambda shift: sample("u", dist.Normal(shift, 1.0)) ** 2

    def program(shift):
        return sample("x", dist.Normal(ppl.seed(part)(ppl.fresh_key(), shift), 1.0))

    trace = ppl.seed(lambda: ppl.simulate(program, 0.5))(KEY)
    assert list(trace.choices) == ["x"]
    assert_unbiased(program, 0.5, exact=lambda s: s**2 + 1.0, key=KEY)


def test_what_is_hidden_is_asked_for_in_one_way():
    for asked in ({}, {"keep": "x", "hide": "u"}):
        with pytest.raises(errors.InvalidSetting, match=r"hide=\[\"u\"\]"):
            ppl.marginal(pair, **asked, algorithm=Exact())
    with pytest.raises(errors.InvalidSetting, match="who integrates"):
        ppl.marginal(pair, "x")
    with pytest.raises(errors.UnknownAddress, match=r"hide=\['z'\].*Known: 'u', 'x'"):
        ppl.seed(ppl.marginal(pair, hide="z", algorithm=Exact()))(KEY)
