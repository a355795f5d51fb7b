"""Each error and warning is provoked, and then the advice that it gives is followed.

A row has what fails, and what the message says to write instead, with the number that it must give:
an error whose remedy does not work would be worse than none.
"""

import sys
import warnings
from functools import partial
from typing import NamedTuple
from unittest import mock

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest
from jax import lax

import ppl
from ppl import errors, sample
from stdlib.estimators import Enumerate
from stdlib.inference import Exact, Importance
from stdlib.objectives import elbo

KEY = jax.random.key(0)
NORMAL = dist.Normal(0.0, 1.0)
AT_ZERO, AT_ONE = -0.9189385, -1.4189385  # log densities of the standard normal
fit = partial(ppl.fit, optimizer=optax.sgd(0.25), key=KEY, steps=50, progress=False)
FLAT = dist.ImproperUniform(dist.constraints.real, (), ())
PHI = {"x": 0, "y": 0.0}
rise = lambda x: -((x - 3.0) ** 2)


class Advice(NamedTuple):
    """What fails, what its message says to do instead, and the number that this gives."""

    fails: object
    follows: object
    number: float = 0.0


class Doubled(eqx.Module):
    """Two times a standard normal, whose density at given values it does not know."""

    def sample(self, key):
        return self.sample_and_log_prob(key)[0]

    def sample_and_log_prob(self, key):
        x = NORMAL.sample(key)
        return 2.0 * x, NORMAL.log_prob(x) - jnp.log(2.0)


class LogLaw(Exact):
    law = "log"


def seeded(program):
    return lambda: ppl.seed(program)(KEY)


def scored(program, choices):
    return lambda: ppl.log_density(program, choices)


def slope(objective, at=0.3):
    """The derivative of an expectation that has no variance."""
    return lambda: jax.grad(ppl.expectation(objective), argnums=1)(KEY, at)


def one():
    return sample("x", NORMAL)


def factored():
    one()
    sample("f", dist.Unit(3.0), obs=jnp.zeros(0))


def counts():
    return sample("y", dist.Poisson(jnp.exp(one())))


def noisy():
    u = sample("u", dist.Uniform(0.0, 1.0), obs=0.5)
    return dist.Gumbel(one(), 2.0).icdf(u)


def positive():
    sample("x", dist.LogNormal(0.0, 1.0))


def mapped():
    into = dist.transforms.biject_to(dist.constraints.positive)
    sample("x", dist.TransformedDistribution(NORMAL, into))


def twice():
    return sample("x", NORMAL) + sample("x", NORMAL)


def apart():
    return ppl.scope(one, "a")() + ppl.scope(one, "b")()


def with_data():
    sample("y", dist.Normal(one(), 1.0), obs=0.0)


def wide():
    sample("x", dist.Normal(0.0, 2.0))


def doubled():
    return sample("x", Doubled(), ppl.Reparameterized())


def pair():
    sample("y", dist.Normal(one(), 1.0))


def coin(p, estimator=None):
    return 3.0 * sample("x", dist.Bernoulli(p), estimator)


def heads(threshold):
    """Whether a coin falls heads, in a loop that ends when it does."""

    def toss(state):
        return sample("x", dist.Bernoulli(threshold)) == 1, state[1] + 1

    return lax.while_loop(lambda state: ~state[0], toss, (False, 0))[1]


def in_predicate():
    return lax.while_loop(lambda n: sample("x", dist.Bernoulli(1.0)) == 0, lambda n: n + 1, 0)


def while_sum(t):
    def body(state):
        return state[0] + 1, state[1] + sample("x", dist.Bernoulli(t), ppl.ScoreFunction())

    return 1.0 * lax.while_loop(lambda state: state[0] < 2, body, (0, 0))[1]


def for_sum(t):
    def body(_, total):
        return total + sample("x", dist.Bernoulli(t), Enumerate())

    return lax.fori_loop(0, 2, body, 0.0)


def parts(p):
    b = 1.0 * sample("b", dist.Bernoulli(p * jnp.ones(30)), Enumerate())
    return jnp.sum(b[1::2] * b[::2])


def parts_apart(p):
    one, other = (sample(n, dist.Bernoulli(p * jnp.ones(15)), Enumerate()) for n in ("b", "c"))
    return jnp.sum(1.0 * one * other)


def branches(name):
    return lambda: lax.cond(
        sample("b", dist.Bernoulli(0.0)) == 1,
        lambda: sample("x", dist.Normal(jnp.zeros(2), 1.0)).sum(),
        lambda: sample(name, NORMAL),
    )


class Count(ppl.State):
    """Counts its updates."""

    total: jax.Array

    def updated(self, gradient):
        return Count(self.total + 1)


class Grown(Count):
    """Becomes a vector."""

    def updated(self, gradient):
        return Grown(jnp.stack([self.total, self.total]))


class Drawn(ppl.extend.Estimator):
    """Cut off from the parameters: biased."""

    unbiased = False

    def particles(self, key, distribution):
        return ppl.extend.Particles(distribution.sample(key)[None], None)


class Lost(dist.Distribution):
    """Its location is not among the fields of its pytree."""

    support = dist.constraints.real

    def __init__(self, loc):
        self.loc = loc
        super().__init__()

    def sample(self, key, sample_shape=()):
        return jnp.broadcast_to(self.loc, sample_shape)

    def log_prob(self, value):
        return 0.0 * value


class Kept(Lost):
    """The same, registered as the message says."""

    pytree_data_fields = ("loc",)


@jax.custom_jvp
def with_rule(x):
    return x + sample("x", NORMAL)


with_rule.defjvp(lambda primals, tangents: (with_rule(*primals), tangents[0]))


def warned(warning, thunk):
    """Runs a thunk, and raises the first warning of a class as an exception."""

    def raises():
        with warnings.catch_warnings():
            warnings.simplefilter("error", warning)
            return thunk()

    return raises


def without(module):
    """Raises as if a package were not installed."""

    def plots():
        result = fit(rise, 0.0, steps=2)
        with mock.patch.dict(sys.modules, {module: None, f"{module}.pyplot": None}):
            result.plot()

    return plots


def plot_points():
    pytest.importorskip("matplotlib")
    result = fit(rise, 0.0, steps=2)
    return result.plot()[0].lines[0].get_xdata()[0] * 0.0


other = lambda kept: sample("w", NORMAL)
same = lambda kept: sample("x", NORMAL)
only_y = lambda proposal: ppl.marginal(pair, "y", Importance(1, proposal))
jump = lambda estimator: lambda t: jnp.round(sample("x", dist.Normal(t, 1.0), estimator))

ADVICE = {
    "BiasedEstimator": Advice(
        lambda: ppl.expectation(partial(coin, estimator=Drawn()))(KEY, 1.0),
        lambda: ppl.expectation(partial(coin, estimator=Drawn()), allow_biased=True)(KEY, 1.0),
        3.0,
    ),
    "BranchMismatch": Advice(
        lambda: ppl.seed(lambda: ppl.simulate(branches("x")))(KEY),
        lambda: ppl.seed(lambda: ppl.simulate(branches("y")))(KEY).choices["b"],
    ),
    "ChoiceShapeError": Advice(
        scored(one, {"x": jnp.zeros((1,))}),
        scored(one, {"x": jnp.zeros((1,)).reshape(())}),
        AT_ZERO,
    ),
    "ChoiceTypeError": Advice(
        scored(one, {"x": "zero"}), scored(one, {"x": jnp.asarray(0)}), AT_ZERO
    ),
    "CustomRuleIgnored": Advice(
        warned(errors.CustomRuleIgnored, seeded(lambda: jax.jvp(with_rule, (0.0,), (1.0,)))),
        seeded(lambda: 0.0 * one()),
    ),
    "DifferentiatedSite": Advice(
        seeded(lambda: jax.grad(lambda t: sample("x", dist.Normal(t, 1.0)))(0.5)),
        seeded(lambda: slope(lambda t: sample("x", dist.Normal(t, 1.0)))()),
        1.0,
    ),
    "DiscontinuousObjective": Advice(
        warned(errors.DiscontinuousObjective, slope(jump(None))),
        lambda: ppl.expectation(lambda t: 0.0 * jump(ppl.ScoreFunction())(t))(KEY, 0.3),
    ),
    "DuplicateAddress": Advice(
        scored(twice, {"x": 0.0}),
        scored(apart, {"a": {"x": 0.0}, "b": {"x": 1.0}}),
        AT_ZERO + AT_ONE,
    ),
    "FactorShapeError": Advice(
        scored(ppl.scale(one, jnp.ones(3)), {"x": 0.0}),
        scored(lambda: jax.vmap(lambda f: ppl.scale(one, f)())(jnp.ones(3)), {"x": jnp.zeros(3)}),
        3 * AT_ZERO,
    ),
    "ForeignStatement": Advice(
        scored(lambda: numpyro.sample("x", NORMAL), {"x": 0.0}), scored(one, {"x": 0.0}), AT_ZERO
    ),
    "IntegerParameter": Advice(
        warned(errors.IntegerParameter, lambda: fit(lambda p: rise(p["x"] + 0.0 * p["y"]), PHI)),
        lambda: fit(lambda p: rise(p["x"] + 0.0 * p["y"]), {**PHI, "x": 0.0}).params["x"],
        3.0,
    ),
    "InvalidAddress": Advice(
        seeded(lambda: sample("", NORMAL)),
        scored(lambda: sample("layer/x", NORMAL), {"layer/x": 0.0}),
        AT_ZERO,
    ),
    "InvalidData": Advice(
        lambda: fit(lambda x, d: rise(x), 0.0, data=3.0),
        lambda: fit(lambda x, d: rise(x), 0.0, data=jnp.ones(3)).params,
        3.0,
    ),
    "InvalidDistribution": Advice(
        seeded(lambda: sample("x", dist.Normal)), scored(one, {"x": 0.0}), AT_ZERO
    ),
    "InvalidKey": Advice(lambda: ppl.seed(lambda: 1.0)(0), seeded(lambda: 1.0), 1.0),
    "InvalidObjective": Advice(
        lambda: fit(lambda x, y: rise(x), 0.0), lambda: fit(rise, 0.0).params, 3.0
    ),
    "InvalidOptimizer": Advice(
        lambda: fit(rise, 0.0, optimizer=optax.sgd), lambda: fit(rise, 0.0).params, 3.0
    ),
    "InvalidSetting": Advice(
        lambda: fit(rise, 0.0, steps=-1), lambda: fit(rise, 0.0, steps=50).params, 3.0
    ),
    "InvalidState": Advice(
        lambda: fit(lambda p: rise(p[0]), (0.0, Grown(jnp.asarray(0)))),
        lambda: fit(lambda p: rise(p[0]), (0.0, Count(jnp.asarray(0)))).params[1].total,
        50,
    ),
    "InvalidControlVariate": Advice(
        lambda: ppl.expectation(lambda: (coin(0.0), ppl.control_variate("y", 1.0))[0])(KEY),
        lambda: ppl.expectation(lambda: (coin(0.0), ppl.control_variate("x", 1.0))[0])(KEY),
    ),
    "MissingChoice": Advice(scored(one, {}), scored(one, {"x": 0.0}), AT_ZERO),
    "MissingDependency": Advice(without("matplotlib"), plot_points),
    "NonFiniteUpdate": Advice(
        lambda: fit(lambda x: jnp.log(x), -1.0),
        lambda: fit(lambda x: jnp.log(x), -1.0, on_nonfinite="stop").params,
        -1.0,
    ),
    "NonScalarObjective": Advice(
        lambda: ppl.expectation(lambda: jnp.ones(3))(KEY),
        lambda: sum(
            ppl.expectation(lambda: {"a": jnp.ones(3)[0], "b": jnp.mean(jnp.ones(3))})(KEY).values()
        ),
        2.0,
    ),
    "NotTrainable": Advice(
        lambda: fit(lambda x: rise(x * 1.0), jnp.asarray(0)), lambda: fit(rise, 0.0).params, 3.0
    ),
    "ObservedChoice": Advice(
        scored(with_data, {"x": 0.0, "y": 1.0}), scored(with_data, {"x": 0.0}), 2 * AT_ZERO
    ),
    "ObservedMarginal": Advice(
        lambda: ppl.seed(lambda: ppl.simulate(ppl.marginal(with_data, "x", Exact())))(KEY),
        scored(ppl.marginal(with_data, "x", Exact()), {"x": 0.0}),
        2 * AT_ZERO,
    ),
    "ObservedGuide": Advice(
        lambda: ppl.expectation(lambda: elbo(one, factored, {}))(KEY),
        lambda: ppl.expectation(lambda: elbo(factored, one, {}))(KEY),
        3.0,
    ),
    "EstimatedDensity": Advice(
        scored(ppl.marginal(ppl.marginal(pair, ["x"], LogLaw()), [], Exact()), {}),
        scored(ppl.marginal(ppl.marginal(pair, ["x"], Exact()), [], Exact()), {}),
    ),
    "InvalidMask": Advice(
        scored(lambda: sample("y", NORMAL, obs=0.0, obs_mask=1), {"y_unobserved": 1.0}),
        scored(
            lambda: sample("y", NORMAL, obs=0.0, obs_mask=np.int32(1) != 0), {"y_unobserved": 1.0}
        ),
        AT_ZERO + AT_ONE,
    ),
    "PartialObservation": Advice(
        seeded(ppl.condition(ppl.marginal(pair, ["x", "y"], Exact()), {"y": 0.0})),
        scored(ppl.normalize(pair, {"y": 0.0}, Exact()), {"x": 0.0}),
        AT_ZERO + 0.5 * np.log(2.0),
    ),
    "ProposalMismatch": Advice(
        lambda: ppl.seed(lambda: ppl.log_density(only_y(other), {"y": 0.0}))(KEY),
        lambda: 0.0 * ppl.seed(lambda: ppl.log_density(only_y(same), {"y": 0.0}))(KEY),
    ),
    "ReverseModeLoop": Advice(
        slope(while_sum),
        slope(for_sum),
        2.0,
    ),
    "SampleOutsideTransformation": Advice(one, lambda: 0.0 * ppl.seed(one)(KEY)),
    "SiteFailure": Advice(
        seeded(lambda: sample("x", Lost(jnp.ones(())))),
        seeded(lambda: sample("x", Kept(jnp.ones(())))),
        1.0,
    ),
    "SupportMismatch": Advice(
        lambda: ppl.expectation(lambda: elbo(positive, one, {}))(KEY),
        lambda: ppl.expectation(lambda: elbo(positive, mapped, {}))(KEY),
    ),
    "TooManyJointStates": Advice(
        lambda: ppl.expectation(parts)(KEY, 0.3),
        lambda: ppl.expectation(parts_apart)(KEY, 0.3),
        15 * 0.09,
    ),
    "UncoupledSite": Advice(
        seeded(lambda: ppl.counterfactual(counts, {"x": 0.3})()[1]),
        seeded(lambda: ppl.counterfactual(noisy, {"x": 0.3})()[1]),
        0.3 - 2.0 * np.log(np.log(2.0)),
    ),
    "UndrawableSite": Advice(
        seeded(lambda: sample("x", FLAT)), scored(lambda: sample("x", FLAT), {"x": 0.5}), 0.0
    ),
    "UnscorableSite": Advice(
        seeded(lambda: elbo(wide, doubled, {}, gradient="sticking-the-landing")),
        seeded(lambda: elbo(wide, doubled, {})),
        0.0,
    ),
    "UnknownAddress": Advice(
        seeded(ppl.marginal(pair, "z", Exact())),
        scored(ppl.marginal(pair, "x", Exact()), {"x": 0.0}),
        AT_ZERO,
    ),
    "UnmatchedPattern": Advice(
        lambda: ppl.expectation(ppl.with_estimators(coin, {"y": Enumerate()}))(KEY, 0.3),
        lambda: ppl.expectation(ppl.with_estimators(coin, {"x": Enumerate()}))(KEY, 0.3),
        0.9,
    ),
    "UnsuitableEstimator": Advice(
        lambda: ppl.expectation(partial(coin, estimator=ppl.Reparameterized()))(KEY, 0.0),
        lambda: ppl.expectation(coin)(KEY, 0.0),
    ),
    "UnsupportedControlFlow": Advice(seeded(in_predicate), seeded(lambda: heads(1.0)), 1.0),
    "UnusedChoice": Advice(
        lambda: ppl.expectation(lambda: elbo(one, pair, {}))(KEY),
        lambda: ppl.expectation(lambda: elbo(pair, pair, {}))(KEY),
    ),
}


@pytest.mark.usefixtures("unchecked_types")
@pytest.mark.parametrize("name", ADVICE)
def test_advice_that_is_followed_works(name):
    error = getattr(errors, name)
    fails, follows, number = ADVICE[name]
    with pytest.raises(error) as caught:
        fails()
    assert type(caught.value) is error and len(str(caught.value)) > 40
    np.testing.assert_allclose(np.asarray(follows(), float), number, atol=2e-5)


def test_every_error_and_warning_has_its_advice_followed():
    assert set(ADVICE) == set(errors.__all__) - {"ProgramError"}
