"""Any callable is a program, and may return anything."""

from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from jax.scipy.stats import norm

import ppl
from ppl import sample

KEY = jax.random.key(11)


class Affine(eqx.Module):
    weight: jax.Array
    name: str = eqx.field(static=True)

    def __call__(self, x, shift=0.0):
        return sample(self.name, dist.Normal(self.weight * x + shift, 1.0))


def _function(x, shift=0.0):
    return sample("x", dist.Normal(2.0 * x + shift, 1.0))


AFFINE = [
    Affine(jnp.array(2.0), "x"),
    _function,
    partial(_function),
    partial(_function, shift=0.0),
    lambda x, shift=0.0: _function(x, shift=shift),
    jax.jit(_function),
    eqx.filter_jit(Affine(jnp.array(2.0), "x")),
    Affine(jnp.array(2.0), "x").__call__,
]


@pytest.mark.parametrize("program", AFFINE)
def test_any_callable_is_a_program(program):
    value = ppl.seed(program)(KEY, 3.0, shift=1.0)
    trace = ppl.seed(lambda: ppl.simulate(program, 3.0, shift=1.0))(KEY)
    assert trace.value == trace.choices["x"] == value
    density = ppl.log_density(program, {"x": 6.0}, 3.0, shift=1.0)
    np.testing.assert_allclose(
        [density, norm.logpdf(value, 7.0)], [norm.logpdf(6.0, 7.0), trace.log_density], rtol=1e-5
    )


@pytest.mark.parametrize(
    "wrap",
    [lambda x: None, lambda x: "text", lambda x: {"x": x, "n": [3, None, "s"]}, lambda x: (len, x)],
)
def test_a_program_may_return_anything(wrap):
    program = lambda: wrap(sample("x", dist.Normal(0.0, 1.0)))
    trace = ppl.seed(lambda: ppl.simulate(program))(KEY)
    assert trace.value == wrap(trace.choices["x"]) and ppl.seed(program)(KEY) == trace.value
    for rewritten in (
        ppl.scope(program, "a"),
        ppl.scale(program, 2.0),
        jax.tree_util.Partial(program),
    ):
        assert ppl.seed(rewritten)(KEY) == trace.value
