"""Cases in which other systems give a wrong gradient without an error: each against an exact sum.

The list is that of NumPyro 0.22's and GenJAX's silent failures. Exact answers are written by hand,
in plain JAX: sums over all joint states, Gauss-Hermite and trapezoid rules.
"""

import itertools
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from jax import lax
from jax.scipy.stats import norm

import ppl
from ppl import Reparameterized, ScoreFunction, sample
from ppl.extend import Particles
from stdlib.estimators import Enumerate
from stdlib.objectives import elbo, iwelbo
from stdlib.testing import assert_unbiased

KEY = jax.random.key(2024)
STATES = jnp.arange(3)
PRIOR = jnp.array([0.5, 0.3, 0.2])
CENTERS = jnp.array([-1.0, 0.5, 2.0])


def coin(value, logit):
    """log Bernoulli(value | logit)."""
    return value * jax.nn.log_sigmoid(logit) + (1 - value) * jax.nn.log_sigmoid(-logit)


# --- a discrete guide site -----------------------------------------------------------------------


def cluster(shift):
    k = sample("k", dist.Categorical(probs=PRIOR))
    sample("y", dist.Normal(CENTERS[k] + shift, 0.7))


def cluster_guide(logits, estimator=None):
    return sample("k", dist.Categorical(logits=logits), estimator)


def cluster_log_weights(logits, shift):
    joint = jnp.log(PRIOR) + norm.logpdf(0.8, CENTERS + shift, 0.7)
    return jax.nn.log_softmax(logits), joint - jax.nn.log_softmax(logits)


LOGITS, SHIFT = jnp.array([0.2, -0.3, 0.4]), 0.3


@pytest.mark.parametrize("estimator", [ScoreFunction(), Enumerate()], ids=["score", "enumerate"])
def test_discrete_guide_site_under_the_elbo(estimator):
    def objective(logits, shift):
        guide = partial(cluster_guide, logits, estimator)
        return elbo(partial(cluster, shift), guide, {"y": 0.8})

    def exact(logits, shift):
        log_q, log_w = cluster_log_weights(logits, shift)
        return jnp.sum(jnp.exp(log_q) * log_w)

    assert_unbiased(objective, LOGITS, SHIFT, exact=exact, key=KEY, argnums=(0, 1))


@pytest.mark.parametrize("estimator", [ScoreFunction(), Enumerate()], ids=["score", "enumerate"])
def test_discrete_guide_site_under_five_particles(estimator):
    def objective(logits, shift):
        guide = partial(cluster_guide, logits, estimator)
        return iwelbo(partial(cluster, shift), guide, {"y": 0.8}, num_particles=5)

    def exact(logits, shift):
        log_q, log_w = cluster_log_weights(logits, shift)
        states = np.array(list(itertools.product(range(3), repeat=5)))
        bound = jax.nn.logsumexp(log_w[states], axis=1) - jnp.log(5.0)
        return jnp.sum(jnp.exp(log_q[states].sum(1)) * bound)

    few = {"num_samples": 4} if isinstance(estimator, Enumerate) else {}
    assert_unbiased(objective, LOGITS, SHIFT, exact=exact, key=KEY, argnums=(0, 1), **few)


# --- a continuous guide site that cannot be reparameterised ---------------------------------------


def bimodal():
    z = sample("z", dist.Normal(0.0, 1.5))
    sample("y", dist.Normal(z**2, 1.0))


def test_mixture_guide_site():
    def guide(phi):
        parts = dist.Normal(phi["means"], jnp.exp(phi["log_sds"]))
        sample("z", dist.MixtureSameFamily(dist.Categorical(logits=phi["logits"]), parts))

    def objective(phi):
        return elbo(bimodal, partial(guide, phi), {"y": 1.3})

    def exact(phi):
        z = jnp.linspace(-9.0, 9.0, 6001)
        parts = norm.logpdf(z[:, None], phi["means"], jnp.exp(phi["log_sds"]))
        log_q = jax.nn.logsumexp(jax.nn.log_softmax(phi["logits"]) + parts, axis=1)
        log_p = norm.logpdf(z, 0.0, 1.5) + norm.logpdf(1.3, z**2, 1.0)
        return jnp.sum(jnp.exp(log_q) * (log_p - log_q)) * (z[1] - z[0])

    phi = {
        "means": jnp.array([-1.0, 0.8]),
        "log_sds": jnp.array([-0.5, -0.9]),
        "logits": jnp.array([0.3, -0.2]),
    }
    assert_unbiased(objective, phi, exact=exact, key=KEY)


# --- discrete local sites, scaled and subsampled --------------------------------------------------

DATA = jnp.array([0.4, -1.2, 2.1, 0.9])
LOCAL = jnp.array([0.3, -0.8, 1.1, 0.1])


def local(theta, y):
    b = sample("b", dist.Bernoulli(logits=0.5))
    sample("y", dist.Normal(theta * b, 1.0), obs=y)


def local_guide(logit):
    sample("b", dist.Bernoulli(logits=logit))


def local_bound(theta, logit, y, factor=1.0):
    b = jnp.array([0.0, 1.0])
    log_q = coin(b, logit)
    log_p = coin(b, 0.5) + norm.logpdf(y, theta * b, 1.0)
    return jnp.sum(jnp.exp(log_q) * factor * (log_p - log_q))


def test_discrete_local_site_under_scale():
    def objective(theta, logit):
        model, guide = partial(local, theta, 0.9), partial(local_guide, logit)
        return elbo(ppl.scale(model, 10.0), ppl.scale(guide, 10.0), {})

    def exact(theta, logit):
        return local_bound(theta, logit, 0.9, 10.0)

    assert_unbiased(objective, 1.4, 0.3, exact=exact, key=KEY, argnums=(0, 1))


@pytest.mark.parametrize("lanes", ["vmap", "batch", "loop"])
def test_minibatch_of_discrete_local_sites(lanes):
    """Two of four data, without replacement, each with its own variational parameter."""

    def drawn(theta, logits, ys):
        if lanes == "vmap":
            model = lambda: jax.vmap(partial(local, theta))(ys)
            guide = lambda: jax.vmap(local_guide)(logits)
        elif lanes == "batch":

            def model():
                b = sample("b", dist.Bernoulli(logits=jnp.full(2, 0.5)))
                sample("y", dist.Normal(theta * b, 1.0), obs=ys)

            guide = lambda: local_guide(logits)
        else:

            def model():
                for i in range(2):
                    ppl.scope(partial(local, theta, ys[i]), f"datum{i}")()

            def guide():
                for i in range(2):
                    ppl.scope(partial(local_guide, logits[i]), f"datum{i}")()

        return elbo(ppl.scale(model, 2.0), ppl.scale(guide, 2.0), {})

    def objective(theta, logits):
        first = sample("first", dist.DiscreteUniform(0, 3))
        gap = sample("gap", dist.DiscreteUniform(1, 3))
        index = jnp.stack([first, (first + gap) % 4])
        return drawn(theta, logits[index], DATA[index])

    def exact(theta, logits):
        return jnp.sum(jax.vmap(partial(local_bound, theta))(logits, DATA))

    assert_unbiased(objective, 1.4, LOCAL, exact=exact, key=KEY, argnums=(0, 1))


# --- a discrete state inside scan -----------------------------------------------------------------

STEPS = 4
YS = jnp.array([0.3, 1.4, -0.5, 0.8])


def markov(theta):
    def step(state, y):
        state = sample("state", dist.Bernoulli(logits=theta * (2.0 * state - 1.0)))
        sample("y", dist.Normal(1.5 * state, 1.0), obs=y)
        return 1.0 * state, None

    lax.scan(step, 0.0, YS)


def markov_guide(phi):
    def step(state, logits):
        state = sample("state", dist.Bernoulli(logits=logits[0] + logits[1] * state))
        return 1.0 * state, None

    lax.scan(step, 0.0, phi)


def paths(theta, phi):
    """log q of all paths of states, and log p - log q."""
    states = jnp.asarray(list(itertools.product([0.0, 1.0], repeat=STEPS)))
    before = jnp.concatenate([jnp.zeros((len(states), 1)), states[:, :-1]], axis=1)
    log_q = coin(states, phi[:, 0] + phi[:, 1] * before).sum(1)
    log_p = coin(states, theta * (2.0 * before - 1.0)) + norm.logpdf(YS, 1.5 * states, 1.0)
    return log_q, log_p.sum(1) - log_q


PHI = jnp.array([[0.2, 0.5], [0.1, -0.3], [-0.4, 0.8], [0.6, 0.1]])


@pytest.mark.parametrize("estimator", [ScoreFunction(), Enumerate()], ids=["score", "enumerate"])
def test_discrete_state_inside_scan(estimator):
    def objective(theta, phi):
        guide = ppl.with_estimators(partial(markov_guide, phi), {"state": estimator})
        return elbo(partial(markov, theta), guide, {})

    def exact(theta, phi):
        log_q, log_w = paths(theta, phi)
        return jnp.sum(jnp.exp(log_q) * log_w)

    assert_unbiased(objective, 0.7, PHI, exact=exact, key=KEY, argnums=(0, 1))


def test_discrete_state_inside_scan_under_two_particles():
    def objective(theta, phi):
        return iwelbo(partial(markov, theta), partial(markov_guide, phi), {}, num_particles=2)

    def exact(theta, phi):
        log_q, log_w = paths(theta, phi)
        pair = log_q[:, None] + log_q
        return jnp.sum(jnp.exp(pair) * (jnp.logaddexp(log_w[:, None], log_w) - jnp.log(2.0)))

    assert_unbiased(objective, 0.7, PHI, exact=exact, key=KEY, argnums=(0, 1))


# --- score functions of sites whose sampler and density must agree --------------------------------


def test_uniform_site():
    """The score of a uniform of fixed bounds is zero; what depends on it has its own gradient."""

    def objective(theta):
        u = sample("u", dist.Uniform(-1.0, 2.0), ScoreFunction())
        b = sample("b", dist.Bernoulli(jax.nn.sigmoid(theta * u)), ScoreFunction())
        return jnp.cos(theta * u) + b * u**2

    def exact(theta):
        u = jnp.linspace(-1.0, 2.0, 3001)
        f = jnp.cos(theta * u) + jax.nn.sigmoid(theta * u) * u**2
        return (f.sum() - (f[0] + f[-1]) / 2) / 3000

    assert_unbiased(objective, 0.8, exact=exact, key=KEY)


def test_uniform_site_with_moving_bounds():
    def objective(low, width):
        return jnp.sin(2.0 * sample("u", dist.Uniform(low, low + width)))

    def exact(low, width):
        return (jnp.cos(2.0 * low) - jnp.cos(2.0 * (low + width))) / (2.0 * width)

    assert_unbiased(objective, 0.3, 1.2, exact=exact, key=KEY, argnums=(0, 1))


def test_score_of_a_moving_support_is_refused():
    def objective(low):
        return sample("u", dist.Uniform(low, 2.0), ScoreFunction())

    with pytest.raises(ppl.errors.UnsuitableEstimator, match="support moves"):
        jax.grad(ppl.expectation(objective), argnums=1)(KEY, 0.3)


def test_geometric_site():
    def objective(p):
        n = sample("n", dist.Geometric(p), ScoreFunction())
        return jnp.sin(0.7 * n) + p * n

    def exact(p):
        n = jnp.arange(200.0)
        return jnp.sum(p * (1 - p) ** n * (jnp.sin(0.7 * n) + p * n))

    assert_unbiased(objective, 0.35, exact=exact, key=KEY)


# --- biased estimators ----------------------------------------------------------------------------


class StraightThrough(ppl.extend.Estimator):
    """A Bernoulli draw in value, its probability in derivative (Bengio et al. 2013)."""

    unbiased = False

    def particles(self, key, distribution):
        hard = lax.stop_gradient(1.0 * distribution.sample(key))
        soft = distribution.probs
        return Particles((hard + soft - lax.stop_gradient(soft))[None], None)


class RealBernoulli(eqx.Module):
    """A Bernoulli distribution over the reals 0 and 1."""

    probs: jax.Array
    batch_shape = event_shape = ()

    def sample(self, key):
        return 1.0 * jax.random.bernoulli(key, self.probs)

    def log_prob(self, value):
        return value * jnp.log(self.probs) + (1 - value) * jnp.log1p(-self.probs)


def straight_through(p):
    return (sample("b", RealBernoulli(p), StraightThrough()) - 0.3) ** 2


def test_biased_estimators_are_refused():
    with pytest.raises(ppl.errors.BiasedEstimator, match=r"'b'.*allow_biased=True"):
        ppl.expectation(straight_through)(KEY, jnp.asarray(0.4))


def test_biased_estimators_run_when_allowed():
    """Straight-through: the value is right, the gradient is E[f'(b)] and not f(1) - f(0)."""
    exact = (0.6 * 0.09 + 0.4 * 0.49, 0.6 * 2 * -0.3 + 0.4 * 2 * 0.7)
    assert_unbiased(straight_through, 0.4, exact=exact, key=KEY, allow_biased=True)
    with pytest.raises(AssertionError, match="gradient"):
        assert_unbiased(
            straight_through,
            0.4,
            exact=lambda p: (1 - p) * 0.09 + p * 0.49 + p * 0.05,
            key=KEY,
            allow_biased=True,
        )


# --- auxiliary outputs ----------------------------------------------------------------------------


def with_auxiliary(estimator):
    def objective(p):
        k = sample("k", dist.Binomial(2, p), estimator)
        z = sample("z", dist.Normal(p, 1.0))
        return z * k, {"k": k, "z": z, "name": "aux", "twice": 2.0 * p}

    return ppl.expectation(objective, has_aux=True)


def test_auxiliary_output_of_one_particle_is_the_value_drawn():
    value, aux = with_auxiliary(ScoreFunction())(KEY, jnp.asarray(0.3))
    assert aux["k"].dtype == jnp.int32 and int(aux["k"]) in (0, 1, 2)
    assert aux["name"] == "aux"
    np.testing.assert_allclose(value, aux["z"] * aux["k"], rtol=1e-6)


def test_auxiliary_output_of_an_enumerated_site_is_its_mean():
    value, aux = with_auxiliary(Enumerate())(KEY, jnp.asarray(0.3))
    np.testing.assert_allclose(aux["k"], 0.6, rtol=1e-5)
    np.testing.assert_allclose(value, 0.6 * aux["z"], rtol=1e-5)


@pytest.mark.parametrize("estimator", [ScoreFunction(), Enumerate()], ids=["score", "enumerate"])
def test_auxiliary_output_has_no_gradient(estimator):
    estimate = with_auxiliary(estimator)

    def auxiliary(p):
        aux = estimate(KEY, p)[1]
        return aux["k"] * 1.0 + aux["z"] + aux["twice"]

    assert float(jax.grad(auxiliary)(0.3)) == 0.0
    (value, _), grad = jax.value_and_grad(estimate, argnums=1, has_aux=True)(KEY, 0.9)
    assert float(value) != 0.0 and float(grad) != 0.0


def test_auxiliary_output_with_the_default_estimator():
    def objective(p):
        return sample("z", dist.Normal(p, 1.0), Reparameterized()) ** 2, p

    assert ppl.expectation(objective, has_aux=True)(KEY, 0.3)[1] == 0.3
