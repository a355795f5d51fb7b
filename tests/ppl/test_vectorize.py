"""Equations that are alike, run together: the same numbers from far fewer equations."""

import functools
import importlib

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

import ppl
from ppl import sample
from ppl._jax.run import run
from ppl._vectorize.vectorize import run_vectorized
from stdlib.estimators import Enumerate
from stdlib.objectives import elbo

KEY = jax.random.key(0)


@pytest.fixture
def one_by_one(monkeypatch):
    """Leaves programs as they are: a function that does so."""
    kernel = importlib.import_module("ppl._expectation.expectation")
    return lambda: monkeypatch.setattr(kernel, "MANY_SITES", np.inf)


def names(jaxpr):
    """The primitives of a jaxpr and of all inside it."""
    inside = jax.tree.leaves(
        [eqn.params for eqn in jaxpr.eqns], is_leaf=lambda x: hasattr(x, "eqns")
    )
    bodies = [getattr(x, "jaxpr", x) for x in inside if hasattr(x, "eqns")]
    return [eqn.primitive.name for eqn in jaxpr.eqns] + [x for body in bodies for x in names(body)]


def chain(t_max):
    """A chain of normals, each observed, as a Python loop."""
    x = 0.0
    for t in range(t_max):
        x = sample(f"x{t}", dist.Normal(0.9 * x, 1.0))
        sample(f"y{t}", dist.Normal(x, 0.5), obs=0.1 * t)


def mean_field(p):
    for t, loc in enumerate(p["loc"]):
        sample(f"x{t}", dist.Normal(loc, jnp.exp(p["scale"][t])))


def autoregressive(p):
    x = 0.0
    for t in range(len(p["loc"])):
        x = sample(f"x{t}", dist.Normal(p["loc"][t] + p["scale"][t] * x, 0.5))


def bound(guide, n):
    loc = 0.1 * jnp.arange(float(n))
    return lambda p: elbo(lambda: chain(n), lambda: guide(p), {}), {"loc": loc, "scale": -loc}


@functools.cache
def staged(guide, n):
    objective, p = bound(guide, n)
    return jax.make_jaxpr(jax.value_and_grad(ppl.expectation(objective), argnums=1))(KEY, p).jaxpr


def test_equations_of_the_gradient_do_not_grow_with_the_number_of_sites():
    """Of n sites with a mean-field guide: the slices of the user's own `for loc in p["loc"]`."""
    few, many = names(staged(mean_field, 24)), names(staged(mean_field, 48))
    assert many.count("erf_inv") == few.count("erf_inv") == 1
    assert many.count("log") == few.count("log")
    assert len(many) <= len(few) + 5 * 24


def test_steps_of_a_recursion_come_before_what_reads_them():
    few, many = names(staged(autoregressive, 12)), names(staged(autoregressive, 24))
    assert many.count("erf_inv") == 1
    assert many.count("log") == few.count("log")
    assert len(many) - len(few) < 12 * 60


@pytest.mark.parametrize("guide", [mean_field, autoregressive])
def test_values_and_gradients_are_those_of_the_equations_one_by_one(guide, one_by_one):
    objective, p = bound(guide, 10)
    found = jax.jit(jax.value_and_grad(ppl.expectation(objective), argnums=1))(KEY, p)
    one_by_one()
    wanted = jax.jit(jax.value_and_grad(ppl.expectation(objective), argnums=1))(KEY, p)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=2e-5), found, wanted)


def drawn():
    """Draws of several families, shapes and scopes, 6 of each."""
    draws = {}
    for t in range(6):
        draws[f"normal {t}"] = sample(f"n{t}", dist.Normal(0.0, 1.0 + t))
        draws[f"vector {t}"] = sample(f"v{t}", dist.Uniform(jnp.zeros(3), 1.0))
        draws[f"gamma {t}"] = sample(f"g{t}", dist.Gamma(2.0 + t, 1.0))
        draws[f"coin {t}"] = sample(f"c{t}", dist.Bernoulli(0.5), Enumerate() if t == 3 else None)
    return 0.0, draws


def test_draws_are_the_same_and_independent(one_by_one):
    found = jax.jit(ppl.expectation(drawn, has_aux=True))(KEY)[1]
    one_by_one()
    wanted = jax.jit(ppl.expectation(drawn, has_aux=True))(KEY)[1]
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-6), found, wanted)
    vectors = np.ravel([found[f"vector {t}"] for t in range(6)])
    assert len(np.unique(vectors)) == 18


def test_other_generators_draw_key_by_key(one_by_one):
    """Bits of several of their keys at once are not those of each."""

    def normals():
        return 0.0, [sample(f"x{t}", dist.Normal(0.0, 1.0)) for t in range(12)]

    key = jax.random.key(0, impl="rbg")
    found = ppl.expectation(normals, has_aux=True)(key)[1]
    one_by_one()
    np.testing.assert_array_equal(found, ppl.expectation(normals, has_aux=True)(key)[1])


@jax.custom_jvp
def doubled(x):
    return 2.0 * x


doubled.defjvp(lambda xs, ts: (doubled(*xs), 3.0 * ts[0]))


@jax.jit
def squared(x):
    return x * x + jnp.arange(3.0)[1]


def permuted(x):
    """Reads in other orders than it makes; rows, columns and strides; shared and mixed operands."""
    a = [jnp.sin(x[i, 0]) for i in range(8)]
    b = [a[i] * a[7 - i] for i in range(8)]
    c = [jnp.exp(b[i % 3]) + a[i] for i in range(8)]
    d = [squared(doubled(v)) for v in [*c[4:], *a[:3], x[0, 1]]]
    e = [jnp.sum(x[i]) / (1.0 + i) for i in range(8)]
    f = [jnp.sum(x[i::4, 1:]) for i in range(4)]
    g = [jnp.dot(x[i, :2], x[:2, i % 2]) for i in range(8)]
    return [*d, c[0], sum(e) + sum(f), sum(g) * sum(e[::2] + a)]


def whole_numbers(x):
    i = [(100.0 * x[k, 0]).astype(jnp.int32) for k in range(8)]
    flags = [v > 3 for v in i]
    chosen = [jnp.where(flag, v, 0) for flag, v in zip(flags, i, strict=True)]
    return [sum(i), sum(chosen), sum(x[0]) + x[1, 0]]


def keys(x):
    all_keys = [jax.random.fold_in(jax.random.key(1), k) for k in range(8)]
    shapes = [jax.random.normal(key, (k % 3,)).sum() for k, key in enumerate(all_keys)]
    pairs = [jax.random.split(key) for key in reversed(all_keys)]
    return [*shapes, *(x[0, 0] + jax.random.uniform(pair[k % 2]) for k, pair in enumerate(pairs))]


def control_flow(x):
    out = []
    for k in range(6):
        step = lambda c, v, k=k: (c * v + k, c)
        out.append(jax.lax.scan(step, x[k, 0], x[:, 1])[0])
        out.append(jax.lax.cond(x[k, 1] > 0, jnp.sin, jnp.cos, x[k, 0]))
    return out


@pytest.mark.parametrize("function", [permuted, whole_numbers, keys, control_flow])
def test_a_jaxpr_run_together_is_the_jaxpr(function):
    x = jax.random.normal(KEY, (8, 3))
    closed = jax.make_jaxpr(function)(x)

    def by(way, x):
        return way(closed.jaxpr, closed.consts, [x])

    def slopes(way, x):
        floats = lambda x: [v for v in by(way, x) if jnp.issubdtype(v.dtype, jnp.inexact)]
        return jax.jacrev(floats)(x), jax.jacfwd(floats)(x)

    close = functools.partial(np.testing.assert_allclose, rtol=2e-5, atol=1e-5)
    jax.tree.map(close, by(run_vectorized, x), by(run, x))
    found, wanted = (jax.jit(functools.partial(slopes, way))(x) for way in (run_vectorized, run))
    jax.tree.map(close, found, wanted)


def test_effects_keep_their_order():
    said = []

    def speaking(x):
        for k in range(6):
            jax.debug.callback(said.append, jnp.sin(x) + k, ordered=True)
        return [x]

    closed = jax.make_jaxpr(speaking)(0.0)
    run_vectorized(closed.jaxpr, closed.consts, [0.0])
    jax.effects_barrier()
    assert [float(x) for x in said] == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]


@jax.custom_batching.custom_vmap
def of_one(x):
    return jnp.sin(x)


of_one.def_vmap(lambda size, mapped, x: (jnp.cos(x), True))


def host_sine(x):
    wanted = jax.ShapeDtypeStruct((), jnp.float32)
    return jax.pure_callback(lambda v: np.float32(np.sin(v)), wanted, x)


@pytest.mark.parametrize("function", [of_one, host_sine])
@pytest.mark.parametrize("wrapped", [False, True])
def test_what_has_a_batching_rule_of_its_users_runs_by_itself(function, wrapped):
    """Also where it stands in a function with a derivative of its own."""
    derived = jax.custom_jvp(lambda x: function(x))
    derived.defjvp(lambda xs, ts: (derived(*xs), jnp.cos(xs[0]) * ts[0]))
    whole = jax.jit(derived) if wrapped else function

    def objective():
        xs = [sample(f"x{t}", dist.Normal(0.0, 1.0)) for t in range(12)]
        return sum(whole(x) for x in xs), xs

    total, xs = jax.jit(ppl.expectation(objective, has_aux=True))(KEY)
    np.testing.assert_allclose(total, np.sin(np.asarray(xs)).sum(), rtol=1e-5)


def test_lanes_of_the_whole_draw_independently():
    def mean():
        return sum(sample(f"x{t}", dist.Normal(0.0, 1.0)) for t in range(12)) / 12**0.5

    totals = jax.jit(jax.vmap(ppl.expectation(mean)))(jax.random.split(KEY, 4000))
    np.testing.assert_allclose(totals.mean(), 0.0, atol=5 / 4000**0.5)
    np.testing.assert_allclose(totals.var(), 1.0, atol=5 * (2 / 4000) ** 0.5)


def test_exact_sums_of_a_chain_written_out(one_by_one):
    def model(p):
        z = sample("z0", dist.Bernoulli(p), Enumerate())
        for t in range(1, 10):
            z = sample(f"z{t}", dist.Bernoulli(0.2 + p * z), Enumerate())
            sample(f"y{t}", dist.Normal(z, 1.0), obs=0.5)

    evidence = ppl.log_expectation(lambda p: ppl.simulate(model, p).log_likelihood)
    found = jax.jit(jax.value_and_grad(evidence))(0.3)
    one_by_one()
    np.testing.assert_allclose(found, jax.jit(jax.value_and_grad(evidence))(0.3), rtol=1e-5)
