"""The abstract interpreter, by a tiny analysis: which outputs read which inputs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from ppl.extend import Analysis, Scope, Stepping, fixed_point, propagate, propagate_through, run


def together(sets):
    return frozenset().union(*sets)


def spread(eqn, ins, scope):
    return [together(ins)] * len(eqn.outvars)


READS = Analysis(together, spread)
X = jnp.array([0.3, 0.7, 1.1])


def rotated(carry):
    first, second, third = carry
    return second, third, first


PROGRAMS = {
    "plain": lambda x, y, z: (x * y, z, 1.0),
    "jit": lambda x, y, z: jax.jit(lambda a, b: (b, a * 0.5))(x, y),
    "checkpoint": lambda x, y, z: jax.checkpoint(lambda a, b: (jnp.sin(b), a))(x, z),
    "rule of its own": lambda x, y, z: jax.nn.relu(x) + z,
    "carried on": lambda x, y, z: lax.scan(lambda c, _: (rotated(c), c[0]), (x, y, z), length=3),
    "overwritten": lambda x, y, z: lax.scan(lambda c, _: (y * 1.0, c), x, length=2),
    "no steps": lambda x, y, z: lax.scan(lambda c, _: (c + y, None), x, length=0)[0],
    "scanned": lambda x, y, z: lax.scan(lambda c, s: (c + s, c * y), 0.0, jnp.stack([x, x]))[1],
    "while": lambda x, y, z: lax.while_loop(
        lambda c: c[0] < 0.5 + z, lambda c: (c[0] + 0.3, c[1] * y), (0.0, x)
    ),
    "cond": lambda x, y, z: lax.cond(x > 0.5, lambda: (y, 1.0), lambda: (z, 2.0)),
    "switch in a scan": lambda x, y, z: lax.scan(
        lambda c, i: (lax.switch(i, [lambda: c, lambda: c * x, lambda: z]), None), y, jnp.arange(3)
    )[0],
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_no_output_moves_with_an_input_that_it_does_not_read(name):
    program = PROGRAMS[name]
    closed = jax.make_jaxpr(program)(*X)
    found = propagate(READS, closed.jaxpr, [frozenset({i}) for i in range(3)])
    flat = jax.jit(lambda x: [jnp.asarray(out) for out in jax.tree.leaves(program(*x))])
    for i in range(3):
        moved = [flat(X.at[i].add(step)) for step in (-0.9, 0.9)]
        pairs = zip(*moved, flat(X), found, strict=True)
        for low, high, at, reads in pairs:
            if not np.array_equal(low, at) or not np.array_equal(high, at):
                assert i in reads


EXACT = {
    "carried on": [{0, 1, 2}] * 4,
    "overwritten": [{1}, {0, 1}],
    "no steps": [{0}],
    "while": [{2}, {0, 1, 2}],
    "cond": [{0, 1, 2}, {0}],
    "rule of its own": [{0, 2}],
}


@pytest.mark.parametrize("name", EXACT)
def test_what_is_read(name):
    closed = jax.make_jaxpr(PROGRAMS[name])(*X)
    assert propagate(READS, closed.jaxpr, [frozenset({i}) for i in range(3)]) == EXACT[name]


def test_where_an_equation_stands():
    """`scope` names the equations around it, and what is known of the predicates it goes by."""
    seen = {}

    def noted(eqn, ins, scope):
        seen[eqn.primitive.name] = [e.primitive.name for e in scope.within], scope.control
        return spread(eqn, ins, scope)

    def program(x, y):
        nested = lambda: lax.cond(y > 0, lambda: jnp.sin(x), lambda: x)
        return lax.cond(x > 0, jax.jit(nested), lambda: x)

    jaxpr = jax.make_jaxpr(program)(1.0, 1.0).jaxpr
    propagate(Analysis(together, noted), jaxpr, [frozenset("x"), frozenset("y")])
    within, control = seen["sin"]
    assert within == ["cond", within[1], "cond"] and control == frozenset("xy")
    outside = Scope((), frozenset("o"))
    propagate(Analysis(together, noted), jaxpr, [frozenset("x"), frozenset("y")], scope=outside)
    assert seen["sin"][1] == frozenset("oxy")


def test_how_values_go_through_a_loop():
    def steps(loop, ins):
        return Stepping(
            enter=lambda x: x | {"step"},
            hand_on=lambda x: x | {"before"},
            stack=lambda x: x | {"all"},
            leave=lambda x: x | {"last"},
        )

    jaxpr = jax.make_jaxpr(lambda c, xs: lax.scan(lambda c, x: (c + x, 2.0 * x), c, xs))(
        0.0, X
    ).jaxpr
    end, outs = propagate(Analysis(together, spread, steps=steps), jaxpr, [{"c"}, {"x"}])
    assert end == {"c", "x", "step", "before", "last"} and outs == {"x", "step", "all"}


def test_equations_that_are_not_entered_are_plain_ones():
    (eqn,) = jax.make_jaxpr(jax.jit(lambda x, y: (x, y)))(1.0, 1.0).eqns
    analysis = Analysis(together, spread, enters=lambda form: False)
    assert propagate_through(analysis, eqn, [frozenset("x"), frozenset("y")]) == [{"x", "y"}] * 2
    assert propagate_through(READS, eqn, [frozenset("x"), frozenset("y")]) == [{"x"}, {"y"}]


def test_a_predicate_says_what_an_analysis_wants():
    jaxpr = jax.make_jaxpr(lambda x, y: lax.cond(x > 0, lambda: y, lambda: 1.0))(1.0, 1.0).jaxpr
    blind = Analysis(together, spread, decide=lambda eqn, predicate, ins, scope: [frozenset()])
    assert propagate(blind, jaxpr, [frozenset("x"), frozenset("y")]) == [{"y"}]


def test_constants_are_what_they_are_said_to_be():
    closed = jax.make_jaxpr(lambda x: x * X)(1.0)
    assert propagate(READS, closed.jaxpr, [{"x"}]) == [{"x"}]
    assert propagate(READS, closed.jaxpr, [{"x"}], [{"c"}]) == [{"x", "c"}]


def test_run_gives_outputs_their_literals():
    jaxpr = jax.make_jaxpr(lambda x: (x + 1.0, 2.0))(1.0).jaxpr
    assert run(jaxpr, [], [3.0]) == [4.0, 2.0]
    text = run(jaxpr, [], ["x"], lambda eqn, ins: ["+".join(ins)], lambda atom: str(atom.val))
    assert text == ["x+1.0", "2.0"]


def test_fixed_point_of_what_need_not_be_compared_whole():
    def once(state):
        return (min(state[0] + 1, 3), object()), state[0]

    state, result = fixed_point((0, object()), once, lambda new, old: new[0] == old[0])
    assert (state[0], result) == (3, 3)
