"""Same key, same answer: whatever takes a PRNG key is a function of its arguments.

Each row is called twice, traced anew, after a call that failed, and in `vmap`.
"""

import inspect
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import optax
import pytest

import ppl
import stdlib.diagnostics
import stdlib.estimators
import stdlib.inference
from ppl import ScoreFunction, sample
from stdlib.diagnostics import gradient_report
from stdlib.distributions import FloatBernoulli
from stdlib.estimators import (
    Enumerate,
    LeaveOneOut,
    MeasureValued,
    Rebar,
    StochasticTriple,
    WithoutReplacement,
    gradient_variance,
    tune,
)
from stdlib.inference import (
    AIS,
    HMC,
    MALA,
    NUTS,
    SIR,
    SMC,
    Exact,
    Importance,
    ParticleGibbs,
    RandomWalk,
    chain,
)
from stdlib.objectives import elbo

KEY = jax.random.key(7)
DATA = jnp.array([0.3, -0.8, 1.1])


def path():
    def step(x, _):
        x = sample("x", dist.Normal(0.9 * x, 1.0))
        sample("y", dist.Normal(x, 0.5))
        return x, None

    return jax.lax.scan(step, 0.0, length=3)[0]


def pair():
    z = sample("z", dist.Categorical(probs=jnp.array([0.2, 0.3, 0.5])))
    sample("x", dist.Normal(1.0 * z, 1.0))


def normal(mean=0.0):
    sample("y", dist.Normal(sample("u", dist.Normal(mean, 1.0)), 0.7), obs=0.4)


def guide(mean):
    return sample("u", dist.Normal(mean, 0.8))


def drawn(program):
    """The draw of a program and its density, with the derivative of neither."""

    def run(key):
        return ppl.seed(lambda: (program(), ppl.simulate(program).log_density))(key)

    return run


def estimated(objective, *args, allow_biased=False):
    estimate = ppl.expectation(objective, allow_biased=allow_biased)
    return lambda key: jax.value_and_grad(estimate, argnums=1)(key, *args)


def waves(theta):
    return jnp.sin(3.0 * sample("z", dist.Categorical(logits=theta), Enumerate()))


def hidden_path(theta):
    def step(z, shift):
        z = sample("z", dist.Categorical(logits=theta[z]), Enumerate())
        return z, jnp.sin(2.0 * z + shift)

    return jnp.sum(jax.lax.scan(step, 0, jnp.arange(4.0))[1])


def drawn_gradient(objective, theta):
    return lambda key: jax.grad(ppl.log_expectation(objective, draw=key))(theta)


def coin(estimator, family=dist.Bernoulli):
    return estimated(lambda p: (1.0 * sample("x", family(p), estimator) - 0.45) ** 2, 0.3)


def moved(kernel):
    target = ppl.extend.Target(normal, {})
    return lambda key: ppl.seed(chain)(key, kernel, target, {"u": 0.3}, 5)


def posterior(program, observed, algorithm):
    return drawn(ppl.normalize(program, observed, algorithm))


def evidence(program, observed, algorithm):
    run = lambda: algorithm.log_evidence(ppl.extend.Target(program, observed))
    return lambda key: ppl.expectation(run)(key)


def switching(p):
    table = jnp.arange(3.0)
    flags = jnp.array([True, False, True])
    one = lambda x, up: jax.lax.cond(
        up, lambda: x * sample("b", dist.Bernoulli(p), ScoreFunction()), lambda: x * p
    )
    return jnp.sum(jax.vmap(one)(table, flags))


FILTERED = {"y": DATA}
TRACEABLE = {
    "seed": lambda key: ppl.seed(path)(key),
    "simulate": drawn(path),
    "expectation": estimated(lambda m: guide(m) ** 2, 0.3),
    "expectation in cond": estimated(switching, 0.3),
    "elbo": estimated(lambda m: elbo(normal, partial(guide, m), {}), 0.3),
    "log_expectation": drawn_gradient(waves, jnp.zeros(6)),
    "log_expectation of a chain": drawn_gradient(hidden_path, jnp.zeros((4, 4))),
    "marginal": lambda key: ppl.expectation(
        lambda: ppl.log_density(ppl.marginal(path, "y", SMC(4)), FILTERED)
    )(key),
    "gradient_variance": lambda key: gradient_variance(
        lambda p, tuned: (sample("x", FloatBernoulli(p), Rebar(**tuned)) - 0.45) ** 2
    )(key, 0.3, {"temperature": 0.5, "eta": 0.7}),
    "SMC": posterior(path, FILTERED, SMC(4)),
    "ParticleGibbs": lambda key: ppl.seed(chain)(
        key, ParticleGibbs(SMC(3)), ppl.extend.Target(path, FILTERED), {"x": jnp.zeros(3)}, 3
    ),
    "SIR": posterior(pair, {"x": 1.2}, SIR(3)),
    "Importance": posterior(pair, {"x": 1.2}, Importance()),
    "Exact": posterior(pair, {"x": 1.2}, Exact()),
    "AIS": evidence(normal, {}, AIS(2, 2, RandomWalk(0.3))),
    "HMC": moved(HMC(0.2, 3)),
    "MALA": moved(MALA(0.2)),
    "NUTS": moved(NUTS(0.2)),
    "RandomWalk": moved(RandomWalk(0.2)),
    "LeaveOneOut": coin(LeaveOneOut(3)),
    "MeasureValued": coin(MeasureValued()),
    "StochasticTriple": coin(StochasticTriple()),
    "WithoutReplacement": estimated(
        lambda t: jnp.sin(1.0 * sample("k", dist.Categorical(logits=t), WithoutReplacement(2))),
        jnp.arange(4.0),
    ),
    "Rebar": coin(Rebar(0.5, 0.8), FloatBernoulli),
}


def trained(key):
    fitted = ppl.fit(
        lambda p, x: elbo(normal, partial(guide, p["mean"] + jnp.mean(x)), {}),
        {"mean": 0.0},
        optax.adam(0.05),
        key=key,
        steps=7,
        data=np.arange(8.0, dtype=np.float32),
        batch_size=3,
        progress=False,
    )
    return fitted.params, fitted.history


def cost(p):
    return (sample("x", dist.Bernoulli(p)) - 0.45) ** 2


def reported(key):
    report = gradient_report(cost, 0.3, key, num_samples=16)
    return report.total_variance, report.bias_z


def tuned(key):
    found = tune(cost, 0.3, key, [LeaveOneOut(2), MeasureValued()], num_samples=16)
    return [m.variance for m in found.evidence]


ON_THE_HOST = {"fit": trained, "gradient_report": reported, "tune": tuned}


def assert_same(one, other):
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_array_equal(a, b)


def assert_close(one, other):
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=1e-5)


def fail():
    sample("x", dist.Normal(0.0, 1.0))
    raise ArithmeticError


ALIKE = ["log_expectation of a chain", "NUTS", "MALA", "HMC", "SIR", "LeaveOneOut", "Rebar"]
"""Rows that draw by the means of others."""


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.law if name in ALIKE else ()) for name in TRACEABLE],
)
def test_same_key_same_answer(name):
    run = TRACEABLE[name]
    plain, compiled = jax.jit(run)(KEY), jax.jit(lambda key: run(key))
    assert_same(compiled(KEY), plain)
    with pytest.raises(ArithmeticError):
        jax.jit(lambda key: (run(key), ppl.seed(fail)(key)))(KEY)
    mapped = jax.jit(jax.vmap(run))(jnp.stack([KEY, jax.random.key(8), KEY]))
    first, last = (jax.tree.map(lambda x, i=i: x[i], mapped) for i in (0, 2))
    assert_same(first, last)
    assert_close(first, plain)


@pytest.mark.parametrize("name", ["seed", "expectation", "elbo", "log_expectation", "SIR"])
def test_same_key_same_answer_without_compiling(name):
    first = TRACEABLE[name](KEY)
    assert_same(TRACEABLE[name](KEY), first)
    assert_close(first, jax.jit(TRACEABLE[name])(KEY))


@pytest.mark.parametrize(
    "objective, theta",
    [(waves, jnp.zeros(6)), pytest.param(hidden_path, jnp.eye(4), marks=pytest.mark.law)],
)
def test_a_drawn_gradient_does_not_depend_on_earlier_calls(objective, theta):
    """The function that `log_expectation` makes is one function, whatever it is called with."""
    bound = ppl.log_expectation(objective, draw=KEY)
    first = jax.grad(bound)(theta)
    bound(theta), jax.jit(jax.grad(bound))(theta), jax.grad(bound)(theta + 1.0)
    assert_same(jax.grad(bound)(theta), first)
    assert_close(jax.jit(jax.grad(bound))(theta), first)
    again = ppl.log_expectation(objective, draw=KEY)
    assert_same(jax.grad(again)(theta), first)


@pytest.mark.parametrize("name", ON_THE_HOST)
def test_same_key_same_answer_of_what_runs_on_the_host(name):
    first = ON_THE_HOST[name](KEY)
    with pytest.raises(ArithmeticError):
        ppl.seed(fail)(KEY)
    assert_same(ON_THE_HOST[name](KEY), first)


def test_all_that_draws_has_a_row():
    rows = {name.split(",")[0].split(" ")[0] for name in (*TRACEABLE, *ON_THE_HOST)}
    keyed = {
        name
        for module in (ppl, stdlib.diagnostics, stdlib.estimators)
        for name in module.__all__
        if inspect.isfunction(getattr(module, name))
        and {"key", "draw"} & set(inspect.signature(getattr(module, name)).parameters)
    }
    algorithms = {*stdlib.inference.__all__} - {"Kernel", "chain", "most_likely"}
    assert keyed | algorithms | {"seed", "expectation"} <= rows
