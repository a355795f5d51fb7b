"""Every failure has a name, an address, a line of the user's file, and a remedy.

A row is a function that fails, the exception, and what its message must contain. "SITE" among the
fragments asks for the file and the number of a line that has a `sample` statement.
"""

import linecache
import pathlib
import re
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from jax import lax

import ppl
from ppl import errors as e
from ppl import sample
from stdlib.objectives import elbo
from tests.ppl.failures import (
    CONTROL,
    ESTIMATORS,
    FULL,
    KEY,
    MARGINALS,
    NORMAL,
    Straight,
    estimated,
    model,
    run,
    scored,
    simulated,
)


def without(name):
    return {address: value for address, value in FULL.items() if address != name}


# --- sites without a meaning, addresses, distributions --------------------------------------------


class Unregistered:
    sample = staticmethod(lambda key, shape=(): jnp.zeros(shape))
    log_prob = staticmethod(lambda value: value)


class TwoValues(eqx.Module):
    sample = staticmethod(lambda key: (jnp.zeros(()), jnp.zeros(())))
    log_prob = staticmethod(lambda value: 0.0)


class Drawn(eqx.Module):
    sample = staticmethod(lambda key: jnp.zeros(()))
    sample_and_log_prob = staticmethod(lambda key: (jnp.zeros(()), jnp.zeros(())))


FLAT = dist.ImproperUniform(dist.constraints.real, (), ())
NO_SAMPLER = ["'x'", "SITE", "ImproperUniform", "only be scored", "obs=", "`sample(key)`"]
NO_DENSITY = ["'x'", "SITE", "Drawn", "`log_prob`", "simulate", "ppl.Reparameterized()"]
NO_MEANING = ["'x'", "SITE", "outside any transformation", "ppl.seed(program)(key, ...)"]
STATEMENTS = [
    (lambda: sample("x", NORMAL), e.SampleOutsideTransformation, NO_MEANING),
    (jax.jit(lambda: sample("x", NORMAL)), e.SampleOutsideTransformation, NO_MEANING),
    (lambda: jax.vmap(lambda i: sample("x", NORMAL))(jnp.arange(2)),
     e.SampleOutsideTransformation, NO_MEANING),
    (lambda: ppl.simulate(lambda: sample("x", NORMAL)), e.SampleOutsideTransformation, NO_MEANING),
    (run(lambda: sample("", NORMAL)), e.InvalidAddress, ["non-empty string", "''", "'layer/x'"]),
    (run(lambda: sample("a//b", NORMAL)), e.InvalidAddress, ["'a//b'", "'layer/x'"]),
    (run(lambda: sample(3, NORMAL)), e.InvalidAddress, ["got 3"]),
    (lambda: ppl.scope(model, "a/"), e.InvalidAddress, ["'a/'"]),
    (scored(["x"]), e.InvalidAddress, ["dict from address to value", "list", '{"x": 1.0}']),
    (run(lambda: sample("x", 3.0)), e.InvalidDistribution,
     ["'x'", "SITE", "float", "`log_prob(value)`", "numpyro.distributions.Normal"]),
    (run(lambda: sample("x", dist.Normal)), e.InvalidDistribution, ["'x'", "SITE"]),
    (run(lambda: sample("x", Unregistered())), e.InvalidDistribution,
     ["Unregistered", "'x'", "SITE", "not a pytree", "equinox.Module"]),
    (run(lambda: sample("x", TwoValues())), e.InvalidDistribution,
     ["TwoValues", "'x'", "SITE", "one array"]),
    (run(lambda: numpyro.sample("x", NORMAL)), e.ForeignStatement,
     ["numpyro.sample('x', ...)", "SITE", "ppl.sample('x', distribution)"]),
    (run(lambda: sample("x", FLAT)), e.UndrawableSite, NO_SAMPLER),
    (simulated(lambda: jax.vmap(lambda i: sample("x", FLAT))(jnp.arange(2))), e.UndrawableSite,
     NO_SAMPLER),
    (lambda: ppl.expectation(lambda: 1.0 * sample("x", FLAT, ppl.ScoreFunction()))(KEY),
     e.UndrawableSite, NO_SAMPLER),
    (scored({"x": 0.0}, lambda: sample("x", Drawn())), e.UnscorableSite, NO_DENSITY),
    (lambda: ppl.expectation(lambda: 1.0 * sample("x", Drawn(), ppl.ScoreFunction()))(KEY),
     e.UnscorableSite, ["ScoreFunction()", *NO_DENSITY]),
]  # fmt: skip


def twice():
    sample("x", NORMAL)
    return sample("x", NORMAL)


def in_two_conds():
    flag = sample("b", dist.Bernoulli(0.5)) == 1
    for _ in range(2):
        lax.cond(flag, lambda: sample("x", NORMAL), lambda: 0.0)


TWO_SITES = ["two sites", "'x'", "SITE", "ppl.scope"]
DUPLICATES = [
    (simulated(twice), e.DuplicateAddress, ["'twice'", *TWO_SITES]),
    (scored({"x": 0.0}, twice), e.DuplicateAddress, TWO_SITES),
    (run(ppl.condition(twice, {"x": 0.0})), e.DuplicateAddress, TWO_SITES),
    (simulated(ppl.scope(twice, "a")), e.DuplicateAddress, ["'a/x'", "SITE"]),
    (simulated(in_two_conds), e.DuplicateAddress, TWO_SITES),
    (simulated(lambda: jax.vmap(lambda i: twice())(jnp.arange(2))), e.DuplicateAddress, TWO_SITES),
    (simulated(lambda: lax.scan(lambda c, x: (c, twice()), 0.0, None, length=2)),
     e.DuplicateAddress, TWO_SITES),
]  # fmt: skip


def branches(left, right):
    return lambda: lax.cond(
        sample("b", dist.Bernoulli(0.5)) == 1,
        lambda: jnp.sum(sample("x", left)) * 1.0,
        lambda: jnp.sum(sample("x", right)) * 1.0,
    )


# --- choices --------------------------------------------------------------------------------------


def lanes():
    jax.vmap(lambda i: sample("x", NORMAL))(jnp.arange(4))


class Halved(eqx.Module):
    shape = (3,)
    log_prob = staticmethod(jnp.sum)

    def split_event(self, mask):
        return self, lambda value: dist.Normal(jnp.zeros(1), 1.0)


def partly_and_again():
    sample("y", NORMAL, obs=1.0, obs_mask=True)
    sample("y_unobserved", NORMAL)


VECTOR, FLAGS = dist.Normal(jnp.zeros(3), 1.0), np.array([True, False, True])
CHOICES = [
    (scored(without("weight")), e.MissingChoice,
     ["'model'", "'weight'", "SITE", "no choice", "Add it"]),
    (scored({**without("weight"), "wieght": 0.0}), e.UnusedChoice,
     ["'wieght'", "Nearest: 'weight'", "Correct or drop"]),
    (scored({}), e.MissingChoice, ["'weight'", "SITE", "No choices were given"]),
    (scored({"weights": 0.0}, ppl.scope(model, "a")), e.UnusedChoice, ["'weights'", "'a/weight'"]),
    (scored({**FULL, "z": 0.0}), e.UnusedChoice, ["'z'", "Known:", "'bias'", "'weight'"]),
    (scored({"z": 0.0}, lambda: 1.0), e.UnusedChoice, ["'z'", "no such sites at all"]),
    (scored({**FULL, "data": 2.0}), e.ObservedChoice, ["'data'", "SITE", "drop `obs`"]),
    (run(ppl.condition(model, {"data": 2.0})), e.ObservedChoice, ["'data'", "SITE"]),
    (run(ppl.intervene(model, {"data": 2.0})), e.ObservedChoice, ["'data'", "SITE"]),
    (run(ppl.condition(model, {"bia": 2.0})), e.UnusedChoice, ["Nearest: 'bias'"]),
    (scored(FULL, ppl.condition(partial(model), {"bia": 2.0})), e.UnusedChoice, ["'model'"]),
    (scored({"bia": 2.0}, ppl.scope(partial(model), "a")), e.UnusedChoice, ["'model'"]),
    (scored(FULL, ppl.scale(model, jnp.ones(7))), e.FactorShapeError,
     ["SITE", "(7,)", "'weight'"]),
    (run(ppl.intervene(model, {"bia": 2.0})), e.UnusedChoice, ["Nearest: 'bias'"]),
    (scored({**FULL, "bias": jnp.zeros((3, 1))}), e.ChoiceShapeError,
     ["'bias'", "SITE", "(3, 1)", "(3,)", ".reshape((3,))"]),
    (scored({**FULL, "bias": 0.0}), e.ChoiceShapeError, ["'bias'", "SITE", "()", "(3,)"]),
    (scored({**FULL, "weight": jnp.zeros(3)}), e.ChoiceShapeError,
     ["'weight'", "SITE", "(3,)", "()", "jax.vmap"]),
    (scored({"x": 0.0}, lanes), e.ChoiceShapeError, ["'x'", "SITE", "()", "(4,)"]),
    (run(lambda: sample("y", NORMAL, obs=np.zeros((5, 1)))), e.ChoiceShapeError,
     ["observation", "'y'", "SITE", "(5, 1)", "()"]),
    (run(lambda: sample("y", dist.Normal(np.zeros(5), 1.0), obs=np.zeros((5, 1)))),
     e.ChoiceShapeError, ["'y'", "SITE", "(5, 1)", ".reshape((5,))"]),
    (scored({**FULL, "count": 1.5}), e.ChoiceTypeError,
     ["'count'", "SITE", "float32", "1.5", "int32", "Round or rescale"]),
    (run(lambda: sample("n", dist.Poisson(2.0), obs=np.array(2.0**31))), e.ChoiceTypeError,
     ["observation", "'n'", "SITE", "2147483648.0", "int32"]),
    (run(ppl.intervene(model, {"count": jnp.nan})), e.ChoiceTypeError,
     ["'count'", "SITE", "float32", "int32", "intervention", ".astype('int32')"]),
    (run(lambda: sample("y", NORMAL, obs_mask=True)), e.InvalidMask,
     ["'y'", "SITE", "no data", "obs=data, obs_mask=flags"]),
    (run(lambda: sample("y", NORMAL, obs=1.0, obs_mask=1)), e.InvalidMask,
     ["'y'", "SITE", "int", "true or false", "!= 0", "isnan"]),
    (run(lambda: sample("y", VECTOR, obs=jnp.zeros(3), obs_mask=np.array([True]))), e.InvalidMask,
     ["'y'", "SITE", "(1,)", "Normal", "give one of shape () or (3,)", "not broadcast"]),
    (run(lambda: sample("y", VECTOR, obs=jnp.zeros(2), obs_mask=True)), e.ChoiceShapeError,
     ["observation", "'y'", "SITE", "(2,)", "(3,)"]),
    (run(lambda: sample("n", dist.Poisson(2.0), obs=1.5, obs_mask=True)), e.ChoiceTypeError,
     ["'n'", "SITE", "1.5"]),
    (run(lambda: sample("y", dist.Dirichlet(jnp.ones(3)), obs=jnp.zeros(3), obs_mask=FLAGS)),
     e.PartialObservation,
     ["'y'", "SITE", "(3,)", "Dirichlet", "MultivariateNormal", "`split_event(mask)`",
      "one flag an event, of shape ()"]),
    (run(lambda: sample("y", FLAT, obs=1.0, obs_mask=False)), e.PartialObservation,
     ["'y'", "SITE", "ImproperUniform", "no sampler", "`sample(key)`", "two sites"]),
    (run(lambda: sample("y", NORMAL.mask(False), obs=1.0, obs_mask=True)), e.PartialObservation,
     ["'y'", "SITE", "MaskedDistribution", "not that of its draws", "ppl.mask", "two sites"]),
    (run(lambda: sample("y", Halved(), obs=jnp.zeros(3), obs_mask=FLAGS)), e.InvalidDistribution,
     ["'y'", "SITE", "Halved", "split_event", "shape (1,)", "(3,)"]),
    (simulated(partly_and_again), e.DuplicateAddress, ["'y_unobserved'", "SITE"]),
    (scored({**FULL, "weight": 1j}), e.ChoiceTypeError, ["'weight'", "complex64", "float32"]),
    (scored({**FULL, "weight": "one"}), e.ChoiceTypeError, ["'weight'", "SITE", "'one'"]),
    (simulated(branches(NORMAL, dist.Normal(jnp.zeros(2), 1.0))), e.BranchMismatch,
     ["'x'", "SITE", "float32[]", "float32[2]", "different addresses"]),
    (simulated(branches(NORMAL, dist.Poisson(1.0))), e.BranchMismatch,
     ["'x'", "SITE", "float32[]", "int32[]"]),
]  # fmt: skip


# --- objectives, guides, keys ---------------------------------------------------------------------


def guide():
    sample("weight", NORMAL)
    sample("bias", dist.Normal(jnp.zeros(3), 1.0))
    return sample("count", dist.Poisson(2.0))


def extra_guide():
    guide()
    sample("wait", NORMAL)


def poor_guide():
    sample("weight", NORMAL)
    sample("bias", dist.Normal(jnp.zeros(3), 1.0))


vector = lambda: sample("x", dist.Normal(jnp.zeros(3), 1.0))
KEYS = jax.random.split(KEY, 3)
SCALAR = ["one real scalar"]
OBJECTIVES = [
    (estimated(lambda: elbo(model, extra_guide, {})), e.UnusedChoice,
     ["'wait'", "SITE", "Nearest: 'weight'", "ppl.marginal(guide, hide=['wait']"]),
    (estimated(lambda: elbo(model, poor_guide, {})), e.MissingChoice,
     ["'count'", "SITE", "in an ELBO: sample it in the guide"]),
    (estimated(lambda: elbo(model, guide, {"dta": 1.0})), e.UnusedChoice, ["'dta'", "'data'"]),
    (estimated(vector), e.NonScalarObjective, [*SCALAR, "float32[3]", "jnp.mean"]),
    (estimated(lambda: sample("n", dist.Poisson(1.0))), e.NonScalarObjective,
     [*SCALAR, "int32[]", ".astype(float)"]),
    (estimated(lambda: (sample("x", NORMAL), jnp.ones(2))), e.NonScalarObjective,
     [*SCALAR, "float32[2] at [1]", "has_aux=True"]),
    (estimated(poor_guide), e.NonScalarObjective,
     ["'poor_guide'", *SCALAR, "a NoneType", "Return the value"]),
    (estimated(lambda: {"loss": "low"}), e.NonScalarObjective, [*SCALAR, "a str at ['loss']"]),
    (lambda: ppl.expectation(model, has_aux=True)(KEY), e.NonScalarObjective,
     ["'model'", "(scalar, aux)"]),
    *(
        (partial(transformed(model), key), e.InvalidKey, [name, "one PRNG key", *fragments])
        for transformed, name in [(ppl.seed, "ppl.seed"), (ppl.expectation, "ppl.expectation")]
        for key, fragments in [
            (None, ["NoneType", "jax.random.key(0)"]),
            (0, ["int", "jax.random.key(0)"]),
            (KEYS, ["shape (3,)", "jax.vmap"]),
            (jax.random.key_data(KEYS), ["uint32[3, 2]"]),
            (jnp.zeros(2), ["float32[2]", "jax.random.key(0)"]),
        ]
    ),
]  # fmt: skip


# --- the tests ------------------------------------------------------------------------------------

ROWS = [*STATEMENTS, *DUPLICATES, *CHOICES, *OBJECTIVES, *CONTROL, *MARGINALS, *ESTIMATORS]


@pytest.mark.usefixtures("unchecked_types")
@pytest.mark.parametrize("fails, error, fragments", ROWS)
def test_the_error_says_what_where_and_what_instead(fails, error, fragments):
    with pytest.raises(error) as caught:
        fails()
    message = str(caught.value)
    assert type(caught.value) is error and issubclass(error, e.ProgramError)
    places = re.findall(r"([^\s(]*tests/ppl/\w+\.py):(\d+) \(", message)
    if "SITE" in fragments:
        assert any("sample(" in linecache.getline(file, int(n)) for file, n in places), message
    for fragment in set(fragments) - {"SITE"}:
        assert fragment in message, f"{fragment!r} is not in: {message}"


def test_every_error_of_the_kernel_has_a_row():
    folder = pathlib.Path(ppl.__file__).parent
    outside = {folder / "errors.py", *(folder / "_fit").iterdir()}
    sources = {*folder.rglob("*.py")} - outside
    words = set(re.findall(r"\w+", " ".join(source.read_text() for source in sources)))
    raised = {name for name in words & set(e.__all__) if issubclass(getattr(e, name), Exception)}
    warned = {name for name in raised if issubclass(getattr(e, name), Warning)}
    assert {error.__name__ for _, error, _ in ROWS} == raised - warned - {"ProgramError"}


def test_legal_neighbours_of_the_errors():
    """One address in the branches of one cond; a float site takes ints; a biased one if asked."""
    either = branches(NORMAL, dist.Normal(5.0, 2.0))
    trace = ppl.seed(lambda: ppl.simulate(either))(KEY)
    sigma = 1.0 if trace.choices["b"] == 1 else 2.0
    mean = 0.0 if trace.choices["b"] == 1 else 5.0
    exact = jnp.log(0.5) + dist.Normal(mean, sigma).log_prob(trace.choices["x"])
    np.testing.assert_allclose(trace.log_density, exact, rtol=1e-5)
    ints = ppl.log_density(lambda: sample("x", NORMAL), {"x": 2})
    np.testing.assert_allclose(ints, NORMAL.log_prob(2.0), rtol=1e-6)
    biased = ppl.expectation(lambda: sample("x", NORMAL, Straight()), allow_biased=True)
    assert biased(KEY) == ppl.seed(lambda: sample("x", NORMAL))(KEY)
