"""Each field of an estimator's particles is used wherever its site stands, or refused there."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from jax import lax
from jax.lax import stop_gradient

import ppl
from ppl import ScoreFunction, sample
from ppl.errors import UnsuitableEstimator
from ppl.extend import Particles
from stdlib.distributions import FloatBernoulli
from stdlib.estimators import Enumerate, LeaveOneOut, Rebar, Relax
from stdlib.testing import assert_unbiased

KEY = jax.random.key(11)


def coin(name, p, estimator):
    return 1.0 * sample(name, dist.Bernoulli(p), estimator)


def slopes(program, *args, n=50):
    grad = jax.grad(ppl.expectation(program), argnums=1)
    return jax.jit(jax.vmap(lambda key: grad(key, *args)))(jax.random.split(KEY, n))


# --- sharing weights ------------------------------------------------------------------------------


def relaxed_pair(first, second):
    def program(p):
        x = sample("x", FloatBernoulli(p), Rebar(0.5, first))
        y = sample("y", FloatBernoulli(p), Rebar(0.5, second))
        return (x + 2.0 * y - 0.45) ** 2

    return program


def mean_of_pair(p):
    """E (x + 2y - 0.45)²."""
    return p * (1 - p) * 5.0 + (3.0 * p - 0.45) ** 2


@pytest.mark.parametrize("as_eta", [float, np.float32, jnp.float32], ids=["float", "np", "jnp"])
def test_sites_of_other_constants_keep_their_own_weights(as_eta):
    mixed, equal = relaxed_pair(as_eta(0.8), as_eta(0.2)), relaxed_pair(as_eta(0.8), as_eta(0.8))
    assert not np.allclose(slopes(mixed, 0.3), slopes(equal, 0.3))
    assert_unbiased(mixed, 0.3, exact=mean_of_pair, key=KEY, num_samples=20_000)


def test_traced_constants_are_shared_where_they_are_the_same_array():
    counted = lambda f: len(jax.make_jaxpr(ppl.expectation(f))(KEY, 0.3, 0.8).eqns)
    one = lambda p, eta: relaxed_pair(eta, eta)(p)
    two = lambda p, eta: relaxed_pair(eta, 0.5 * eta)(p)
    fixed = lambda p, eta: relaxed_pair(0.8, 0.8)(p) + 0.0 * eta
    np.testing.assert_allclose(slopes(one, 0.3, 0.8), slopes(fixed, 0.3, 0.8), rtol=1e-4)
    assert counted(one) < counted(two)
    assert_unbiased(two, 0.3, 0.8, exact=lambda p, _: mean_of_pair(p), key=KEY, num_samples=20_000)


def test_sites_in_a_loop_and_before_it_of_other_constants():
    def program(p):
        def step(total, _):
            return total * (1.0 + sample("x", FloatBernoulli(p), Rebar(0.5, 0.8))), None

        first = 1.0 + sample("a", FloatBernoulli(p), Rebar(0.5, 0.3))
        return lax.scan(step, first, length=2)[0]

    assert_unbiased(program, 0.3, exact=lambda p: (1 + p) ** 3, key=KEY, num_samples=20_000)


class Shared(ppl.extend.Estimator):
    """Leave-one-out draws of some constants, under one name."""

    constants: tuple = eqx.field(static=True)

    def particles(self, key, distribution):
        drawn = LeaveOneOut(len(self.constants)).particles(key, distribution)
        return drawn._replace(shared="mine", shared_weights=np.array(self.constants))


def in_sequence(first, second):
    return lambda p: coin("x", p, first) + coin("y", p, second)


def in_scan(first, second):
    def program(p):
        step = lambda total, _: (total + coin("y", p, second), None)
        return lax.scan(step, coin("x", p, first), length=2)[0]

    return program


@pytest.mark.parametrize("other", [(0.2, 0.3, 0.5), (0.4, 0.6)], ids=["count", "constants"])
@pytest.mark.parametrize("program", [in_sequence, in_scan])
def test_one_name_for_other_weights_names_both_sites(program, other):
    with pytest.raises(UnsuitableEstimator, match=r"'y' at .*py.*'x' at .*py.*'mine'"):
        ppl.expectation(program(Shared((0.5, 0.5)), Shared(other)))(KEY, 0.3)


def test_lanes_of_other_constants_are_refused():
    lanes = lambda p: jnp.sum(
        jax.vmap(lambda eta: sample("x", FloatBernoulli(p), Rebar(0.5, eta)))(jnp.array([0.2, 0.8]))
    )
    with pytest.raises(UnsuitableEstimator, match=r"lanes of site 'x' at .*constants of its own"):
        ppl.expectation(lanes)(KEY, 0.3)


def test_constants_that_are_chosen_are_refused():
    program = lambda p: sample("x", FloatBernoulli(p), Rebar(0.5, coin("z", p, None)))
    with pytest.raises(UnsuitableEstimator, match=r"site 'x' at .*depend on other choices"):
        ppl.expectation(program)(KEY, 0.3)


# --- baselines and controls in branches and loops -------------------------------------------------


def far(p, baseline=114.7):
    return (10.0 + coin("x", p, ScoreFunction(baseline))) ** 2


def guessed(p):
    return jnp.exp(sample("u", FloatBernoulli(p), Relax(lambda x: jnp.exp(x) - 1.0)))


def chosen(p):
    return lax.cond(p > 0.1, far, guessed, p)


def chosen_in_scan(p):
    step = lambda total, i: (total + lax.cond(i > 0, far, guessed, p), None)
    return lax.scan(step, 0.0, jnp.arange(2))[0]


def chosen_by_lane(p):
    lanes = lambda i: lax.cond(i > 0, far, guessed, p)
    return jnp.sum(jax.vmap(lanes)(jnp.arange(2)))


def chosen_by_a_choice(p):
    return lax.cond(coin("z", p, Enumerate()) > 0, far, guessed, p)


def test_a_baseline_in_a_branch_takes_away_what_it_does_outside():
    outside, inside = (slopes(program, 0.3, n=500) for program in (far, chosen))
    np.testing.assert_allclose(inside, outside, rtol=1e-4)
    assert np.std(inside) < 1e-3


def test_a_control_in_a_branch_takes_away_what_it_does_outside():
    inside = lambda p: lax.cond(p > 0.5, lambda p: 0.0, guessed, p)
    scored = ppl.with_estimators(guessed, {"u": ScoreFunction()})
    spread = [np.std(slopes(program, 0.3, n=4000)) for program in (inside, guessed, scored)]
    np.testing.assert_allclose(spread[0], spread[1], rtol=0.1)
    assert spread[0] < 0.8 * spread[2]


FAR = lambda p: 100.0 + 21.0 * p
GUESSED = lambda p: 1.0 + (jnp.e - 1.0) * p
BRANCHES = {
    chosen_in_scan: lambda p: FAR(p) + GUESSED(p),
    chosen_by_lane: lambda p: FAR(p) + GUESSED(p),
    chosen_by_a_choice: lambda p: p * FAR(p) + (1 - p) * GUESSED(p),
}


@pytest.mark.parametrize("program", BRANCHES, ids=lambda f: f.__name__)
def test_baselines_and_controls_in_branches_are_unbiased(program):
    assert_unbiased(program, 0.3, exact=BRANCHES[program], key=KEY, num_samples=10_000)


def test_several_sites_with_baselines_in_one_branch():
    """One reads the other, and one is a batch; the cost is nonlinear in all."""

    def branch(p):
        a = coin("a", p, ScoreFunction(3.0))
        b = coin("b", 0.2 + 0.5 * p * jnp.ones(2), ScoreFunction(jnp.array([9.0, 12.0]) * a))
        return (1.0 + a + 2.0 * jnp.sum(b)) ** 2

    def exact(p):
        q = 0.2 + 0.5 * p
        mean = 1.0 + p + 4.0 * q
        return mean**2 + p * (1 - p) + 8.0 * q * (1 - q)

    program = lambda p: lax.cond(p > 0.1, branch, lambda p: 0.0, p)
    assert_unbiased(program, 0.3, exact=exact, key=KEY, num_samples=20_000)


def test_a_baseline_in_a_branch_is_learnt_as_outside():
    outside = lambda b: far(0.3, b)
    inside = lambda b: lax.cond(b > 0.0, outside, lambda b: 0.0, b)
    other = lambda b: lax.cond(b < 0.0, outside, lambda b: 0.0, b)
    np.testing.assert_allclose(slopes(inside, 90.0), slopes(outside, 90.0), rtol=1e-4)
    np.testing.assert_array_equal(slopes(other, 90.0), 0.0)
    lanes = lambda b: jnp.sum(jax.vmap(lambda t: inside(t * b))(jnp.array([1.0, -1.0])))
    np.testing.assert_allclose(np.mean(slopes(lanes, 90.0, n=500)), 106.3 - 90.0, atol=3.0)


def test_a_baseline_in_a_while_loop():
    """Three steps, each of a cost that depends on those before."""

    def program(p):
        def body(state):
            i, total = state
            x = coin("x", p, ScoreFunction(stop_gradient(5.0 * (1.0 + total))))
            return i + 1, total + x * (1.0 + total)

        return lax.while_loop(lambda state: state[0] < 3, body, (0, 0.0))[1]

    one = lambda key: jax.jvp(lambda p: ppl.expectation(program)(key, p), (0.3,), (1.0,))[1]
    found = jax.jit(jax.vmap(one))(jax.random.split(KEY, 20_000))
    error = np.std(found) / np.sqrt(len(found))
    assert abs(np.mean(found) - 3.0 * 1.3**2) < 5.0 * error
    once = lambda p: lax.while_loop(lambda s: s[0] < 1, lambda s: (1, far(p)), (0, 0.0))[1]
    one = lambda key: jax.jvp(lambda p: ppl.expectation(once)(key, p), (0.3,), (1.0,))[1]
    np.testing.assert_allclose(jax.vmap(one)(jax.random.split(KEY, 50)), 21.0, rtol=1e-4)


# --- fields that mean nothing together ------------------------------------------------------------


class Given(ppl.extend.Estimator):
    """One draw, with a row of fields."""

    row: str = eqx.field(static=True)

    def particles(self, key, distribution):
        drawn = distribution.sample(key)[None]
        return Particles(**{"values": drawn, "weights": jnp.ones(1), **UNUSED[self.row]})


UNUSED = {
    "2 values and no weights": {"values": np.zeros(2), "weights": None},
    "a baseline and no weights": {"weights": None, "baseline": 1.0},
    "a baseline for 2 particles": {
        "values": np.zeros(2),
        "weights": np.full(2, 0.5),
        "baseline": 1.0,
    },
    "chances and not perturbed=True": {"chances": np.ones(1)},
    "shared_weights and perturbed=True": {"shared_weights": np.ones(1), "perturbed": True},
    "a shared name and no shared_weights": {"shared": "name"},
    "shared_weights of shape (2,) for 1 particles": {"shared_weights": np.full(2, 0.5)},
}


@pytest.mark.parametrize("what", UNUSED)
def test_a_field_that_would_not_be_used_is_refused(what):
    program = lambda: sample("x", dist.Normal(0.0, 1.0), Given(what))
    with pytest.raises(UnsuitableEstimator) as failure:
        ppl.expectation(program)(KEY)
    for word in ("'x'", "test_particle_fields.py:", what):
        assert word in str(failure.value)


class Centred(ppl.extend.Estimator):
    """A reparameterised draw and, without a weight, its distance from the mean as a control."""

    pathwise = True

    def particles(self, key, distribution):
        drawn = distribution.sample(key)
        return Particles(drawn[None], None, control=jnp.sum(distribution.loc - drawn))


def test_a_control_without_weights_is_counted():
    program = lambda m: jnp.sum(sample("x", dist.Normal(m * jnp.ones(2), 1.0), Centred()))
    values = jax.vmap(ppl.expectation(program), (0, None))(jax.random.split(KEY, 20), 0.3)
    np.testing.assert_allclose(values, 0.6, rtol=1e-5)
