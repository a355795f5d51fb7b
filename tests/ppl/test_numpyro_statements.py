"""Statements and handlers of NumPyro in or around a program: errors that say what to write."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from jax import lax
from numpyro import handlers
from numpyro.contrib.control_flow import cond, scan
from numpyro.infer.util import log_density
from numpyro.primitives import _PYRO_STACK, mutable

import ppl
from ppl import sample
from ppl.errors import ForeignStatement

KEY = jax.random.key(0)
NORMAL = dist.Normal(0.0, 1.0)
EARLIER = numpyro.plate("rows", 5)


def ours():
    return sample("a", NORMAL)


def theirs():
    return numpyro.sample("z", NORMAL)


def in_plate():
    with numpyro.plate("rows", 5):
        return ours()


def in_plate_made_earlier():
    with EARLIER:
        return ours()


def in_scaled_step():
    def step(total, _):
        with handlers.scale(scale=2.0):
            return total + ours(), None

    return lax.scan(step, 0.0, length=2)[0]


def per_lane():
    jax.vmap(lambda x: numpyro.factor("f", x))(jnp.ones(2))
    return ours()


def in_a_branch():
    return lax.cond(ours() > 0, lambda: numpyro.param("p", 1.0), lambda: 0.0)


STATEMENTS = {
    "plate": (in_plate, ["numpyro.plate('rows', ...)", "jax.vmap"]),
    "plate made earlier": (in_plate_made_earlier, ["numpyro.plate", "'a'", "jax.vmap"]),
    "sample": (theirs, ["numpyro.sample('z', ...)", "ppl.sample('z', distribution)"]),
    "observed": (lambda: numpyro.sample("z", NORMAL, obs=1.0), ["ppl.sample('z'", "obs="]),
    "seeded": (lambda: handlers.seed(theirs, 0)(), ["numpyro.sample('z', ...)"]),
    "factor": (lambda: numpyro.factor("f", 1.0), ["ppl.sample('f'", "Unit", "obs=jnp.zeros(0)"]),
    "factor in vmap": (per_lane, ["numpyro.factor('f', ...)"]),
    "param in cond": (in_a_branch, ["numpyro.param('p', ...)", "argument of the program"]),
    "subsample": (lambda: numpyro.subsample(jnp.ones(3), 0), ["data[indices]", "batch_size"]),
    "module": (lambda: numpyro.module("net", (None, None)), ["'net$params'", "argument"]),
    "scan": (lambda: scan(lambda c, x: (c, x), 0.0, jnp.ones(2)), ["jax.lax.scan"]),
    "cond": (lambda: cond(True, lambda x: x, lambda x: x, 1.0), ["jax.lax.cond"]),
    "mutable": (lambda: mutable("m", 1.0), ["numpyro.mutable('m', ...)", "ppl.State"]),
    "key": (numpyro.prng_key, ["ppl.seed(program)(key, ...)"]),
    "scale in scan": (in_scaled_step, ["numpyro.handlers.scale", "'a'", "ppl.scale"]),
}

HANDLERS = {
    "block": ({}, "ppl.marginal(program, keep, algorithm)"),
    "condition": ({"data": {"a": 1.0}}, "ppl.condition(program, observed)"),
    "do": ({"data": {"a": 1.0}}, "ppl.intervene(program, values)"),
    "infer_config": ({"config_fn": lambda site: {}}, "ppl.with_estimators"),
    "lift": ({"prior": {}}, "no counterpart"),
    "mask": ({"mask": False}, "ppl.mask(program, flag)"),
    "replay": ({"trace": {}}, "ppl.log_density(program, choices)"),
    "reparam": ({"config": {}}, "no counterpart"),
    "scale": ({"scale": 10.0}, "ppl.scale(program, factor)"),
    "scope": ({"prefix": "s"}, "ppl.scope(program, prefix)"),
    "seed": ({"rng_seed": 0}, "ppl.seed(program)(key, ...)"),
    "substitute": ({"data": {"a": 1.0}}, "ppl.log_density(program, choices)"),
    "trace": ({}, "ppl.simulate"),
    "uncondition": ({}, "no counterpart"),
}

MEANINGS = {
    "seed": lambda program: ppl.seed(program)(KEY),
    "simulate": lambda program: ppl.seed(lambda: ppl.simulate(program))(KEY),
    "log_density": lambda program: ppl.log_density(program, {"a": 1.0}),
    "expectation": lambda program: ppl.expectation(lambda: (0.0, program()), has_aux=True)(KEY),
    "scale": lambda program: ppl.log_density(ppl.scale(program, 2.0), {"a": 1.0}),
}


def refused(thunk, words):
    with pytest.raises(ForeignStatement) as failure:
        thunk()
    for word in (*words, "test_numpyro_statements.py:"):
        assert word in str(failure.value)
    assert _PYRO_STACK == []


@pytest.mark.parametrize("meaning", MEANINGS)
@pytest.mark.parametrize("name", STATEMENTS)
def test_a_statement_in_a_program(name, meaning):
    program, words = STATEMENTS[name]
    refused(lambda: MEANINGS[meaning](program), words)


@pytest.mark.parametrize("name", HANDLERS)
def test_a_handler(name):
    """Around a program, around what runs it, inside of it, and where nothing runs it."""
    settings, remedy = HANDLERS[name]
    words = [f"numpyro.handlers.{name}", remedy]
    if not hasattr(handlers, name):
        pytest.skip("this release of NumPyro has no such handler")
    handled = getattr(handlers, name)(ours, **settings)
    for meaning in MEANINGS.values():
        refused(partial(meaning, handled), words)
        refused(partial(meaning, lambda: handled()), words)
    refused(getattr(handlers, name)(lambda: ppl.log_density(ours, {"a": 1.0}), **settings), words)
    refused(handled, [*words, "'a'"])


def test_what_a_handled_program_of_numpyro_says_is_met_too():
    refused(lambda: ppl.log_density(handlers.scale(theirs, scale=10.0), {}), ["handlers.scale"])
    refused(lambda: ppl.log_density(lambda: handlers.scale(theirs, scale=9.0)(), {}), ["'z'"])


def test_a_deterministic_statement_is_harmless():
    program = lambda: numpyro.deterministic("twice", 2.0 * ours())
    value = ppl.seed(program)(KEY)
    np.testing.assert_array_equal(value, 2.0 * ppl.seed(ours)(KEY))
    assert numpyro.get_mask() is None


def test_a_model_that_numpyro_runs_is_a_function():
    """The joint density of a NumPyro model, as a factor; a program is left as it was."""

    def model():
        z = theirs()
        with numpyro.plate("rows", 3):
            numpyro.sample("y", dist.Normal(z, 1.0), obs=jnp.ones(3))

    def program():
        log_joint, _ = log_density(model, (), {}, {"z": ours()})
        sample("model", dist.Unit(log_joint), obs=jnp.zeros(0))

    expected = 2 * NORMAL.log_prob(0.3) + 3 * dist.Normal(0.3, 1.0).log_prob(1.0)
    np.testing.assert_allclose(ppl.log_density(program, {"a": 0.3}), expected, rtol=1e-6)


def test_an_error_in_a_program_leaves_nothing_behind():
    def failing():
        with handlers.mask(mask=True):
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        ppl.log_density(failing, {})
    assert _PYRO_STACK == []
    assert handlers.trace(handlers.seed(theirs, 0)).get_trace()["z"]["value"].shape == ()
