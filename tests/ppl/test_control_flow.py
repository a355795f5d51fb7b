"""A primitive of one's own, like a call or a loop, is one row of `control_flow.FORMS`."""

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
import pytest
from jax.extend.core import Primitive, jaxpr_as_fun
from jax.interpreters import batching, mlir

import ppl
from ppl import sample
from ppl._expectation.values.dimensions import Along
from ppl._expectation.values.lanes import Deps, flow
from ppl.extend import control_flow
from stdlib.estimators import Enumerate

KEY = jax.random.key(0)
toy_p = Primitive("toy_call")
toy_p.multiple_results = True


@toy_p.def_effectful_abstract_eval
def _avals(*_, closed):
    return closed.out_avals, closed.effects


def _batched(axis_data, operands, dims, *, closed):
    lanes = jax.vmap(jaxpr_as_fun(closed), in_axes=tuple(dims), axis_size=axis_data.size)
    out = toy_p.bind(*operands, closed=jax.make_jaxpr(lanes)(*operands))
    return out, [0] * len(out)


toy_p.def_impl(lambda *args, closed: jaxpr_as_fun(closed)(*args))
mlir.register_lowering(
    toy_p,
    mlir.lower_fun(lambda *args, closed: jaxpr_as_fun(closed)(*args), multiple_results=True),
)
batching.fancy_primitive_batchers[toy_p] = _batched


def toy(f):
    """`f` of arrays and for arrays, as one equation."""
    return lambda *args: toy_p.bind(*args, closed=jax.make_jaxpr(f)(*args))


@pytest.fixture(autouse=True)
def row(monkeypatch):
    monkeypatch.setitem(
        control_flow.FORMS, "toy_call", lambda eqn: control_flow.Call(eqn, ("closed",), "toy")
    )


def flip(p):
    return sample("x", dist.Bernoulli(p), Enumerate()) * jnp.array([1.0, 2.0])


def called(p):
    return jnp.sum(toy(flip)(p)[0])


def plain(p):
    return jnp.sum(flip(p))


@pytest.mark.parametrize("around", [lambda f: f, jax.vmap], ids=["once", "in lanes"])
def test_meanings_enter_it(around):
    p = jnp.array([0.3, 0.8]) if around is jax.vmap else jnp.asarray(0.3)
    ours, expected = around(called), around(plain)
    assert jnp.array_equal(ppl.seed(ours)(KEY, p), ppl.seed(expected)(KEY, p))
    trace = ppl.seed(lambda: ppl.simulate(ours, p))(KEY)
    assert jnp.allclose(trace.log_density, ppl.log_density(expected, trace.choices, p))
    assert jnp.allclose(ppl.log_density(ours, trace.choices, p), trace.log_density)
    total = ppl.expectation(lambda p: jnp.sum(ours(p)))
    value, grad = jax.value_and_grad(lambda p: total(KEY, p))(p)
    assert jnp.allclose(value, 3.0 * jnp.sum(p)) and jnp.allclose(grad, 3.0)


def test_analyses_enter_it():
    def program():
        x = sample("x", dist.Normal(0.0, 1.0))
        y = sample("y", dist.Normal(0.0, 1.0))
        first, second = toy(lambda x, y: (jnp.sin(x), y))(x, y)
        sample("of x", dist.Normal(first, 1.0))
        sample("of y", dist.Normal(second, 1.0))

    read = {site.address: site.reads for site in ppl.sites(program)}
    assert (read["of x"], read["of y"]) == (("x",), ("y",))
    closed = jax.make_jaxpr(toy(lambda x: jnp.sum(jnp.sin(x), 1)))(jnp.ones((3, 4)))
    (out,) = flow(closed.jaxpr, [Deps(1, {0: (Along(0), Along(1))})])
    assert out.relations == {0: (Along(0), None)}
