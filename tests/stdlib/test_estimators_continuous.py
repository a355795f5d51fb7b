"""What the estimator law does not say: suitability, derivatives of other kinds, tuning."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

import ppl
from ppl import sample
from ppl.errors import InvalidSetting
from stdlib.distributions import FloatBernoulli, OneHotCategorical
from stdlib.estimators import (
    Arm,
    DisArm,
    GumbelSoftmax,
    ImplicitReparameterized,
    Rebar,
    RejectionReparam,
    Relax,
    StraightThrough,
    gradient_variance,
)
from stdlib.testing import assert_unbiased, exact_measure

WEIGHTS = np.array([0.2, 0.5, 0.3])
MIXED = dist.MixtureSameFamily(dist.Categorical(WEIGHTS), dist.Beta(jnp.ones(3), 2.0))

UNSUITED = [
    (ImplicitReparameterized(), dist.Poisson(1.0), "discrete"),
    (ImplicitReparameterized(), dist.Dirichlet(jnp.ones(3)), "univariate"),
    (ImplicitReparameterized(), dist.LogNormal(0.0, 1.0).to_event(0), None),
    (ImplicitReparameterized(), dist.Kumaraswamy(1.0, 2.0), "no `cdf`"),
    (ImplicitReparameterized(), dist.Beta(1.0, 2.0), r"no derivative.*Reparameterized\(\)"),
    (ImplicitReparameterized(), MIXED, "no derivative"),
    (ImplicitReparameterized(), dist.SoftLaplace(0.0, 1.0).expand([2]).to_event(1), None),
    (ImplicitReparameterized(), dist.BetaProportion(0.3, 2.0), "no"),
    (ImplicitReparameterized(), dist.Delta(0.0), "no `cdf`"),
    (RejectionReparam(), dist.Normal(0.0, 1.0), "Gamma, Beta and Dirichlet"),
    (Rebar(), dist.Bernoulli(0.3), "FloatBernoulli"),
    (Relax(jnp.sum), dist.Categorical(WEIGHTS), "OneHotCategorical"),
    (GumbelSoftmax(), dist.Normal(0.0, 1.0), "FloatBernoulli"),
    (StraightThrough(), dist.Bernoulli(0.3), "FloatBernoulli"),
    (Arm(), dist.Categorical(WEIGHTS), "Bernoulli variables"),
    (DisArm(), dist.Normal(0.0, 1.0), "Bernoulli variables"),
]


def named(value):
    return type(value).__name__


@pytest.mark.parametrize(("estimator", "distribution", "reason"), UNSUITED, ids=named)
def test_unsuitable(estimator, distribution, reason):
    if reason is None:
        assert estimator.unsuitable(distribution) is None
    else:
        with pytest.raises(AssertionError, match=reason):
            raise AssertionError(estimator.unsuitable(distribution))


def cost(values):
    return jnp.sin(2.0 * values + 0.3) + 0.2 * values**2


SMOOTH = [
    (RejectionReparam(), lambda t: dist.Gamma(t, 1.4)),
    (Rebar(0.6, 0.7), lambda t: FloatBernoulli(logits=t)),
    (Relax(lambda x: jnp.cos(3.0 * x), 0.6), lambda t: FloatBernoulli(logits=t)),
]


@pytest.mark.parametrize(("estimator", "family"), SMOOTH, ids=named)
def test_second_derivatives_are_unbiased(estimator, family):
    theta = jnp.asarray(1.3)

    def estimate(theta, key):
        values, weights, *_, control = estimator.particles(key, family(theta))
        return jnp.sum(weights * cost(values)) + (0.0 if control is None else control)

    def exact(theta):
        points, weights = exact_measure(family(theta))
        return jnp.sum(weights * cost(points))

    def second(fn):
        return jax.jacfwd(jax.grad(fn))

    keys = jax.random.split(jax.random.key(0), 50_000)
    draws = jax.jit(jax.vmap(second(estimate), (None, 0)))(theta, keys)
    error = jnp.mean(draws) - jax.jit(second(exact))(theta)
    assert abs(error) < 5 * jnp.std(draws) / len(keys) ** 0.5


@pytest.mark.parametrize("estimator", [Arm(), DisArm(), Rebar(0.5, 0.7)], ids=named)
def test_elements_run_together(estimator):
    """Particle j of every element at once, of weight runs[j] Π (w_j / runs[j]): as for an event."""
    logits = jnp.array([0.3, -0.2, 0.5])

    def joint(logits):
        _, weights, _, _, runs, *_ = estimator.particles(jax.random.key(3), FloatBernoulli(logits))
        return runs * jnp.prod(weights / runs[:, None], 1), runs

    def event(logits):
        distribution = FloatBernoulli(logits).to_event(1)
        return estimator.particles(jax.random.key(3), distribution).weights

    @jax.jit
    def found(logits):
        slopes = jax.jacfwd(event)(logits), jax.jacfwd(joint)(logits)[0]
        return joint(logits), event(logits), slopes

    (product, runs), weights, slopes = found(logits)
    np.testing.assert_allclose(product, runs, rtol=1e-6)
    np.testing.assert_allclose(weights, runs, rtol=1e-6)
    np.testing.assert_allclose(*slopes, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "distribution",
    [FloatBernoulli(WEIGHTS), FloatBernoulli(logits=0.0), OneHotCategorical(WEIGHTS)],
    ids=["batch", "even", "one-hot"],
)
def test_rebar_and_relax_change_derivatives_alone(distribution):
    for key in jax.random.split(jax.random.key(0), 20):
        values, weights, *_ = Rebar(0.3, 0.8).particles(key, distribution)
        np.testing.assert_allclose(weights.sum(0), 1.0, rtol=1e-6)
        np.testing.assert_allclose(values[1], values[2], rtol=1e-5, atol=1e-6)
        control = Relax(lambda x: jnp.sum(jnp.sin(x)), 0.3).particles(key, distribution).control
        np.testing.assert_allclose(control, 0.0, atol=1e-5)


def test_rejection_runs_under_every_transformation():
    def draw(theta, key):
        values, weights, *_ = RejectionReparam(2).particles(key, dist.Beta(theta, 1.5))
        return jnp.sum(values * weights)

    theta, keys = jnp.array([0.4, 3.0]), jax.random.split(jax.random.key(0), 5)
    forward = jax.jit(jax.vmap(jax.jacfwd(draw), (None, 0)))(theta, keys)
    reverse = jax.jit(jax.vmap(jax.grad(draw), (None, 0)))(theta, keys)
    np.testing.assert_allclose(forward, reverse, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(jax.grad(draw)(theta, keys[0]), reverse[0], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("augmentation", [0, -1])
def test_rejection_needs_augmentation(augmentation):
    words = rf"at least 1, .* got {augmentation}\. Write RejectionReparam\(shape_augmentation=1\)"
    with pytest.raises(InvalidSetting, match=words):
        RejectionReparam(augmentation)


@pytest.mark.parametrize("logits", [0.0, -2.0, 40.0])
def test_float_bernoulli_density(logits):
    def log_probs(logits):
        return FloatBernoulli(logits=logits).log_prob(jnp.array([0.0, 0.5, 1.0]))

    p = jax.nn.sigmoid(logits)
    slopes = jnp.array([-p, 0.5 - p, 1 - p])
    np.testing.assert_allclose(jax.jacfwd(log_probs)(logits), slopes, rtol=1e-6, atol=1e-12)
    np.testing.assert_allclose(log_probs(logits)[2], jax.nn.log_sigmoid(logits))


@pytest.mark.parametrize("kind", [FloatBernoulli, OneHotCategorical])
def test_distributions_take_probs_or_logits(kind):
    with pytest.raises(ValueError, match=r"either `probs`.*or `logits=`"):
        kind()
    distribution = kind(WEIGHTS)
    np.testing.assert_allclose(distribution.mean, WEIGHTS, rtol=1e-5)
    np.testing.assert_allclose(kind(logits=distribution.logits).mean, WEIGHTS, rtol=1e-5)


# --- tuning --------------------------------------------------------------------------------------


def tuned_square(p, tuned):
    return (sample("x", FloatBernoulli(p), Rebar(**tuned)) + 0.5) ** 2


TUNED = {"temperature": jnp.asarray(0.5), "eta": jnp.asarray(0.4)}


def mean_over(keys, fn):
    return jax.jit(lambda *args: jnp.mean(jax.vmap(lambda key: fn(key, *args))(keys), 0))


def test_settings_do_not_change_the_mean():
    def objective(args):
        return tuned_square(*args)

    def exact(args):
        p, tuned = args
        return p * 1.5**2 + (1 - p) * 0.5**2 + 0.0 * (tuned["temperature"] + tuned["eta"])

    assert_unbiased(objective, (0.3, TUNED), exact=exact, key=jax.random.key(1))


def test_gradient_variance_is_differentiable_in_the_settings():
    variance = mean_over(jax.random.split(jax.random.key(0), 2000), gradient_variance(tuned_square))
    slopes = jax.grad(variance, argnums=1)(0.3, TUNED)
    step = 1e-2
    for name, slope in slopes.items():
        low, high = ({**TUNED, name: TUNED[name] + s * step} for s in (-1, 1))
        numeric = (variance(0.3, high) - variance(0.3, low)) / (2 * step)
        np.testing.assert_allclose(slope, numeric, rtol=2e-2)


def test_gradient_variance_has_a_leaf_for_each_leaf():
    class Guess(eqx.Module):
        temperature: jax.Array
        name: str = eqx.field(static=True, default="guess")

    def objective(params, tuned):
        return sum(tuned_square(p, {"temperature": tuned.temperature}) for p in params["p"])

    scoped = {"p": jnp.array([0.3]), "steps": jnp.array(3)}  # an integer has no gradient
    slope = eqx.filter_jit(
        eqx.filter_grad(
            lambda tuned: gradient_variance(objective)(jax.random.key(0), scoped, tuned)
        )
    )(Guess(jnp.asarray(0.5)))
    assert jnp.isfinite(slope.temperature)


def test_learning_the_settings_lowers_the_variance():
    variance = gradient_variance(tuned_square)

    @jax.jit
    def descend(tuned, key):
        keys = jax.random.split(key, 50)
        slopes = jax.grad(lambda tuned: mean_over(keys, variance)(0.3, tuned))(tuned)
        return jax.tree.map(lambda x, slope: x - 0.02 * slope, tuned, slopes)

    tuned = TUNED
    for key in jax.random.split(jax.random.key(0), 100):
        tuned = descend(tuned, key)
    after = mean_over(jax.random.split(jax.random.key(1), 5000), variance)
    squared_mean = 2.0**2
    assert after(0.3, tuned) - squared_mean < 0.5 * (after(0.3, TUNED) - squared_mean)


def test_box_is_public():
    slope = jax.grad(lambda x: ppl.extend.box(jnp.sin(x)))
    assert slope(0.3) == pytest.approx(np.cos(0.3))
