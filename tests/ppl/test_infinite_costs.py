"""A particle of weight zero adds nothing, in value and derivative, though its cost is infinite."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from jax import lax

import ppl
from ppl import sample
from stdlib.distributions import OneHotCategorical
from stdlib.estimators import Enumerate, MeasureValued, StochasticTriple
from stdlib.inference import Exact

KEY, T = jax.random.key(0), 0.3


def state(t, logits=False):
    """0, 1 or 2, the last one with probability zero."""
    probs = jnp.stack([t, 1.0 - t, 0.0 * t])
    family = dist.Categorical(logits=jnp.log(probs)) if logits else dist.Categorical(probs=probs)
    return 1.0 * sample("k", family, Enumerate())


def summed_twice(step, read):
    return lax.fori_loop(0, 2, lambda _, c: step(c, read), 0.0)


COSTS = {
    "log": lambda t, k: jnp.log(t * (2.0 - k)),
    "a number times a log": lambda t, k: t * jnp.log(2.0 - k),
    "a product of logs": lambda t, k: jnp.sin(t) * jnp.log(2.0 - k) * jnp.log(t + 2.0 - k),
    "sqrt": lambda t, k: jnp.sqrt(t * (2.0 - k)),
    "quotient": lambda t, k: t**2 / (2.0 - k),
    "power": lambda t, k: (t * (2.0 - k)) ** -0.5,
    "square of a log": lambda t, k: jnp.square(jnp.log(t * (2.0 - k))),
    "exponential of a quotient": lambda t, k: jnp.exp(t / (2.0 - k)),
    "in jit": jax.jit(lambda t, k: jnp.log(t * (2.0 - k)) + t),
    "in a branch": lambda t, k: lax.cond(t > 0, lambda: jnp.log(t * (2.0 - k)), lambda: 0.0),
    "in a checkpoint": jax.checkpoint(lambda t, k: t * jnp.log(t * (2.0 - k))),
    "a product in a checkpoint": lambda t, k: jax.checkpoint(jnp.multiply)(t, jnp.log(2.0 - k)),
    "a product in a loop": lambda t, k: summed_twice(lambda c, log: c + t * log, jnp.log(2.0 - k)),
    "a product with what is carried": lambda t, k: summed_twice(
        lambda c, k: t * c + jnp.log(2.0 - k), k
    ),
    "in a loop": lambda t, k: lax.fori_loop(0, 3, lambda i, c: c + i * jnp.log(t * (2.0 - k)), 0.0),
}


@pytest.mark.parametrize("name", COSTS)
def test_an_impossible_state_of_infinite_cost_adds_nothing(name):
    cost = COSTS[name]
    estimate = lambda t: ppl.expectation(lambda t: cost(t, state(t)))(KEY, t)
    exact = lambda t: t * cost(t, 0.0) + (1.0 - t) * cost(t, 1.0)
    found = jax.jit(lambda t: (jax.value_and_grad(estimate)(t), jax.jvp(estimate, (t,), (1.0,))))(T)
    wanted = jax.jit(jax.value_and_grad(exact))(T)
    np.testing.assert_allclose(found[0], wanted, rtol=1e-5)
    np.testing.assert_allclose(found[1], wanted, rtol=1e-5)


def test_derivatives_of_higher_order_stay():
    estimate = lambda t: ppl.expectation(lambda t: jnp.log(t * (3.0 - state(t))))(KEY, t)
    exact = lambda t: t * jnp.log(3 * t) + (1 - t) * jnp.log(2 * t)
    np.testing.assert_allclose(jax.hessian(estimate)(T), jax.jit(jax.hessian(exact))(T), rtol=1e-4)


def test_a_state_at_the_boundary_of_finite_cost_keeps_its_derivative():
    cost = lambda t: jnp.log(1.0 + t + sample("x", dist.Bernoulli(t), Enumerate()))
    found = jax.value_and_grad(ppl.expectation(cost), argnums=1)(KEY, 0.0)
    np.testing.assert_allclose(found, (0.0, 1.0 + np.log(2.0)), atol=1e-6)


@pytest.mark.parametrize("around", ["scan", "vmap", "checkpoint"])
def test_in_loops_and_lanes(around):
    cost = lambda t: jnp.log(t * (2.0 - state(t)))
    programs = {
        "scan": lambda t: jnp.sum(lax.scan(lambda c, _: (c, cost(t)), 0.0, length=3)[1]),
        "vmap": lambda t: jnp.sum(jax.vmap(lambda _: cost(t))(jnp.arange(3))),
        "checkpoint": lambda t: 3.0 * jax.checkpoint(cost)(t),
    }
    found = jax.value_and_grad(ppl.expectation(programs[around]), argnums=1)(KEY, T)
    exact = lambda t: 3.0 * (t * jnp.log(2 * t) + (1 - t) * jnp.log(t))
    np.testing.assert_allclose(found, jax.jit(jax.value_and_grad(exact))(T), rtol=1e-5)


def two(t):
    """Costs of two states, both infinite where they are not reached."""
    other = dist.Categorical(probs=jnp.stack([t, 1.0 - t, 0.0 * t]))
    return jnp.log(t * (2.0 - state(t))), 1.0 / (2.0 - sample("b", other, Enumerate()))


def read_by_a_branch(t):
    cost = jnp.multiply(*two(t))
    return lax.cond(t > 0, lambda: sample("x", dist.Delta(1.0)) * cost, lambda: t)


PRODUCT = lambda t, a, b: a * b
JOINT = {
    "a product": (lambda t: jnp.multiply(*two(t)), PRODUCT),
    "the square of a sum": (lambda t: jnp.add(*two(t)) ** 2, lambda t, a, b: (a + b) ** 2),
    "in a checkpoint": (jax.checkpoint(lambda t: jnp.multiply(*two(t))), PRODUCT),
    "in a branch": (lambda t: lax.cond(t > 0, lambda: jnp.multiply(*two(t)), lambda: t), PRODUCT),
    "read by a branch": (read_by_a_branch, PRODUCT),
    "carried": (
        lambda t: lax.scan(lambda c, _: (c + jnp.add(*two(t)), None), t, length=2)[0],
        lambda t, a, b: t + 2.0 * (a + b),
    ),
}


@pytest.mark.parametrize("name", JOINT)
def test_states_that_meet_at_a_cost(name):
    program, cost = JOINT[name]

    def exact(t):
        pairs = [(p, q, k, m) for p, k in ((t, 2), (1 - t, 1)) for q, m in ((t, 2), (1 - t, 1))]
        return sum(p * q * cost(t, jnp.log(t * k), 1.0 / m) for p, q, k, m in pairs)

    found = jax.jit(jax.value_and_grad(lambda t: ppl.expectation(program)(KEY, t)))(T)
    np.testing.assert_allclose(found, jax.jit(jax.value_and_grad(exact))(T), rtol=1e-5)


def chain(t, cost):
    """Costs of three states, of which the third is never reached; from there all would be."""
    rows = jnp.stack([jnp.stack([t, 1 - t, 0 * t]), jnp.stack([1 - t, t, 0 * t]), jnp.ones(3) / 3])

    def step(before, _):
        now = sample("k", dist.Categorical(probs=rows[before]), Enumerate())
        return now, cost(2.0 - before, 2.0 - now)

    return jnp.sum(lax.scan(step, 0, length=3)[1])


CHAINED = [lambda b, n: jnp.log(n), lambda b, n: jnp.log(n) / b, lambda b, n: jnp.sqrt(n) * b]


@pytest.mark.parametrize("cost", CHAINED, ids=["log", "quotient", "square root"])
def test_states_of_a_chain_that_are_never_reached(cost):
    def exact(t):
        p, total = jnp.array([1.0, 0.0]), 0.0
        for _ in range(3):
            rows = jnp.stack([jnp.stack([t, 1 - t]), jnp.stack([1 - t, t])])
            table = jnp.stack([jnp.stack([cost(b, n) for n in (2.0, 1.0)]) for b in (2.0, 1.0)])
            total, p = total + jnp.sum(p[:, None] * rows * table), p @ rows
        return total

    estimate = lambda t: ppl.expectation(lambda t: chain(t, cost))(KEY, t)
    found = jax.jit(jax.value_and_grad(estimate))(T)
    np.testing.assert_allclose(found, jax.jit(jax.value_and_grad(exact))(T), rtol=1e-5)


@pytest.mark.parametrize("estimator", [StochasticTriple(), MeasureValued()])
def test_a_perturbation_of_infinite_cost_adds_nothing(estimator):
    cost = lambda t: t + jnp.log(1.0 - sample("x", dist.Bernoulli(0.0 * t), estimator))
    found = jax.value_and_grad(ppl.expectation(cost), argnums=1)(KEY, T)
    np.testing.assert_allclose(found, (T, 1.0), rtol=1e-6)


@pytest.mark.parametrize("logits", [False, True])
def test_evidence_of_states_that_cannot_be(logits):
    def evidence(t):
        model = lambda: sample("y", dist.Normal(t, 2.0 - state(0.4, logits)), obs=1.0)
        return Exact().log_evidence(ppl.extend.Target(model, {}))

    def exact(t):
        scores = [dist.Normal(t, s).log_prob(1.0) for s in (2.0, 1.0)]
        return jnp.logaddexp(jnp.log(0.4) + scores[0], jnp.log(0.6) + scores[1])

    found, wanted = jax.value_and_grad(evidence)(T), jax.jit(jax.value_and_grad(exact))(T)
    np.testing.assert_allclose(found, wanted, rtol=1e-5)


# --- numbers without particles, one of which is infinite, chosen among by a particle --------------


def by_hand(p):
    z = sample("z", dist.Bernoulli(p), Enumerate())
    return jnp.where(z == 1, jnp.log(p), jnp.log1p(-p))


def looked_up(p):
    z = sample("z", dist.Categorical(jnp.stack([p, 1.0 - p])), Enumerate())
    return jnp.log(jnp.stack([p, 1.0 - p]))[z]


def density_of(make):
    def program(p):
        return ppl.simulate(lambda: sample("z", make(p), Enumerate())).log_density

    return program


def forbidden(p):
    """A table of logarithms, one of them of zero."""
    z = sample("z", dist.Categorical(jnp.stack([p, 1.0 - p])), Enumerate())
    return jnp.array([0.0, -jnp.inf])[z]


def in_a_body(around):
    def program(p):
        z = 1.0 * sample("z", dist.Categorical(jnp.stack([p, 1.0 - p])), Enumerate())
        return around(lambda z: jnp.where(z > 0.5, -jnp.inf, 0.0), z)

    return program


CERTAIN = {
    "bernoulli": (density_of(dist.Bernoulli), 0.0),
    "a batch": (density_of(lambda p: dist.Bernoulli(jnp.stack([p, 1.0 - p]))), 1.0),
    "categorical": (density_of(lambda p: dist.Categorical(jnp.stack([p, 1.0 - p]))), 0.0),
    "logits": (density_of(lambda p: dist.Categorical(logits=jnp.log(jnp.stack([p, 1 - p])))), 1.0),
    "binomial": (density_of(lambda p: dist.Binomial(2, p)), 0.0),
    "one-hot": (density_of(lambda p: OneHotCategorical(jnp.stack([p, 1.0 - p]))), 1.0),
    "by hand": (by_hand, 0.0),
    "a table": (looked_up, 1.0),
    "a constant table": (forbidden, 1.0),
    "a literal in a checkpoint": (in_a_body(lambda f, z: jax.checkpoint(f)(z)), 1.0),
    "a literal in a branch": (in_a_body(lambda f, z: lax.cond(z > -1.0, f, lambda z: z, z)), 1.0),
}
PLACES = {
    "a product": lambda t, cost: t * cost(),
    "on the left": lambda t, cost: cost() * jnp.sin(t) + t**2,
    "a quotient": lambda t, cost: cost() / jnp.exp(t),
    "lanes": lambda t, cost: jnp.sum(jax.vmap(lambda s: s * t * cost())(jnp.arange(3.0))),
    "steps": lambda t, cost: lax.scan(lambda c, s: (c + s * t * cost(), None), 0.0, jnp.ones(2))[0],
    "a branch": lambda t, cost: lax.cond(t > 0.0, lambda: t * cost(), lambda: t),
}


@pytest.mark.parametrize("name", CERTAIN)
def test_certain_choices_have_no_entropy_wherever_their_densities_go(name):
    """Σ p log p = 0, whatever multiplies it: so is the derivative in the factor."""
    program, p = CERTAIN[name]

    def slopes(t):
        found = {}
        for place, around in PLACES.items():
            objective = lambda t, around=around: around(t, lambda: program(jnp.asarray(p)))
            found[place] = jax.value_and_grad(ppl.expectation(objective), argnums=1)(KEY, t)
        return found

    for place, (value, slope) in jax.jit(slopes)(0.7).items():
        wanted = (0.49, 1.4) if place == "on the left" else (0.0, 0.0)
        np.testing.assert_allclose((value, slope), wanted, atol=1e-6, err_msg=place)


def test_sums_with_possible_states_have_their_share():
    """Of two coins, one certain: the entropy of the other, times a number."""

    def objective(t):
        return t * density_of(dist.Bernoulli)(jnp.array([0.0, 0.25]))

    found = jax.value_and_grad(ppl.expectation(objective), argnums=1)(KEY, 0.7)
    entropy = 0.25 * np.log(0.25) + 0.75 * np.log(0.75)
    np.testing.assert_allclose(found, (0.7 * entropy, entropy), rtol=1e-5)
