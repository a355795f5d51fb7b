"""Estimators see what a site is drawn from; masks and the like change the site's density alone."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from numpyro.distributions import TransformedDistribution as Transformed
from numpyro.distributions import transforms

import ppl
from ppl import ScoreFunction, sample
from ppl.errors import DiscontinuousObjective, UnsuitableEstimator
from stdlib.distributions import FloatBernoulli
from stdlib.estimators import (
    Arm,
    Enumerate,
    ImplicitReparameterized,
    LeaveOneOut,
    MeasureValued,
    Rebar,
    RejectionReparam,
    Relax,
    StochasticTriple,
    WithoutReplacement,
)
from stdlib.objectives import elbo
from stdlib.testing import assert_unbiased
from tests.stdlib.pairs import wiggle

Affine, Exp = transforms.AffineTransform, transforms.ExpTransform()
KEY = jax.random.key(0)
FLAGS = np.array([True, False])

COINS = {
    "default": (None, dist.Bernoulli),
    "score": (ScoreFunction(), dist.Bernoulli),
    "leave one out": (LeaveOneOut(3), dist.Bernoulli),
    "enumerate": (Enumerate(), dist.Bernoulli),
    "without replacement": (WithoutReplacement(2), dist.Bernoulli),
    "measure-valued": (MeasureValued(), dist.Bernoulli),
    "stochastic triple": (StochasticTriple(), dist.Bernoulli),
    "arm": (Arm(), dist.Bernoulli),
    "rebar": (Rebar(0.4, 0.8), FloatBernoulli),
    "relax": (Relax(wiggle, 0.4), FloatBernoulli),
}


def cost(x):
    return jnp.sum(jnp.sin(1.3 * x + 0.2))


def two_values(low, high):
    return lambda p: (1 - p) * cost(low(p)) + p * cost(high(p))


def wrapped(coin, t):
    """Masks and transforms in each other, and what they are of two lanes with a batch of two."""
    masked = coin(t).mask(False)
    moved = Transformed(coin(t).mask(False), [Affine(t, 0.5), Exp])
    return {
        "masked": masked,
        "masked, expanded": coin(t * jnp.ones(2)).mask(FLAGS).expand([2, 2]),
        "moved": Transformed(coin(t), Affine(t, 0.5 + t)),
        "moved, masked, expanded": moved.mask(FLAGS[1]).expand([2]),
    }


def on_average(t):
    coin = two_values(lambda t: 0.0, lambda t: 1.0)(t)
    moved = two_values(lambda t: t, lambda t: 0.5 + 2 * t)(t)
    far = two_values(jnp.exp, lambda t: jnp.exp(0.5 + t))(t)
    return {
        "masked": coin,
        "masked, expanded": 4 * coin,
        "moved": moved,
        "moved, masked, expanded": 2 * far,
    }


@pytest.mark.parametrize("name", COINS)
def test_every_estimator_meets_the_law_of_the_draw(name):
    """In a `vmap`, with a coefficient for each wrapper."""
    estimator, coin = COINS[name]

    def objective(t, coefficients):
        def lane(t):
            made = wrapped(coin, t)
            return [coefficients[n] * cost(sample(n, d, estimator)) for n, d in made.items()]

        return sum(map(jnp.sum, jax.vmap(lane)(jnp.stack([t, 0.8 * t]))))

    def exact(t, coefficients):
        both = [on_average(lane) for lane in (t, 0.8 * t)]
        return sum(coefficients[name] * (both[0][name] + both[1][name]) for name in both[0])

    assert_unbiased(
        objective,
        0.4,
        {name: 1.0 for name in on_average(0.4)},
        exact=exact,
        key=KEY,
        num_samples=20_000,
        argnums=(0, 1),
        tolerance=1e-4,
    )


CONTINUOUS = {
    "score": (ScoreFunction(), lambda t: dist.Normal(t, 1.0), lambda t: t**2 + 1),
    "default": (None, lambda t: dist.Normal(t, 1.0), lambda t: t**2 + 1),
    "implicit": (ImplicitReparameterized(), lambda t: dist.Normal(t, 1.0), lambda t: t**2 + 1),
    "rejection": (RejectionReparam(), lambda t: dist.Gamma(t, 1.0), lambda t: t * (t + 1)),
    "score of a transform": (
        ScoreFunction(),
        lambda t: Transformed(dist.Normal(t, 1.0).mask(False), Affine(0.0, 2.0)),
        lambda t: 4 * (t**2 + 1),
    ),
    "score of what is censored": (
        ScoreFunction(),
        lambda t: dist.RightCensoredDistribution(dist.Exponential(t), censored=np.array(1)),
        lambda t: 2 / t**2,
    ),
    "score of a part of a mixture": (
        ScoreFunction(),
        lambda t: dist.MixtureSameFamily(
            dist.Categorical(probs=jnp.stack([t, 1 - t]).T),
            dist.Normal(jnp.array([0.0, 3.0]), 1.0).mask(False),
        ),
        lambda t: 1 + 9 * (1 - t),
    ),
}


@pytest.mark.parametrize("name", CONTINUOUS)
def test_continuous_draws_too(name):
    """Second moments."""
    estimator, make, exact = CONTINUOUS[name]
    objective = lambda t: sample("x", make(t), estimator) ** 2
    assert_unbiased(objective, 0.7, exact=exact, key=KEY, num_samples=20_000)


def test_a_point_mass_and_a_factor_have_no_score():
    def objective(t):
        x = sample("x", dist.Delta(0.5, log_density=t), ScoreFunction())
        sample("f", dist.Unit(3.0 * t))
        return 2.0 * x + t

    assert_unbiased(objective, 0.3, exact=lambda t: 1.0 + t, key=KEY, num_samples=4)


def test_the_density_of_the_site_keeps_its_mask():
    """-KL of a guide whose density is masked: E log p alone, as if log q were zero."""

    def bound(t, mask):
        guide = lambda: sample("x", dist.Normal(t, 1.0).mask(mask), ScoreFunction())
        return elbo(lambda: sample("x", dist.Normal(0.0, 1.0)), guide, {})

    log_p = lambda t: -0.5 * (t**2 + 1) - 0.5 * jnp.log(2 * jnp.pi)
    for mask, exact in ((False, log_p), (True, lambda t: -0.5 * t**2)):
        assert_unbiased(
            lambda t, mask=mask: bound(t, mask), 0.4, exact=exact, key=KEY, num_samples=20_000
        )


# --- values that move with the parameters --------------------------------------------------------


def far(t):
    return Transformed(dist.Poisson(1.0 + t), [Affine(t, 0.5), Exp])


def test_a_moved_value_has_the_probability_of_what_it_was_made_of():
    program = lambda t: sample("x", far(t))
    for count in range(4):
        log_mass, slope = jax.value_and_grad(
            lambda t, c=count: ppl.log_density(program, {"x": jnp.exp(t + 0.5 * c)}, t)
        )(0.3)
        right = dist.Poisson(1.3).log_prob(count)
        np.testing.assert_allclose([log_mass, slope], [right, count / 1.3 - 1], rtol=1e-4)
    between = ppl.log_density(program, {"x": jnp.exp(0.3 + 0.2)}, 0.3)
    assert between == -jnp.inf


@pytest.mark.parametrize("estimator", [ScoreFunction(), Enumerate(), MeasureValued()])
def test_its_entropy_does_not_read_the_transform(estimator):
    """E log q, of coins in steps of a `scan`."""

    def objective(t):
        def step(carry, _):
            q = ppl.simulate(
                lambda: sample("x", Transformed(dist.Bernoulli(t), Affine(t, 3.0)), estimator)
            )
            return carry, q.log_density * (1.0 + q.value)

        return jnp.sum(jax.lax.scan(step, 0.0, length=2)[1])

    def exact(t):
        return 2 * (t * jnp.log(t) * (4.0 + t) + (1 - t) * jnp.log1p(-t) * (1.0 + t))

    assert_unbiased(objective, 0.3, exact=exact, key=KEY, num_samples=20_000, tolerance=1e-4)


def test_a_jump_at_a_moved_value_is_warned_of():
    moved = lambda t: sample("x", Transformed(dist.Bernoulli(0.4), Affine(0.0, t)))
    fixed = lambda t: sample("x", Transformed(dist.Bernoulli(t), Affine(0.0, 2.0)))
    with pytest.warns(DiscontinuousObjective, match="'x'"):
        ppl.expectation(lambda t: jnp.floor(moved(t)))(KEY, jnp.float32(0.7))
    with warnings.catch_warnings():
        warnings.simplefilter("error", DiscontinuousObjective)
        ppl.expectation(lambda t: jnp.floor(fixed(t)))(KEY, jnp.float32(0.7))


def test_moved_values_inside_a_mixture_are_refused():
    def mixture(t):
        parts = Transformed(dist.Bernoulli(0.4), Affine(0.0, t * jnp.ones(2)))
        return dist.MixtureSameFamily(dist.Categorical(probs=jnp.array([0.5, 0.5])), parts)

    with pytest.raises(UnsuitableEstimator, match=r"'x'.*part of it is a transformed discrete"):
        ppl.expectation(lambda t: sample("x", mixture(t)))(KEY, 0.7)
