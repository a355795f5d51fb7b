"""Scores of supports that move with a parameter: refused where they are wrong, right elsewhere.

The score misses f times the density at an edge, times the edge's speed.
"""

import equinox as eqx
import flowjax.bijections as bijections
import flowjax.distributions as flows
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from numpyro.distributions import TransformedDistribution as Transformed
from numpyro.distributions import transforms

import ppl
from ppl import ScoreFunction, sample
from ppl.errors import UnsuitableEstimator
from stdlib.estimators import ImplicitReparameterized, LeaveOneOut
from stdlib.testing import assert_unbiased, exact_measure

Affine, Exp = transforms.AffineTransform, transforms.ExpTransform()
KEY = jax.random.key(0)


class Stated(eqx.Module):
    """A uniform distribution that states its support."""

    low: jax.Array
    width: float = 1.0

    @property
    def support(self):
        return dist.constraints.interval(self.low, self.low + self.width)

    def sample(self, key):
        return self.low + self.width * jax.random.uniform(key)

    def log_prob(self, value):
        return jnp.log(1 / self.width) + 0.0 * value


class Written(Stated):
    """One whose support is a function."""

    @property
    def support(self):
        return lambda value: (self.low <= value) & (value <= self.low + self.width)


class Waiting(eqx.Module):
    """A support that is a function, and reads no parameter."""

    rate: jax.Array

    @property
    def support(self):
        return lambda value: value >= 0.0

    def sample(self, key):
        return jax.random.exponential(key) / self.rate

    def log_prob(self, value):
        return jnp.log(self.rate) - self.rate * value


class Point(eqx.Module):
    """No noise at all."""

    place: jax.Array

    def sample(self, key):
        return jnp.sin(self.place)

    def log_prob(self, value):
        return jnp.zeros_like(value)


class Own(ppl.extend.Estimator):
    """A user's own score, which says nothing of what it suits."""

    def particles(self, key, distribution):
        value = jax.lax.stop_gradient(distribution.sample(key))
        return ppl.extend.Particles(value[None], ppl.extend.box(distribution.log_prob(value))[None])


def mixture(parts, **support):
    return dist.MixtureGeneral(dist.Categorical(probs=jnp.array([0.5, 0.5])), parts, **support)


MOVING = {
    "uniform": lambda t: dist.Uniform(0.0, t),
    "expanded": lambda t: dist.Uniform(0.0, t).expand([2]).to_event(1),
    "masked": lambda t: dist.Uniform(0.0, t).mask(False),
    "shifted": lambda t: Transformed(dist.Uniform(0.0, 1.0), Affine(t, 1.0)),
    "narrow": lambda t: Transformed(dist.Uniform(0.0, 1e-6), Affine(t, 1.0)),
    "scaled": lambda t: Transformed(dist.Uniform(0.0, 1.0), Affine(0.0, t)),
    "shifted inside": lambda t: Transformed(dist.Uniform(0.0, 1.0), [Affine(t, 1.0), Exp]),
    "shifted outside": lambda t: Transformed(dist.Uniform(0.0, 1.0), [Exp, Affine(t, 1.0)]),
    "vector": lambda t: Transformed(
        dist.Uniform(0.0, 1.0).expand([2]).to_event(1),
        transforms.LowerCholeskyAffine(t * jnp.ones(2), jnp.eye(2)),
    ),
    "half line": lambda t: Transformed(dist.Exponential(1.0), Affine(t, 1.0)),
    "gamma of density one": lambda t: Transformed(dist.Gamma(1.0, 1.0), Affine(t, 1.0)),
    "gamma of unknown density": lambda t: Transformed(dist.Gamma(t + 2, 1.0), Affine(t, 1.0)),
    "beta, one end": lambda t: Transformed(dist.Beta(2.0, 1.0), Affine(0.0, t)),
    "heavy tail": lambda t: Transformed(dist.Laplace(0.0, 1.0), [Exp, Affine(t, 1.0)]),
    "power": lambda t: Transformed(dist.Uniform(0.0, 2.0), transforms.PowerTransform(t)),
    "simplex": lambda t: Transformed(dist.Dirichlet(jnp.ones(3)), Affine(0.0, t)),
    "truncated": lambda t: dist.TruncatedNormal(0.0, 1.0, low=t),
    "truncated, then moved": lambda t: Transformed(
        dist.TruncatedNormal(0.0, 1.0, low=0.5), Affine(t, 1.0)
    ),
    "truncated gamma": lambda t: dist.TruncatedGamma(2.0, 1.0, high=t),
    "pareto": lambda t: dist.Pareto(t, 2.0),
    "log-uniform": lambda t: dist.LogUniform(0.1, t),
    "mixture": lambda t: mixture(
        [dist.Uniform(0.0, t), dist.Uniform(0.0, 1.0)], support=dist.constraints.interval(0.0, 9.0)
    ),
    "point": lambda t: dist.Delta(t),
    "point, moved": lambda t: Transformed(dist.Delta(0.5), Affine(t, 1.0)),
    "point in a mixture": lambda t: mixture(
        [dist.Delta(t), dist.Normal(0.0, 1.0)], support=dist.constraints.real
    ),
    "stated": Stated,
    "written": Written,
    "of a user's own, a point": Point,
    "flow": lambda t: flows.Uniform(0.0, t),
    "flow, moved": lambda t: flows.Transformed(flows.Exponential(1.0), bijections.Loc(t)),
}
AT_REST = {
    "uniform": lambda t: dist.Uniform(0.0, 1.0),
    "uniform, arrays": lambda t: dist.Uniform(jnp.zeros(2), jnp.ones(2)),
    "cut off": lambda t: dist.Uniform(jax.lax.stop_gradient(t), 2.0),
    "normal, moved": lambda t: Transformed(dist.Normal(0.0, 1.0), Affine(t, t)),
    "student, moved": lambda t: Transformed(dist.StudentT(5.0, 0.0, 1.0), Affine(t, t)),
    "transformed": lambda t: Transformed(dist.Uniform(0.0, 1.0), Exp),
    "exponential, scaled": lambda t: Transformed(dist.Exponential(1.0), Affine(0.0, t)),
    "gamma, scaled by arrays": lambda t: Transformed(
        dist.Gamma(t, jnp.ones(2)), Affine(jnp.zeros(2), t)
    ),
    "power": lambda t: Transformed(dist.Uniform(0.0, 1.0), transforms.PowerTransform(t)),
    "pareto": lambda t: dist.Pareto(2.0, t),
    "truncated": lambda t: dist.TruncatedNormal(t, 1.0, low=0.0, high=2.0),
    "simplex": lambda t: Transformed(
        dist.Normal(t * jnp.ones(2), 1.0).to_event(1), transforms.StickBreakingTransform()
    ),
    "vector": lambda t: Transformed(
        dist.Normal(0.0, 1.0).expand([2]).to_event(1),
        transforms.LowerCholeskyAffine(t * jnp.ones(2), jnp.eye(2)),
    ),
    "circle": lambda t: dist.VonMises(t, 1.0),
    "relaxed": lambda t: dist.RelaxedBernoulli(0.5, logits=t),
    "folded": lambda t: dist.FoldedDistribution(dist.Normal(t, 1.0)),
    "point": lambda t: dist.Delta(0.5),
    "written": Waiting,
    "flow": lambda t: flows.Gamma(2.0, t),
    "log-normal, composed": lambda t: Transformed(
        dist.Normal(t, 1.0), transforms.ComposeTransform([Exp, Affine(t, 1.0)])
    ),
    "levy": lambda t: dist.Levy(t, 1.0),
    "log-normal, moved": lambda t: Transformed(dist.LogNormal(t, 1.0), Affine(t, 1.0)),
}
VANISHING = {
    "beta, moved": lambda t: Transformed(dist.Beta(3.0, 3.0), Affine(t, 1.0 + t)),
    "gamma, moved": lambda t: Transformed(dist.Gamma(4.0, 2.0), Affine(t, 1.0)),
    "inverse gamma, moved": lambda t: Transformed(dist.InverseGamma(3.0, 2.0), Affine(t, t)),
    "log-normal, moved": lambda t: Transformed(dist.Normal(0.2, 0.5), [Exp, Affine(t, 1.0)]),
}
AROUND = {
    "alone": lambda f, t: f(t),
    "vmap": lambda f, t: jax.vmap(f)(t * jnp.ones(2)),
    "scan": lambda f, t: jax.lax.scan(lambda c, _: (c, jnp.sum(f(t))), 0.0, length=2)[1],
    "cond": lambda f, t: jax.lax.cond(t > 0, lambda: jnp.sum(f(t)), lambda: 0.0),
}


def differentiated(make, estimator=None, around="alone"):
    draw = lambda t: jnp.sum(sample("x", make(t), estimator or ScoreFunction()))
    objective = lambda t: jnp.sum(AROUND[around](draw, t))
    slope = jax.grad(ppl.expectation(objective), argnums=1)
    return jax.eval_shape(slope, KEY, jax.ShapeDtypeStruct((), jnp.float32))


@pytest.mark.parametrize("name", MOVING)
def test_the_score_of_a_moving_edge_is_refused(name):
    with pytest.raises(UnsuitableEstimator, match=r"at site 'x', .*test_moving.*support moves"):
        differentiated(MOVING[name])


@pytest.mark.parametrize("name", [*AT_REST, *VANISHING])
def test_other_scores_are_not(name):
    differentiated({**AT_REST, **VANISHING}[name])


@pytest.mark.parametrize("around", AROUND)
def test_so_it_is_in_control_flow(around):
    differentiated(AT_REST["exponential, scaled"], around=around)
    with pytest.raises(UnsuitableEstimator, match="support moves"):
        differentiated(MOVING["shifted"], around=around)


@pytest.mark.parametrize("estimator", [LeaveOneOut(3), Own()], ids=["leave one out", "own"])
def test_so_it_is_for_whatever_scores(estimator):
    differentiated(AT_REST["power"], estimator)
    with pytest.raises(UnsuitableEstimator, match="support moves"):
        differentiated(MOVING["half line"], estimator)


@pytest.mark.parametrize("name", VANISHING)
def test_where_the_density_vanishes_at_the_edge_the_score_is_right(name):
    """Against a draw that moves with its parameters."""
    make = VANISHING[name]
    cost = lambda x: jnp.sin(1.5 * x)

    def exact(t):
        base, steps = make(t).base_dist, make(t).transforms
        points, weights = exact_measure(base)
        for step in steps:
            points = step(points)
        return jnp.sum(weights * cost(points))

    assert_unbiased(
        lambda t: cost(sample("x", make(t), ScoreFunction())),
        0.7,
        exact=exact,
        key=KEY,
        num_samples=40_000,
        tolerance=1e-4,
    )


def test_a_value_alone_is_right_whatever_moves():
    """E x² = ((t + 1)³ - t³)/3."""
    objective = lambda t: sample("x", MOVING["shifted"](t), ScoreFunction()) ** 2
    values = jax.vmap(ppl.expectation(objective), (0, None))(jax.random.split(KEY, 4000), 0.7)
    np.testing.assert_allclose(values.mean(), (1.7**3 - 0.7**3) / 3, rtol=0.05)


def test_an_edge_that_reads_a_discrete_choice_does_not_move():
    """E u² = (1 + 3p)/3 for u up to 1 + b."""

    def objective(p):
        b = sample("b", dist.Bernoulli(p), ScoreFunction())
        return sample("u", dist.Uniform(0.0, 1.0 + b), ScoreFunction()) ** 2

    exact = lambda p: (1 + 3 * p) / 3
    assert_unbiased(objective, 0.3, exact=exact, key=KEY, num_samples=20_000)


def test_implicit_derivatives_take_no_score_of_the_edge():
    """The density by which they divide is a number; E x² over (t, t + 1) has slope 2t + 1."""
    cost = lambda t: sample("x", dist.Uniform(t, t + 1.0), ImplicitReparameterized()) ** 2
    slope = jax.jit(jax.vmap(jax.grad(ppl.expectation(cost), argnums=1), (0, None)))
    draws = slope(jax.random.split(jax.random.key(0), 10_000), 0.3)
    assert abs(draws.mean() - 1.6) < 5 * draws.std() / 100
