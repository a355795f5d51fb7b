"""The estimator law, over a registry of (estimator, distribution) pairs: a line a pair.

Each pair alone, against an exact expectation of random functions; and one pair of each kind in a
program: upstream and downstream of the other estimators, in vmap, in scan, under scale and mask.
"""

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

import ppl
from ppl import Particles, Reparameterized, ScoreFunction, sample
from stdlib.distributions import FloatBernoulli, OneHotCategorical
from stdlib.estimators import (
    Arm,
    DisArm,
    Enumerate,
    GumbelSoftmax,
    ImplicitReparameterized,
    LeaveOneOut,
    MeasureValued,
    Rebar,
    RejectionReparam,
    Relax,
    StochasticTriple,
    StraightThrough,
    WithoutReplacement,
)
from stdlib.testing import assert_estimator_law, assert_unbiased, exact_measure

HERMITE, HERMITE_WEIGHTS = np.polynomial.hermite_e.hermegauss(24)
HERMITE_WEIGHTS = HERMITE_WEIGHTS / HERMITE_WEIGHTS.sum()


def gauss_hermite(distribution):
    """The exact measure of a bivariate normal: a product of Gauss-Hermite rules."""
    grid = jnp.asarray(list(itertools.product(HERMITE, HERMITE)), jnp.float32)
    weights = np.array([a * b for a, b in itertools.product(HERMITE_WEIGHTS, HERMITE_WEIGHTS)])
    points = distribution.loc + grid @ distribution.scale_tril.T
    return points, jnp.asarray(weights, jnp.float32)


def stick_breaking(distribution):
    """The exact measure of a Dirichlet of three parts: Gauss-Legendre over two sticks."""
    nodes, weights = np.polynomial.legendre.leggauss(64)
    u, v = (x.ravel() for x in np.meshgrid((nodes + 1) / 2, (nodes + 1) / 2))
    points = jnp.asarray(np.stack([u, (1 - u) * v, (1 - u) * (1 - v)], -1), jnp.float32)
    area = jnp.asarray(np.outer(weights, weights).ravel() / 4 * (1 - u), jnp.float32)
    return points, area * jnp.exp(distribution.log_prob(points))


def combinations(distribution):
    """The exact measure of independent Bernoulli variables, in one event of one dimension."""
    size, dtype = distribution.event_shape[0], distribution.base_dist.enumerate_support().dtype
    points = jnp.asarray(list(itertools.product((0, 1), repeat=size)), dtype)
    return points, jnp.exp(distribution.log_prob(points))


class Pair(NamedTuple):
    name: str
    estimator: Any
    family: Callable
    theta: Any
    measure: Callable | None = None


R, S, E = Reparameterized(), ScoreFunction(), Enumerate()
L, M, T = LeaveOneOut(3), MeasureValued(), StochasticTriple()
WEIGHTS = np.array([0.2, 0.5, 0.3])


def mixture(t):
    parts = dist.Normal(t["means"], jnp.array([0.6, 0.9]))
    return dist.MixtureSameFamily(dist.Categorical(logits=t["logits"]), parts)


LOGITS = np.array([0.3, -0.2, 0.5, 1.1])
BATCH = np.array([[0.3, -0.2, 0.5, 1.1], [1.5, 0.1, -1.0, 0.2]])


def categorical(t):
    return dist.Categorical(logits=t)


MIXTURE = {"means": np.array([-1.0, 1.5]), "logits": np.array([0.3, -0.2])}


def mixture_of_families(t):
    parts = [dist.Normal(t["means"][0], 0.6), dist.Gumbel(t["means"][1], 0.9)]
    return dist.MixtureGeneral(dist.Categorical(logits=t["logits"]), parts)


def mixture_batch(t):
    parts = dist.Normal(jnp.stack([t, 1.0 - t], -1), jnp.array([0.6, 0.9]))
    return dist.MixtureSameFamily(dist.Categorical(logits=jnp.array([0.3, -0.2])), parts)


def joint_bernoulli(t):
    return dist.Bernoulli(logits=t).to_event(1)


def joint_float_bernoulli(t):
    return FloatBernoulli(logits=t).to_event(1)


def joint_gamma(t):
    return dist.Gamma(t, 1.2).expand([2]).to_event(1)


def log_grid(distribution):
    """The exact measure of one or two positive variables: equal steps of their logarithms."""
    size = 1 + sum(distribution.event_shape)
    logs = np.linspace(-40.0, 5.0, 4001) if size == 1 else np.linspace(-12.0, 4.0, 201)
    points = np.exp(logs)
    slopes = points * (logs[1] - logs[0])
    if size > 1:
        points = np.array(list(itertools.product(points, points)))
        slopes = np.outer(slopes, slopes).ravel()
    points = jnp.asarray(points, jnp.float32)
    return points, jnp.exp(distribution.log_prob(points)) * jnp.asarray(slopes, jnp.float32)


def wiggle(x):
    return jnp.sum(jnp.sin(2.0 * x + 0.3)) * jnp.cos(jnp.sum(x))


IMPLICIT, REJECTION, ARM, DISARM = ImplicitReparameterized(), RejectionReparam(), Arm(), DisArm()
REBAR, RELAX = Rebar(0.4, 0.8), Relax(wiggle, 0.4)

PAIRS = [
    Pair("normal", R, lambda t: dist.Normal(*t), (0.3, 0.8)),
    Pair("log-normal", R, lambda t: dist.LogNormal(*t), (0.3, 0.5)),
    Pair("gamma", R, lambda t: dist.Gamma(*t), (2.3, 1.4)),
    Pair("beta", R, lambda t: dist.Beta(*t), (1.6, 2.5)),
    Pair("student-t", R, lambda t: dist.StudentT(*t), (6.0, 0.3, 0.8)),
    Pair("exponential", R, dist.Exponential, 1.3),
    Pair("uniform, moving", R, lambda t: dist.Uniform(t[0], t[0] + t[1]), (-0.5, 1.7)),
    Pair("half-normal", R, dist.HalfNormal, 0.9),
    Pair("laplace", R, lambda t: dist.Laplace(*t), (0.3, 0.8)),
    Pair("gumbel", R, lambda t: dist.Gumbel(*t), (0.3, 0.8)),
    Pair("normal, batch", R, lambda t: dist.Normal(t, 0.7), np.array([0.3, -1.0])),
    Pair(
        "multivariate normal",
        R,
        lambda t: dist.MultivariateNormal(t["m"], scale_tril=jnp.tril(t["l"])),
        {"m": np.array([0.5, -0.3]), "l": np.array([[0.9, 0.0], [-0.4, 0.6]])},
        gauss_hermite,
    ),
    Pair("dirichlet", R, dist.Dirichlet, np.array([2.0, 3.0, 2.5]), stick_breaking),
    Pair("bernoulli", S, dist.Bernoulli, 0.3),
    Pair("bernoulli, logits", S, lambda t: dist.Bernoulli(logits=t), -0.4),
    Pair("bernoulli, batch", S, dist.Bernoulli, WEIGHTS),
    Pair("categorical", S, lambda t: dist.Categorical(logits=t), np.array([0.3, -0.2, 0.5])),
    Pair("binomial", S, lambda t: dist.Binomial(5, t), 0.35),
    Pair("poisson", S, dist.Poisson, 1.7),
    Pair("geometric", S, dist.Geometric, 0.4),
    Pair("negative binomial", S, lambda t: dist.NegativeBinomial2(*t), (2.1, 1.5)),
    Pair("normal", S, lambda t: dist.Normal(*t), (0.3, 0.8)),
    Pair("gamma", S, lambda t: dist.Gamma(*t), (2.3, 1.4)),
    Pair("beta", S, lambda t: dist.Beta(*t), (1.6, 2.5)),
    Pair("mixture", S, mixture, MIXTURE),
    Pair("von mises", S, lambda t: dist.VonMises(*t), (0.4, 1.2)),
    Pair("uniform, fixed", S, lambda t: dist.Uniform(0.0, 1.5), 1.0),
    Pair("discrete uniform", S, lambda t: dist.DiscreteUniform(1, 4), 1.0),
    Pair("bernoulli", E, dist.Bernoulli, 0.3),
    Pair("bernoulli, batch", E, dist.Bernoulli, WEIGHTS),
    Pair("categorical", E, lambda t: dist.Categorical(logits=t), np.array([0.3, -0.2, 0.5])),
    Pair("binomial", E, lambda t: dist.Binomial(5, t), 0.35),
    Pair("discrete uniform", E, lambda t: dist.DiscreteUniform(1, 4), 1.0),
    Pair("bernoulli, batch", L, dist.Bernoulli, WEIGHTS),
    Pair("categorical", L, categorical, LOGITS),
    Pair("geometric", L, dist.Geometric, 0.4),
    Pair("normal, two draws", LeaveOneOut(), lambda t: dist.Normal(*t), (0.3, 0.8)),
    Pair("gamma", L, lambda t: dist.Gamma(*t), (2.3, 1.4)),
    Pair("mixture", L, mixture, MIXTURE),
    Pair("categorical, two draws", WithoutReplacement(2), categorical, LOGITS),
    Pair("categorical, three draws", WithoutReplacement(3), categorical, LOGITS),
    Pair("categorical, all values", WithoutReplacement(4), categorical, LOGITS),
    Pair("categorical, batch", WithoutReplacement(2), categorical, BATCH),
    Pair("categorical, extreme", WithoutReplacement(3), categorical, np.array([9.0, -50, 0, -200])),
    Pair("binomial", WithoutReplacement(3), lambda t: dist.Binomial(5, t), 0.35),
    Pair("bernoulli, batch", WithoutReplacement(2), dist.Bernoulli, WEIGHTS),
    Pair("bernoulli, logits", M, lambda t: dist.Bernoulli(logits=t), -0.4),
    Pair("bernoulli, batch", M, dist.Bernoulli, WEIGHTS),
    Pair("bernoulli, expanded", M, lambda t: dist.Bernoulli(t).expand([3]), 0.3),
    Pair("categorical", M, categorical, LOGITS),
    Pair("categorical, probs", M, lambda t: dist.Categorical(jax.nn.softmax(t)), LOGITS),
    Pair("categorical, expanded", M, lambda t: categorical(t).expand([2]), LOGITS),
    Pair("binomial", M, lambda t: dist.Binomial(5, t), 0.35),
    Pair("binomial, logits", M, lambda t: dist.Binomial(5, logits=t), np.array([0.2, -1.4])),
    Pair("poisson, batch", M, dist.Poisson, np.array([0.4, 5.0])),
    Pair("geometric", M, dist.Geometric, 0.4),
    Pair("geometric, logits", M, lambda t: dist.Geometric(logits=t), np.array([0.2, -0.9])),
    Pair("normal, batch", M, lambda t: dist.Normal(*t), (np.array([0.3, -1.0]), 0.7)),
    Pair("exponential", M, dist.Exponential, 1.3),
    Pair("gamma, batch", M, lambda t: dist.Gamma(*t), (np.array([1.2, 4.0]), 1.4)),
    Pair("weibull", M, lambda t: dist.Weibull(*t), (1.2, 1.7)),
    Pair("bernoulli, batch", T, dist.Bernoulli, WEIGHTS),
    Pair("categorical, probs", T, lambda t: dist.Categorical(jax.nn.softmax(t)), LOGITS),
    Pair("categorical, batch", T, categorical, BATCH),
    Pair("categorical, one value", T, categorical, LOGITS[:1]),
    Pair("binomial", T, lambda t: dist.Binomial(5, t), 0.35),
    Pair("binomial, logits", T, lambda t: dist.Binomial(5, logits=t), np.array([0.2, -1.4])),
    Pair("beta-binomial", T, lambda t: dist.BetaBinomial(*t, 6).expand([2]), (1.6, 2.5)),
    Pair("poisson", T, dist.Poisson, 1.7),
    Pair("poisson, expanded", T, lambda t: dist.Poisson(t).expand([2]), 1.7),
    Pair("geometric", T, dist.Geometric, 0.4),
    Pair("geometric, logits", T, lambda t: dist.Geometric(logits=t), np.array([0.2, -0.9])),
    Pair("float bernoulli", E, FloatBernoulli, WEIGHTS),
    Pair("one-hot categorical", E, lambda t: OneHotCategorical(logits=t), LOGITS),
    Pair("float bernoulli", S, FloatBernoulli, WEIGHTS),
    Pair("one-hot categorical", S, lambda t: OneHotCategorical(logits=t), LOGITS),
    Pair("mixture", IMPLICIT, mixture, MIXTURE),
    Pair("mixture, batch", IMPLICIT, mixture_batch, np.array([-0.5, 0.2, 1.0])),
    Pair("mixture of families", IMPLICIT, mixture_of_families, MIXTURE),
    Pair("normal", IMPLICIT, lambda t: dist.Normal(*t), (0.3, 0.8)),
    Pair("gamma", IMPLICIT, lambda t: dist.Gamma(*t), (2.3, 1.4)),
    Pair("weibull", IMPLICIT, lambda t: dist.Weibull(*t), (0.9, 1.6)),
    Pair("uniform, moving", IMPLICIT, lambda t: dist.Uniform(t[0], t[0] + t[1]), (-0.5, 1.7)),
    Pair("von mises", IMPLICIT, lambda t: dist.VonMises(*t), (0.4, 1.2)),
    Pair("von mises, batch", IMPLICIT, lambda t: dist.VonMises(t, 2.5), np.array([-2.0, 0.3])),
    Pair("gamma", REJECTION, lambda t: dist.Gamma(*t), (2.3, 1.4)),
    Pair("gamma, small", REJECTION, lambda t: dist.Gamma(*t), (0.6, 1.4), log_grid),
    Pair("gamma, B = 1", RejectionReparam(1), lambda t: dist.Gamma(*t), (2.3, 1.4)),
    Pair("gamma, batch", REJECTION, lambda t: dist.Gamma(t, 1.2), np.array([1.5, 0.8, 4.0])),
    Pair("gamma, event", REJECTION, joint_gamma, 1.8, log_grid),
    Pair("chi2", REJECTION, dist.Chi2, 3.0),
    Pair("beta", REJECTION, lambda t: dist.Beta(*t), (1.6, 2.5)),
    Pair("beta, batch", REJECTION, lambda t: dist.Beta(t, 1.3), np.array([1.6, 2.5])),
    Pair("dirichlet", REJECTION, dist.Dirichlet, np.array([2.0, 3.0, 2.5]), stick_breaking),
    Pair("float bernoulli", REBAR, FloatBernoulli, 0.3),
    Pair("float bernoulli, batch", REBAR, lambda t: FloatBernoulli(logits=t), LOGITS),
    Pair("float bernoulli, event", REBAR, joint_float_bernoulli, LOGITS, combinations),
    Pair("one-hot categorical", REBAR, lambda t: OneHotCategorical(logits=t), LOGITS),
    Pair("one-hot, batch", REBAR, OneHotCategorical, np.stack([WEIGHTS, WEIGHTS[::-1]])),
    Pair("float bernoulli", RELAX, FloatBernoulli, 0.3),
    Pair("float bernoulli, batch", RELAX, lambda t: FloatBernoulli(logits=t), LOGITS),
    Pair("float bernoulli, event", RELAX, joint_float_bernoulli, LOGITS, combinations),
    Pair("one-hot categorical", RELAX, lambda t: OneHotCategorical(logits=t), LOGITS),
    *(
        pair
        for estimator in (ARM, DISARM)
        for pair in (
            Pair("bernoulli", estimator, dist.Bernoulli, 0.3),
            Pair("bernoulli, logits", estimator, lambda t: dist.Bernoulli(logits=t), -0.4),
            Pair("bernoulli, batch", estimator, dist.Bernoulli, WEIGHTS),
            Pair("bernoulli, event", estimator, joint_bernoulli, LOGITS, combinations),
            Pair("float bernoulli", estimator, FloatBernoulli, WEIGHTS),
        )
    ),
]


def named(pair: Pair) -> str:
    return f"{type(pair.estimator).__name__}-{pair.name.replace(', ', '-').replace(' ', '-')}"


@pytest.mark.parametrize("pair", PAIRS, ids=named)
def test_law(pair):
    key = jax.random.key(sum(map(ord, named(pair))))
    count = 16 if isinstance(pair.estimator, Enumerate) else 50_000
    assert_estimator_law(
        pair.estimator, pair.family, pair.theta, key=key, measure=pair.measure, num_samples=count
    )


@pytest.mark.parametrize("family", [FloatBernoulli, joint_float_bernoulli])
def test_straight_through_is_biased_in_derivative_alone(family):
    with pytest.raises(AssertionError, match="derivative") as failure:
        assert_estimator_law(
            StraightThrough(),
            family,
            WEIGHTS,
            key=jax.random.key(0),
            measure=combinations if family is joint_float_bernoulli else None,
        )
    assert "'expectation'" not in str(failure.value)


@pytest.mark.parametrize("family", [FloatBernoulli, OneHotCategorical])
def test_gumbel_softmax_is_less_biased_when_cold(family):
    def worst(temperature):
        estimator = GumbelSoftmax(temperature)
        keys = jax.random.split(jax.random.key(0), 10_000)
        values = jax.vmap(lambda key: estimator.particles(key, family(WEIGHTS)).values)(keys)
        cubes, exact = jnp.mean(values**3, (0, 1)), family(WEIGHTS).mean
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


# --- in programs ---------------------------------------------------------------------------------

IN_PROGRAMS = [
    Pair("normal", R, lambda t: dist.Normal(jnp.tanh(t), 0.8), 0.3),
    Pair("bernoulli", S, lambda t: dist.Bernoulli(logits=t), 0.4),
    Pair("geometric", S, lambda t: dist.Geometric(logits=0.4 * jnp.sin(t)), 0.4),
    Pair("categorical", E, lambda t: dist.Categorical(logits=jnp.stack([t, 0.0 * t, 1 - t])), 0.3),
]


def coarse_measure(distribution: Any) -> tuple[jax.Array, jax.Array]:
    """An exact measure of fewer points, for sums over several sites."""
    points, weights = exact_measure(distribution)
    if jnp.issubdtype(points.dtype, jnp.integer):
        return points[:100], weights[:100]
    return points[::40], 40.0 * weights[::40]


def nested(*families: Callable) -> Callable:
    """E[f(x_1, ..., x_n)] where x_i is of `families[i](x_1, ..., x_i-1)`, by nested sums."""

    def expectation(f, *values):
        if len(values) == len(families):
            return f(*values)
        points, weights = coarse_measure(families[len(values)](*values))
        return jnp.sum(weights * jax.vmap(lambda x: expectation(f, *values, x))(points))

    return expectation


OTHERS = {
    "reparameterized": (lambda t: dist.Normal(0.5 * t, 0.6), R),
    "score": (lambda t: dist.Bernoulli(logits=t), S),
    "enumerate": (lambda t: dist.Bernoulli(logits=0.5 - t), E),
}


def wave(x, y):
    return jnp.sin(1.3 * x + 0.4) * jnp.cos(0.7 * y - 0.2) + 0.3 * x * y / (1.0 + x**2)


class Context(NamedTuple):
    """A program of a pair's site and a parameter, and its exact expectation."""

    program: Callable
    exact: Callable


def contexts(pair: Pair) -> dict[str, Context]:
    family, estimator = pair.family, pair.estimator

    def downstream_of(other):
        other_family, other_estimator = OTHERS[other]

        def program(t):
            y = sample("y", other_family(t), other_estimator)
            return wave(sample("x", family(t + 0.4 * y), estimator) * 1.0, y * 1.0)

        def exact(t):
            return nested(lambda: other_family(t), lambda y: family(t + 0.4 * y))(
                lambda y, x: wave(x, y)
            )

        return Context(program, exact)

    def upstream_of(other):
        other_family, other_estimator = OTHERS[other]

        def program(t):
            x = sample("x", family(t), estimator) * 1.0
            return wave(x, sample("y", other_family(t + jnp.sin(x)), other_estimator) * 1.0)

        def exact(t):
            return nested(lambda: family(t), lambda x: other_family(t + jnp.sin(x)))(wave)

        return Context(program, exact)

    def lanes(t):
        shifts = jnp.array([0.0, 0.7])
        x, y = jax.vmap(lambda s: sample("x", family(t + s), estimator) * 1.0)(shifts)
        return wave(x, y)

    def lanes_exact(t):
        return nested(lambda: family(t), lambda x: family(t + 0.7))(wave)

    def steps(t):
        def step(state, _):
            x = sample("x", family(t + 0.5 * state), estimator) * 1.0
            return jnp.sin(x + state), x

        state, xs = jax.lax.scan(step, 0.0 * t, None, length=2)
        return state * jnp.cos(xs[0]) + xs[1] / (1.0 + xs[1] ** 2)

    def steps_exact(t):
        def result(x, y):
            return jnp.sin(y + jnp.sin(x)) * jnp.cos(x) + y / (1.0 + y**2)

        return nested(lambda: family(t), lambda x: family(t + 0.5 * jnp.sin(x)))(result)

    def scaled(t):
        def guide():
            x = sample("x", family(t), estimator) * 1.0
            return sample("y", family(t + 0.3 * jnp.sin(x)), estimator) * 1.0

        q = ppl.simulate(ppl.scale(ppl.mask(guide, t > 0), 3.0))
        return jnp.cos(q.value) * q.log_density / 10.0

    def scaled_exact(t):
        def following(x):
            return family(t + 0.3 * jnp.sin(x))

        def result(x, y):
            log_density = family(t).log_prob(x) + following(x).log_prob(y)
            return jnp.cos(y) * 3.0 * jnp.where(t > 0, log_density, 0.0) / 10.0

        return nested(lambda: family(t), following)(result)

    return {
        **{f"downstream of {other}": downstream_of(other) for other in OTHERS},
        **{f"upstream of {other}": upstream_of(other) for other in OTHERS},
        "vmap": Context(lanes, lanes_exact),
        "scan": Context(steps, steps_exact),
        "scale and mask": Context(scaled, scaled_exact),
    }


@pytest.mark.parametrize("pair", IN_PROGRAMS, ids=named)
def test_law_in_programs(pair):
    """All contexts in one objective, each with its own parameter and its own coefficient.

    The derivative in a coefficient is the value of its context.
    """
    table = contexts(pair)
    args = {name: {"theta": pair.theta, "value": 1.0} for name in table}

    def objective(args):
        return sum(
            args[name]["value"] * ppl.scope(context.program, name)(args[name]["theta"])
            for name, context in table.items()
        )

    def exact(args):
        return sum(
            args[name]["value"] * context.exact(args[name]["theta"])
            for name, context in table.items()
        )

    key = jax.random.key(sum(map(ord, named(pair))))
    assert_unbiased(objective, args, exact=exact, key=key, num_samples=20_000, tolerance=1e-4)


# --- the checker itself --------------------------------------------------------------------------


class Forgetful(ppl.Estimator):
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
