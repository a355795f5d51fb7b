"""Wake-sleep and reweighted wake-sleep: each gradient by itself; the β-ELBO and the bottleneck."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from jax.lax import stop_gradient

import ppl
from ppl import sample
from ppl.errors import BiasedEstimator, InvalidSetting
from stdlib.estimators import Enumerate
from stdlib.objectives import (
    beta_elbo,
    elbo,
    forward_kl,
    reweighted_wake_sleep,
    sleep_phase,
    vib,
    wake_phase,
    wake_sleep,
)
from stdlib.testing import assert_unbiased
from tests.stdlib.bounds import KEY, NODES, WEIGHTS, dry_run
from tests.stdlib.small import (
    NORMAL,
    PROBLEMS,
    assert_all_unbiased,
    log_mean_exp,
    only_derivative,
)


def cases_of(problem):
    expected = problem.expected

    def estimate(objective):
        def program(theta, phi, extra):
            model, guide = partial(problem.model, theta), partial(problem.guide, phi)
            return objective(model, guide, problem.observed, **extra)

        return program

    def bound(theta, phi, _):
        constant = stop_gradient(phi)
        return expected(lambda z: log_mean_exp(z.weight), theta, constant, 2)

    def reweighted(theta, phi, _):
        def scores(z):
            return stop_gradient(jax.nn.softmax(z.weight)) @ z.guide

        inclusive = expected(scores, stop_gradient(theta), phi, 2, stop_gradient(phi))
        return bound(theta, phi, None) + only_derivative(inclusive)

    def tempered(theta, phi, extra):
        beta = extra["beta"]
        formula = lambda z: z.likelihood[0] + beta * (z.prior[0] - z.guide[0])
        return expected(formula, theta, phi)

    drop = lambda f: lambda theta, phi, extra: f(theta, phi, {})
    rws = partial(reweighted_wake_sleep, num_particles=2, allow_biased=True)
    return {
        "wake": (drop(estimate(partial(wake_phase, num_particles=2))), bound),
        "reweighted": (drop(estimate(rws)), reweighted),
        "beta": (estimate(beta_elbo), tempered),
    }


@pytest.mark.parametrize("problem", PROBLEMS.values(), ids=PROBLEMS)
def test_values_and_gradients(problem):
    assert_all_unbiased(problem, cases_of(problem), extra={"beta": 2.5})


def test_the_two_wake_phases_are_reweighted_wake_sleep():
    """Draw for draw, in both gradients."""

    def arguments(params):
        model, guide = partial(NORMAL.model, params["theta"]), partial(NORMAL.guide, params["phi"])
        return model, guide, NORMAL.observed, 5

    def together(params):
        return reweighted_wake_sleep(*arguments(params), allow_biased=True)

    slope = lambda f: jax.grad(ppl.expectation(f), argnums=1)(KEY, NORMAL.at)
    both = slope(together)
    wake = slope(lambda params: wake_phase(*arguments(params)))
    inclusive = slope(lambda params: forward_kl(*arguments(params), allow_biased=True))
    close = partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6)
    jax.tree.map(close, both, jax.tree.map(jnp.add, wake, inclusive))
    assert all(leaf == 0 for leaf in jax.tree.leaves((wake["phi"], inclusive["theta"])))


def test_the_bias_of_the_reweighted_guide_falls_with_the_particles():
    """Towards the forward divergence's gradient, E_p[d log q], as one over their number."""
    problem = PROBLEMS["discrete"]
    theta, phi = problem.at["theta"], problem.at["phi"]
    exact = problem.points(theta, phi, phi)
    posterior = jax.nn.softmax(exact.prior + exact.likelihood)
    wanted = posterior - jax.nn.softmax(phi)

    def finite(phi, count):
        formula = lambda z: stop_gradient(jax.nn.softmax(z.weight)) @ z.guide
        return problem.expected(formula, theta, phi, count, stop_gradient(phi))

    errors = [float(jnp.linalg.norm(jax.grad(finite)(phi, k) - wanted)) for k in (2, 6)]
    assert errors[0] > 2.0 * errors[1] > 0


# --- dreams --------------------------------------------------------------------------------------

DREAMS = {"theta": {"logit": 0.4, "shift": 0.5}, "phi": {"slope": 0.7, "offset": -0.3}}


def dreamer(theta):
    def inner():
        return sample("x", dist.Normal(k + theta["shift"], 0.9))

    k = sample("k", dist.Bernoulli(probs=jax.nn.sigmoid(theta["logit"])))
    ppl.scope(inner, "data")()


def recogniser(phi, seen):
    probs = jax.nn.sigmoid(phi["slope"] * seen["data"]["x"] + phi["offset"])
    sample("k", dist.Bernoulli(probs=probs))


def log_q(phi, x, k):
    return jax.nn.log_sigmoid((2 * k - 1) * (phi["slope"] * x + phi["offset"]))


def dreamt(theta, phi):
    """E[log q(k | x)] over both, by the sum over k and a quadrature over x."""
    weights = jnp.asarray(WEIGHTS / WEIGHTS.sum())
    given = [weights @ log_q(phi, k + theta["shift"] + 0.9 * NODES, k) for k in (0, 1)]
    prior = jax.nn.sigmoid(theta["logit"])
    return (1 - prior) * given[0] + prior * given[1]


def evidence_bound(theta, phi, x=1.1):
    total = 0.0
    for k in (0, 1):
        log_p = jax.nn.log_sigmoid((2 * k - 1) * theta["logit"])
        log_p += dist.Normal(k + theta["shift"], 0.9).log_prob(x)
        total += jnp.exp(log_q(phi, x, k)) * (log_p - log_q(phi, x, k))
    return total


def test_wake_and_sleep():
    """The sleep phase alone, in the first; both phases, in the second. Each gradient by its law."""
    data = {"data": {"x": 1.1}}

    def objective(params):
        first, second = params["sleep"], params["both"]
        asleep = sleep_phase(
            partial(dreamer, first["theta"]), partial(recogniser, first["phi"]), data
        )
        both = wake_sleep(
            partial(dreamer, second["theta"]), partial(recogniser, second["phi"]), data
        )
        return first["value"] * asleep + second["value"] * both

    def exact(params):
        first, second = params["sleep"], params["both"]
        asleep = dreamt(stop_gradient(first["theta"]), first["phi"])
        both = evidence_bound(second["theta"], stop_gradient(second["phi"]))
        both += only_derivative(dreamt(stop_gradient(second["theta"]), second["phi"]))
        return first["value"] * asleep + second["value"] * both

    params = {name: {"value": 1.0, **DREAMS} for name in ("sleep", "both")}
    params = jax.tree.map(jnp.asarray, params)
    assert_unbiased(objective, params, exact=exact, key=KEY, tolerance=2e-4)


# --- the information bottleneck ------------------------------------------------------------------

JOINT = np.array([[0.3, 0.1], [0.05, 0.2], [0.15, 0.2]])
"""p(x, y), of three inputs and two targets."""


def information(joint):
    outer = joint.sum(1, keepdims=True) * joint.sum(0, keepdims=True)
    return float(np.sum(joint * np.log(joint / outer)))


def bottleneck(probs, marginal, answer, beta):
    """The mean of `vib` over the data, plus H(Y); the codes are enumerated, so it is exact."""

    def decoder():
        z = sample("z", dist.Bernoulli(probs=marginal))
        sample("y", dist.Bernoulli(probs=jnp.asarray(answer)[z]))

    def objective(x, y):
        encoder = lambda: sample("z", dist.Bernoulli(probs=jnp.asarray(probs)[x]), Enumerate())
        return vib(decoder, encoder, {"y": y}, beta)

    estimate = jax.jit(ppl.expectation(objective))
    mean = sum(JOINT[x, y] * float(estimate(KEY, x, y)) for x in range(3) for y in range(2))
    target = JOINT.sum(0)
    return mean - float(np.sum(target * np.log(target)))


def test_the_bottleneck_is_a_bound_of_the_information():
    probs, beta = np.array([0.9, 0.2, 0.4]), 0.3
    codes = np.stack([1 - probs, probs], 1)
    code_and_input = codes * JOINT.sum(1)[:, None]
    code_and_target = codes.T @ JOINT
    exact = information(code_and_target) - beta * information(code_and_input)
    marginal = code_and_input.sum(0)[1]
    answer = code_and_target[:, 1] / code_and_target.sum(1)
    assert bottleneck(probs, marginal, answer, beta) == pytest.approx(exact, abs=1e-5)
    assert bottleneck(probs, 0.5, answer, beta) < exact - 1e-3
    assert bottleneck(probs, marginal, answer[::-1], beta) < exact - 1e-3


# --- special cases and errors --------------------------------------------------------------------


def test_beta_of_one_is_the_elbo_and_more_is_below():
    def run(objective):
        model, guide = (
            partial(NORMAL.model, NORMAL.at["theta"]),
            partial(NORMAL.guide, NORMAL.at["phi"]),
        )
        return ppl.expectation(lambda: objective(model, guide, NORMAL.observed))

    values = jax.jit(jax.vmap(run(elbo)))(jax.random.split(KEY, 5000))
    same, above = (
        jax.jit(jax.vmap(run(partial(beta_elbo, beta=beta))))(jax.random.split(KEY, 5000))
        for beta in (1.0, 2.0)
    )
    np.testing.assert_allclose(same, values, atol=1e-5)
    difference = np.asarray(values - above)
    assert difference.mean() > 5 * difference.std() / np.sqrt(5000)


def coin():
    sample("k", dist.Bernoulli(0.3))


@pytest.mark.parametrize(
    ("model", "observed", "text"),
    [
        (coin, {}, r"but it was given no address of its data\. Leave `obs` out"),
        (
            lambda: sample("x", dist.Normal(0.0, 1.0), obs=1.0),
            {"x": 1.0},
            r"has its data at .*\.py",
        ),
        (coin, {"y": {"z": 1.0}}, r"observed names 'y/z', where the model draws nothing.*'k'"),
    ],
)
def test_what_cannot_be_dreamt(model, observed, text):
    with pytest.raises(InvalidSetting, match=text):
        dry_run(lambda: sleep_phase(model, lambda _: coin(), observed))


def test_reweighted_wake_sleep_must_be_allowed():
    with pytest.raises(
        BiasedEstimator, match=r"reweighted_wake_sleep\(\.\.\., allow_biased=True\)"
    ):
        dry_run(lambda: reweighted_wake_sleep(coin, coin, {}, 2))
    with pytest.raises(InvalidSetting, match="num_particles of reweighted_wake_sleep must be"):
        dry_run(lambda: reweighted_wake_sleep(coin, coin, {}, 0, allow_biased=True))
