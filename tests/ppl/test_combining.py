"""How particles of elements and sites combine: worlds, runs, baselines, control variates."""

import itertools
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from jax import lax

import ppl
from ppl import ScoreFunction, errors, sample
from ppl.extend import Particles
from stdlib.estimators import Enumerate, LeaveOneOut, MeasureValued
from stdlib.testing import assert_unbiased

KEY = jax.random.key(11)
LOGITS = jnp.array([0.3, -0.6, 0.9])


def brute_force(cost):
    """E[cost(x)] of independent coins, by enumeration."""

    def exact(logits):
        states = jnp.asarray(list(itertools.product([0.0, 1.0], repeat=len(logits))))
        chances = jnp.prod(jax.nn.sigmoid(logits * (2 * states - 1)), -1)
        return jnp.sum(chances * jax.vmap(cost)(states))

    return exact


def mixing(x):
    return jnp.sin(jnp.sum(x * jnp.arange(1.0, 4.0))) + x[0] * x[1]


def coins(estimator, cost=mixing):
    return lambda logits: cost(1.0 * sample("x", dist.Bernoulli(logits=logits), estimator))


# --- worlds ---------------------------------------------------------------------------------------


def test_perturbations_of_mixed_lanes_are_local_expectations():
    """Sample by sample: each coin both ways, the others as drawn."""

    def program(logits):
        x = 1.0 * sample("x", dist.Bernoulli(logits=logits), MeasureValued())
        return mixing(x), x

    grad = jax.grad(ppl.expectation(program, has_aux=True), argnums=1, has_aux=True)
    slope, x = jax.jit(jax.vmap(grad, (0, None)))(jax.random.split(KEY, 20), LOGITS)

    def local(x):
        rise = [mixing(x.at[i].set(1.0)) - mixing(x.at[i].set(0.0)) for i in range(3)]
        return jnp.stack(rise) * jax.nn.sigmoid(LOGITS) * jax.nn.sigmoid(-LOGITS)

    np.testing.assert_allclose(slope, jax.jit(jax.vmap(local))(x), rtol=1e-4, atol=1e-6)


def walk(steps, estimator):
    def program(w):
        state, total = jnp.ones(16), 0.0
        for i in range(steps):
            x = sample(f"x{i}", dist.Bernoulli(logits=jnp.sum(state * w[0])), estimator)
            state = jnp.tanh(w @ state + x)
            total = total + jnp.sum(state**2)
        return total

    return program


def flops(program, *args):
    gradient = jax.grad(ppl.expectation(program), argnums=1)
    return jax.jit(gradient).lower(KEY, *args).compile().cost_analysis()["flops"]


@pytest.mark.parametrize("family", [dist.Bernoulli, dist.Categorical])
def test_costs_of_one_perturbed_element_alone_are_summed_exactly(family):
    """The log density of a guide: no variance, in value or derivative, beside what is mixed."""
    logits = jnp.array([[0.4, -0.3, 1.2], [0.1, 0.7, -0.9]])

    def choices(logits):
        return jax.vmap(lambda l: sample("z", family(logits=l), MeasureValued()))(logits)  # noqa: E741

    def alone(logits):
        q = ppl.simulate(choices, logits)
        return -q.log_density + jnp.sum(jnp.sin(q.value * logits.sum()))

    def exact(logits):
        def lane(l):  # noqa: E741
            support = family(logits=l).enumerate_support()
            log_probs = family(logits=l).log_prob(support)
            costs = jnp.sin(support * logits.sum()) - log_probs
            return jnp.sum(jnp.exp(log_probs) * costs)

        return jnp.sum(jax.vmap(lane)(logits))

    assert_unbiased(alone, logits, exact=exact, key=KEY, num_samples=4)

    def mixed(logits):
        q = ppl.simulate(choices, logits)
        return q.log_density + jnp.sum(q.value) ** 2 / 9.0

    def by_enumeration(logits):
        enumerated = ppl.with_estimators(mixed, {"z": Enumerate()})
        return ppl.expectation(enumerated)(KEY, logits)

    assert_unbiased(mixed, logits, exact=by_enumeration, key=KEY, num_samples=50_000)


def test_sites_with_perturbations_cost_a_run_each():
    w = 0.3 * jax.random.normal(KEY, (16, 16))
    costs = [flops(walk(steps, MeasureValued()), w) for steps in (8, 16)]
    assert costs[1] <= 4.2 * costs[0]


def test_lanes_with_perturbations_cost_a_run_each_within_an_image():
    """8 images of 16 units: 16 worlds, as an image's units mix and images do not."""
    weights = jax.random.normal(KEY, (16, 64))

    def program(logits):
        def image(logits):
            x = sample("x", dist.Bernoulli(logits=logits), MeasureValued())
            return jnp.sum(jnp.tanh(x @ weights))

        return jnp.sum(jax.vmap(image)(logits))

    one, eight = flops(program, jnp.zeros((1, 16))), flops(program, jnp.zeros((8, 16)))
    assert eight <= 8.4 * one


def test_perturbations_upstream_and_downstream_of_each_other():
    def program(logits):
        x = sample("x", dist.Bernoulli(logits=logits[:2]), MeasureValued())
        y = sample("y", dist.Bernoulli(logits=logits[2] + jnp.sum(x)), MeasureValued())
        z = sample("z", dist.Bernoulli(logits=0.5 * y - x), Enumerate())
        return jnp.sin(jnp.sum(x) + 2.0 * y) + jnp.sum(jnp.cos(z + 1.0 * y * x))

    def exact(logits):
        total = 0.0
        for x0, x1, y in itertools.product((0.0, 1.0), repeat=3):
            x = jnp.array([x0, x1])
            chance = jnp.prod(jax.nn.sigmoid(logits[:2] * (2 * x - 1)))
            chance *= jax.nn.sigmoid((logits[2] + x0 + x1) * (2 * y - 1))
            heads = jax.nn.sigmoid(0.5 * y - x)
            z = heads * jnp.cos(1.0 + y * x) + (1 - heads) * jnp.cos(y * x)
            total = total + chance * (jnp.sin(x0 + x1 + 2.0 * y) + jnp.sum(z))
        return total

    assert_unbiased(program, LOGITS, exact=exact, key=KEY, num_samples=30_000)


# --- runs -----------------------------------------------------------------------------------------


def test_leave_one_out_of_mixed_lanes_goes_together():
    """Sample by sample: K joint draws, each with the mean cost of the others as its baseline."""

    def program(logits):
        x = 1.0 * sample("x", dist.Bernoulli(logits=logits), LeaveOneOut(4))
        return mixing(x)

    keys = jax.random.split(KEY, 20)
    grad = jax.grad(ppl.expectation(program), argnums=1)
    slope = jax.jit(jax.vmap(grad, (0, None)))(keys, LOGITS)

    def by_hand(key):
        distribution = dist.Bernoulli(logits=LOGITS)
        x = 1.0 * LeaveOneOut(4).particles(key, distribution).values
        costs = jax.vmap(mixing)(x)
        others = (jnp.sum(costs) - costs) / 3
        return jnp.mean((costs - others)[:, None] * (x - jax.nn.sigmoid(LOGITS)), 0)

    np.testing.assert_allclose(slope, jax.jit(jax.vmap(by_hand))(keys), rtol=1e-4, atol=1e-6)


def test_sites_share_runs():
    """Eight sites of four draws: four runs of the program, not 4⁸ states."""

    def program(steps, p):
        x = [sample(f"x{i}", dist.Bernoulli(p), LeaveOneOut(4)) for i in range(steps)]
        return jnp.sin(sum(x) * 1.0)

    def work(steps):
        """Before XLA's fusions, which compute tiny chains again rather than keep them."""
        gradient = jax.jit(jax.grad(ppl.expectation(partial(program, steps)), argnums=1))
        return gradient.lower(KEY, 0.3).cost_analysis()["flops"]

    assert work(8) <= 2.1 * work(4)


def test_runs_in_a_loop_go_from_step_to_step():
    def program(logits):
        def step(state, logit):
            x = sample("x", dist.Bernoulli(logits=logit + state), LeaveOneOut(3))
            return 0.5 * state + x, jnp.sin(state + x)

        state, costs = jax.lax.scan(step, 0.0, logits)
        return jnp.sum(costs) + state**2

    def exact(logits):
        def total(state, t):
            if t == len(logits):
                return state**2
            heads = jax.nn.sigmoid(logits[t] + state)
            return sum(
                c * (jnp.sin(state + x) + total(0.5 * state + x, t + 1))
                for x, c in ((0.0, 1 - heads), (1.0, heads))
            )

        return total(0.0, 0)

    assert_unbiased(program, LOGITS, exact=exact, key=KEY, num_samples=30_000)


# --- baselines ------------------------------------------------------------------------------------


def test_baseline_changes_the_variance_alone():
    """Sample by sample, the cost minus the baseline multiplies the score."""

    def program(logits, b):
        x = 1.0 * sample("x", dist.Bernoulli(logits=logits), ScoreFunction(baseline=b))
        return mixing(x), x

    grad = jax.grad(ppl.expectation(program, has_aux=True), argnums=(1, 2), has_aux=True)
    baseline = jnp.array([0.5, -1.0, 2.0])
    keys = jax.random.split(KEY, 20)
    (slope, learnt), x = jax.jit(jax.vmap(grad, (0, None, None)))(keys, LOGITS, baseline)
    cost = jax.vmap(mixing)(x)[:, None]
    score = x - jax.nn.sigmoid(LOGITS)
    np.testing.assert_allclose(slope, (cost - baseline) * score, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(learnt, cost - baseline, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("estimator", [Enumerate(), LeaveOneOut(4)], ids=repr)
def test_baseline_is_learnt_from_the_mean_cost_over_the_particles_of_others(estimator):
    def program(logits, baseline):
        z = 1.0 * sample("z", dist.Bernoulli(logits=logits), estimator)
        x = sample("x", dist.Bernoulli(logits=z - 0.5), ScoreFunction(baseline=baseline))
        return jnp.sum(jnp.exp(x + 2.0 * z))

    def exact(logits, baseline):
        z, x = jnp.array([0.0, 1.0])[:, None], jnp.array([0.0, 1.0])[:, None, None]
        coins = lambda logits, x: jax.nn.sigmoid(logits * (2 * x - 1))
        cost = jnp.sum(coins(logits, z) * coins(z - 0.5, x) * jnp.exp(x + 2.0 * z), (0, 1))
        error = lax.stop_gradient(cost) * baseline - baseline**2 / 2
        return jnp.sum(cost + error - lax.stop_gradient(error))

    assert_unbiased(program, LOGITS, 0.5 * LOGITS, exact=exact, key=KEY, num_samples=10_000)


@pytest.mark.parametrize("reverse", [False, True])
def test_baseline_in_a_loop_is_learnt_from_the_costs_from_its_step_on(reverse):
    costs = jnp.array([1.0, 10.0, 100.0, 1000.0])

    def program(baselines):
        def step(state, at):
            baseline, cost = at
            z = sample("z", dist.Bernoulli(jax.nn.sigmoid(state)), ScoreFunction(baseline))
            state = 0.5 * state + z
            return state, cost * jnp.exp(0.0 * state)

        return jnp.sum(lax.scan(step, 0.3, (baselines, costs), reverse=reverse)[1])

    learnt = jax.jit(jax.grad(ppl.expectation(program), 1))(KEY, jnp.zeros(4))
    to_go = costs if reverse else costs[::-1]
    expected = jnp.cumsum(to_go) if reverse else jnp.cumsum(to_go)[::-1]
    assert jnp.allclose(learnt, expected)


def test_baseline_in_programs_is_unbiased():
    def program(logits):
        x = sample("x", dist.Bernoulli(logits=logits[0]), ScoreFunction(baseline=0.7))
        y = sample("y", dist.Bernoulli(logits=x * logits[1]), ScoreFunction(baseline=2.0 * x))
        z = sample("z", dist.Bernoulli(logits=y + logits[2]), Enumerate())
        return jnp.sin(x + 2.0 * y + 3.0 * z)

    def exact(logits):
        total = 0.0
        for x, y, z in itertools.product((0.0, 1.0), repeat=3):
            chances = [
                jax.nn.sigmoid(logits[0] * (2 * x - 1)),
                jax.nn.sigmoid(x * logits[1] * (2 * y - 1)),
                jax.nn.sigmoid((y + logits[2]) * (2 * z - 1)),
            ]
            total = total + chances[0] * chances[1] * chances[2] * jnp.sin(x + 2 * y + 3 * z)
        return total

    assert_unbiased(program, LOGITS, exact=exact, key=KEY, num_samples=30_000)


class WithCost(ppl.extend.Estimator):
    """A score function with a cost of its own, of mean zero."""

    def particles(self, key, distribution):
        drawn = ScoreFunction().particles(key, distribution)
        assert drawn.weights is not None
        return Particles(drawn.values, drawn.weights, control=3.0 * (drawn.weights[0] - 1.0))


def test_own_cost_of_an_estimator():
    exact = brute_force(mixing)
    assert_unbiased(coins(WithCost()), LOGITS, exact=exact, key=KEY, num_samples=30_000)
    plain, own = (
        jax.jit(jax.vmap(jax.grad(ppl.expectation(coins(e)), argnums=1), (0, None)))(
            jax.random.split(KEY, 10), LOGITS
        )
        for e in (ScoreFunction(), WithCost())
    )
    assert not np.allclose(plain, own)


def test_own_cost_in_a_loop_does_not_meet_its_own_weight():
    """It depends on earlier steps of its site, through the carry, and not on the weight there."""

    def program(t):
        def step(state, _):
            x = sample("x", dist.Bernoulli(logits=t + state), WithCost())
            return 0.5 * x, 1.0 * x

        return jnp.sum(jax.lax.scan(step, 0.0, None, length=2)[1])

    def exact(t):
        p, low, high = jax.nn.sigmoid(t), jax.nn.sigmoid(t), jax.nn.sigmoid(t + 0.5)
        return p * (1 + high) + (1 - p) * low

    assert_unbiased(program, 0.3, exact=exact, key=KEY, num_samples=30_000)


# --- control variates -----------------------------------------------------------------------------


def controlled(value, address="x", estimator=None):
    def program(logits):
        x = 1.0 * sample("x", dist.Bernoulli(logits=logits), estimator or ScoreFunction())
        ppl.control_variate(address, value(x) if callable(value) else value)
        return mixing(x), x

    return program


def test_control_variate_is_subtracted_from_the_cost():
    grad = jax.grad(ppl.expectation(controlled(0.8), has_aux=True), argnums=1, has_aux=True)
    slope, x = jax.jit(jax.vmap(grad, (0, None)))(jax.random.split(KEY, 20), LOGITS)
    expected = (jax.vmap(mixing)(x) - 0.8)[:, None] * (x - jax.nn.sigmoid(LOGITS))
    np.testing.assert_allclose(slope, expected, rtol=1e-4, atol=1e-6)


def test_control_variate_from_other_lanes():
    def program(logits):
        x = 1.0 * sample("x", dist.Bernoulli(logits=logits))
        ppl.control_variate("x", jnp.sum(x) - x)
        return mixing(x)

    exact = brute_force(mixing)
    assert_unbiased(program, LOGITS, exact=exact, key=KEY, num_samples=30_000)


@pytest.mark.parametrize("scoped", [False, True])
def test_control_variate_follows_its_site(scoped):
    """In a vmap and a scan, and under a scope: the value has the lanes of the site as written."""

    def inner(logits):
        def chain(logit):
            def step(state, _):
                x = sample("x", dist.Bernoulli(logits=logit))
                return state, 1.0 * x

            return jax.lax.scan(step, 0.0, None, length=2)[1]

        x = jax.vmap(chain)(logits)
        ppl.control_variate("x", jnp.arange(3.0))
        return jnp.sum(jnp.sum(x, 1) * jnp.arange(1.0, 4.0)), x

    program = ppl.scope(inner, "a") if scoped else inner
    grad = jax.grad(ppl.expectation(program, has_aux=True), argnums=1, has_aux=True)
    slope, x = jax.jit(jax.vmap(grad, (0, None)))(jax.random.split(KEY, 20), LOGITS)
    score = x - jax.nn.sigmoid(LOGITS)[:, None]
    cost = x * jnp.arange(1.0, 4.0)[:, None] - jnp.arange(3.0)[:, None]
    np.testing.assert_allclose(slope, jnp.sum(cost * score, -1), rtol=1e-4, atol=1e-5)


def test_control_variate_that_depends_on_another_site_in_a_vmap_and_a_scan():
    """Its lanes are as written (vmaps first), the site's are not (loops first)."""

    def program(logits):
        def drawn(name):
            def chain(logit):
                step = lambda state, _: (state, 1.0 * sample(name, dist.Bernoulli(logits=logit)))
                return jax.lax.scan(step, 0.0, None, length=2)[1]

            return jax.vmap(chain)(logits)

        y, x = drawn("y"), drawn("x")
        ppl.control_variate("x", 2.0 * y)
        return jnp.sum(x * (1.0 + 2.0 * y)), (x, y)

    grad = jax.grad(ppl.expectation(program, has_aux=True), argnums=1, has_aux=True)
    slope, (x, y) = jax.jit(jax.vmap(grad, (0, None)))(jax.random.split(KEY, 20), LOGITS)
    chances = jax.nn.sigmoid(LOGITS)[:, None]
    cost = x * (1.0 + 2.0 * y)
    expected = (cost - 2.0 * y) * (x - chances) + cost * (y - chances)
    np.testing.assert_allclose(slope, jnp.sum(expected, -1), rtol=1e-4, atol=1e-5)


def test_control_variate_of_several_addresses():
    """Those that have a score get it: the same as for each of them."""

    def program(addresses, logits):
        sample("r", dist.Normal(logits, 1.0))
        y = sample("y", dist.Bernoulli(logits=logits[0]), Enumerate())
        z = sample("z", dist.Bernoulli(logits=logits), ScoreFunction())
        x = sample("x", dist.Bernoulli(logits=logits + y), ScoreFunction())
        for address in addresses:
            ppl.control_variate(address, jnp.arange(3.0))
        return mixing(1.0 * x) * y + mixing(1.0 * z)

    many, one_by_one = [("y", "x", "z", "none", "r")], ["x", "z"]
    gradients = [
        jax.grad(ppl.expectation(partial(program, addresses)), argnums=1)
        for addresses in (many, one_by_one)
    ]
    together, apart = jax.jit(lambda: [gradient(KEY, LOGITS) for gradient in gradients])()
    np.testing.assert_allclose(together, apart, rtol=1e-5)


def test_control_variate_means_nothing_elsewhere():
    program = lambda: controlled(0.8)(LOGITS)[1]
    x = ppl.seed(program)(KEY)
    np.testing.assert_array_equal(x, ppl.seed(lambda: ppl.simulate(program).value)(KEY))
    assert ppl.log_density(program, {"x": jnp.ones(3, int)}) < 0


def in_a_loop(logits):
    def step(state, logit):
        x = sample("x", dist.Bernoulli(logits=logit))
        ppl.control_variate("x", 1.0)
        return state + x, None

    return jax.lax.scan(step, 0.0, logits)[0]


def twice(logits):
    x = sample("x", dist.Bernoulli(logits=logits))
    ppl.control_variate("x", 1.0)
    ppl.control_variate("x", 1.0)
    return jnp.sum(x) * 1.0


def first(program):
    return lambda logits: program(logits)[0]


@pytest.mark.parametrize(
    "program, words",
    [
        (first(controlled(0.8, "y")), ["'y'", "no site", "x", "test_combining.py"]),
        (first(controlled(0.8, ("x", "y"), Enumerate())), ["['x', 'y']", "one of these", "x."]),
        (first(controlled(jnp.zeros(2))), ["shape (2,)", "(3,)"]),
        (first(controlled(lambda x: x)), ["depends on the site's own choice"]),
        (first(controlled(0.8, estimator=Enumerate())), ["several particles"]),
        (in_a_loop, ["inside a loop", "after it"]),
        (twice, ["has one already"]),
    ],
    ids=["address", "addresses", "shape", "own", "enumerated", "loop", "twice"],
)
def test_control_variate_errors(program, words):
    with pytest.raises(errors.InvalidControlVariate) as failure:
        ppl.expectation(program)(KEY, LOGITS)
    for word in words:
        assert word in str(failure.value)


# --- biased paths ---------------------------------------------------------------------------------


class Moving(ppl.extend.Estimator):
    """Pathwise by its own account."""

    pathwise = True
    shift: float = eqx.field(static=True, default=0.0)

    def particles(self, key, distribution):
        return Particles(distribution.sample(key)[None] + self.shift, None)


def test_any_pathwise_estimator_is_told_of_jumps():
    def program(mean):
        return jnp.floor(sample("x", dist.Normal(mean, 1.0), Moving()))

    with pytest.warns(errors.DiscontinuousObjective, match="'x'"):
        ppl.expectation(program)(KEY, 0.3)
