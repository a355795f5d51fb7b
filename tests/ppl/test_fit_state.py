"""`ppl.State` in `fit`: carried by its own rule; baselines are learnt whichever way `fit` goes."""

import functools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import optax
import pytest

import ppl
from ppl import errors
from stdlib.estimators import MovingAverage

KEY = jax.random.key(3)
fit = functools.partial(ppl.fit, key=KEY, progress=False)
WAYS = pytest.mark.parametrize("maximize", [True, False], ids=["maximize", "minimize"])


class Counter(ppl.State):
    """Counts its updates, and sums what it is told; with a key and a setting."""

    total: Any = 0.0
    steps: Any = 0
    key: Any = eqx.field(default_factory=lambda: jax.random.key(0))
    rule: Any = jnp.add

    def updated(self, gradient):
        assert gradient.steps is None and gradient.key is None
        total = self.rule(self.total, gradient.total)
        return Counter(total, self.steps + 1, jax.random.split(self.key)[0], self.rule)


def coin(params):
    """Costs 16 for tails and 25 for heads."""
    score = ppl.ScoreFunction(baseline=params["average"].value)
    x = ppl.sample("x", dist.Bernoulli(jax.nn.sigmoid(params["logit"])), score)
    return (4.0 + x) ** 2


def counted(params):
    """Its derivative in the total is 3."""
    return 3.0 * params["count"].total - (params["x"] - 2.0) ** 2


@WAYS
@pytest.mark.parametrize("num_samples", [1, 3])
def test_a_moving_average_is_that_of_the_costs_in_the_history(maximize, num_samples):
    params = {"logit": 0.3, "average": MovingAverage(0.8, 5.0)}
    settings = {"steps": 40, "num_samples": num_samples, "maximize": maximize}
    result = fit(coin, params, optax.adam(0.1), **settings)
    expected = np.float32(5.0)
    for cost in result.history["objective"]:
        expected = np.float32(0.8) * expected + np.float32(0.2) * cost
    np.testing.assert_allclose(result.params["average"].value, expected, rtol=1e-6)
    assert (result.params["logit"] > 0.3) == maximize


class Net(eqx.Module):
    linear: eqx.nn.Linear

    def __call__(self, context):
        return self.linear(context[None])[0]


def in_context(params, contexts):
    """A row costs (2 + context + x / 5)²: its baseline is a function of the context."""

    def row(context):
        score = ppl.ScoreFunction(baseline=params["net"](context))
        x = ppl.sample("x", dist.Bernoulli(jax.nn.sigmoid(params["logit"])), score)
        return (2.0 + context + 0.2 * x) ** 2

    return jnp.sum(jax.vmap(row)(contexts))


@WAYS
def test_a_network_baseline_approaches_the_cost(maximize):
    contexts = jnp.linspace(-1.0, 1.0, 64)
    params = {"net": Net(eqx.nn.Linear(1, 1, key=KEY)), "logit": 0.0}
    result = fit(
        in_context, params, optax.adam(0.05), steps=400, data=contexts, batch_size=8,
        maximize=maximize,
    )  # fmt: skip
    p = float(jax.nn.sigmoid(result.params["logit"]))
    assert p > 0.7 if maximize else p < 0.3
    mean = p * (2.2 + contexts) ** 2 + (1 - p) * (2.0 + contexts) ** 2
    slope, height = np.polyfit(contexts, mean, 1)
    found = jax.vmap(result.params["net"])(contexts)
    np.testing.assert_allclose(found, slope * contexts + height, atol=0.3)


@WAYS
def test_parameters_shared_with_a_baseline_get_both_gradients(maximize):
    """The cost's, 28, goes the way of `fit`; that of -(cost - t)²/2, cost - t, always up."""

    def objective(t):
        x = ppl.sample("x", dist.Bernoulli(0.5), ppl.ScoreFunction(baseline=t))
        return 7.0 * t * (2.0 + 0.0 * x) ** 2

    result = fit(objective, 1.0, optax.sgd(1.0), steps=1, maximize=maximize)
    np.testing.assert_allclose(result.params, 1.0 + 27.0 + (28.0 if maximize else -28.0))


def test_the_optimizer_does_not_see_a_state():
    params = {"x": 0.0, "count": Counter()}
    optimizer = optax.adamw(0.1, weight_decay=1.0)
    result, alone = (fit(counted, p, optimizer, steps=50) for p in (params, params))
    assert result.params["count"].total == 150.0
    assert result.params["count"].steps == 50
    assert result.params["count"].rule is jnp.add
    same = jax.random.key(0)
    for _ in range(50):
        same = jax.random.split(same)[0]
    assert (jax.random.key_data(result.params["count"].key) == jax.random.key_data(same)).all()
    alone = fit(lambda p: -((p["x"] - 2.0) ** 2), {"x": 0.0}, optimizer, steps=50)
    assert len(jax.tree.leaves(result.opt_state)) == len(jax.tree.leaves(alone.opt_state))
    np.testing.assert_array_equal(result.params["x"], alone.params["x"])
    np.testing.assert_array_equal(result.history["grad_norm"], alone.history["grad_norm"])
    assert result.sizes == (1, 1, 0)


def test_the_gradient_is_of_the_objective_or_its_negation():
    params = {"x": 0.0, "count": Counter()}
    result = fit(lambda p: -counted(p), params, optax.sgd(0.1), steps=10, maximize=False)
    assert result.params["count"].total == 30.0


def test_an_optimizer_that_evaluates_the_loss_again():
    result = fit(counted, {"x": 0.0, "count": Counter()}, optax.lbfgs(), steps=10)
    np.testing.assert_allclose(result.params["x"], 2.0, rtol=1e-4)
    assert result.params["count"].steps == 10


def test_skipped_steps_skip_the_state():
    def sometimes(params):
        u = ppl.sample("u", dist.Uniform(0.0, 1.0), ppl.ScoreFunction())
        return counted(params) + jnp.where(u < 0.3, jnp.nan, 0.0)

    params = {"x": 0.0, "count": Counter()}
    result = fit(sometimes, params, optax.sgd(0.1), steps=100, on_nonfinite="skip")
    assert 10 < result.skipped < 50
    assert result.params["count"].steps == 100 - result.skipped


def test_a_run_in_two_parts_is_a_run_in_one():
    params = {"logit": 0.3, "average": MovingAverage(), "count": Counter()}
    whole = fit(coin, params, optax.adam(0.1), steps=30)
    part = fit(coin, params, optax.adam(0.1), steps=12)
    part = fit(coin, params, optax.adam(0.1), steps=18, resume=part)
    for name in ("logit", "average"):
        jax.tree.map(np.testing.assert_array_equal, whole.params[name], part.params[name])
    assert part.params["count"].steps == 30


def test_many_runs_at_once():
    params = {"logit": 0.3, "average": MovingAverage(value=1.0)}

    def run(key):
        return ppl.fit(coin, params, optax.adam(0.1), key=key, steps=20).params["average"].value

    keys = jax.random.split(KEY, 3)
    np.testing.assert_allclose(jax.vmap(run)(keys), [run(k) for k in keys], rtol=1e-6)


class Holder(eqx.Module):
    count: Counter
    x: Any
    rate: float = 0.5


def test_a_state_inside_a_module():
    result = fit(
        lambda m: counted(vars(m)), Holder(Counter(), jnp.zeros(())), optax.sgd(0.1), steps=9
    )
    assert result.params.count.steps == 9 and result.params.rate == 0.5


TRAINABLE = [
    (None, True),
    ({"x": True, "count": True}, True),
    (lambda leaf: True, True),
    ({"x": True, "count": False}, False),
]


@pytest.mark.parametrize(("trainable", "carried"), TRAINABLE)
def test_trainable_can_freeze_a_state(trainable, carried):
    params = {"x": 0.0, "count": Counter()}
    result = fit(counted, params, optax.sgd(0.1), steps=5, trainable=trainable)
    assert result.params["count"].steps == (5 if carried else 0)
    assert result.params["x"] > 0


def test_a_state_alone_is_nothing_to_train():
    with pytest.raises(errors.NotTrainable, match="Counter"):
        fit(lambda p: p["count"].total, {"count": Counter()}, optax.sgd(0.1), steps=1)


class Grows(ppl.State):
    value: Any

    def updated(self, gradient):
        return Grows(jnp.append(self.value, gradient.value[-1]))


def test_an_update_that_changes_shape_is_an_error():
    params = {"x": 0.0, "old": Grows(jnp.zeros(2))}
    message = (
        r"params\['old'\].updated.gradient. must return a Grows .*float32\[2\] became Grows.*\[3\]"
    )
    with pytest.raises(errors.InvalidState, match=message):
        fit(lambda p: -(p["x"] ** 2) + p["old"].value.sum(), params, optax.sgd(0.1), steps=1)


def test_a_state_that_is_not_finite_is_named():
    params = {"x": 1.0, "count": Counter(rule=lambda total, _: total + jnp.inf)}
    with pytest.raises(errors.NonFiniteUpdate, match=r"params\['count'\].total is inf"):
        fit(counted, params, optax.sgd(0.1), steps=200)
