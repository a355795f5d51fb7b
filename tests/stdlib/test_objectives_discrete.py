"""Importance-weighted bounds of scored guides: VIMCO's mean, variance, and errors."""

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


# --- real choices with scores ---------------------------------------------------------------------


def real_model():
    z = sample("z", dist.Normal(0.0, 1.0))
    w = sample("w", dist.Normal(0.5 * z, 1.0))
    sample("x", dist.Normal(z + 0.5 * w, 0.8), obs=1.1)


def real_guide(t, first=None, second=None):
    z = sample("z", dist.Normal(t[0], jnp.exp(t[1])), first)
    sample("w", dist.Normal(t[2] * z, 0.9), second)


def real_bound(t, num_particles=2):
    """Of both choices as functions of nodes."""

    def logs(node, other):
        z = t[0] + jnp.exp(t[1]) * node
        choices = {"z": z, "w": t[2] * z + 0.9 * other}
        return ppl.log_density(real_model, choices) - ppl.log_density(real_guide, choices, t)

    nodes, weights = jnp.asarray(NODES), jnp.asarray(np.log(WEIGHTS / WEIGHTS.sum()))
    log_weights = jax.vmap(jax.vmap(logs, (0, None)), (None, 0))(nodes, nodes)
    return bound(log_weights.ravel(), (weights + weights[:, None]).ravel(), num_particles)


def real_iwelbo(t, estimators, num_particles=2, gradient="vimco"):
    guide = partial(real_guide, t, *estimators)
    return iwelbo(real_model, guide, {}, num_particles, gradient=gradient)


REAL, SCORE = jnp.array([0.2, -0.1, 0.4]), ppl.ScoreFunction()


@pytest.mark.parametrize("estimators", [(SCORE, SCORE), (SCORE, None), (None, SCORE)])
def test_vimco_of_real_choices(estimators):
    """Those with a score get the baseline, reparameterised ones stay as they are."""
    objective = partial(real_iwelbo, estimators=estimators)
    assert_unbiased(objective, REAL, exact=jax.jit(real_bound), key=KEY, tolerance=2e-3)


def test_vimco_of_real_choices_has_a_much_lower_variance_than_the_score():
    def variance(gradient, scores=(SCORE, SCORE)):
        objective = partial(real_iwelbo, estimators=scores, num_particles=8, gradient=gradient)
        return jnp.var(gradients(objective, REAL), axis=0).sum()

    assert variance("vimco") < 0.1 * variance("total")
    assert variance("vimco", (SCORE, None)) < 0.1 * variance("total", (SCORE, None))


def lower(t):
    return jnp.array([[1.0, 0.0], [0.0, 0.9]]) + t[2] * jnp.array([[0.0, 0.0], [1.0, 0.0]])


def test_vimco_of_vectors():
    """Densities by triangular solves keep the particles apart."""

    def model():
        z = sample("z", dist.MultivariateNormal(jnp.zeros(2), jnp.eye(2) + 0.3))
        sample("x", dist.Normal(z[0] + 0.5 * z[1], 0.8), obs=1.1)

    def guide(t):
        sample("z", dist.MultivariateNormal(t[:2], scale_tril=lower(t)), SCORE)

    def exact(t):
        def logs(*nodes):
            choices = {"z": t[:2] + lower(t) @ jnp.stack(nodes)}
            return ppl.log_density(model, choices) - ppl.log_density(guide, choices, t)

        nodes, weights = jnp.asarray(NODES), jnp.asarray(np.log(WEIGHTS / WEIGHTS.sum()))
        log_weights = jax.vmap(jax.vmap(logs, (0, None)), (None, 0))(nodes, nodes)
        return bound(log_weights.ravel(), (weights + weights[:, None]).ravel(), 2)

    def objective(t):
        return iwelbo(model, partial(guide, t), {}, 2, gradient="vimco")

    assert_unbiased(objective, REAL, exact=jax.jit(exact), key=KEY, tolerance=2e-3)


def test_vimco_of_integer_and_real_choices():
    """All three kinds in one guide: an integer, a real one with a score, one reparameterised."""

    def model():
        k = sample("k", dist.Bernoulli(0.4))
        z = sample("z", dist.Normal(1.0 * k, 1.0))
        sample("x", dist.Normal(z + sample("w", dist.Normal(0.0, 1.0)), 0.7), obs=1.1)

    def guide(t):
        k = sample("k", dist.Bernoulli(logits=t[0]))
        z = sample("z", dist.Normal(t[1] * k, 0.8), SCORE)
        sample("w", dist.Normal(t[2] * z, 1.0))

    def exact(t):
        def logs(k, node, other):
            z = t[1] * k + 0.8 * node
            choices = {"k": k, "z": z, "w": t[2] * z + other}
            chance = dist.Bernoulli(logits=t[0]).log_prob(k)
            log_weight = ppl.log_density(model, choices) - ppl.log_density(guide, choices, t)
            return log_weight, chance

        nodes, weights = np.polynomial.hermite_e.hermegauss(6)
        weights = jnp.asarray(np.log(weights / weights.sum()))
        grid = [x.ravel() for x in np.meshgrid(np.arange(2), range(6), range(6), indexing="ij")]
        log_weights, chances = jax.vmap(logs)(grid[0], nodes[grid[1]], nodes[grid[2]])
        return bound(log_weights, chances + weights[grid[1]] + weights[grid[2]], 2)

    def objective(t):
        return iwelbo(model, partial(guide, t), {}, 2, gradient="vimco")

    assert_unbiased(objective, REAL, exact=exact, key=KEY, tolerance=5e-3)


def test_vimco_beside_an_enumerated_choice():
    """It is left as it is, like a reparameterised one."""

    def guide(p):
        k = sample("k", dist.Categorical(logits=p["k"]), Enumerate())
        sample("b", dist.Bernoulli(logits=p["b"][k]))

    def objective(p):
        model = partial(discrete_model, p)
        return iwelbo(model, partial(guide, p), {}, 2, gradient="vimco")

    exact = partial(discrete_bound, num_particles=2)
    assert_unbiased(objective, DISCRETE, exact=exact, key=KEY)


def test_vimco_reads_the_estimators_that_the_objective_is_given():
    objective = partial(real_iwelbo, estimators=(None, None))
    scored = ppl.with_estimators(objective, {"z": SCORE})
    given = partial(real_iwelbo, estimators=(SCORE, None))
    run = jax.jit(lambda: [jax.grad(ppl.expectation(f), 1)(KEY, REAL) for f in (scored, given)])
    np.testing.assert_allclose(*run(), rtol=1e-5)


# --- errors --------------------------------------------------------------------------------------


def test_vimco_needs_two_particles_and_a_score():
    with pytest.raises(InvalidSetting, match=r"at least 2, got 1\. Write gradient='total'"):
        dry_run(partial(discrete_iwelbo, num_particles=1, gradient="vimco"), DISCRETE)
    normal = lambda: sample("z", dist.Normal(0.0, 1.0))
    with pytest.raises(InvalidControlVariate, match=r"no site with a score.*ScoreFunction\(\)"):
        dry_run(lambda: iwelbo(normal, normal, {}, 2, gradient="vimco"))
    with pytest.raises(InvalidControlVariate, match=r"\['w', 'z'\].*discrete\.py.*one of these"):
        dry_run(partial(real_iwelbo, estimators=(None, None)), REAL)


def test_vimco_needs_scores():
    objective = partial(discrete_iwelbo, num_particles=2, gradient="vimco", estimator=Enumerate())
    with pytest.raises(InvalidControlVariate, match=r"no site with a score.*ScoreFunction\(\)"):
        dry_run(objective, DISCRETE)
