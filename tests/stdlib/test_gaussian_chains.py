"""Chains of Gaussian steps by `Exact()`: found in programs, and equal to linear algebra by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from jax import lax

import ppl
from ppl import errors, sample
from ppl.extend import Target
from stdlib.inference import Exact, most_likely
from stdlib.inference._chain import chain_of
from stdlib.testing import assert_unbiased

KEY = jax.random.key(5)
Y = jnp.array([0.3, 1.2, 0.9, -0.1, 0.5, 0.7])
TIMES = jnp.linspace(0.5, 1.5, 6)


# --- programs ------------------------------------------------------------------------------------


def centred(t):
    def step(x, _):
        x = sample("x", dist.Normal(t * x, 1.0))
        sample("y", dist.Normal(x, 0.5))
        return x, None

    lax.scan(step, sample("start", dist.Normal(0.5, 0.8)), length=6)


def noise_of_steps(t):
    """Noise that is carried on, two sites a step, what varies in time, and a counter."""

    def step(carry, v):
        level, count = carry
        noise = ppl.scope(lambda: sample("noise", dist.Normal(0.0, 1.0)), "in")()
        other = sample("other", dist.Normal(jnp.zeros(2), t).to_event(1))
        level = t * level + v * noise + other[0]
        sample("y", dist.Normal(level + 0.1 * count + other[1], 0.5))
        return (level, count + 1), None

    w = sample("w", dist.Normal(jnp.zeros(2), 1.0))
    lax.scan(step, (w[0] + w[1], 0), TIMES)


def regression(t):
    """A coefficient that all steps read, from a known start; the last observation is carried."""
    w = sample("w", dist.Normal(0.0, 1.0))

    def step(carry, v):
        x, last = carry
        x = sample("x", dist.Normal(t * x, 1.0))
        y = sample("y", dist.Normal(x + v * w + 0.2 * last, 0.5))
        return (x, y), None

    lax.scan(step, (0.1, 0.0), TIMES)


def independent(t):
    """Nothing is handed on."""

    def step(_, v):
        sample("y", dist.Normal(sample("x", dist.Normal(t * v, 1.0)), 0.5))
        return None, None

    lax.scan(step, None, TIMES)


def incomplete(t):
    """Steps without an observation, by a mask, and of half weight."""

    def step(x, seen):
        x = sample("x", dist.Normal(t * x, 1.0))
        ppl.mask(lambda: sample("y", dist.Normal(x, 0.5)), seen)()
        ppl.scale(lambda: sample("z", dist.Normal(2.0 * x, 1.0), obs=0.3), 0.5)()
        return x, None

    lax.scan(step, 0.0, Y > 0.4)


def missing(t):
    """The same by `obs_mask`, of vectors."""

    def step(x, data):
        x = sample("x", dist.Normal(t * x, jnp.ones(2)))
        sample("v", dist.Normal(x, 0.5), obs=data[0], obs_mask=data[1])
        sample("y", dist.Normal(x[0], 0.5))
        return x, None

    lax.scan(step, jnp.zeros(2), (jnp.stack([Y, Y], 1), jnp.stack([Y > 0.4, Y < 0.8], 1)))


def many_sites(t):
    """Vectors with a covariance, a branch on data, and steps within the step."""

    def step(x, v):
        x = sample("x", dist.MultivariateNormal(t * x, COVARIANCE))
        x = lax.cond(v > 1.0, lambda x: 2.0 * x, lambda x: jnp.flip(x), x)
        inner = lax.scan(lambda c, x: (sample("u", dist.Normal(c + x, 1.0)), None), 0.0, x)[0]
        sample("y", dist.Normal(inner, 0.5))
        return x, None

    lax.scan(step, jnp.ones(2), TIMES)


COVARIANCE = jnp.array([[1.0, 0.4], [0.4, 0.6]])
CHAINS = [
    noise_of_steps,
    missing,
    *(
        pytest.param(model, marks=pytest.mark.law)
        for model in (centred, regression, independent, incomplete, many_sites)
    ),
]


def target_of(model, t, y=Y):
    return Target(lambda: model(t), {"y": y})


def dense(target):
    """The log density of flat choices, and the way back from them."""
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), target.hidden)
    flat, rebuild = jax.flatten_util.ravel_pytree(zeros)
    return (lambda u: target.log_density(rebuild(u))), flat, rebuild


def by_hand(target):
    """The evidence of all choices at once, from the derivatives of their density at zero."""
    f, zeros, _ = dense(target)
    slope, precision = jax.grad(f)(zeros), -jax.hessian(f)(zeros)
    log_volume = zeros.size * jnp.log(2 * jnp.pi) - jnp.linalg.slogdet(precision)[1]
    return f(zeros) + 0.5 * slope @ jnp.linalg.solve(precision, slope) + 0.5 * log_volume


# --- evidence ------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", CHAINS, ids=lambda model: model.__name__)
def test_evidence_of_chains(model):
    """By steps and by associative scans, with the gradient."""
    assert chain_of(target_of(model, 0.8)) is not None

    @jax.jit
    def all_three(t):
        values = [
            Exact(parallel=False).log_evidence(target_of(model, t)),
            Exact(parallel=True).log_evidence(target_of(model, t)),
            by_hand(target_of(model, t)),
        ]
        return jnp.stack(values)

    values, slopes = jax.jit(lambda t: jax.jvp(all_three, (t,), (1.0,)))(0.8)
    np.testing.assert_allclose(values, values[2], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(slopes, slopes[2], rtol=1e-4, atol=1e-4)


def walk(t, data, noise=0.5):
    def step(x, y):
        x = sample("x", dist.Normal(jnp.array([[1.0, t], [0.0, 0.9]]) @ x, 1.0).to_event(1))
        sample("y", dist.Normal(x[0], noise), obs=y)
        return x, None

    lax.scan(step, jnp.zeros(2), data)


def kalman(t, data, noise=0.5):
    """The filter, in double precision."""
    turn, read = np.array([[1.0, t], [0.0, 0.9]]), np.array([1.0, 0.0])
    mean, spread, total = np.zeros(2), np.zeros((2, 2)), 0.0
    for y in np.asarray(data, float):
        mean, spread = turn @ mean, turn @ spread @ turn.T + np.eye(2)
        seen, off = spread[0, 0] + noise**2, y - mean[0]
        total -= 0.5 * (off**2 / seen + np.log(2 * np.pi * seen))
        gain = spread @ read / seen
        mean, spread = mean + gain * off, spread - np.outer(gain, gain) * seen
    return total


@pytest.mark.parametrize("parallel", [False, True])
def test_long_chains_far_from_zero(parallel):
    """Rounding, against double precision; with finite differences for the gradient."""
    data = 1000.0 + 3.0 * jnp.cumsum(jax.random.normal(KEY, (1000,)))
    evidence = lambda t: Exact(parallel).log_evidence(Target(lambda: walk(t, data), {}))
    value, slope = jax.jit(jax.value_and_grad(evidence))(0.3)
    np.testing.assert_allclose(value, kalman(0.3, data), rtol=1e-5)
    difference = (kalman(0.3001, data) - kalman(0.2999, data)) / 2e-4
    np.testing.assert_allclose(slope, difference, rtol=2e-3)


@pytest.mark.parametrize("parallel", [False, True])
def test_memory_is_linear_in_steps(parallel):
    def largest(length):
        evidence = lambda y: Exact(parallel).log_evidence(Target(lambda: walk(0.3, y), {}))
        jaxpr = jax.make_jaxpr(jax.grad(evidence))(jnp.zeros(length))
        return max(v.aval.size for eqn in jaxpr.eqns for v in eqn.outvars)

    assert largest(400) <= 2.1 * largest(200)


def test_second_derivatives():
    found = jax.jit(jax.hessian(lambda t: Exact().log_evidence(target_of(centred, t))))(0.8)
    exact = jax.jit(jax.hessian(lambda t: by_hand(target_of(centred, t))))(0.8)
    np.testing.assert_allclose(found, exact, rtol=1e-3)


def test_chains_side_by_side():
    """Mapped over data, inside of the program and outside."""
    program = ppl.marginal(centred, "y", Exact())
    both = jnp.stack([Y, Y + 0.5])
    lanes = jax.jit(
        lambda t: ppl.log_density(lambda: jax.vmap(lambda _: program(t))(both), {"y": both})
    )
    each = jax.jit(lambda t: jax.vmap(lambda y: by_hand(target_of(centred, t, y)))(both))(0.8)
    np.testing.assert_allclose(lanes(0.8), each.sum(), rtol=1e-5)
    outside = jax.jit(jax.vmap(lambda y: Exact().log_evidence(target_of(centred, 0.8, y))))(both)
    np.testing.assert_allclose(outside, each, rtol=1e-5)


def test_finite_choices_beside():
    def switched(t):
        z = sample("z", dist.Bernoulli(0.3))
        centred(jnp.where(z == 1, t, 0.2))

    found = jax.jit(lambda: Exact().log_evidence(target_of(switched, 0.8)))()
    parts = jax.jit(jax.vmap(lambda t: by_hand(target_of(centred, t))))(jnp.array([0.2, 0.8]))
    np.testing.assert_allclose(found, np.logaddexp(*(np.log([0.7, 0.3]) + parts)), rtol=1e-5)


# --- paths ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("parallel", [False, pytest.param(True, marks=pytest.mark.law)])
def test_draws_are_of_the_posterior(parallel):
    """Means, variances and covariances of neighbours by z-scores, and the density of each draw."""
    target = target_of(noise_of_steps, 0.8)
    f, zeros, _ = dense(target)
    precision = np.asarray(-jax.jit(jax.hessian(f))(zeros), float)
    covariance = np.linalg.inv(precision)
    mean = covariance @ np.asarray(jax.jit(jax.grad(f))(zeros), float)

    @jax.jit
    @jax.vmap
    def drawn(key):
        choices, log_density = ppl.seed(Exact(parallel).simulate)(key, target)
        return jax.flatten_util.ravel_pytree(choices)[0], log_density

    u, log_densities = map(np.asarray, drawn(jax.random.split(KEY, 20_000)))
    variances = np.diag(covariance)
    assert np.all(np.abs(u.mean(0) - mean) < 5 * np.sqrt(variances / 20_000))
    errors_of = np.sqrt((np.outer(variances, variances) + covariance**2) / 20_000)
    assert np.all(np.abs(np.cov(u.T) - covariance) < 5 * errors_of)
    off = u[:50] - mean
    log_volume = len(mean) * np.log(2 * np.pi) - np.linalg.slogdet(precision)[1]
    by_hand = -0.5 * np.sum(off @ precision * off, 1) - 0.5 * log_volume
    np.testing.assert_allclose(log_densities[:50], by_hand, atol=2e-3)


def test_draws_are_of_the_program_and_scored_by_it():
    """At its addresses, and with the gradient of the density of a path."""
    posterior = ppl.normalize(centred, {"y": Y}, Exact())
    trace = jax.jit(ppl.seed(lambda: ppl.simulate(posterior, 0.8)))(KEY)
    assert {name: x.shape for name, x in trace.choices.items()} == {"start": (), "x": (6,)}

    def by_hand_of(t):
        target = target_of(centred, t)
        return target.log_density(trace.choices) - by_hand(target)

    scored = jax.jit(jax.value_and_grad(lambda t: ppl.log_density(posterior, trace.choices, t)))
    np.testing.assert_allclose(scored(0.8)[0], trace.log_density, atol=1e-4)
    np.testing.assert_allclose(scored(0.8), jax.jit(jax.value_and_grad(by_hand_of))(0.8), rtol=1e-4)


def test_gradients_pass_draws():
    def objective(t):
        x = ppl.normalize(centred, {"y": Y}, Exact())(t)
        return x["x"][2] * x["x"][3] + x["start"]

    def exact(t):
        f, zeros, _ = dense(target_of(centred, t))
        covariance = jnp.linalg.inv(-jax.hessian(f)(zeros))
        mean = covariance @ jax.grad(f)(zeros)
        return mean[3] * mean[4] + covariance[3, 4] + mean[0]

    assert_unbiased(objective, 0.8, exact=exact, key=KEY, num_samples=20_000)


def test_most_likely_paths():
    target = target_of(regression, 0.8)
    f, zeros, rebuild = dense(target)
    mode = jax.jit(lambda: jnp.linalg.solve(-jax.hessian(f)(zeros), jax.grad(f)(zeros)))()
    found = jax.jit(lambda: most_likely(lambda: regression(0.8), {"y": Y}))()
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-4), found, rebuild(mode))


# --- what is no chain ----------------------------------------------------------------------------


def scanned(t):
    """What is scanned over is hidden: all choices at once."""
    w = sample("w", dist.Normal(0.0, 1.0))

    def step(x, v):
        x = sample("x", dist.Normal(t * x + v, 1.0))
        sample("y", dist.Normal(x, 0.5))
        return x, None

    lax.scan(step, 0.0, w * TIMES)


def followed(t):
    """A site comes after the loop."""

    def step(x, _):
        x = sample("x", dist.Normal(t * x, 1.0))
        return x, x

    sample("y", dist.Normal(lax.scan(step, 0.0, length=6)[1], 0.5))


@pytest.mark.parametrize("model", [scanned, followed])
def test_others_are_taken_at_once(model):
    assert chain_of(target_of(model, 0.8)) is None
    target = target_of(model, 0.8)
    found, exact = jax.jit(lambda: (Exact().log_evidence(target), by_hand(target)))()
    np.testing.assert_allclose(found, exact, rtol=1e-5)


def test_steps_that_are_not_linear_are_refused():
    def bent(t):
        def step(x, _):
            x = sample("x", dist.Normal(jnp.sin(x), 1.0))
            sample("y", dist.Normal(x, 0.5))
            return x, None

        lax.scan(step, 0.0, length=6)

    with pytest.raises(errors.UnsuitableEstimator, match=r"(?s)'x' \(Normal at .*`sin`"):
        Exact().log_evidence(target_of(bent, 0.8))


def test_improper_paths_are_not_a_number():
    def flat(t):
        def step(x, _):
            x = ppl.mask(lambda: sample("x", dist.Normal(x, 1.0)), False)()
            ppl.mask(lambda: sample("y", dist.Normal(x, 0.5)), False)()
            return x, None

        lax.scan(step, 0.0, length=6)

    assert jnp.isnan(Exact().log_evidence(target_of(flat, 0.8)))
