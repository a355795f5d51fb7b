"""Programs around a site, with their exact expectations.

Each is a function of the pair's parameters and of coefficients of its costs: the derivative in a
coefficient is the expectation of that cost alone.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import ppl
from tests.stdlib.families import Family
from tests.stdlib.pairs import Pair

SHIFTS = jnp.array([-0.1, 0.15])
PHASES = jnp.array([0.3, 1.1, -0.6])


class Context(NamedTuple):
    """`program(theta, *coefficients)` draws; its expectation is `exact(theta, *coefficients)`."""

    program: Callable
    exact: Callable
    coefficients: int = 1


def moved(theta: Any, shift: Any) -> Any:
    """Parameters a little further from zero."""
    return jax.tree.map(lambda x: x * (1.0 + shift), theta)


def wave(family: Family, value: jax.Array, phase: Any) -> jax.Array:
    """A smooth function of a value, one number for each element of the batch."""
    distribution = family.make(family.theta)
    shape = (*distribution.batch_shape, *distribution.event_shape)
    places = jnp.arange(int(np.prod(shape))).reshape(shape)
    dims = tuple(range(-len(distribution.event_shape), 0))
    return jnp.sum(jnp.sin(0.9 * value + 0.5 * places + phase), dims)


def state_of(value: jax.Array) -> jax.Array:
    """What a loop carries of a value: a number from -1 to 1, made of its first element."""
    return jnp.sin(1.0 * value.ravel()[0] + 0.4)


def mean(family: Family, theta: Any, fn: Callable) -> jax.Array:
    """E[fn(value)], where fn gives a number for each element of the batch."""
    points, weights = family.measure(family.make(theta))
    return jnp.sum(weights * jax.vmap(fn)(points), 0)


def draw(pair: Pair, theta: Any) -> jax.Array:
    """The pair's site."""
    return ppl.sample("x", pair.family.make(theta), pair.estimator)


def lanes(pair: Pair) -> Context:
    """Two lanes of a `vmap`, one scaled and one masked.

    A sum over the lanes, a product of them, and their log density times another cost.
    """
    family = pair.family

    def program(theta, apart, mixed, scored):
        def lane(shift, factor, flag):
            return ppl.scale(ppl.mask(lambda: draw(pair, moved(theta, shift)), flag), factor)()

        q = ppl.simulate(lambda: jax.vmap(lane)(SHIFTS, jnp.array([3.0, 2.0]), SHIFTS < 0))
        sums = jax.vmap(lambda x, phase: wave(family, x, phase))(q.value, PHASES[:2])
        one, other = (jnp.sum(wave(family, x, 0.2)) for x in q.value)
        product = mixed * one * other
        return apart * jnp.sum(sums) + product + scored * (one + other) * q.log_density / 10

    def exact(theta, apart, mixed, scored):
        one, other = (
            means(family, moved(theta, shift), phase)
            for shift, phase in zip(SHIFTS, PHASES[:2], strict=True)
        )
        sums = jnp.sum(one.sum) + jnp.sum(other.sum)
        covariance = jnp.sum(one.both - one.wave * one.log_prob)
        density = (jnp.sum(one.wave) + jnp.sum(other.wave)) * jnp.sum(one.log_prob) + covariance
        product = jnp.sum(one.wave) * jnp.sum(other.wave)
        return apart * sums + mixed * product + scored * 3.0 * density / 10

    return Context(program, exact, 3)


class Means(NamedTuple):
    """Means for each element of the batch: of two waves, the log density, and a product."""

    sum: jax.Array
    wave: jax.Array
    log_prob: jax.Array
    both: jax.Array


def means(family: Family, theta: Any, phase: Any) -> Means:
    """What the expectations of `lanes` are made of."""

    def at(x):
        here, log_prob = wave(family, x, 0.2), family.make(theta).log_prob(x)
        return jnp.stack([wave(family, x, phase), here, log_prob, here * log_prob], -1)

    points, weights = family.measure(family.make(theta))
    totals = jnp.sum(weights[..., None] * jax.vmap(at)(points), 0)
    return Means(*jnp.moveaxis(totals, -1, 0))


def steps(pair: Pair) -> Context:
    """Three steps of a `scan`, whose parameters depend on the step before."""
    family = pair.family

    def program(theta, coefficient):
        def step(state, phase):
            x = draw(pair, moved(theta, 0.2 * state))
            return state_of(x), jnp.sum(wave(family, x, phase))

        return coefficient * jnp.sum(jax.lax.scan(step, 0.3, PHASES)[1])

    def exact(theta, coefficient):
        def backwards(later, phase):
            """The costs from a step on, as a polynomial of the state before it."""

            def following(state):
                def fn(x):
                    own = wave(family, x, phase)
                    return own.at[(0,) * own.ndim].add(polynomial(later, state_of(x)))

                return jnp.sum(mean(family, moved(theta, 0.2 * state), fn))

            return interpolant(jax.vmap(following)(NODES))

        later = functools.reduce(backwards, PHASES[::-1], jnp.zeros(len(NODES)))
        return coefficient * polynomial(later, 0.3)

    return Context(program, exact)


NODES = np.polynomial.chebyshev.chebpts1(12).astype(np.float32)


def interpolant(values: jax.Array) -> jax.Array:
    """The Chebyshev coefficients of the polynomial with these values at `NODES`."""
    basis = np.polynomial.chebyshev.chebvander(NODES, len(NODES) - 1) * 2 / len(NODES)
    return jnp.asarray(basis.T, jnp.float32) @ values


def polynomial(coefficients: jax.Array, x: Any) -> jax.Array:
    """Its value, by Clenshaw's recurrence."""
    one, two = jnp.zeros(()), jnp.zeros(())
    for coefficient in coefficients[:0:-1]:
        one, two = coefficient + 2 * x * one - two, one
    return coefficients[0] / 2 + x * one - two


def in_one(contexts: dict[str, tuple[Context, Any]]) -> tuple[Callable, Callable, dict]:
    """All contexts, each at its own parameters, as one objective, its expectation and arguments."""
    args = {
        name: {"theta": theta, "values": [1.0] * context.coefficients}
        for name, (context, theta) in contexts.items()
    }

    def objective(args):
        return sum(
            ppl.scope(context.program, name)(args[name]["theta"], *args[name]["values"])
            for name, (context, _) in contexts.items()
        )

    def exact(args):
        return sum(
            context.exact(args[name]["theta"], *args[name]["values"])
            for name, (context, _) in contexts.items()
        )

    return objective, exact, args
