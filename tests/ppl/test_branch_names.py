"""Batched `cond`s are named by what is in them: traces are equal, and no two are taken for one."""

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
import pytest
from jax import lax

import ppl
from ppl import errors, sample
from ppl._ir.stage import stage
from ppl._walk.walker import placed_sites

P = jnp.array([0.2, 0.7])
KEY = jax.random.key(0)


def draw(address):
    return sample(address, dist.Normal(0.0, 1.0))


def either(p, *branches):
    return jax.vmap(lambda p: lax.switch((p > 0.5).astype(int), branches))(p)


def nested():
    def lane(p):
        inner = lambda: lax.cond(p > 0.9, lambda: draw("x"), lambda: draw("y"))
        return lax.cond(p > 0.5, inner, lambda: draw("x") + draw("z"))

    return jax.vmap(lane)(P)


def alternatives():
    return either(P, lambda: draw("x"), lambda: 2.0 * draw("x"))


PROGRAMS = {
    "alternatives": alternatives,
    "nested": nested,
    "in a call": jax.jit(alternatives),
    "scoped": ppl.scope(nested, "a"),
    "in a loop": lambda: lax.scan(lambda c, _: (c, alternatives()), 0.0, length=2)[1],
    "with data": ppl.condition(alternatives, {"x": jnp.ones(2)}),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_traces_of_one_program_are_equal(name):
    one, other = (stage(PROGRAMS[name]).jaxpr for _ in range(2))
    assert str(one) == str(other)
    sites = [[placed.site for placed in placed_sites(jaxpr)] for jaxpr in (one, other)]
    assert sites[0] == sites[1] and any(site.branch for site in sites[0])


def opposite():
    """The same line draws in the first branch of one, in the second of another."""
    x = lambda: draw("x")
    nothing = lambda: 0.0
    return either(P, x, nothing), either(P, nothing, x)


def prefixed():
    """One path, in the first branch of a program and in the second of the same one in a scope."""
    inner = lambda: either(P, lambda: draw("z"), ppl.scope(lambda: draw("z"), "a"))
    return inner(), ppl.scope(inner, "a")()


def inside_and_beside():
    x = lambda: draw("x")
    return either(P, lambda: jnp.sum(either(P, x, lambda: 0.0)), lambda: 0.0), either(P, x, x)


REPEATED = [
    lambda: (alternatives(), alternatives()),
    lambda: (nested(), nested()),
    lambda: [jax.jit(alternatives)() for _ in range(2)],
    opposite,
    prefixed,
    inside_and_beside,
]


@pytest.mark.parametrize("program", REPEATED)
def test_two_are_never_alternatives_of_each_other(program):
    with pytest.raises(errors.DuplicateAddress):
        ppl.seed(lambda: ppl.simulate(program))(KEY)


@pytest.mark.parametrize("name", ["alternatives", "nested", "scoped"])
def test_alternatives_are_one_site(name):
    trace = ppl.seed(lambda: ppl.simulate(PROGRAMS[name]))(KEY)
    score = ppl.log_density(PROGRAMS[name], trace.choices)
    assert jnp.allclose(score, trace.log_density) and jnp.isfinite(score)


def test_the_same_twice_in_two_scopes():
    both = lambda: (ppl.scope(nested, "a")(), ppl.scope(nested, "b")())
    trace = ppl.seed(lambda: ppl.simulate(both))(KEY)
    assert set(trace.choices) == {"a", "b"}
    assert jnp.allclose(ppl.log_density(both, trace.choices), trace.log_density)
