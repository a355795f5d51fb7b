"""Integers among the parameters of `fit`: warned of where a gradient would reach them."""

import warnings
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import optax
import pytest

import ppl
from ppl import sample
from ppl.errors import IntegerParameter

run = partial(ppl.fit, optimizer=optax.sgd(0.1), key=jax.random.key(0), steps=2, progress=False)
TABLE = jnp.array([0.5, 1.5, 2.5])


def warned(objective, params, **settings):
    """The warnings of a fit, and its parameters."""
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        result = run(objective, params, **settings)
    return [str(w.message) for w in seen if w.category is IntegerParameter], result.params


def drawn(params):
    """A cost of a site of these parameters."""
    x = sample("x", dist.Normal(params["mean"], jnp.exp(params["scale"])))
    return -((x - 1.0) ** 2)


class Guide(eqx.Module):
    """A network of one weight, with settings, an index, and an array of counts."""

    weight: jax.Array
    counts: jax.Array
    index: jax.Array
    rate: int = 2
    size: int = eqx.field(static=True, default=3)

    def __call__(self, x):
        return self.rate * self.weight * x * self.size + TABLE[self.index]


@pytest.mark.parametrize("start", [0, jnp.array(0), np.array(0), np.int32(0)])
def test_a_start_that_is_an_integer_is_warned_of(start):
    messages, params = warned(drawn, {"mean": start, "scale": 0.0})
    assert len(messages) == 1
    assert messages[0].startswith("params['mean'] is ")
    assert params["mean"] == 0


def test_the_message_says_what_to_write():
    (message,), _ = warned(drawn, {"mean": 0.0, "scale": 3})
    assert "params['scale'] is the integer 3" in message
    assert "write 3.0" in message


def test_each_is_named_by_its_path():
    def cost(params):
        return -jnp.sum(params[0]["a"] * params[1] ** 2 - params[2])

    messages, _ = warned(cost, ({"a": jnp.arange(3)}, jnp.ones(3), 4))
    assert [m.split(" ")[0] for m in messages] == ["params[0]['a']", "params[2]"]


@pytest.mark.parametrize("with_size", [None, 2])
def test_with_data_and_with_batches(with_size):
    def cost(params, batch):
        x = sample("x", dist.Normal(params["mean"], 1.0))
        return -jnp.sum((batch - x * params["slope"]) ** 2)

    data = jnp.arange(4.0)
    settings = {"data": data, "batch_size": with_size, "num_samples": 2}
    messages, _ = warned(cost, {"mean": 0.0, "slope": 1}, **settings)
    assert len(messages) == 1 and "params['slope']" in messages[0]


def scanned(params):
    """The integer is what a loop carries into a site."""
    step = lambda c, _: (sample("x", dist.Normal(c, 1.0)), None)
    return -params["w"] * jax.lax.scan(step, 1.0 * params["start"], length=2)[0]


def of_two(params):
    """The integer is met in one branch."""
    return jax.lax.cond(params["w"] > 0, lambda: 1.0 * params["start"], lambda: params["w"])


@pytest.mark.parametrize("objective", [scanned, of_two])
def test_in_loops_and_branches(objective):
    messages, _ = warned(objective, {"w": 1.0, "start": 0})
    assert len(messages) == 1 and "params['start']" in messages[0]


UNREACHED = {
    "a length": lambda p: jnp.sum(p["w"] * jnp.ones(p["n"])),
    "an index": lambda p: p["w"] * TABLE[p["n"]],
    "a number of steps": lambda p: jax.lax.fori_loop(0, p["n"], lambda i, c: c * p["w"], 1.0),
    "a comparison": lambda p: jnp.where(p["n"] > 1, p["w"], 0.0),
    "Python's own": lambda p: p["w"] * sum(range(p["n"])),
    "not read": lambda p: p["w"],
    "cut off": lambda p: p["w"] * jax.lax.stop_gradient(1.0 * p["n"]),
    "a class": lambda p: p["w"] * jax.nn.one_hot(p["n"], 3)[1],
}


@pytest.mark.parametrize("name", UNREACHED)
def test_what_no_gradient_would_reach_stays_without_a_word(name):
    messages, params = warned(UNREACHED[name], {"w": 1.0, "n": 2})
    assert not messages
    assert params["n"] == 2


def test_settings_of_modules_stay_and_their_arrays_are_warned_of():
    def cost(guide):
        return -(guide(0.5) ** 2)

    one = Guide(jnp.array(1.0), jnp.arange(2), jnp.array(1))
    assert not warned(cost, one)[0]
    (message,), _ = warned(lambda g: cost(g) * jnp.sum(g.counts), one)
    assert message.startswith("params.counts is int32[2]")


def test_those_that_trainable_names_are_left_alone():
    params = {"mean": 0, "scale": 0.0}
    assert not warned(drawn, params, trainable={"mean": False, "scale": True})[0]
    assert len(warned(drawn, params, trainable=lambda leaf: True)[0]) == 1
    nested = lambda p: drawn(p["a"]) * p["b"]
    both = {"a": params, "b": 1.0}
    assert len(warned(nested, both, trainable={"a": True, "b": False})[0]) == 1


def test_under_vmap():
    with pytest.warns(IntegerParameter, match="mean"):
        found = jax.vmap(lambda scale: run(drawn, {"mean": 0, "scale": scale}).params["scale"])(
            jnp.zeros(2)
        )
    assert found.shape == (2,)


def test_states_are_carried():
    class Count(ppl.State):
        steps: jax.Array

        def updated(self, gradient):
            return Count(self.steps + 1)

    def cost(params):
        return -params["w"] * params["count"].steps

    messages, params = warned(cost, {"w": 1.0, "count": Count(jnp.array(0))})
    assert not messages
    assert params["count"].steps == 2
