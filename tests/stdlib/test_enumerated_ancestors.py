"""The ancestors of a particle filter, summed over: against sums by hand, given the noise."""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

import ppl
from ppl import sample
from ppl.errors import TooManyJointStates, UnsuitableEstimator
from stdlib.estimators import Enumerate
from stdlib.inference import SMC
from stdlib.inference.resampling import SCHEMES

KEY, RATE = jax.random.key(5), 0.9
BOTH = {"ancestors": Enumerate(), "resampled": Enumerate()}


class Fixed(ppl.extend.Estimator):
    """A given value in place of a draw."""

    unbiased = False
    value: jax.Array

    def particles(self, key, distribution):
        return ppl.extend.Particles(self.value[None], None)


def walk(steps, rate):
    def step(x, _):
        x = sample("x", dist.Normal(rate * x, 1.0))
        sample("y", dist.Normal(x, 0.5))
        return x, None

    jax.lax.scan(step, 0.0, length=steps)


def data(steps):
    return np.linspace(0.5, 1.0, steps, dtype=np.float32)


def objective(steps, count, scheme, rate):
    """The sum over a drawn path, and its density; the path is returned beside."""
    smc = SMC(count, resampling=scheme)
    trace = ppl.simulate(ppl.normalize(partial(walk, steps, rate), {"y": data(steps)}, smc))
    path = trace.choices["x"]
    return jnp.sum(path) + trace.log_density, path


def noise(program, count):
    """What each particle adds at each step, `(steps, count)`: its path where the rate is zero."""

    def path(end):
        fixed = {"ancestors": Fixed(jnp.arange(count)), "resampled": Fixed(end)}
        run = ppl.with_estimators(program, fixed)
        return ppl.expectation(run, has_aux=True, allow_biased=True)(KEY, 0.0)[1]

    paths = jax.jit(jax.vmap(path))(jnp.arange(count))
    return np.asarray(paths, float).T


def log_normal(x, mean, scale):
    return -0.5 * ((x - mean) / scale) ** 2 - np.log(scale) - 0.5 * np.log(2 * np.pi)


def located(weights, points):
    return tuple(np.searchsorted(np.cumsum(weights)[:-1], points, side="right"))


def pieces(weights, ends):
    """Lengths and midpoints of the intervals of a point in which its ancestors stay the same."""
    count = len(weights)
    breaks = [count * share - ends for share in np.cumsum(weights)]
    at = np.unique(np.clip(np.concatenate([[0.0, 1.0], np.ravel(breaks)]), 0.0, 1.0))
    return np.diff(at), (at[1:] + at[:-1]) / 2


def chances(weights, scheme):
    """The probability of each joint state of the ancestors."""
    count, strata, found = len(weights), np.arange(len(weights)), {}
    if scheme == "systematic":
        for length, u in zip(*pieces(weights, strata), strict=True):
            state = located(weights, (strata + u) / count)
            found[state] = found.get(state, 0.0) + length
        return found
    rows = np.tile(weights, (count, 1))
    if scheme == "stratified":
        rows = np.zeros((count, count))
        for j in strata:
            for length, u in zip(*pieces(weights, np.array([j])), strict=True):
                rows[j, located(weights, [(j + u) / count])[0]] += length
    states = itertools.product(range(count), repeat=count)
    return {state: np.prod(rows[strata, list(state)]) for state in states}


def by_hand(rate, eps, scheme):
    """The objective's mean over all ancestors, and over the end of the path."""
    (steps, count), y = eps.shape, data(eps.shape[0]).astype(float)

    def after(t, paths, log_evidence):
        x = (rate * paths[-1] if t else 0.0) + eps[t]
        paths = np.concatenate([paths, x[None]])
        logs = log_normal(y[t], x, 0.5) - np.log(count)
        gain = np.logaddexp.reduce(logs)
        weights, log_evidence = np.exp(logs - gain), log_evidence + gain
        if t < steps - 1:
            return sum(
                chance * after(t + 1, paths[:, list(state)], log_evidence)
                for state, chance in chances(weights, scheme).items()
            )
        before = np.concatenate([np.zeros((1, count)), paths[:-1]])
        density = log_normal(paths, rate * before, 1.0) + log_normal(y[:, None], paths, 0.5)
        return np.sum(weights * (np.sum(paths + density, 0) - log_evidence))

    return after(0, np.zeros((0, count)), 0.0)


@pytest.mark.parametrize(
    "steps, count, scheme",
    [
        (3, 2, "multinomial"),
        (2, 3, "stratified"),
        (2, 3, "systematic"),
        pytest.param(3, 3, "multinomial", marks=pytest.mark.law),
        pytest.param(4, 2, "systematic", marks=pytest.mark.law),
    ],
)
def test_the_sum_over_ancestors_is_that_by_hand(steps, count, scheme):
    program = partial(objective, steps, count, scheme)
    eps = noise(program, count)
    exact = ppl.with_estimators(lambda rate: program(rate)[0], BOTH)
    value, slope = jax.jit(jax.value_and_grad(ppl.expectation(exact), 1))(KEY, RATE)
    by = [by_hand(RATE + h, eps, scheme) for h in (0.0, 1e-4, -1e-4)]
    np.testing.assert_allclose([value, slope], [by[0], (by[1] - by[2]) / 2e-4], rtol=2e-5)


def test_the_sum_over_ancestors_of_a_conditional_filter():
    """Its mean over the noise is that of scores, in value and gradient."""

    def density(rate):
        posterior = ppl.normalize(partial(walk, 3, rate), {"y": data(3)}, SMC(3))
        return ppl.log_density(posterior, {"x": jnp.array([0.1, 0.5, 0.3])})

    exact = ppl.with_estimators(density, {"ancestors": Enumerate()})
    keys = jax.random.split(KEY, 2000)
    runs = [jax.value_and_grad(ppl.expectation(f), 1) for f in (exact, density)]
    summed, scored = jax.jit(lambda: [jax.vmap(run, (0, None))(keys, RATE) for run in runs])()
    for one, other in zip(summed, scored, strict=True):
        error = np.sqrt((np.var(one) + np.var(other)) / len(keys))
        assert abs(np.mean(one) - np.mean(other)) < 5 * error
    assert np.var(summed[1]) < np.var(scored[1])


@pytest.mark.parametrize("scheme", ["multinomial", "stratified", "systematic"])
def test_the_probabilities_of_a_support_are_those_of_its_states(scheme):
    ancestors = SCHEMES[scheme](jnp.log(jnp.array([0.2, 0.5, 0.3])), 2)
    support, probs = jnp.asarray(ancestors.enumerate_support()), ancestors.enumerate_probs()
    assert support.shape == (9, 2)
    np.testing.assert_allclose(jnp.exp(ancestors.log_prob(support)), probs, atol=1e-6)
    np.testing.assert_allclose(jnp.sum(probs), 1.0, rtol=1e-6)


def test_an_impossible_particle_has_derivatives():
    """Its probability is zero, and the derivatives of the sum over its heirs are finite."""

    def cost(logs):
        a = sample("a", SCHEMES["multinomial"](logs, 2), Enumerate())
        return jnp.sum(jnp.array([1.0, 2.0])[a])

    value, slope = jax.value_and_grad(ppl.expectation(cost), 1)(KEY, jnp.array([0.0, -jnp.inf]))
    assert value == 2.0 and bool(jnp.all(jnp.isfinite(slope)))


@pytest.mark.parametrize(
    "steps, count, scheme, error, words",
    [
        (2, 6, "multinomial", UnsuitableEstimator, r"6\*\*6 joint states, over the limit of 16384"),
        (4, 3, "multinomial", TooManyJointStates, "19683 joint states"),
        (2, 3, "residual", UnsuitableEstimator, "no `enumerate_support`"),
    ],
)
def test_more_are_refused(steps, count, scheme, error, words):
    program = ppl.with_estimators(lambda r: objective(steps, count, scheme, r)[0], BOTH)
    with pytest.raises(error, match=words):
        jax.eval_shape(ppl.expectation(program), KEY, RATE)
