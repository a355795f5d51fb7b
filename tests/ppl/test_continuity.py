"""A reparameterised value that is rounded, counted or branched upon is warned of."""

import warnings

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
import pytest

import ppl
from ppl import sample
from ppl._jax import source
from stdlib.objectives import elbo, iwelbo


def draw(mean, estimator=None):
    return sample("x", dist.Normal(mean, 1.0), estimator)


def model():
    sample("y", dist.Bernoulli(logits=sample("x", dist.Normal(0.0, 1.0))), obs=1)


def draws(mean, n=3):
    return sample("x", dist.Normal(mean * jnp.ones(n), 1.0))


def noise():
    return sample("x", dist.Normal(0.0, 1.0))


def flag(x):
    return (x > 0).astype(int)


def with_pivots(m):
    matrix = jnp.eye(2) + jnp.outer(draws(m, 2), draws(m, 2))
    return jax.scipy.linalg.lu_solve(jax.scipy.linalg.lu_factor(matrix), jnp.ones(2)).sum()


def chosen(x):
    return jax.lax.cond(x > 0, lambda: 1.0, lambda: 2.0)


def coin_or(x):
    coin = lambda: 1.0 * sample("coin", dist.Bernoulli(0.5))
    return jax.lax.cond(x > 0, coin, lambda: 2.0)


TWO, THREE = jnp.array([1.0, 4.0]), jnp.array([1.0, 4.0, 9.0])
PRIMITIVES = {
    "sign": lambda m: jnp.sign(draw(m)),
    "where, by the sign": lambda m: jnp.where(jnp.sign(draw(m)) > 0, 1.0, 2.0),
    "gather, by the sign": lambda m: TWO[jnp.sign(draw(m)).astype(int)],
    "sign, of another": lambda m: jnp.sign(draw(m)) * m,
    "ceil": lambda m: jnp.ceil(draw(m)),
    "trunc": lambda m: jnp.trunc(draw(m)),
    "rem": lambda m: draw(m) % 1.0,
    "fmod": lambda m: jnp.fmod(draw(m), 1.0),
    "floor_divide": lambda m: draw(m) // 1.0,
    "heaviside": lambda m: jnp.heaviside(draw(m), 0.5),
    "argmax": lambda m: 1.0 * jnp.argmax(draws(m)),
    "argmax of others": lambda m: THREE[jnp.argmax(draws(m))],
    "argsort": lambda m: THREE[jnp.argsort(draws(m))][0],
    "ranks": lambda m: jnp.sum(THREE * jnp.argsort(jnp.argsort(draws(m)))),
    "take_along_axis": lambda m: jnp.take_along_axis(THREE, jnp.argsort(draws(m)), 0)[0],
    "top_k": lambda m: jnp.sum(THREE[jax.lax.top_k(draws(m), 1)[1]]),
    "sort of others": lambda m: jax.lax.sort((draws(m), THREE), num_keys=1)[1][0],
    "searchsorted": lambda m: THREE[jnp.searchsorted(jnp.array([0.0, 1.0]), draw(m))],
    "histogram": lambda m: 1.0 * jnp.histogram(draws(m), bins=jnp.array([-1.0, 0.0, 1.0]))[0][0],
    "one_hot": lambda m: jax.nn.one_hot(flag(draw(m)), 2)[0],
    "bits": lambda m: jax.lax.bitcast_convert_type(
        jax.lax.bitcast_convert_type(draw(m), jnp.int32) // 2, jnp.float32
    ),
    "gather": lambda m: TWO[flag(draw(m))],
    "gather of its own": lambda m: (lambda x: x[flag(x[0])])(draws(m)),
    "gather in vmap": lambda m: jnp.sum(jax.vmap(lambda x: TWO[flag(x)])(draws(m))),
    "gather in jit": lambda m: jax.jit(lambda x: TWO[flag(x)])(draw(m)),
    "gather in checkpoint": lambda m: jax.checkpoint(lambda x: TWO[flag(x)])(draw(m)),
    "dynamic_slice": lambda m: jax.lax.dynamic_slice(TWO, (flag(draw(m)),), (1,))[0],
    "dynamic_update_slice": lambda m: jax.lax.dynamic_update_slice(
        jnp.zeros(2), jnp.ones(1), (flag(draw(m)),)
    )[0],
    "scatter": lambda m: jnp.zeros(2).at[flag(draw(m))].set(1.0)[0],
    "scatter-add": lambda m: jax.ops.segment_sum(jnp.ones(3), flag(draws(m)), 2)[0],
    "select": lambda m: jax.lax.select(draw(m) > 0, 1.0, m),
    "is_finite": lambda m: jnp.where(jnp.isfinite(jnp.log(draw(m))), 1.0, 2.0),
    "switch": lambda m: jax.lax.switch(flag(draw(m)), [lambda: 1.0, lambda: m]),
    "while predicate": lambda m: (
        lambda x: jax.lax.while_loop(lambda c: c < x, lambda c: c + 1.0, 0.0)
    )(draw(m)),
    "carry": lambda m: 1.0 * jax.lax.scan(lambda c, _: (2 * c, None), flag(draw(m)), length=2)[0],
    "carry of fori_loop": lambda m: TWO[jax.lax.fori_loop(0, 3, lambda i, c: 1 - c, flag(draw(m)))],
    "parameter of a site": lambda m: 1.0 * sample("k", dist.Binomial(1 + flag(draw(m)), 0.5)),
    "through another site": lambda m: TWO[flag(sample("y", dist.Normal(draw(m), 1.0)))],
    "noise compared with a parameter": lambda m: 1.0 * (noise() > m),
    "noise moved by a parameter": lambda m: jnp.floor(m * noise()),
    "Gumbel-max": lambda m: THREE[jnp.argmax(jnp.stack([m, 0.0, 0.0]) + draws(0.0))],
}

JUMPS = {
    "floor": lambda m: jnp.floor(draw(m)),
    "round": lambda m: jnp.round(draw(m)),
    "indicator": lambda m: (draw(m) > 0) * 2.0,
    "count": lambda m: jnp.sum(jax.vmap(lambda _: draw(m))(jnp.arange(3)) > 0).astype(float),
    "choice of constants": lambda m: jnp.where(draw(m) > 0, 1.0, m),
    "integer": lambda m: draw(m).astype(int).astype(float),
    "cond": lambda m: jax.lax.cond(draw(m) > 0, lambda: m, lambda: 2 * m),
    "cond in vmap": lambda m: jnp.sum(jax.vmap(chosen)(draws(m))),
    "cond with sites in vmap": lambda m: jnp.sum(jax.vmap(coin_or)(draws(m))),
    "switch in vmap": lambda m: jnp.sum(
        jax.vmap(lambda x: jax.lax.switch(flag(x), [lambda: m, lambda: 2 * m]))(draws(m))
    ),
    "in a scan": lambda m: jax.lax.scan(
        lambda c, _: (c + draw(c), (c > 0) * 1.0), m, None, length=3
    )[1].sum(),
}

SMOOTH = {
    "noise compared with a constant": lambda m: m * (noise() > 0),
    "noise rounded": lambda m: m * jnp.floor(noise()),
    "noise branched upon": lambda m: jax.lax.cond(noise() > 0, lambda: m, lambda: 2 * m),
    "noise ordered": lambda m: m * (1.0 + jnp.argsort(draws(0.0))[0]),
    "max": lambda m: jnp.max(draws(m)),
    "sort": lambda m: jnp.sort(draws(m))[0],
    "argmax of its own": lambda m: (lambda x: x[jnp.argmax(x)])(draws(m)),
    "argsort of its own": lambda m: (lambda x: x[jnp.argsort(x)])(draws(m))[0],
    "top_k of its own": lambda m: jnp.sum(jax.lax.top_k(draws(m), 2)[0]),
    "median": lambda m: jnp.median(draws(m)),
    "clip": lambda m: jnp.clip(draw(m), -1.0, 1.0),
    "abs": lambda m: jnp.abs(draw(m)),
    "sign of its own": lambda m: (lambda x: -jnp.sign(x) * jnp.sqrt(jnp.abs(x)))(draw(m)),
    "Huber": lambda m: (lambda x: jnp.where(jnp.abs(x) < 1.0, x**2 / 2, jnp.abs(x) - 0.5))(draw(m)),
    "interp": lambda m: jnp.interp(draw(m), THREE, THREE**2),
    "pivots": with_pivots,
    "steps of a loop": lambda m: (lambda x: jax.lax.fori_loop(0, 3, lambda i, c: c + x[i], 0.0))(
        draws(m)
    ),
    "cond on the step, in a scan with outputs": lambda m: jax.lax.scan(
        lambda c, i: (draw(c), jax.lax.cond(i > 1, lambda: c, lambda: m)), m, jnp.arange(3)
    )[1].sum(),
    "relu": lambda m: jax.nn.relu(draw(m)),
    "maximum": lambda m: jnp.maximum(draw(m), 0.0),
    "where": lambda m: jnp.where(draw(m) > 0, draw(m), 0.0),
    "logsumexp": lambda m: jax.nn.logsumexp(jnp.stack([draw(m), m])),
    "weighted logsumexp": lambda m: jax.nn.logsumexp(draws(m), b=jnp.array([1.0, 0.0, 2.0])),
    "cond in vmap, on noise": lambda m: m * jnp.sum(jax.vmap(chosen)(draws(0.0))),
    "scored": lambda m: (draw(m, ppl.ScoreFunction()) > 0) * 2.0,
    "detached": lambda m: (jax.lax.stop_gradient(draw(m)) > 0) * m,
    "elbo": lambda m: elbo(model, lambda: draw(m), {}),
    "inputs of a loop": lambda m: jax.lax.scan(
        lambda c, t: (c, draw(jnp.where(t == 0, 0.0, 0.5) * m)), 0.0, jnp.arange(3)
    )[1].sum(),
    "iwelbo": lambda m: iwelbo(model, lambda: draw(m), {}, num_particles=3),
}


def warned(objective, mean):
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        jax.eval_shape(lambda m: ppl.expectation(objective)(jax.random.key(0), m), mean)
    kind = ppl.errors.DiscontinuousObjective
    return [str(w.message) for w in seen if issubclass(w.category, kind)]


@pytest.mark.parametrize("name", PRIMITIVES)
def test_what_makes_an_integer_a_flag_or_an_index_of_a_real(name):
    texts = warned(PRIMITIVES[name], 0.3)
    assert texts and all("test_continuity.py:" in text.split("reads site")[0] for text in texts)


def test_a_program_that_needs_the_number_itself_is_warned_of():
    """It cannot be traced in its arguments, so what they move is not known."""
    needs = lambda m: jnp.floor(draw(m)) + float(m)
    with pytest.warns(ppl.errors.DiscontinuousObjective):
        ppl.expectation(needs)(jax.random.key(0), 0.3)


@pytest.mark.parametrize("name", JUMPS)
def test_a_jump_is_warned_of_with_site_and_line(name):
    with pytest.warns(ppl.errors.DiscontinuousObjective) as caught:
        ppl.expectation(JUMPS[name])(jax.random.key(0), 0.3)
    text = str(caught[0].message)
    assert "site 'x'" in text
    assert "test_continuity.py:" in text
    assert "ppl.ScoreFunction()" in text


def test_a_function_that_jax_traced_for_a_library_is_placed_where_it_is_called():
    """JAX traces `jnp.where` once; later calls share the equation, with its first caller's line."""
    names = {"jnp": jnp}
    code = compile("def chosen(x): return jnp.where(x > 0, 1.0, 2.0)", dist.__file__, "exec")
    exec(code, names)
    first = jax.make_jaxpr(names["chosen"])(0.1).jaxpr.eqns[-1]
    later = jax.make_jaxpr(lambda x: jnp.where(x > 0, 1.0, 2.0))(0.1).jaxpr.eqns[-1]
    inside = first.params["jaxpr"].jaxpr.eqns[-1]
    assert inside.primitive.name == "select_n"
    assert source.placed(inside, (later,)) is later


@pytest.mark.parametrize("name", SMOOTH)
def test_what_does_not_jump_is_quiet(name):
    with warnings.catch_warnings():
        warnings.simplefilter("error", ppl.errors.DiscontinuousObjective)
        value = ppl.expectation(SMOOTH[name])(jax.random.key(0), 0.3)
    assert jnp.isfinite(value)
    assert not warned(SMOOTH[name], 0.3)


ALONG = ("max", "argmax of its own", "argsort of its own", "sign of its own", "Huber", "interp",
         "pivots", "noise compared with a constant", "noise ordered", "median")  # fmt: skip


@pytest.mark.parametrize("name", ALONG)
def test_where_it_is_quiet_the_derivative_is_that_along_the_path(name):
    """Finite differences, with the same noise."""
    estimate = jax.vmap(ppl.expectation(SMOOTH[name]), (0, None))
    keys = jax.random.split(jax.random.key(1), 5)
    slopes = jax.jvp(lambda m: estimate(keys, m), (0.3,), (1.0,))[1]
    steps = (estimate(keys, 0.301) - estimate(keys, 0.299)) / 0.002
    assert jnp.allclose(slopes, steps, rtol=2e-2, atol=2e-3)
