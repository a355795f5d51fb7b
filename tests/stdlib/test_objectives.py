"""Objectives: values and gradients of every `gradient` against exact bounds, variance, errors."""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

import ppl
from ppl import sample
from ppl.errors import BiasedEstimator, InvalidSetting, UnsuitableEstimator
from stdlib.distributions import FloatBernoulli
from stdlib.estimators import ScoreFunction
from stdlib.objectives import elbo, iwelbo
from tests.stdlib.bounds import (
    KEY,
    NODES,
    WEIGHTS,
    assert_unbiased,
    bound,
    dry_run,
    gradients,
)

ELBO = ("total", "sticking-the-landing")
PATHWISE = ("total", "doubly-reparameterized")


# --- a continuous guide: two dependent normals ---------------------------------------------------

GRID = np.array(list(itertools.product(NODES, NODES)))
LOG_GRID = np.log(np.outer(WEIGHTS, WEIGHTS).ravel() / WEIGHTS.sum() ** 2)
NORMALS = {"slope": 0.8, "mean": 0.4, "log_scale": -0.3, "tie": 0.3}
OBSERVED = {"x": 1.2}


def normal_model(p):
    a = sample("a", dist.Normal(0.0, 1.0))
    b = ppl.scope(lambda: sample("b", dist.Normal(p["slope"] * a, 1.0)), "inner")()
    sample("x", dist.Normal(a + b, 0.9))


def normal_guide(p, first=None):
    a = sample("a", dist.Normal(p["mean"], jnp.exp(p["log_scale"])), first)
    inner = dist.Normal(jnp.tanh(p["tie"] * a + p["mean"]), 0.7)
    ppl.scope(lambda: sample("b", inner), "inner")()


def normal_bound(p, num_particles):
    """The bound by quadrature; its derivative is that of the quadrature."""
    a = p["mean"] + jnp.exp(p["log_scale"]) * GRID[:, 0]
    b = jnp.tanh(p["tie"] * a + p["mean"]) + 0.7 * GRID[:, 1]
    choices = {"a": a, "inner": {"b": b}}

    def log_weight(z):
        log_p = ppl.log_density(ppl.condition(partial(normal_model, p), OBSERVED), z)
        return log_p - ppl.log_density(partial(normal_guide, p), z)

    return bound(jax.vmap(log_weight)(choices), jnp.asarray(LOG_GRID), num_particles)


def normal_iwelbo(p, num_particles, gradient, first=None, allow_biased=False):
    guide = partial(normal_guide, p, first)
    options = {"gradient": gradient, "allow_biased": allow_biased}
    return iwelbo(partial(normal_model, p), guide, OBSERVED, num_particles, **options)


@pytest.mark.parametrize("first", [None, ScoreFunction()], ids=["pathwise", "score"])
@pytest.mark.parametrize("gradient", ELBO)
def test_elbo_is_unbiased(gradient, first):
    def objective(p):
        guide = partial(normal_guide, p, first)
        return elbo(partial(normal_model, p), guide, OBSERVED, gradient=gradient)

    exact = partial(normal_bound, num_particles=1)
    assert_unbiased(objective, NORMALS, exact=exact, key=KEY, tolerance=1e-4)


@pytest.mark.parametrize("gradient", PATHWISE)
def test_iwelbo_is_unbiased(gradient):
    objective = partial(normal_iwelbo, num_particles=2, gradient=gradient)
    exact = partial(normal_bound, num_particles=2)
    assert_unbiased(objective, NORMALS, exact=exact, key=KEY, tolerance=1e-4)


def test_doubly_reparameterized_reparameterises_every_site():
    """A site that asks for its score is moved all the same: with a score it would be biased."""
    objective = partial(
        normal_iwelbo, num_particles=2, gradient="doubly-reparameterized", first=ScoreFunction()
    )
    exact = partial(normal_bound, num_particles=2)
    assert_unbiased(objective, NORMALS, exact=exact, key=KEY, tolerance=1e-4)


def test_doubly_reparameterized_takes_a_mixture_by_implicit_derivatives():
    nodes = jnp.linspace(-7.0, 7.0, 141)

    def guide(t):
        parts = dist.Normal(jnp.stack([t, t + 1.5]), 0.8)
        sample("z", dist.MixtureSameFamily(dist.Categorical(logits=jnp.array([0.2, -t])), parts))

    def model():
        z = sample("z", dist.Normal(0.0, 1.0))
        sample("x", dist.Normal(z, 1.0), obs=0.7)

    def exact(t):
        log_q = jax.vmap(lambda z: ppl.log_density(guide, {"z": z}, t))(nodes)
        log_p = jax.vmap(lambda z: ppl.log_density(model, {"z": z}))(nodes)
        return bound(log_p - log_q, log_q + jnp.log(nodes[1] - nodes[0]), 2)

    def objective(t):
        return iwelbo(model, partial(guide, t), {}, 2, gradient="doubly-reparameterized")

    assert_unbiased(objective, 0.3, exact=exact, key=KEY, tolerance=1e-4)


def test_sticking_the_landing_of_iwelbo_is_biased_in_the_guide_alone():
    objective = partial(
        normal_iwelbo, num_particles=2, gradient="sticking-the-landing", allow_biased=True
    )
    exact = partial(normal_bound, num_particles=2)
    with pytest.raises(AssertionError) as failure:
        assert_unbiased(objective, NORMALS, exact=exact, key=KEY, tolerance=1e-4)
    text = str(failure.value)
    assert "['gradient']['log_scale']" in text
    assert "value" not in text and "slope" not in text


def test_doubly_reparameterized_in_scan():
    """Against the total gradient: both are unbiased, so their means agree."""

    def steps(drift, noise):
        def step(z, _):
            z = sample("z", dist.Normal(drift(z), noise))
            return z, z

        return jax.lax.scan(step, 0.0, None, length=3)[0]

    def model():
        sample("x", dist.Normal(steps(lambda z: 0.5 * z, 1.0), 1.0), obs=0.8)

    def objective(t, gradient):
        guide = lambda: steps(lambda z: jnp.tanh(t + 0.5 * z), 0.8)
        return iwelbo(model, guide, {}, 2, gradient=gradient)

    total, doubly = (
        np.asarray(gradients(lambda t, g=g: objective(t, g), 0.3, 20_000), np.float64)
        for g in PATHWISE
    )
    difference = total - doubly
    assert abs(difference.mean()) < 5 * difference.std() / np.sqrt(difference.size)
    assert doubly.std() < total.std()


def test_the_landing_has_no_variance():
    """At the posterior, the derivatives in the guide's parameters vanish for every draw."""

    def model():
        sample("x", dist.Normal(sample("z", dist.Normal(0.0, 1.0)), 1.0))

    def guide(p):
        sample("z", dist.Normal(p[0], jnp.exp(p[1])))

    def objective(p, gradient):
        q = partial(guide, p)
        one = elbo(model, q, {"x": 2.0}, gradient=gradient)
        others = {"gradient": gradient, "allow_biased": True}
        if gradient == "total":
            return one
        stuck = iwelbo(model, q, {"x": 2.0}, 5, **others)
        others["gradient"] = "doubly-reparameterized"
        return one + 2.0 * stuck + 3.0 * iwelbo(model, q, {"x": 2.0}, 5, **others)

    posterior = jnp.array([1.0, jnp.log(0.5) / 2])
    slopes = {g: gradients(lambda p, g=g: objective(p, g), posterior) for g in ELBO}
    assert float(jnp.abs(slopes["sticking-the-landing"]).max()) < 1e-4
    assert float(jnp.std(slopes["total"], axis=0).min()) > 0.5


def test_signal_to_noise_of_the_doubly_reparameterized_gradient_grows():
    """That of the total gradient falls (Rainforth et al. 2018)."""

    def ratio(num_particles, gradient):
        objective = partial(normal_iwelbo, num_particles=num_particles, gradient=gradient)
        slopes = np.asarray(gradients(objective, NORMALS, 4000)["mean"], np.float64)
        return abs(slopes.mean()) / slopes.std()

    few, many = ({g: ratio(k, g) for g in PATHWISE} for k in (2, 64))
    assert many["doubly-reparameterized"] > 2 * few["doubly-reparameterized"]
    assert many["total"] < 0.7 * few["total"]


# --- errors --------------------------------------------------------------------------------------


def test_an_unknown_gradient_is_an_error():
    allowed = r"gradient of elbo must be 'total' or 'sticking-the-landing', got 'path'\."
    with pytest.raises(InvalidSetting, match=allowed):
        elbo(lambda: None, lambda: None, {}, gradient="path")
    allowed = r"of iwelbo must be 'total', 'doubly-reparameterized', 'vimco' or 'sticking-the-l"
    with pytest.raises(InvalidSetting, match=allowed):
        iwelbo(lambda: None, lambda: None, {}, 2, gradient="dreg")


@pytest.mark.parametrize("family", [dist.Bernoulli, FloatBernoulli])
def test_doubly_reparameterized_refuses_discrete_choices(family):
    def objective(p):
        guide = lambda: sample("k", family(p))
        return iwelbo(guide, guide, {}, 2, gradient="doubly-reparameterized")

    text = r"(?s)Write gradient='vimco' where they are discrete, or gradient='total'.* site 'k'"
    with pytest.raises(UnsuitableEstimator, match=text):
        dry_run(objective, 0.3)


def test_biased_sticking_the_landing_must_be_allowed():
    objective = partial(normal_iwelbo, num_particles=2, gradient="sticking-the-landing")
    with pytest.raises(BiasedEstimator, match=r"biased in the guide's .*iwelbo\(..., allow_biased"):
        dry_run(objective, NORMALS)
    dry_run(partial(normal_iwelbo, num_particles=1, gradient="sticking-the-landing"), NORMALS)
