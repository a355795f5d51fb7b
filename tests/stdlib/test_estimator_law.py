"""The estimator law for each pair of the registry, alone; and the checker itself."""

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
import pytest

import ppl
from ppl import sample
from ppl.extend import Particles
from stdlib.distributions import FloatBernoulli, OneHotCategorical
from stdlib.estimators import Enumerate, GumbelSoftmax, StraightThrough
from stdlib.testing import assert_estimator_law, assert_unbiased
from tests.stdlib.families import PROBS, combinations, joint_float_bernoulli
from tests.stdlib.pairs import ESTIMATORS, PAIRS, QUICK, parameters


def test_every_estimator_is_quickly_tested():
    assert {type(pair.estimator) for pair in PAIRS if pair.id in QUICK} == set(
        map(type, ESTIMATORS)
    )


@pytest.mark.parametrize("pair", parameters(PAIRS, QUICK))
def test_law(pair):
    make, theta, measure = pair.family
    count = 50_000 if pair.varies else 16
    assert_estimator_law(
        pair.estimator, make, theta, key=pair.key, measure=measure, num_samples=count
    )


@pytest.mark.parametrize("family", [FloatBernoulli, joint_float_bernoulli])
def test_straight_through_is_biased_in_derivative_alone(family):
    with pytest.raises(AssertionError, match="derivative") as failure:
        assert_estimator_law(
            StraightThrough(),
            family,
            PROBS,
            key=jax.random.key(0),
            measure=combinations if family is joint_float_bernoulli else None,
        )
    assert "'expectation'" not in str(failure.value)


@pytest.mark.parametrize("family", [FloatBernoulli, OneHotCategorical])
def test_gumbel_softmax_is_less_biased_when_cold(family):
    def worst(temperature):
        estimator = GumbelSoftmax(temperature)
        keys = jax.random.split(jax.random.key(0), 10_000)
        values = jax.vmap(lambda key: estimator.particles(key, family(PROBS)).values)(keys)
        cubes, exact = jnp.mean(values**3, (0, 1)), family(PROBS).mean
        return jnp.max(jnp.abs(cubes - exact))

    assert worst(0.01) < 0.02 < 0.1 < worst(1.0)


BIASED = [GumbelSoftmax(0.5), StraightThrough()]


@pytest.mark.parametrize("estimator", BIASED, ids=lambda estimator: type(estimator).__name__)
def test_biased_estimators_run_only_where_allowed(estimator):
    def objective(p):
        return sample("x", FloatBernoulli(p), estimator) ** 2

    with pytest.raises(ppl.errors.BiasedEstimator, match=type(estimator).__name__):
        ppl.expectation(objective)(jax.random.key(0), 0.3)
    gradient = jax.grad(ppl.expectation(objective, allow_biased=True), argnums=1)
    assert jnp.isfinite(gradient(jax.random.key(0), 0.3))


# --- the checker itself --------------------------------------------------------------------------


class Forgetful(ppl.extend.Estimator):
    """A draw with no weight: wrong in derivative."""

    def particles(self, key, distribution):
        return Particles(jax.lax.stop_gradient(distribution.sample(key))[None], None)


class Halved(Enumerate):
    """Claims to be normalized and is not."""

    def particles(self, key, distribution):
        values, weights, *_ = super().particles(key, distribution)
        return Particles(values, weights**2 / jnp.sum(jax.lax.stop_gradient(weights) ** 2), True)


def test_checker_finds_a_wrong_derivative():
    with pytest.raises(
        AssertionError, match=r"(?s)Forgetful\(\) for Normal.*key data.*\['deriv.*z "
    ):
        assert_estimator_law(Forgetful(), lambda t: dist.Normal(t, 1.0), 0.3, key=jax.random.key(0))


def test_checker_finds_weights_that_do_not_sum_to_one():
    with pytest.raises(AssertionError, match="derivative"):
        assert_estimator_law(Halved(), dist.Bernoulli, 0.3, key=jax.random.key(0), num_samples=16)


def test_checker_finds_a_biased_estimate():
    def objective(p):
        return 1.0 * sample("x", dist.Bernoulli(p), ppl.ScoreFunction())

    with pytest.raises(AssertionError, match=r"(?s)objective.*\['gradient'\]: mean .* exact 1\.3,"):
        assert_unbiased(objective, 0.3, exact=lambda p: 1.3 * p - 0.09, key=jax.random.key(0))
