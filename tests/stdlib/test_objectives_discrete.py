"""Importance-weighted bounds of discrete guides: VIMCO's mean, variance, and errors."""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

import ppl
from ppl import sample
from ppl.errors import InvalidControlVariate, InvalidSetting
from stdlib.estimators import Enumerate
from stdlib.objectives import iwelbo
from tests.stdlib.bounds import KEY, NODES, WEIGHTS, assert_unbiased, bound, dry_run, gradients

DISCRETE = {"k": jnp.array([0.3, -0.4, 0.1]), "b": jnp.array([0.5, -0.6, 0.2]), "shift": 0.4}
STATES = np.array(list(itertools.product(range(3), range(2))))


def discrete_model(p):
    k = sample("k", dist.Categorical(logits=jnp.array([0.1, 0.3, -0.2])))
    b = sample("b", dist.Bernoulli(logits=0.5 * k - p["shift"]))
    sample("x", dist.Normal(1.0 * k - b, 0.6), obs=1.1)


def discrete_guide(p, estimator=None):
    k = sample("k", dist.Categorical(logits=p["k"]), estimator)
    sample("b", dist.Bernoulli(logits=p["b"][k]), estimator)


def discrete_bound(p, num_particles):
    def logs(state):
        choices = {"k": state[0], "b": state[1]}
        log_q = ppl.log_density(partial(discrete_guide, p), choices)
        return ppl.log_density(partial(discrete_model, p), choices) - log_q, log_q

    return bound(*jax.vmap(logs)(jnp.asarray(STATES)), num_particles)


def discrete_iwelbo(p, num_particles, gradient, estimator=None):
    guide = partial(discrete_guide, p, estimator)
    return iwelbo(partial(discrete_model, p), guide, {}, num_particles, gradient=gradient)


@pytest.mark.parametrize("num_particles", [2, 3])
def test_vimco_is_unbiased(num_particles):
    assert_unbiased(
        partial(discrete_iwelbo, num_particles=num_particles, gradient="vimco"),
        DISCRETE,
        exact=partial(discrete_bound, num_particles=num_particles),
        key=KEY,
    )


def test_vimco_has_a_much_lower_variance_than_the_score():
    def variance(gradient):
        objective = partial(discrete_iwelbo, num_particles=8, gradient=gradient)
        return jnp.var(gradients(objective, DISCRETE)["k"], axis=0).sum()

    assert variance("vimco") < 0.1 * variance("total")


def test_vimco_with_batches_real_choices_and_prefixes():
    """A batch of choices, one in `scope`, and a real one that stays reparameterised."""
    states = np.array(list(itertools.product((0, 1), repeat=3)))

    def model():
        b = sample("b", dist.Bernoulli(jnp.array([0.4, 0.7])).to_event(1))
        c = ppl.scope(lambda: sample("c", dist.Bernoulli(0.3)), "inner")()
        sample("z", dist.Normal(0.0, 1.0))
        sample("x", dist.Normal(1.0 * b.sum() - c, 0.6), obs=1.1)

    def guide(t):
        sample("b", dist.Bernoulli(logits=jnp.stack([t, 0.4 - t])))
        ppl.scope(lambda: sample("c", dist.Bernoulli(logits=2 * t)), "inner")()
        sample("z", dist.Normal(t, 1.0))

    def exact(t):
        def logs(state, z):
            choices = {"b": state[:2], "inner": {"c": state[2]}, "z": z}
            log_q = ppl.log_density(guide, choices, t)
            return ppl.log_density(model, choices) - log_q, log_q - dist.Normal(t, 1.0).log_prob(z)

        nodes, weights = jnp.asarray(NODES), jnp.asarray(np.log(WEIGHTS / WEIGHTS.sum()))
        each = jax.vmap(jax.vmap(logs, (0, None)), (None, 0))
        log_weights, log_probs = each(jnp.asarray(states), t + nodes)
        return bound(log_weights.ravel(), (log_probs + weights[:, None]).ravel(), 2)

    def objective(t):
        return iwelbo(model, partial(guide, t), {}, 2, gradient="vimco")

    assert_unbiased(objective, 0.3, exact=exact, key=KEY, tolerance=1e-4)


def test_vimco_in_a_guide_of_steps():
    """As many steps as particles: the two must not be taken for each other."""
    states = np.array(list(itertools.product((0, 1), repeat=2)))

    def steps(logit):
        def step(before, _):
            b = sample("b", dist.Bernoulli(logits=logit + before))
            return 1.0 * b, 1.0 * b

        return jax.lax.scan(step, 0.0 * logit, None, length=2)[1]

    def model():
        sample("x", dist.Normal(jnp.sum(steps(jnp.float32(0.3))), 1.0), obs=0.4)

    def exact(t):
        def logs(state):
            log_q = ppl.log_density(steps, {"b": state}, t)
            return ppl.log_density(model, {"b": state}) - log_q, log_q

        return bound(*jax.vmap(logs)(jnp.asarray(states)), 2)

    def objective(t):
        return iwelbo(model, partial(steps, t), {}, 2, gradient="vimco")

    assert_unbiased(objective, 0.3, exact=exact, key=KEY)


def test_vimco_in_vmap():
    """A bound for each of two data."""
    shifts = jnp.array([0.0, 0.5])

    def moved(p, shift):
        return {**p, "shift": p["shift"] + shift}

    def objective(p):
        bounds = jax.vmap(lambda shift: discrete_iwelbo(moved(p, shift), 2, "vimco"))(shifts)
        return jnp.sum(bounds)

    def exact(p):
        return discrete_bound(p, 2) + discrete_bound(moved(p, 0.5), 2)

    assert_unbiased(objective, DISCRETE, exact=exact, key=KEY)


def test_vimco_in_scope():
    objective = ppl.scope(partial(discrete_iwelbo, num_particles=2, gradient="vimco"), "prefix")
    assert_unbiased(objective, DISCRETE, exact=partial(discrete_bound, num_particles=2), key=KEY)


def test_vimco_where_a_particle_is_impossible():
    """A log weight of minus infinity gives no NaN, as long as one particle is possible."""

    def model():
        k = sample("k", dist.Bernoulli(0.5))
        sample("x", dist.Poisson(jnp.where(k == 1, 2.0, 0.0)), obs=1)

    def objective(t):
        guide = lambda: sample("k", dist.Bernoulli(logits=t))
        return iwelbo(model, guide, {}, 4, gradient="vimco")

    keys = jax.random.split(KEY, 200)
    estimate = jax.value_and_grad(ppl.expectation(objective), argnums=1)
    values, slopes = jax.jit(jax.vmap(estimate, (0, None)))(keys, 1.0)
    assert bool(jnp.all(jnp.isfinite(slopes[jnp.isfinite(values)])))


# --- errors --------------------------------------------------------------------------------------


def test_vimco_needs_two_particles_and_integer_choices():
    with pytest.raises(InvalidSetting, match=r"at least 2, got 1\. Write gradient='total'"):
        dry_run(partial(discrete_iwelbo, num_particles=1, gradient="vimco"), DISCRETE)
    normal = lambda: sample("z", dist.Normal(0.0, 1.0))
    with pytest.raises(InvalidSetting, match="guides of integer choices, and this one has none"):
        dry_run(lambda: iwelbo(normal, normal, {}, 2, gradient="vimco"))


def test_vimco_needs_scores():
    objective = partial(discrete_iwelbo, num_particles=2, gradient="vimco", estimator=Enumerate())
    with pytest.raises(InvalidControlVariate, match=r"several particles.*ScoreFunction\(\)"):
        dry_run(objective, DISCRETE)
