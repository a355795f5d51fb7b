"""Sequences side by side, each a chain, in one program: the forward recursion of each."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from jax import lax

import ppl
from ppl import sample
from stdlib.estimators import Enumerate
from stdlib.inference import Exact
from stdlib.objectives import elbo

KEY = jax.random.key(4)
SEQUENCES, STEPS = 3, 4
LOGITS = jnp.array([[0.5, -0.3], [-0.8, 0.1]])  # of the next state, given the one before
Y = jnp.asarray(np.random.default_rng(0).normal(size=(16, 40)), jnp.float32)
LENGTHS = jnp.array([2, 4, 1])


def state(name, logits):
    return sample(name, dist.Categorical(logits=logits), Enumerate())


def seen(name, mean, y):
    sample(name, dist.Normal(1.0 * mean, 1.0), obs=y)


def sequence(logits, y, mean=0.0, start=0):
    def step(z, y):
        z = state("z", logits[z])
        seen("y", z + mean, y)
        return z, z

    return lax.scan(step, start, y)[0]


# --- programs of all the sequences, and the log evidence of one -----------------------------------


def evidence(logits, y, mean=0.0, start=None):
    """The log evidence of one sequence, by the forward recursion; from a row of states."""

    def step(row, y):
        moved = jax.nn.logsumexp(row[:, None] + jax.nn.log_softmax(logits), axis=0)
        return moved + dist.Normal(jnp.arange(2.0) + mean, 1.0).log_prob(y), None

    start = jnp.array([0.0, -jnp.inf]) if start is None else start
    return jax.nn.logsumexp(lax.scan(step, start, y)[0])


def mapped(logits, y):
    jax.vmap(lambda y: sequence(logits, y))(y)


def side_by_side(logits, y):
    def step(z, y):
        z = state("z", logits[z])
        seen("y", z, y)
        return z, None

    lax.scan(step, jnp.zeros(len(y), int), y.T)


def padded(logits, y):
    def one(y, length):
        def step(z, at):
            y, t = at

            def moved():
                new = state("z", logits[z])
                seen("y", new, y)
                return new

            return ppl.mask(moved, t < length)(), None

        lax.scan(step, 0, (y, jnp.arange(len(y))))

    jax.vmap(one)(y, LENGTHS)


def from_a_start(logits, y):
    def one(y):
        first = state("first", logits[1])
        seen("seen", first, y[0])
        sequence(logits, y[1:], start=first)

    jax.vmap(one)(y)


def evidence_from_a_start(logits, y):
    start = jax.nn.log_softmax(logits[1]) + dist.Normal(jnp.arange(2.0), 1.0).log_prob(y[0])
    return evidence(logits, y[1:], start=start)


def kinds(logits, y):
    def one(y):
        kind = sample("kind", dist.Bernoulli(0.3), Enumerate())
        sequence(logits * (1.0 + kind), y, kind)

    jax.vmap(one)(y)


def over_kinds(logits, ys, of):
    on, off = (of(logits * (1.0 + kind), ys, kind) for kind in (1.0, 0.0))
    return jnp.logaddexp(jnp.log(0.3) + on, jnp.log(0.7) + off)


def shared(logits, y):
    """A choice that all the sequences read, and one that reads where all of them end."""
    kind = sample("kind", dist.Bernoulli(0.3), Enumerate())
    ends = jax.vmap(lambda y: sequence(logits * (1.0 + kind), y, kind))(y)
    jax.vmap(lambda end: seen("after", end, 0.4))(ends)


def evidence_shared(logits, ys):
    def one(logits, y, kind):
        def step(row, y):
            moved = jax.nn.logsumexp(row[:, None] + jax.nn.log_softmax(logits), axis=0)
            return moved + dist.Normal(jnp.arange(2.0) + kind, 1.0).log_prob(y), None

        row = lax.scan(step, jnp.array([0.0, -jnp.inf]), y)[0]
        return jax.nn.logsumexp(row + dist.Normal(jnp.arange(2.0), 1.0).log_prob(0.4))

    of = lambda logits, ys, kind: jnp.sum(jax.vmap(lambda y: one(logits, y, kind))(ys))
    return over_kinds(logits, ys, of)


def each(of):
    return lambda logits, ys: jnp.sum(jax.vmap(lambda y: of(logits, y))(ys))


PROGRAMS = {
    "mapped": (mapped, each(evidence)),
    "side by side": (side_by_side, each(evidence)),
    "padded": (
        padded,
        lambda logits, ys: sum(
            evidence(logits, y[:n]) for y, n in zip(ys, LENGTHS.tolist(), strict=True)
        ),
    ),
    "from a start": (from_a_start, each(evidence_from_a_start)),
    "kinds": (kinds, each(lambda logits, y: over_kinds(logits, y, evidence))),
    "shared": (shared, evidence_shared),
}


def log_evidence(program):
    return ppl.log_expectation(lambda logits, y: ppl.simulate(program, logits, y).log_likelihood)


@pytest.mark.parametrize("name", PROGRAMS)
def test_evidence_is_that_of_each_sequence(name):
    program, exact = PROGRAMS[name]
    ys = Y[:SEQUENCES, :STEPS]
    found, wanted = (
        jax.jit(jax.value_and_grad(f))(LOGITS, ys) for f in (log_evidence(program), exact)
    )
    for ours, theirs in zip(found, wanted, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=2e-5, atol=2e-5)


def test_scaled_sequences():
    """Each observation counts a number of times, another one for each sequence."""
    factors, ys = jnp.array([2.0, 0.5, 0.0]), Y[:SEQUENCES, :STEPS]

    def program(logits, y):
        one = lambda y, factor: ppl.scale(lambda: sequence(logits, y), factor)()
        jax.vmap(one)(y, factors)

    def exact(logits, ys):
        def step(row, y, factor):
            moved = jax.nn.logsumexp(row[:, None] + jax.nn.log_softmax(logits), axis=0)
            return moved + factor * dist.Normal(jnp.arange(2.0), 1.0).log_prob(y)

        total = 0.0
        for y, factor in zip(ys, factors, strict=True):
            row = jnp.array([0.0, -jnp.inf])
            for at in y:
                row = step(row, at, factor)
            total += jax.nn.logsumexp(row)
        return total

    found = jax.jit(log_evidence(program))(LOGITS, ys)
    np.testing.assert_allclose(found, exact(LOGITS, ys), rtol=1e-5)


def guide(logits):
    def one(logits):
        def step(z, logits):
            z = state("z", logits[z])
            return z, None

        lax.scan(step, 0, logits)

    jax.vmap(one)(logits)


def bound(logits, free, y):
    objective = lambda: elbo(lambda: mapped(logits, y), lambda: guide(free), {})
    return ppl.expectation(objective)(KEY)


def test_the_bound_of_an_enumerated_guide():
    """At the posterior of each sequence it is the log evidence, and nowhere higher."""
    ys = Y[:SEQUENCES, :STEPS]
    free = jnp.asarray(np.random.default_rng(1).normal(size=(*ys.shape, 2, 2)), jnp.float32)

    def exact(logits, free, ys):
        total = 0.0
        for y, steps in zip(ys, jax.nn.log_softmax(free), strict=True):
            for path in itertools.product((0, 1), repeat=STEPS):
                log_p = log_q = before = 0.0
                for t, z in enumerate(path):
                    log_p += jax.nn.log_softmax(logits)[int(before), z]
                    log_p += dist.Normal(1.0 * z, 1.0).log_prob(y[t])
                    log_q, before = log_q + steps[t, int(before), z], z
                total += jnp.exp(log_q) * (log_p - log_q)
        return total

    found, wanted = (
        jax.jit(jax.value_and_grad(f, argnums=1))(LOGITS, free, ys) for f in (bound, exact)
    )
    for ours, theirs in zip(found, wanted, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=2e-5, atol=2e-5)


def test_draws_and_density_of_the_posterior():
    ys = Y[:2, :3]

    def posterior():
        return ppl.normalize(lambda: mapped(LOGITS, ys), {}, Exact())()

    paths = [np.array(z) for z in itertools.product((0, 1), repeat=3)]

    def chance(z, y):
        before, total = np.array([0, *z[:-1]]), 0.0
        total = jnp.sum(jax.nn.log_softmax(LOGITS)[before, z])
        return jnp.exp(total + jnp.sum(dist.Normal(1.0 * z, 1.0).log_prob(y)))

    chances = np.array([[chance(z, y) for z in paths] for y in ys])
    chances /= chances.sum(1, keepdims=True)
    count = 4_000
    keys = jax.random.split(KEY, count)
    draws = jax.jit(jax.vmap(ppl.seed(posterior)))(keys)["z"]
    for lane in range(2):
        for path, wanted in zip(paths, chances[lane], strict=True):
            found = np.mean(np.all(draws[:, lane] == path, -1))
            assert abs(found - wanted) < 5 * np.sqrt(wanted * (1 - wanted) / count)
    both = jnp.array([paths[3], paths[5]])
    density = jax.jit(lambda z: ppl.log_density(posterior, {"z": z}))(both)
    np.testing.assert_allclose(density, np.log(chances[0, 3] * chances[1, 5]), rtol=1e-4)


def flops(fn, ys):
    free = jnp.zeros((*ys.shape, 2, 2))
    gradient = jax.grad(lambda logits: fn(logits, free, ys))
    return jax.jit(gradient).lower(LOGITS).compile().cost_analysis()["flops"]


@pytest.mark.parametrize("way", ["evidence", "bound"])
def test_cost_is_linear_in_sequences_and_in_steps(way):
    fn = bound if way == "bound" else lambda logits, _, ys: log_evidence(mapped)(logits, ys)
    one = flops(fn, Y[:8, :20])
    assert flops(fn, Y[:16, :20]) < 2.1 * one
    assert flops(fn, Y[:8, :40]) < 2.1 * one
