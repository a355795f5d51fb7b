"""What the law does not say of estimators: contracts of particles, limits, settings, variance."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

import ppl
from ppl.errors import InvalidSetting
from stdlib.estimators import (
    Enumerate,
    LeaveOneOut,
    MeasureValued,
    MovingAverage,
    StochasticTriple,
    WithoutReplacement,
)

KEY = jax.random.key(0)
LOGITS = jnp.array([0.3, -0.2, 0.5, 1.1])


def categorical(t):
    return dist.Categorical(logits=t)


def test_box_is_one_in_value_and_the_score_in_derivative():
    value, slope = jax.value_and_grad(lambda p: ppl.extend.box(jnp.log(p)))(0.25)
    assert (value, slope) == (1.0, 4.0)


# --- leave one out -------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [(), (2,)])
def test_leave_one_out_shared_weights_are_its_weights_in_value(batch):
    particles = LeaveOneOut(4).particles(KEY, dist.Geometric(jnp.full(batch, 0.4)))
    assert particles.values.shape == (4, *batch)
    assert particles.shared_weights.tolist() == [0.25] * 4
    assert bool(jnp.all(particles.weights == 0.25))


def test_two_leave_one_outs_share_their_particles_where_they_have_as_many():
    def shared(size):
        return LeaveOneOut(size).particles(KEY, dist.Poisson(1.0)).shared

    assert shared(3) == shared(3) != shared(2)


@pytest.mark.parametrize("size", [1, 0])
def test_leave_one_out_needs_two_draws(size):
    with pytest.raises(InvalidSetting, match=r"at least two.*Write LeaveOneOut\(num_draws=2\)"):
        LeaveOneOut(size)


# --- without replacement -------------------------------------------------------------------------


def test_without_replacement_draws_distinct_values():
    draw = jax.vmap(lambda key: WithoutReplacement(3).particles(key, categorical(LOGITS)).values)
    values = np.sort(jax.jit(draw)(jax.random.split(KEY, 200)), axis=1)
    assert np.all(np.diff(values, axis=1) > 0)


def test_without_replacement_is_enumeration_where_all_values_are_drawn():
    def terms(estimator, t):
        values, weights, *_ = estimator.particles(KEY, categorical(t))
        return weights[jnp.argsort(values)]

    for derivative in (lambda fn: fn, jax.jacfwd):
        found, wanted = (
            jax.jit(derivative(lambda t, e=e: terms(e, t)))(LOGITS)
            for e in (WithoutReplacement(4), Enumerate())
        )
        np.testing.assert_allclose(found, wanted, atol=1e-6)


@pytest.mark.parametrize("p", [0.0, 1.0])
def test_without_replacement_of_all_values_takes_impossible_ones(p):
    def cost(p):
        x = 2.0 * ppl.sample("x", dist.Bernoulli(jnp.stack([p, 1 - p])), WithoutReplacement(2))
        return x[0] + x[0] * x[1]

    found = jax.value_and_grad(ppl.expectation(cost), 1)(KEY, p)
    np.testing.assert_allclose(found, (2 * p, 2 + 4 * (1 - 2 * p)), rtol=1e-5)


def test_without_replacement_agrees_with_probabilities_of_ordered_draws():
    """P(s came first | S), by writing out both orders of drawing a set of two."""
    probs = jax.nn.softmax(LOGITS)
    (i, j), weights, *_ = WithoutReplacement(2).particles(KEY, categorical(LOGITS))
    orders = [probs[i] * probs[j] / (1 - probs[i]), probs[j] * probs[i] / (1 - probs[j])]
    np.testing.assert_allclose(weights, jnp.array(orders) / sum(orders), rtol=1e-5)


def test_without_replacement_refuses_what_it_cannot_draw():
    assert "4 values" in WithoutReplacement(5).unsuitable(categorical(LOGITS))
    assert "not finite" in WithoutReplacement(2).unsuitable(dist.Poisson(1.0))
    with pytest.raises(InvalidSetting, match=r"from 2 to 8.*LeaveOneOut"):
        WithoutReplacement(9)


# --- perturbations -------------------------------------------------------------------------------

PERTURBED = [
    (MeasureValued(), lambda t: dist.Bernoulli(logits=t), 2),
    (MeasureValued(), lambda t: categorical(t * LOGITS), 4),
    (MeasureValued(), lambda t: dist.Binomial(3, logits=t), 3),
    (MeasureValued(), dist.Poisson, 2),
    (MeasureValued(), lambda t: dist.Geometric(logits=t), 2),
    (MeasureValued(), lambda t: dist.Normal(t, t), 4),
    (MeasureValued(), dist.Exponential, 2),
    (MeasureValued(), lambda t: dist.Gamma(t, t), 3),
    (MeasureValued(), lambda t: dist.Weibull(t, t), 3),
    (StochasticTriple(), lambda t: categorical(t * LOGITS), 2),
    (StochasticTriple(), lambda t: dist.Binomial(3, logits=t), 2),
    (StochasticTriple(), dist.Poisson, 2),
    (StochasticTriple(), lambda t: dist.Geometric(logits=t), 2),
]


@pytest.mark.parametrize(("estimator", "family", "size"), PERTURBED)
def test_perturbations_are_infinitesimal_and_within_the_support(estimator, family, size):
    def run(key):
        def weights(t):
            particles = estimator.particles(key, family(t))
            assert particles.perturbed and particles.normalized
            return particles.weights, (particles.weights, particles.values)

        return jax.jacfwd(weights, has_aux=True)(0.7)

    slopes, (weights, values) = jax.jit(jax.vmap(run))(jax.random.split(KEY, 100))
    assert values.shape == weights.shape == (100, size)
    assert np.array_equal(weights, np.eye(size)[[0] * 100])
    np.testing.assert_allclose(slopes.sum(1), 0, atol=1e-5)
    assert np.all(family(0.7).support(values))


@pytest.mark.parametrize(
    ("estimator", "distribution", "why"),
    [
        (MeasureValued(), dist.Beta(1.0, 2.0), "not known"),
        (MeasureValued(), dist.Normal(0.0, 1.0).expand([2]).to_event(1), "to_event"),
        (MeasureValued(), dist.Chi2(3.0), "not known"),
        (StochasticTriple(), dist.Normal(0.0, 1.0), "not finite"),
        (StochasticTriple(), dist.NegativeBinomial2(1.0, 2.0), "not finite"),
    ],
)
def test_perturbations_are_refused_where_no_table_has_them(estimator, distribution, why):
    assert why in estimator.unsuitable(distribution)


@pytest.mark.parametrize("estimator", [MeasureValued(), StochasticTriple()])
def test_perturbing_a_bernoulli_is_exact(estimator):
    def estimate(t, key):
        values, weights, *_ = estimator.particles(key, dist.Bernoulli(t))
        return jnp.sum(weights * (values - 0.45) ** 2)

    slopes = jax.jit(jax.vmap(jax.grad(estimate), (None, 0)))(0.3, jax.random.split(KEY, 50))
    np.testing.assert_allclose(slopes, 0.1, atol=1e-6)


# --- baselines -----------------------------------------------------------------------------------


def test_moving_average_follows_the_costs():
    def score(average, cost):
        return -0.5 * jnp.sum((cost - average.value) ** 2)

    average, expected = MovingAverage(0.8, jnp.zeros(2)), np.zeros(2)
    for cost in np.random.default_rng(0).normal(size=(5, 2)):
        average = average.updated(jax.grad(score)(average, cost))
        expected = 0.8 * expected + 0.2 * cost
    np.testing.assert_allclose(average.value, expected, rtol=1e-5)


def test_moving_average_is_one_floating_leaf():
    (leaf,) = jax.tree.leaves(MovingAverage(value=1))
    assert leaf.dtype == jnp.result_type(float) and leaf.shape == ()


@pytest.mark.parametrize("decay", [-0.1, 1.0])
def test_moving_average_needs_a_decay_below_one(decay):
    with pytest.raises(InvalidSetting, match="less than 1"):
        MovingAverage(decay)
