"""A primitive of one's own, like a call or a loop, is one row of `control_flow.FORMS`."""

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
import pytest
from jax.custom_batching import custom_vmap
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


# --- functions with a batching rule of their own --------------------------------------------------


def by_body(f):
    """`f` with a batching rule that means the same, and the numbers of lanes it is asked for."""
    asked = []
    ruled = custom_vmap(f)

    @ruled.def_vmap
    def rule(size, mapped, *args):
        asked.append(size)
        outs = jax.vmap(f, [0 if m else None for m in mapped], axis_size=size)(*args)
        return outs, jax.tree.map(lambda _: True, outs)

    return ruled, asked


def scored_flip(p):
    return sample("x", dist.Bernoulli(p), ppl.ScoreFunction()) * jnp.array([1.0, 2.0])


@pytest.mark.parametrize("body", [flip, scored_flip], ids=["enumerated", "scored"])
def test_a_custom_vmap_function_is_entered(body):
    ruled, expected = lambda p: jnp.sum(by_body(body)[0](p)), lambda p: jnp.sum(body(p))
    p = jnp.asarray(0.3)
    with pytest.warns(ppl.errors.CustomRuleIgnored, match=r"'x' .* custom_vmap_call"):
        assert ppl.seed(ruled)(KEY, p) == ppl.seed(expected)(KEY, p)
    with pytest.warns(ppl.errors.CustomRuleIgnored):
        trace = ppl.seed(lambda: ppl.simulate(ruled, p))(KEY)
    with pytest.warns(ppl.errors.CustomRuleIgnored):
        density = ppl.log_density(ruled, trace.choices, p)
    by_hand = jnp.log(jnp.where(trace.choices["x"] == 1, 0.3, 0.7))
    assert jnp.allclose(density, by_hand) and jnp.allclose(trace.log_density, by_hand)
    with pytest.warns(ppl.errors.CustomRuleIgnored):
        estimate = jax.value_and_grad(ppl.expectation(ruled), argnums=1)(KEY, p)
    assert estimate == jax.value_and_grad(ppl.expectation(expected), argnums=1)(KEY, p)
    if body is flip:
        assert jnp.allclose(jnp.stack(estimate), jnp.array([0.9, 3.0]))


def test_its_rule_is_used_where_the_program_maps_it():
    pair = custom_vmap(lambda p: sample("x", dist.Bernoulli(p), Enumerate()))
    pair.def_vmap(lambda size, _, p: (2.0 * sample("both", dist.Bernoulli(p), Enumerate()), True))
    program = lambda p: jnp.sum(jax.vmap(pair)(p))
    p = jnp.array([0.3, 0.8])
    trace = ppl.seed(lambda: ppl.simulate(program, p))(KEY)
    assert trace.choices["both"].shape == (2,)
    assert trace.value == 2.0 * jnp.sum(trace.choices["both"])
    assert jnp.allclose(jax.grad(ppl.expectation(program), argnums=1)(KEY, p), 2.0)


@pytest.mark.parametrize("given", [(), (0.3,)], ids=["no operand", "one operand"])
def test_lanes_are_independent_where_nothing_is_mapped(given):
    body = lambda *p: flip(*p or (0.3,))
    lanes = lambda f: lambda: jax.vmap(lambda _: f(*given))(jnp.arange(4))
    trace = ppl.seed(lambda: ppl.simulate(lanes(by_body(body)[0])))(KEY)
    assert trace.choices["x"].shape == (4,)
    assert jnp.array_equal(trace.value, ppl.seed(lanes(body))(KEY))


def test_a_rule_without_sites_is_kept_over_particles_and_keeps_lanes_apart():
    square, asked = by_body(lambda x: x * x)

    def objective(p):
        return jnp.sum(square(3.0 * sample("x", dist.Bernoulli(p), Enumerate())))

    p = jnp.full(30, 0.3)
    value, grad = jax.value_and_grad(ppl.expectation(objective), argnums=1)(KEY, p)
    assert jnp.allclose(value, 81.0) and jnp.allclose(grad, 9.0)
    assert asked and set(asked) == {2}
