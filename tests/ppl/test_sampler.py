"""`has_rsample` is checked against the sampler itself."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpyro.distributions as dist
import pytest
from jax import lax

import ppl
from ppl._analysis.sampler import chooses_by_noise
from stdlib.testing import assert_unbiased


class Overconfident(eqx.Module):
    """A mixture of two normals that says it can be reparameterised."""

    logit: jax.Array

    has_rsample = True

    def _parts(self):
        weights = dist.Categorical(logits=jnp.stack([self.logit, 0.0]))
        return dist.MixtureSameFamily(weights, dist.Normal(jnp.array([-1.0, 2.0]), 1.0))

    def sample(self, key):
        return self._parts().sample(key)

    def log_prob(self, value):
        return self._parts().log_prob(value)


def test_a_mixture_that_claims_too_much_is_scored():
    """E[x] = 2 - 3 w, with w the weight of the first part."""

    def objective(logit):
        return ppl.sample("x", Overconfident(logit))

    assert_unbiased(
        objective,
        jnp.asarray(0.4),
        exact=lambda logit: 2.0 - 3.0 * jax.nn.sigmoid(logit),
        key=jax.random.key(5),
    )


def test_it_refuses_to_be_reparameterised():
    def objective(logit):
        return ppl.sample("x", Overconfident(logit), ppl.Reparameterized())

    with pytest.raises(ppl.errors.UnsuitableEstimator, match="discrete choice"):
        ppl.expectation(objective)(jax.random.key(0), 0.4 * jnp.ones(()))


class Chooses(eqx.Module):
    """A sampler of this kind that says it can be reparameterised."""

    weight: jax.Array
    kind: str = eqx.field(static=True)

    has_rsample = True

    def sample(self, key):
        chosen, *parts = jax.random.split(key, 3)
        u, (x, y) = jax.random.uniform(chosen), map(jax.random.normal, parts)
        return {
            "of two noises": lambda: jnp.where(u < self.weight, x, 3.0 + y),
            "of one noise": lambda: jnp.where(u < self.weight, x, 3.0 + x),
            "of constants": lambda: jnp.where(u < self.weight, 1.0, 2.0),
            "by a sign": lambda: jnp.sign(u - self.weight) * x,
            "by a cond": lambda: lax.cond(u < self.weight, lambda: x, lambda: 3.0 + x),
            "by a factor": lambda: (u < self.weight) * x,
            "by a key of its own": lambda: jnp.where(
                jax.random.uniform(jax.random.wrap_key_data(jax.random.key_data(chosen)))
                < self.weight,
                x,
                y,
            ),
            "pieces of one function": lambda: jnp.where(
                u < self.weight, u / self.weight, 1.0 + (u - self.weight) / (1.0 - self.weight)
            ),
            "by a constant": lambda: self.weight * jnp.where(u < 0.3, x, y),
            "odd function": lambda: jnp.sign(u - self.weight) * jnp.abs(u - self.weight) ** 1.5,
        }[self.kind]()

    def log_prob(self, value):
        return 0.0 * value


SAMPLERS = {
    "of two noises": True,
    "of one noise": True,
    "of constants": True,
    "by a sign": True,
    "by a cond": True,
    "by a factor": True,
    "by a key of its own": True,
    "pieces of one function": False,
    "by a constant": False,
    "odd function": False,
}


@pytest.mark.parametrize("kind", SAMPLERS)
def test_a_sampler_that_chooses_by_comparing_noise_with_its_parameters(kind):
    assert chooses_by_noise(Chooses(jnp.asarray(0.4), kind)) == SAMPLERS[kind]


CONTINUOUS = {
    "normal": lambda a: dist.Normal(a, jnp.exp(a)),
    "gamma": lambda a: dist.Gamma(jnp.exp(a), 1.0),
    "beta": lambda a: dist.Beta(jnp.exp(a), 2.0),
    "student": lambda a: dist.StudentT(3.0 + jnp.exp(a), a, 1.0),
    "truncated": lambda a: dist.TruncatedNormal(a, 1.0, low=-1.0, high=2.0),
    "dirichlet": lambda a: dist.Dirichlet(jnp.exp(jnp.stack([a, 0.0]))),
    "relaxed": lambda a: dist.RelaxedBernoulli(0.5, logits=a),
    "truncated laplace": lambda a: dist.TruncatedDistribution(dist.Laplace(a, 1.0), a, a + 2.0),
    "cholesky": lambda a: dist.LKJCholesky(3, jnp.exp(a)),
    "walk": lambda a: dist.GaussianRandomWalk(jnp.exp(a), 3),
    "laplace": lambda a: dist.AsymmetricLaplace(a, 1.0, 0.5),
}


@pytest.mark.parametrize("name", CONTINUOUS)
def test_continuous_samplers_are_left_alone(name):
    assert not chooses_by_noise(CONTINUOUS[name](jnp.asarray(0.3)))
