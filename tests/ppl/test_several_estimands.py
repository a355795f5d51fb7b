"""An objective of several estimands: each entry is what it is alone, from one run."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import optax
import pytest

import ppl
from ppl import ScoreFunction, sample
from ppl.errors import NonScalarObjective
from stdlib.diagnostics import gradient_report
from stdlib.distributions import FloatBernoulli
from stdlib.estimators import Enumerate, LeaveOneOut, MeasureValued, Relax, gradient_variance
from stdlib.testing import assert_unbiased

KEY, P = jax.random.key(3), jnp.asarray(0.3)


def costs(x):
    """Two costs of lanes, one that keeps them apart and one that mixes them; one of none."""
    x = 1.0 * x
    return {"sum": jnp.sum((x - 0.4) ** 2), "mixed": (jnp.sum(x) ** 2, jnp.sin(jnp.sum(x)))}


def pathwise(p):
    return {**costs(sample("x", dist.Normal(p * jnp.ones(3), 1.0))), "noise": 2.0 * p}


def scored(p):
    x = sample("x", dist.Bernoulli(p * jnp.ones(3)), ScoreFunction(baseline=p**2))
    return {**costs(x), "other": sample("y", dist.Bernoulli(p)) * p, "none": 1.0}


def of_sites(estimator, p):
    x = sample("x", dist.Bernoulli(p * jnp.ones(2)), estimator)
    y = sample("y", dist.Bernoulli(0.5 * p + 0.2 * x[0]), estimator)
    return {**costs(x), "both": jnp.sum(x) * y * p, "later": 1.0 * y}


def relaxed(p):
    free = lambda z: jnp.sum(jnp.tanh(z)) * p
    return costs(sample("x", FloatBernoulli(p * jnp.ones(2)), Relax(free)))


def controlled(p):
    x = sample("x", dist.Bernoulli(p * jnp.ones(3)), ScoreFunction())
    ppl.control_variate("x", 2.0 * (jnp.sum(x) - x))
    return costs(x)


def chain(p):
    def step(z, _):
        z = sample("z", dist.Bernoulli(p + 0.4 * z), Enumerate())
        return z, jnp.stack([1.0 * z, p * z])

    last, made = jax.lax.scan(step, 0, length=4)
    return {"steps": jnp.sum(made[:, 0]), "last": last * p, "others": 2.0 * jnp.sum(made[:, 1])}


def written_out(p):
    def step(z, _):
        z = sample("z", dist.Bernoulli(p + 0.4 * z), Enumerate())
        return z, 1.0 * z

    last, made = jax.lax.scan(step, 0, length=3)
    return {"path": jnp.sum(made) ** 2, "last": last * p}


def scored_loop(p):
    def step(z, _):
        z = sample("z", dist.Bernoulli(p + 0.4 * z), ScoreFunction(baseline=p))
        return z, 1.0 * z

    last, made = jax.lax.scan(step, 0, length=3)
    return {"rewards": jnp.sum(made), "path": jnp.sum(made) ** 2, "last": last * p}


def branching(p):
    one = lambda: sample("x", dist.Bernoulli(p), ScoreFunction(baseline=p)) * 1.0
    x = jax.lax.cond(sample("b", dist.Bernoulli(p)) == 1, one, lambda: 0.5 * p)
    return {"value": x, "square": x**2}


def called(p):
    @jax.jit
    def both(x):
        return jnp.sum(x) + p, jnp.sum(x * p)

    x = jax.checkpoint(lambda: sample("x", dist.Bernoulli(p * jnp.ones(2)), ScoreFunction()))()
    return dict(zip("ab", both(1.0 * x), strict=True))


def mapped(p):
    one = lambda p: of_sites(ScoreFunction(), p)
    return jax.tree.map(jnp.sum, jax.vmap(one)(p * jnp.linspace(0.5, 1.0, 3)))


def nested(p):
    inner = ppl.expectation(partial(of_sites, ScoreFunction()))(ppl.fresh_key(), p)
    return {"inner": inner, "outer": sample("z", dist.Bernoulli(p)) * inner["later"]}


def one_of_another(p):
    cost = jnp.sum(sample("x", dist.Bernoulli(p * jnp.ones(3)), ScoreFunction()) * 1.0)
    return cost, jnp.exp(-cost), cost


PROGRAMS = {
    **{f.__name__: f for f in (pathwise, scored, relaxed, controlled, chain, written_out)},
    **{f.__name__: f for f in (scored_loop, branching, called, mapped, nested, one_of_another)},
    "enumerated": partial(of_sites, Enumerate()),
    "worlds": partial(of_sites, MeasureValued()),
    "shared runs": partial(of_sites, LeaveOneOut(3)),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_each_entry_is_what_it_is_alone(name):
    """Value, and gradient (in a baseline's parameters too), key by key, in both modes."""
    program = PROGRAMS[name]

    def alone(i):
        return ppl.expectation(lambda p: jax.tree.leaves(program(p))[i])

    @jax.jit
    def both(p):
        together = partial(ppl.expectation(program), KEY)
        entries = [partial(alone(i), KEY) for i in range(count)]
        one_by_one = [jax.value_and_grad(entry)(p) for entry in entries]
        return (together(p), jax.jacrev(together)(p), jax.jacfwd(together)(p)), one_by_one

    count = len(jax.tree.leaves(jax.eval_shape(ppl.expectation(program), KEY, P)))
    (values, slopes, forward), one_by_one = both(P)
    assert jax.tree.structure(values) == jax.tree.structure(slopes)
    assert jax.tree.structure(values) == jax.tree.structure(ppl.seed(program)(KEY, P))
    pairs = list(zip(jax.tree.leaves(values), jax.tree.leaves(slopes), strict=True))
    np.testing.assert_allclose(pairs, one_by_one, rtol=2e-5, atol=1e-6)
    modes = [jax.tree.leaves(tree) for tree in (forward, slopes)]
    np.testing.assert_allclose(*modes, rtol=2e-5, atol=1e-6)


def test_the_entries_of_a_while_loop_in_forward_mode():
    def program(p):
        def toss(state):
            n, total = state
            return n + 1, total + sample("x", dist.Bernoulli(p), ScoreFunction())

        n, total = jax.lax.while_loop(lambda s: (s[1] < 2) & (s[0] < 5), toss, (0, 0))
        return {"count": 1.0 * n, "total": total * p}

    slopes = jax.jacfwd(partial(ppl.expectation(program), KEY))(P)
    for name in slopes:
        alone = ppl.expectation(lambda p, name=name: program(p)[name])
        np.testing.assert_allclose(slopes[name], jax.jacfwd(partial(alone, KEY))(P), rtol=1e-5)


@pytest.mark.parametrize("estimator", [ScoreFunction(baseline=0.4), LeaveOneOut(2)])
@pytest.mark.parametrize("weights", [(1.0, 0.0), (0.5, -2.0)])
def test_each_entry_is_unbiased(estimator, weights):
    """Two coins, summed by hand."""

    def objective(p):
        x = sample("x", dist.Bernoulli(p), estimator)
        y = sample("y", dist.Bernoulli(0.5 * p + 0.2 * x), estimator)
        return 1.0 * x + y, 1.0 * x * y

    def exact(p):
        later = p * (0.5 * p + 0.2) + (1 - p) * 0.5 * p
        return weights[0] * (p + later) + weights[1] * p * (0.5 * p + 0.2)

    def weighed(p):
        one, other = ppl.expectation(objective)(ppl.fresh_key(), p)
        return weights[0] * one + weights[1] * other

    assert_unbiased(weighed, 0.3, exact=exact, key=KEY, num_samples=20_000)


def test_a_baseline_is_learnt_from_each_entry_it_is_taken_off():
    """The derivative in b of an entry is C - b; one that does not read the site has none."""

    def objective(b):
        x = sample("x", dist.Bernoulli(0.3), ScoreFunction(baseline=b))
        return {"one": jnp.where(x < 2, 3.0, 0.0), "two": jnp.where(x < 2, 5.0, 0.0), "none": 7.0}

    slopes = jax.jacrev(ppl.expectation(objective), argnums=1)(KEY, 1.0)
    assert slopes == {"one": 2.0, "two": 4.0, "none": 0.0}


def test_a_control_is_taken_off_the_entries_that_read_its_site():
    """The others have no noise of it."""

    def objective(p):
        x = sample("x", dist.Bernoulli(p), ScoreFunction())
        ppl.control_variate("x", 100.0)
        y = sample("y", FloatBernoulli(p), Relax(lambda z: 100.0 * jnp.sum(z)))
        return {"x": 1.0 * x, "y": y, "none": p**2}

    slopes = jax.jacrev(ppl.expectation(objective), argnums=1)(KEY, 0.3)
    alone = jax.grad(lambda p: p**2)(0.3)
    np.testing.assert_allclose(slopes["none"], alone, rtol=1e-6)
    assert abs(slopes["x"]) > 10 and abs(slopes["y"]) > 1


def test_auxiliary_output_goes_beside_the_entries():
    def objective(p):
        x = sample("x", dist.Bernoulli(p), Enumerate())
        return (1.0 * x, {"square": 4.0 * x}), {"draws": x, "name": "coin"}

    estimate = ppl.expectation(objective, has_aux=True)
    (mean, other), aux = estimate(KEY, 0.3)
    np.testing.assert_allclose([mean, other["square"], aux["draws"]], [0.3, 1.2, 0.3], rtol=1e-6)
    assert aux["name"] == "coin"
    slopes, _ = jax.jacrev(estimate, argnums=1, has_aux=True)(KEY, 0.3)
    np.testing.assert_allclose(jax.tree.leaves(slopes), [1.0, 4.0], rtol=1e-6)


def test_a_structure_of_ones_own_is_kept():
    class Moments(NamedTuple):
        mean: jax.Array
        none: None
        square: jax.Array

    def objective(p):
        x = 1.0 * sample("x", dist.Bernoulli(p), Enumerate())
        return [Moments(x, None, x**2)]

    assert ppl.expectation(objective)(KEY, 0.25) == [Moments(0.25, None, 0.25)]


def test_one_entry_compiles_to_what_it_is_without_a_dict():
    for program in (chain, scored, partial(of_sites, MeasureValued())):
        entry = lambda p, program=program: program(p)
        first = sorted(jax.eval_shape(ppl.seed(program), KEY, P))[0]
        alone = lambda p, entry=entry, name=first: jax.tree.leaves(entry(p)[name])[0]
        texts = [
            str(jax.make_jaxpr(ppl.expectation(f))(KEY, P))
            for f in (alone, lambda p, alone=alone: {"one": alone(p)})
        ]
        assert texts[0] == texts[1]


def test_what_entries_share_is_computed_once():
    """A network, and the recursion of a chain."""

    def deep(p):
        x = 1.0 * sample("x", dist.Bernoulli(p * jnp.ones(4)), ScoreFunction())
        y = jnp.tanh(jnp.ones((4, 4)) @ jnp.tanh(jnp.ones((4, 4)) @ x))
        return {"sum": jnp.sum(y), "square": jnp.sum(y**2)}

    def count(program, what, names):
        def some(p):
            entries = program(p)
            return {name: entries[name] for name in names}

        return str(jax.make_jaxpr(ppl.expectation(some))(KEY, P)).count(what)

    assert count(deep, "dot_general", ["sum", "square"]) == count(deep, "dot_general", ["sum"]) == 2
    loops = [count(chain, "scan[", names) for names in (["steps"], ["steps", "last", "others"])]
    assert loops[0] == loops[1] > 0


def test_the_logarithm_of_each_entry():
    def objective(p):
        x = sample("x", dist.Bernoulli(p), Enumerate())
        y = sample("y", dist.Bernoulli(0.5 * p + 0.2 * x), Enumerate())
        return {"x": 2.0 * x, "both": (x * y * p, jnp.sin(1.0 * x + y)), "path": chain(p)["steps"]}

    @partial(jax.jit, static_argnums=1)
    def both(p, drawn):
        draw = KEY if drawn else None
        together = ppl.log_expectation(objective, draw=draw)
        alone = [
            ppl.log_expectation(lambda p, i=i: jax.tree.leaves(objective(p))[i], draw=draw)
            for i in range(4)
        ]
        one_by_one = [jax.value_and_grad(one)(p) for one in alone]
        return (together(p), jax.jacrev(together)(p)), one_by_one

    for drawn in (False, True):
        (values, slopes), one_by_one = both(P, drawn)
        pairs = list(zip(jax.tree.leaves(values), jax.tree.leaves(slopes), strict=True))
        np.testing.assert_allclose(pairs, one_by_one, rtol=1e-5)
    np.testing.assert_allclose(values["x"], jnp.log(0.7 + 0.3 * jnp.exp(2.0)), rtol=1e-5)


def trained(objective):
    return ppl.fit(objective, 0.3, optax.sgd(0.1), key=KEY, steps=1, progress=False)


REFUSED = {
    "an array": (lambda: ppl.expectation(lambda: (1.0, {"a": jnp.ones(3)}))(KEY),
                 ["float32[3] at [1]['a']", "jnp.mean", '{"first": x[0]', "has_aux=True"]),
    "an array alone": (lambda: ppl.expectation(lambda: jnp.ones(3))(KEY),
                       ["float32[3].", '{"first": x[0], "second": x[1]}']),
    "an integer": (lambda: ppl.expectation(lambda: {"n": jnp.asarray(1)})(KEY),
                   ["int32[] at ['n']", ".astype(float)"]),
    "no number": (lambda: ppl.expectation(lambda: [1.0, "two"])(KEY), ["a str at [1]"]),
    "nothing": (lambda: ppl.expectation(lambda: {})(KEY), ["a dict", "Return the value"]),
    "nothing beside": (lambda: ppl.expectation(lambda: ((), 1.0), has_aux=True)(KEY), ["a tuple"]),
    "in logarithms": (lambda: ppl.log_expectation(lambda: {"a": jnp.ones(2)})(), ["at ['a']"]),
    "training": (lambda: trained(lambda p: {"a": p, "b": 2.0 * p}),
                 ["ppl.fit", "2 in a dict", "their sum"]),
    "a report": (lambda: gradient_report(lambda p: {"a": p, "b": 2.0 * p}, 0.3, key=KEY),
                 ["2 in a dict", "objective(*args)[...]"]),
    "a variance": (lambda: gradient_variance(lambda p, t: (p, t))(KEY, 0.3, 0.5), ["2 in a tuple"]),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_scalar_is_refused(name):
    fails, fragments = REFUSED[name]
    with pytest.raises(NonScalarObjective) as caught:
        fails()
    for fragment in fragments:
        assert fragment in str(caught.value)
