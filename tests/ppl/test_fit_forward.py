"""`fit` with gradients by forward mode: the same numbers, and loops that have no reverse mode."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import optax
import pytest

import ppl
from ppl import errors, sample
from stdlib.estimators import MovingAverage

KEY = jax.random.key(3)
fit = functools.partial(ppl.fit, key=KEY, progress=False)


class Guide(eqx.Module):
    weight: jax.Array
    slope: jax.Array
    average: MovingAverage
    frozen: jax.Array
    size: int = eqx.field(static=True, default=2)


def start():
    return Guide(jnp.array([0.3, -0.2]), jnp.asarray(0.5), MovingAverage(), jnp.ones(()))


def costs(guide, batch):
    """A scored batch with a learnt baseline, a path, and data."""
    score = ppl.ScoreFunction(baseline=guide.average.value)
    x = sample("x", dist.Bernoulli(logits=guide.weight), score)
    z = sample("z", dist.Normal(guide.weight[0] * guide.slope, 1.0))
    return jnp.sum((x - 0.4) ** 2) + guide.frozen * (z - jnp.mean(batch)) ** 2


@pytest.mark.parametrize("maximize", [True, False])
def test_the_same_fit_as_by_reverse_mode(maximize):
    """With a `State`, several samples, minibatches and a frozen leaf."""
    trainable = eqx.tree_at(lambda g: g.frozen, jax.tree.map(lambda _: True, start()), False)
    settings = {"steps": 20, "num_samples": 3, "maximize": maximize, "trainable": trainable}
    settings |= {"data": jnp.arange(6.0), "batch_size": 2}
    forward, reverse = (
        fit(costs, start(), optax.adam(0.05), mode=mode, **settings)
        for mode in ("forward", "reverse")
    )
    for name in ("objective", "grad_norm"):
        np.testing.assert_allclose(forward.history[name], reverse.history[name], rtol=1e-5)
    for one, other in zip(*map(jax.tree.leaves, (forward.params, reverse.params)), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
    assert forward.params.frozen == 1.0


def test_parameters_of_two_dtypes():
    def objective(params):
        half, whole = params
        return -((half.astype(jnp.float32) - 2.0) ** 2) - (whole - 3.0) ** 2

    start = jnp.zeros(2, jnp.bfloat16)[0], jnp.zeros(())
    half, whole = fit(objective, start, optax.adam(0.2), steps=100, mode="forward").params
    assert half.dtype == jnp.bfloat16 and abs(half - 2.0) < 0.05 and abs(whole - 3.0) < 0.05


def tosses(logit):
    """The square of how far the number of tosses to the first head, 1/p in the mean, is from 4."""
    p = jax.nn.sigmoid(logit)

    def toss(state):
        return state[0] + 1, sample("x", dist.Bernoulli(p), ppl.ScoreFunction(baseline=7.0))

    count, _ = jax.lax.while_loop(lambda s: (s[1] == 0) & (s[0] < 200), toss, (0, 0))
    return 1.0 * count + 8.0 * p


def newton(params):
    """A square root by Newton's method, in a loop without sites."""
    near = lambda r: jnp.abs(r**2 - params["x"]) > 1e-5
    root = jax.lax.while_loop(near, lambda r: 0.5 * (r + params["x"] / r), params["x"] * 0.5)
    return -((root - 3.0) ** 2) + 0.0 * sample("z", dist.Normal(0.0, 1.0))


def test_a_while_loop_with_sites_is_trained():
    """The mean 1/p + 8 p is least at p = 1/√8."""
    schedule = optax.exponential_decay(0.1, 100, 0.4)
    settings = {"steps": 400, "num_samples": 32, "maximize": False, "mode": "forward"}
    result = fit(tosses, 0.0, optax.adam(schedule), **settings)
    np.testing.assert_allclose(jax.nn.sigmoid(result.params), 8**-0.5, atol=0.02)


@pytest.mark.parametrize("optimizer", [optax.adam(0.3), optax.lbfgs()], ids=["adam", "lbfgs"])
def test_a_while_loop_without_sites_is_trained(optimizer):
    """By an optimizer that searches along a line too, which takes gradients of its own."""
    result = fit(newton, {"x": 4.0}, optimizer, steps=60, mode="forward")
    np.testing.assert_allclose(result.params["x"], 9.0, rtol=0.03)


def test_restarts_in_a_vmap():
    def one(start):
        return fit(newton, {"x": start}, optax.adam(0.3), steps=60, mode="forward").params["x"]

    np.testing.assert_allclose(jax.vmap(one)(jnp.array([4.0, 12.0])), 9.0, rtol=0.03)


def test_integers_that_a_gradient_would_reach_are_warned_of():
    with pytest.warns(errors.IntegerParameter, match=r"params\['start'\] is the integer 2"):
        fit(
            lambda p: newton({"x": p["x"] + p["start"]}),
            {"x": 4.0, "start": 2},
            optax.sgd(0.1),
            steps=1,
            mode="forward",
        )


@pytest.mark.parametrize("objective, start", [(tosses, 0.0), (newton, {"x": 4.0})])
def test_reverse_mode_says_what_to_write(objective, start):
    with pytest.raises(errors.ReverseModeLoop, match=r'while_loop.*ppl\.fit\(\.\.\., mode="forw'):
        fit(objective, start, optax.sgd(0.1), steps=1)


def test_other_errors_are_their_own():
    def fails(x):
        raise ValueError("mine")

    with pytest.raises(ValueError, match="mine") as caught:
        fit(fails, 0.0, optax.sgd(0.1), steps=1)
    assert not isinstance(caught.value, errors.ProgramError)


@pytest.mark.usefixtures("unchecked_types")
def test_a_mode_that_there_is_not():
    with pytest.raises(errors.InvalidSetting, match="mode must be one of 'reverse', 'forward'"):
        fit(newton, {"x": 4.0}, optax.sgd(0.1), steps=1, mode="backward")


def test_a_step_that_is_not_finite_is_told_of():
    def root(x):
        return jnp.sqrt(x) + 0.0 * newton({"x": 4.0})

    with pytest.raises(errors.NonFiniteUpdate, match="the gradient of params is inf"):
        fit(root, 0.0, optax.sgd(0.1), steps=3, mode="forward")
