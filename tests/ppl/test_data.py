"""Data at sites of integers: numbers of any dtype stand for the integers that they are."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import optax
import pytest
import scipy.stats
from jax import lax

import ppl
from ppl import sample
from ppl.errors import ChoiceTypeError
from stdlib.estimators import Enumerate
from stdlib.inference import SMC, Exact, Importance
from stdlib.objectives import elbo

KEY = jax.random.key(0)
DTYPES = ["float32", "bfloat16", "uint32", "bool"]
SITES = {
    "bernoulli": (dist.Bernoulli(0.3 * jnp.ones(3)), [0, 1, 1], np.log([0.7, 0.3, 0.3]).sum()),
    "poisson": (dist.Poisson(2.0).expand([2]), [0, 3],
                scipy.stats.poisson(2.0).logpmf([0, 3]).sum()),
    "categorical": (dist.Categorical(probs=jnp.array([0.2, 0.5, 0.3])), 2, np.log(0.3)),
    "binomial": (dist.Binomial(7, 0.4), 5, scipy.stats.binom(7, 0.4).logpmf(5)),
    "multinomial": (dist.Multinomial(3, jnp.array([0.2, 0.8])), [1, 2],
                    scipy.stats.multinomial(3, [0.2, 0.8]).logpmf([1, 2])),
}  # fmt: skip


def scores(distribution, value):
    """The density of a value, by each way of giving it."""
    program = lambda: sample("x", distribution)
    target = ppl.extend.Target(program, {"x": value})
    return [
        ppl.log_density(program, {"x": value}),
        ppl.log_density(lambda: sample("x", distribution, obs=value), {}),
        ppl.log_density(ppl.condition(program, {"x": value}), {}),
        ppl.seed(lambda: ppl.simulate(ppl.condition(program, {"x": value})))(KEY).log_likelihood,
        target.log_density({}),
    ]


@pytest.mark.parametrize("name", SITES)
def test_numbers_of_any_dtype_are_the_integers(name):
    distribution, value, expected = SITES[name]
    program = lambda: sample("x", distribution)
    for dtype in DTYPES:
        if dtype == "bool" and np.max(value) > 1:
            continue
        given = jnp.asarray(value).astype(dtype)
        np.testing.assert_allclose(scores(distribution, given), expected, rtol=1e-5)
        np.testing.assert_allclose(
            jax.jit(partial(scores, distribution))(given), expected, rtol=1e-5
        )
        for rewrite in (ppl.condition, ppl.intervene):
            out = ppl.seed(rewrite(program, {"x": given}))(KEY)
            assert out.dtype == jnp.int32
            np.testing.assert_array_equal(out, value)


@pytest.mark.parametrize("name", SITES)
def test_numbers_that_are_not_integers(name):
    distribution, value, _ = SITES[name]
    wrong = np.array(value, np.float32)
    wrong.flat[0] += 0.5
    with pytest.raises(ChoiceTypeError, match=r"'x'.*test_data"):
        ppl.seed(lambda: sample("x", distribution, obs=wrong))(KEY)
    for given in (wrong, jnp.asarray(wrong), wrong.astype(np.float64)):
        with pytest.raises(ChoiceTypeError, match=r"'x'.*test_data"):
            ppl.log_density(lambda: sample("x", distribution), {"x": given})
    assert np.all(np.isneginf(jax.jit(partial(scores, distribution))(wrong)))
    for missing in (jnp.nan, jnp.inf):
        wrong.flat[0] = missing
        assert np.all(np.isneginf(scores(distribution, wrong)))


def test_what_a_dtype_cannot_hold():
    for value in (2.0**31, -(2.0**40), 1e30):
        with pytest.raises(ChoiceTypeError):
            ppl.log_density(lambda: sample("n", dist.Poisson(2.0)), {"n": value})
    score = jax.jit(lambda n: ppl.log_density(lambda: sample("n", dist.Poisson(2.0)), {"n": n}))
    assert np.isneginf(score(jnp.float32(2.0**31))) and np.isneginf(score(jnp.uint32(2**31 + 3)))


def test_derivatives_of_what_has_no_density():
    """d/dp of log p + log(1 - p) of the elements that are integers, beside one that is not."""
    program = lambda p: sample("y", dist.Bernoulli(p * jnp.ones(3)))
    score = jax.jit(jax.value_and_grad(lambda p, y: ppl.log_density(program, {"y": y}, p)))
    value, slope = score(0.3, jnp.array([0.0, 1.0, 0.5]))
    assert np.isneginf(value)
    np.testing.assert_allclose(slope, 1 / 0.3 - 1 / 0.7, rtol=1e-4)


def test_tables_are_looked_up_by_data():
    table = jnp.array([1.0, 4.0, 9.0])

    def model():
        z = sample("z", dist.Categorical(probs=jnp.array([0.2, 0.3, 0.5])))
        return sample("y", dist.Normal(table[z], 1.0))

    both = lambda z: ppl.log_density(model, {"z": z, "y": 4.5})
    exact = np.log(0.3) + scipy.stats.norm(4.0).logpdf(4.5)
    np.testing.assert_allclose([both(1.0), jax.jit(both)(1.0)], exact, rtol=1e-5)
    posterior = lambda z: ppl.seed(ppl.condition(model, {"z": z}))(KEY)
    np.testing.assert_array_equal(jax.jit(posterior)(jnp.float32(2.0)), posterior(2))


def chain_of(data=None):
    def step(z, y):
        z = sample("z", dist.Categorical(probs=jnp.array([[0.8, 0.2], [0.3, 0.7]])[z]))
        sample("n", dist.Poisson(jnp.array([1.0, 6.0])[z]), obs=y)
        return z, None

    return lax.scan(step, 0, data, length=3)


def forward(counts):
    trans, alpha = np.array([[0.8, 0.2], [0.3, 0.7]]), np.array([1.0, 0.0])
    for n in counts:
        alpha = (alpha @ trans) * scipy.stats.poisson([1.0, 6.0]).pmf(n)
    return np.log(alpha.sum())


def test_in_loops_lanes_and_algorithms():
    counts = np.array([1.0, 5.0, 7.0], np.float32)
    exact = forward(counts)
    evidence = lambda n: Exact().log_evidence(ppl.extend.Target(chain_of, {"n": n}))
    closed = lambda: Exact().log_evidence(ppl.extend.Target(partial(chain_of, counts), {}))
    posterior = ppl.normalize(chain_of, {"n": counts}, Exact())
    score = lambda z: ppl.log_density(posterior, {"z": z})
    paths = np.array([0.0, 1.0, 1.0]), np.array([0, 1, 1])

    @jax.jit
    def all_ways(counts_given, z):
        """Of counts and choices that are known, and of traced ones."""
        known = [evidence(counts), closed()], list(map(score, paths))
        return known, evidence(counts_given), score(z)

    (evidences, path), given, nowhere = all_ways(counts, jnp.full(3, 0.5))
    np.testing.assert_allclose([*evidences, given], exact, rtol=1e-5)
    np.testing.assert_allclose(*path)
    assert np.isneginf(nowhere)
    assert np.isneginf(all_ways(counts + 0.5, jnp.full(3, 0.5))[1])
    for algorithm in (SMC(30), Importance(30)):
        estimate = ppl.expectation(
            lambda a=algorithm: a.log_evidence(ppl.extend.Target(chain_of, {"n": counts}))
        )
        logs = jax.jit(jax.vmap(estimate))(jax.random.split(KEY, 200))
        ratios = np.exp(np.array(logs) - exact)
        assert abs(ratios.mean() - 1.0) < 5 * ratios.std() / np.sqrt(200)
    lanes = lambda y: jax.vmap(lambda y: sample("y", dist.Poisson(2.0), obs=y))(y)
    score = ppl.log_density(lanes, {}, counts)
    np.testing.assert_allclose(score, scipy.stats.poisson(2.0).logpmf(counts).sum(), rtol=1e-5)


def test_training_on_images_of_floats():
    images = np.array([[0.0, 1.0], [1.0, 1.0], [0.0, 1.0], [1.0, 1.0]], np.float32)

    def model(p, batch):
        k = sample("k", dist.Bernoulli(0.5))
        rows = lambda y: sample("y", dist.Bernoulli(logits=p + 0.0 * k), obs=y)
        jax.vmap(rows)(batch)

    guide = lambda: sample("k", dist.Bernoulli(0.5), Enumerate())
    fitted = ppl.fit(
        lambda p, batch: elbo(partial(model, p, batch), guide, {}),
        jnp.full(2, 0.2),
        optax.sgd(0.1),
        key=KEY,
        steps=1,
        data=images,
        progress=False,
    )
    chance = 1 / (1 + np.exp(-0.2))
    np.testing.assert_allclose(fitted.params, 0.2 + 0.1 * (images - chance).sum(0), atol=1e-6)
    exact = 6 * np.log(chance) + 2 * np.log(1 - chance)
    assert np.isclose(fitted.history["objective"][0], exact, rtol=1e-5)


def test_what_is_drawn_keeps_its_dtype():
    assert ppl.seed(lambda: sample("n", dist.Poisson(2.0)))(KEY).dtype == jnp.int32
    out = jax.eval_shape(
        lambda n: ppl.seed(lambda: sample("n", dist.Poisson(2.0), obs=n))(KEY), 1.0
    )
    assert out.dtype == jnp.int32
