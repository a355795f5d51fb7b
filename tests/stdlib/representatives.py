"""One site of each kind, of one real parameter, and programs of two of them."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpyro.distributions as dist

import ppl
from ppl import Reparameterized, ScoreFunction, sample
from stdlib.distributions import FloatBernoulli
from stdlib.estimators import (
    Arm,
    DisArm,
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
from stdlib.testing import exact_measure
from tests.stdlib.contexts import Context
from tests.stdlib.pairs import wiggle


class Representative(NamedTuple):
    """A site of a real parameter t: any t will do."""

    name: str
    estimator: Any
    make: Callable

    @property
    def id(self) -> str:
        """The name of its tests."""
        return self.name.replace(", ", "-").replace(" ", "-")

    @property
    def key(self) -> jax.Array:
        """A random key of its own."""
        return jax.random.key(sum(map(ord, self.name)))

    def draw(self, address: str, t: Any) -> jax.Array:
        """The site."""
        return 1.0 * sample(address, self.make(t), self.estimator)


def coin(t):
    return dist.Bernoulli(logits=t)


def float_coin(t):
    return FloatBernoulli(logits=t)


def normal(t):
    return dist.Normal(jnp.tanh(t), 0.8)


def die(t):
    return dist.Categorical(logits=jnp.stack([t, 0.0 * t, 1 - t]))


def mixture(t):
    parts = dist.Normal(jnp.stack([jnp.tanh(t), 0.9]), jnp.array([0.6, 0.9]))
    return dist.MixtureSameFamily(dist.Categorical(logits=jnp.stack([t, 0.3])), parts)


REPRESENTATIVES = [
    Representative("reparameterized", Reparameterized(), normal),
    Representative("score", ScoreFunction(), lambda t: dist.Geometric(logits=0.4 * jnp.sin(t))),
    Representative("score, continuous", ScoreFunction(), normal),
    Representative("enumerate", Enumerate(), die),
    Representative("leave-one-out", LeaveOneOut(3), coin),
    Representative("leave-one-out, continuous", LeaveOneOut(3), normal),
    Representative("without replacement", WithoutReplacement(2), die),
    Representative("measure-valued", MeasureValued(), coin),
    Representative("measure-valued, continuous", MeasureValued(), normal),
    Representative(
        "stochastic triple", StochasticTriple(), lambda t: dist.Poisson(jnp.exp(0.3 * jnp.sin(t)))
    ),
    Representative("arm", Arm(), coin),
    Representative("disarm", DisArm(), coin),
    Representative("rebar", Rebar(0.4, 0.8), float_coin),
    Representative("relax", Relax(wiggle, 0.4), float_coin),
    Representative("implicit", ImplicitReparameterized(), mixture),
    Representative(
        "rejection", RejectionReparam(), lambda t: dist.Gamma(1.6 + 0.6 * jnp.tanh(t), 1.3)
    ),
]
OF_EACH_MECHANISM = [
    *("reparameterized", "score", "enumerate"),
    *("leave-one-out", "measure-valued", "relax"),
]


def coarse_measure(distribution: Any) -> tuple[jax.Array, jax.Array]:
    """An exact measure of fewer points, for sums over several sites."""
    points, weights = exact_measure(distribution)
    if getattr(distribution.support, "is_discrete", False):
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


def wave(x, y):
    return jnp.sin(1.3 * x + 0.4) * jnp.cos(0.7 * y - 0.2) + 0.3 * x * y / (1.0 + x**2)


def in_a_row(first: Representative, second: Representative) -> Context:
    """One site upstream of another."""

    def program(t, coefficient):
        x = first.draw("x", t)
        return coefficient * wave(x, second.draw("y", t + jnp.sin(x)))

    def exact(t, coefficient):
        following = lambda x: second.make(t + jnp.sin(x))
        return coefficient * nested(lambda: first.make(t), following)(wave)

    return Context(program, exact)


def mixed_lanes(site: Representative) -> Context:
    """Two lanes of a `vmap`, in a function of both."""

    def program(t, coefficient):
        x, y = jax.vmap(lambda shift: site.draw("x", t + shift))(jnp.array([0.0, 0.7]))
        return coefficient * wave(x, y)

    def exact(t, coefficient):
        return coefficient * nested(lambda: site.make(t), lambda x: site.make(t + 0.7))(wave)

    return Context(program, exact)


def mixed_steps(site: Representative) -> Context:
    """Two steps of a `scan`, in a function of both."""

    def program(t, coefficient):
        def step(state, _):
            x = site.draw("x", t + 0.5 * state)
            return jnp.sin(x + state), x

        state, xs = jax.lax.scan(step, 0.0 * t, None, length=2)
        return coefficient * (state * jnp.cos(xs[0]) + xs[1] / (1.0 + xs[1] ** 2))

    def exact(t, coefficient):
        def result(x, y):
            return jnp.sin(y + jnp.sin(x)) * jnp.cos(x) + y / (1.0 + y**2)

        following = lambda x: site.make(t + 0.5 * jnp.sin(x))
        return coefficient * nested(lambda: site.make(t), following)(result)

    return Context(program, exact)


def scaled(site: Representative) -> Context:
    """The log density of two sites in a row, under `scale` and `mask`, times another cost."""

    def program(t, coefficient):
        def guide():
            return site.draw("y", t + 0.3 * jnp.sin(site.draw("x", t)))

        q = ppl.simulate(ppl.scale(ppl.mask(guide, t > 0), 3.0))
        return coefficient * jnp.cos(q.value) * q.log_density / 10

    def exact(t, coefficient):
        following = lambda x: site.make(t + 0.3 * jnp.sin(x))

        def result(x, y):
            log_density = site.make(t).log_prob(x) + following(x).log_prob(y)
            return jnp.cos(y) * 3.0 * log_density / 10

        return coefficient * nested(lambda: site.make(t), following)(result)

    return Context(program, exact)


def in_branches(site: Representative) -> Context:
    """Branches of a `cond`, the index of which is drawn."""

    def program(t, coefficient):
        chosen = sample("chosen", coin(t), ScoreFunction())
        x = jax.lax.cond(
            chosen == 1,
            lambda: site.draw("x", t),
            lambda: jnp.cos(site.draw("x", t + 0.7)),
        )
        return coefficient * jnp.sin(1.3 * x + 0.5 * chosen)

    def exact(t, coefficient):
        mean = lambda t, fn: nested(lambda: site.make(t))(fn)
        one = mean(t, lambda x: jnp.sin(1.3 * x + 0.5))
        other = mean(t + 0.7, lambda x: jnp.sin(1.3 * jnp.cos(x)))
        return coefficient * (jax.nn.sigmoid(t) * one + jax.nn.sigmoid(-t) * other)

    return Context(program, exact)
