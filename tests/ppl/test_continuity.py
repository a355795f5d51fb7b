"""A reparameterised value that is rounded, counted or branched upon is warned of."""

import warnings

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
import pytest

import ppl
from ppl import _internals as internals
from ppl import sample
from stdlib.objectives import elbo, iwelbo


def draw(mean, estimator=None):
    return sample("x", dist.Normal(mean, 1.0), estimator)


def model():
    sample("y", dist.Bernoulli(logits=sample("x", dist.Normal(0.0, 1.0))), obs=1)


JUMPS = {
    "floor": lambda m: jnp.floor(draw(m)),
    "round": lambda m: jnp.round(draw(m)),
    "indicator": lambda m: (draw(m) > 0) * 2.0,
    "count": lambda m: jnp.sum(jax.vmap(lambda _: draw(m))(jnp.arange(3)) > 0).astype(float),
    "choice of constants": lambda m: jnp.where(draw(m) > 0, 1.0, m),
    "integer": lambda m: draw(m).astype(int).astype(float),
    "cond": lambda m: jax.lax.cond(draw(m) > 0, lambda: m, lambda: 2 * m),
    "in a scan": lambda m: jax.lax.scan(
        lambda c, _: (c + draw(c), (c > 0) * 1.0), m, None, length=3
    )[1].sum(),
}

SMOOTH = {
    "cond on the step, in a scan with outputs": lambda m: jax.lax.scan(
        lambda c, i: (draw(c), jax.lax.cond(i > 1, lambda: c, lambda: m)), m, jnp.arange(3)
    )[1].sum(),
    "relu": lambda m: jax.nn.relu(draw(m)),
    "maximum": lambda m: jnp.maximum(draw(m), 0.0),
    "where": lambda m: jnp.where(draw(m) > 0, draw(m), 0.0),
    "logsumexp": lambda m: jax.nn.logsumexp(jnp.stack([draw(m), m])),
    "scored": lambda m: (draw(m, ppl.ScoreFunction()) > 0) * 2.0,
    "detached": lambda m: (jax.lax.stop_gradient(draw(m)) > 0) * m,
    "elbo": lambda m: elbo(model, lambda: draw(m), {}),
    "inputs of a loop": lambda m: jax.lax.scan(
        lambda c, t: (c, draw(jnp.where(t == 0, 0.0, 0.5) * m)), 0.0, jnp.arange(3)
    )[1].sum(),
    "iwelbo": lambda m: iwelbo(model, lambda: draw(m), {}, num_particles=3),
}


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
    assert internals.placed(inside, (later,)) is later


@pytest.mark.parametrize("name", SMOOTH)
def test_what_does_not_jump_is_quiet(name):
    with warnings.catch_warnings():
        warnings.simplefilter("error", ppl.errors.DiscontinuousObjective)
        value = ppl.expectation(SMOOTH[name])(jax.random.key(0), 0.3)
    assert jnp.isfinite(value)
