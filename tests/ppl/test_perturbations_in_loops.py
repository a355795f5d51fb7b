"""Perturbed sites in a `scan`: worlds of each step, in the compiled loop."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from jax import lax

import ppl
from ppl import ScoreFunction, sample
from ppl._expectation.elimination.eliminate import eliminate_each
from ppl._expectation.elimination.perturbation import PERTURBATIONS
from ppl._expectation.elimination.semiring import NUMBERS
from ppl._expectation.estimands import with_scalars
from ppl._expectation.expectation import _estimated, _staged
from ppl._expectation.interpret.scope import Scope
from stdlib.estimators import Enumerate, LeaveOneOut, MeasureValued, StochasticTriple
from stdlib.testing import assert_unbiased

KEY, T = jax.random.key(0), 0.4
XS = 0.3 * jnp.arange(3)
MIX = jnp.array([[0.5, -0.3], [0.8, 0.2]])
sigmoid = jax.nn.sigmoid


def coin(address, p, estimator):
    return 1.0 * sample(address, dist.Bernoulli(p), estimator)


def other(estimator, chosen):
    """An estimator that is not perturbed, but where all are enumerated."""
    return estimator if isinstance(estimator, Enumerate) else chosen


def scan(step, init, xs=XS, reverse=False):
    """A loop's last state and the sum of its outputs, not linearly."""
    end, ys = lax.scan(step, init, xs, reverse=reverse)
    return jnp.sum(ys) + jnp.sin(jnp.sum(end)) + jnp.prod(jnp.atleast_1d(end))


def states(t, e, reverse=False):
    def step(c, x):
        z = coin("z", sigmoid(t + x - c), e)
        return 0.7 * c + z, jnp.cos(c + z)

    return scan(step, 0.0, reverse=reverse)


def batch(t, e):
    """Lanes that are kept apart, and those that a matrix mixes."""

    def step(c, x):
        z = coin("z", sigmoid(t + 0.3 * c - x), e)
        return z, jnp.sin(z + c)

    def mixing(c, x):
        z = coin("y", sigmoid(t + MIX @ c - x), e)
        return z, jnp.sin(z @ MIX + c)

    return scan(step, jnp.zeros(2)) + scan(mixing, jnp.zeros(2))


def turned(t, e):
    """Along a carry, lanes change places."""

    def step(c, x):
        z = coin("z", sigmoid(t + 0.5 * c - x) * jnp.ones((2, 2)), e)
        return z.T, jnp.sin(z + c)

    return scan(step, jnp.zeros((2, 2)), XS[:2])


def nested(t, e):
    def outer(c, x):
        def inner(d, y):
            z = coin("z", sigmoid(t + 0.4 * d - 0.3 * c[0] + y), e)
            return 0.5 * d + z, z * y

        d, zs = lax.scan(inner, c[1], XS[:2])
        w = coin("w", sigmoid(d - t), e)
        return jnp.tanh(zs + c + w), d * w

    return scan(outer, jnp.zeros(2), XS[:2])


def meeting(t, e):
    """A loop over the choices of another, from its end, and with choices of its own."""
    _, zs = lax.scan(lambda c, x: (c, coin("z", sigmoid(t + x), e)), 0.0, XS)

    def step(c, z):
        w = coin("w", sigmoid(c - z), e)
        return 0.5 * c + z, jnp.sin(c + z + w)

    return scan(step, 0.0, zs, reverse=True) + jnp.sum(jnp.cumsum(zs) ** 2) / 9


def along_a_batch(t, e):
    def step(c, z):
        w = coin("w", sigmoid(c - z), e)
        return 0.5 * c + z + w, c * z

    return scan(step, 0.0, coin("z", sigmoid(t + XS), e))


def batch_before(t, e):
    """Lanes of a batch that the loop's carry mixes, below scores of its own."""

    def step(c, _):
        c = jnp.tanh(MIX @ c + coin("a", sigmoid(c[0]), other(e, ScoreFunction())))
        return c, c

    return scan(step, coin("z", sigmoid(t * jnp.ones(2)), e))


def branches(t, e):
    """A cond of as many sites as it turns out to take branches, before sites of other shapes."""

    def step(c, x):
        high = lambda: jnp.sum(coin("a", sigmoid(t) * jnp.ones(2), other(e, ScoreFunction())))
        z = lax.cond(c > 0.5, high, lambda: coin("b", sigmoid(t - 1.0 + x), e))
        w = 1.0 * sample("w", dist.Categorical(logits=MIX.reshape(-1) * t + 0.1 * z), e)
        v = coin("v", sigmoid(0.3 * z + t) * jnp.ones(2), e)
        return z * w + 0.2 * (1 - w) + v[0], jnp.sin(z + c + w + v[1])

    return scan(step, 0.0, XS[:2])


def beside_others(t, e):
    """Scores above and below, shared runs, and an enumerated site at each step."""

    def step(c, x):
        a = coin("a", sigmoid(t - c), other(e, ScoreFunction()))
        z = coin("z", sigmoid(t + x - c + a), e)
        runs = coin("runs", sigmoid(t - z + c), other(e, LeaveOneOut(2)))
        exact = coin("exact", sigmoid(z - x), Enumerate())
        return 0.5 * z - a + runs, z * c + jnp.sin(z + runs) * exact

    return scan(step, 0.0, XS[:2])


def below_a_global(t, e):
    g = coin("g", sigmoid(t), e)

    @jax.checkpoint
    def step(c, x):
        z = coin("z", sigmoid(t + x - c + g), e)
        return 0.4 * c + z * g, jnp.sin(c + z) + g

    return scan(step, 0.0)


def mapped(t, e):
    """Lanes of a vmap, under a scale and a mask."""

    def sequence(x0, reached):
        def step(c, x):
            z = sample("z", dist.Bernoulli(sigmoid(t + x - c)), e)
            sample("y", dist.Normal(c + z, 1.0), obs=x)
            return 1.0 * z, z * c

        def program():
            return scan(step, x0, XS[:2])

        trace = ppl.simulate(ppl.mask(ppl.scale(program, 0.5), reached))
        return trace.value + trace.log_density + trace.value * trace.log_likelihood

    return jnp.sum(jax.vmap(sequence)(jnp.array([0.0, 0.5]), jnp.array([True, False])))


PROGRAMS: dict[str, Callable] = {
    "states": states,
    "states from the end": partial(states, reverse=True),
    "batch": batch,
    "turned": turned,
    "nested": nested,
    "meeting": meeting,
    "along a batch": along_a_batch,
    "batch before": batch_before,
    "branches": branches,
    "beside others": beside_others,
    "below a global": below_a_global,
    "mapped": mapped,
}


def assert_right(program, estimator, num_samples):
    def exact(t):
        return ppl.expectation(program)(KEY, t, Enumerate())

    estimated = partial(program, e=estimator)
    assert_unbiased(estimated, T, exact=exact, key=KEY, num_samples=num_samples)


@pytest.mark.law
@pytest.mark.parametrize("estimator", [MeasureValued(), StochasticTriple()], ids=repr)
@pytest.mark.parametrize("name", PROGRAMS)
def test_each_loop_is_unbiased(name, estimator):
    assert_right(PROGRAMS[name], estimator, 30_000)


@pytest.mark.parametrize("name", ["states", "nested", "batch before", "branches", "beside others"])
def test_loops_are_unbiased(name):
    assert_right(PROGRAMS[name], MeasureValued(), 10_000)


def estimate(objective, t, written_out):
    """An estimate, with all loops written out, step after step, or none."""
    staged = _staged(partial(with_scalars, objective, False), t)
    loops = [id(eqn) for eqn in staged.jaxpr.eqns if eqn.primitive.name == "scan"]
    scope = Scope(written_out=frozenset(loops if written_out else []))
    plugins = (PERTURBATIONS,)
    sum_up = partial(eliminate_each, ring=NUMBERS, plugins=plugins)
    return _estimated(staged, KEY, scope, sum_up)[0]


@pytest.mark.parametrize("name", ["states from the end", "batch", "along a batch"])
def test_the_estimate_is_that_of_steps_written_out(name):
    """Key by key, in all its worlds, and so of the same variance."""
    objective = partial(PROGRAMS[name], e=StochasticTriple())

    @jax.jit
    def both(t):
        ways = [lambda t, w=w: estimate(objective, t, w) for w in (False, True)]
        return [jax.value_and_grad(way)(t) for way in ways]

    at_once, written_out = both(T)
    np.testing.assert_allclose(at_once, written_out, rtol=1e-5)


def walk(theta, xs, carried):
    def step(c, x):
        z = coin("z", sigmoid(theta + x - carried * c), MeasureValued())
        return 0.9 * c * carried + z, jnp.cos(c * z)

    return scan(step, 0.0, xs)


def test_a_long_loop_is_one_loop():
    """Its program is as long as that of a short one."""
    gradient = jax.grad(ppl.expectation(walk), argnums=1)
    short, long = (str(jax.make_jaxpr(gradient)(KEY, T, jnp.zeros(n), 1.0)) for n in (3, 300))
    assert short.count(" = ") == long.count(" = ")


def independent(theta, xs):
    zs = lax.scan(lambda _, x: (0.0, coin("z", sigmoid(theta + x), MeasureValued())), 0.0, xs)[1]
    return jnp.sum(jnp.sin(zs * theta))


def test_what_a_step_perturbs_is_all_that_is_run_again():
    """Steps that are kept apart have one world each; those that meet, one for each of the steps."""

    def work(program, *args):
        gradient = jax.grad(ppl.expectation(program), argnums=1)
        return jax.jit(gradient).lower(KEY, T, *args).compile().cost_analysis()["flops"]

    apart = [work(independent, jnp.zeros(n)) for n in (100, 200)]
    assert apart[1] <= 2.1 * apart[0]
    meet = [work(walk, jnp.zeros(n), 1.0) for n in (100, 200)]
    assert meet[1] <= 4.2 * meet[0]


def test_independent_steps_are_summed_exactly():
    """A cost of one step alone, whose perturbations are a whole support, has no variance."""
    found = jax.value_and_grad(ppl.expectation(independent), argnums=1)(KEY, T, XS)
    exact = lambda t: jnp.sum(sigmoid(t + XS) * jnp.sin(t))
    np.testing.assert_allclose(found, jax.value_and_grad(exact)(T), rtol=1e-5)


def test_second_derivatives_are_refused():
    with pytest.raises(ppl.errors.BiasedEstimator, match="second derivative"):
        jax.hessian(ppl.expectation(walk), argnums=1)(KEY, T, XS, 1.0)
