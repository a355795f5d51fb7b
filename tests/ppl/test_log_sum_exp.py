"""Sums of weights given by their logs: the derivative is zero where all of them are zero."""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
import scipy.special
from jax import lax
from scipy.stats import norm

import ppl
from ppl import log_sum_exp, sample
from ppl.extend import Target
from stdlib.estimators import Enumerate
from stdlib.inference import Exact, Importance
from stdlib.objectives import ciwae, iwelbo, miwae, renyi, reweighted_wake_sleep, sumo, tvo

KEY, ENUMERATE = jax.random.key(0), Enumerate()
ROWS = np.array([[0.3, -1.2, 2.0], [-np.inf, 0.5, -1e30], [-1e30, -1e30, -np.inf], [90, 88, -90.0]])


@pytest.mark.parametrize("axis", [None, 0, 1, (0, 1)])
def test_it_is_the_logarithm_of_the_sum_of_exponentials(axis):
    found = jax.jit(partial(log_sum_exp, axis=axis))(jnp.asarray(ROWS, jnp.float32))
    np.testing.assert_allclose(found, scipy.special.logsumexp(ROWS, axis=axis), rtol=1e-6)


def test_its_derivatives_are_shares():
    slopes = jax.vmap(jax.grad(log_sum_exp))(jnp.asarray(ROWS))
    np.testing.assert_allclose(slopes, scipy.special.softmax(ROWS, axis=1), atol=1e-6)
    curved = jax.hessian(log_sum_exp)(jnp.asarray(ROWS[1]))
    share = scipy.special.softmax(ROWS[1])
    np.testing.assert_allclose(curved, np.diag(share) - np.outer(share, share), atol=1e-6)


@pytest.mark.parametrize("shape", [(3,), (0,)])
def test_where_all_are_impossible_the_derivative_is_zero(shape):
    logs = jnp.full(shape, -jnp.inf)
    for derivative in (jax.grad, jax.jacfwd, jax.hessian):
        assert not np.any(derivative(log_sum_exp)(logs))
    assert np.isneginf(log_sum_exp(logs))
    assert np.isnan(log_sum_exp(jnp.array([jnp.nan, -jnp.inf])))


# --- chains in which some states are not reached -------------------------------------------------

MEANS, DATA = np.arange(4.0), np.array([0.1, 0.9, 1.2])


def logits_of(p, never, xp):
    """Of a ring: each state stays, or goes on to the next; it `never` goes elsewhere."""
    stay, on = xp.eye(4), xp.roll(xp.eye(4), 1, axis=1)
    return xp.where(stay + on > 0, stay * xp.log(p) + on * xp.log(1 - p), never)


def ring(p, never, transitions):
    """A chain that starts in the first state."""
    start = jnp.array([0.0, never, never, never])
    s = sample("first", dist.Categorical(logits=start))
    sample("seen", dist.Normal(jnp.asarray(MEANS)[s], 0.5), obs=DATA[0])

    def step(s, y):
        s = sample("s", transitions(p, s))
        sample("y", dist.Normal(jnp.asarray(MEANS)[s], 0.5), obs=y)
        return s, None

    lax.scan(step, s, jnp.asarray(DATA[1:]))


def by_paths(p):
    """log p(y) by the sum over all paths, in double precision."""
    table, total = np.exp(logits_of(p, -np.inf, np)), 0.0
    for path in itertools.product(range(4), repeat=2):
        states = (0, *path)
        chance = np.prod([table[i, j] for i, j in itertools.pairwise(states)])
        total += chance * np.prod(norm.pdf(DATA, MEANS[list(states)], 0.5))
    return np.log(total)


EXACTLY = by_paths(0.8), (by_paths(0.8 + 1e-6) - by_paths(0.8 - 1e-6)) / 2e-6


@pytest.mark.parametrize("never", [-np.inf, -1e30])
def test_chains_through_few_states(never):
    by_logits = lambda p, s: dist.Categorical(logits=logits_of(p, never, jnp)[s])
    evidence = lambda p: Exact().log_evidence(Target(lambda: ring(p, never, by_logits), {}))
    found = jax.jit(jax.value_and_grad(evidence))(0.8)
    np.testing.assert_allclose(found, EXACTLY, rtol=1e-4)


def test_a_draw_where_nothing_is_possible_has_no_derivative():
    bound = ppl.log_expectation(
        lambda t: jnp.where(sample("z", dist.Bernoulli(0.4), ENUMERATE) > -1, -jnp.inf, t),
        draw=KEY,
    )
    value, slope = jax.value_and_grad(bound)(0.3)
    assert np.isneginf(value) and slope == 0.0


# --- particles none of which fits ----------------------------------------------------------------


def never(t):
    """A model that nothing fits."""
    z = sample("z", dist.Bernoulli(0.4))
    sample("y", dist.Normal(1.0 * z + t, 1.0), obs=0.3)
    sample("f", dist.Unit(jnp.where(z > -1, -jnp.inf, t)), obs=jnp.zeros(0))


def rarely(t):
    """A model that half of the guide's draws do not fit."""
    z = sample("z", dist.Bernoulli(0.4))
    sample("y", dist.Normal(1.0 * z + t, 1.0), obs=0.3)
    sample("f", dist.Unit(jnp.where(z == 1, 0.0, -jnp.inf)), obs=jnp.zeros(0))


def guide():
    sample("z", dist.Bernoulli(0.5))


BOUNDS = {
    "iwelbo": lambda model: iwelbo(model, guide, {}, 4),
    "renyi": lambda model: renyi(model, guide, {}, 0.5, 4),
    "ciwae": lambda model: ciwae(model, guide, {}, 4, 0.5),
    "miwae": lambda model: miwae(model, guide, {}, 2, 3),
    "sumo": lambda model: sumo(model, guide, {}, 4, num_particles=2),
    "tvo": lambda model: tvo(model, guide, {}, 4, (0.0, 0.3)),
    "wake": lambda model: reweighted_wake_sleep(model, guide, {}, 4, allow_biased=True),
    "importance": lambda model: Importance(4).log_evidence(Target(model, {})),
}


MEANS_OF_LOGS = {"ciwae", "tvo"}
"""In these a log weight is an addend too, so that its finite parts are."""


@pytest.mark.parametrize("name", BOUNDS)
def test_bounds_have_derivatives_where_weights_are_zero(name):
    grads = jax.vmap(
        jax.value_and_grad(ppl.expectation(lambda t, m: BOUNDS[name](partial(m, t))), argnums=1),
        (0, None, None),
    )
    keys = jax.random.split(KEY, 16)
    values, slopes = jax.jit(lambda: grads(keys, 0.2, never))()
    assert np.all(np.isneginf(values)) and np.all(np.isfinite(slopes))
    assert name in MEANS_OF_LOGS or not np.any(slopes)
    if name == "sumo":  # differences of bounds, which must be finite or all infinite
        return
    values, slopes = jax.jit(lambda: grads(keys, 0.2, rarely))()
    assert not np.any(np.isnan(values)) and np.all(np.isfinite(slopes))
