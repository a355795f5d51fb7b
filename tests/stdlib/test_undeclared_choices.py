"""Choices of a guide that the model has not: refused undeclared, integrated out where declared."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

import ppl
from ppl import errors, sample
from stdlib import objectives
from stdlib.inference import Exact, Importance
from stdlib.objectives import elbo

KEY = jax.random.key(6)
NORMAL = dist.Normal(0.0, 1.0)
close = partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5)


def model():
    z = sample("z", NORMAL)
    sample("y", dist.Normal(z, 0.5), obs=1.0)


def guide(shift=0.4):
    u = sample("u", dist.Normal(shift, 1.0))
    sample("z", dist.Normal(0.6 * u, 0.7))


OBJECTIVES = {
    "elbo": elbo,
    "landing": partial(elbo, gradient="sticking-the-landing"),
    "iwelbo": partial(objectives.iwelbo, num_particles=3),
    "doubly": partial(objectives.iwelbo, num_particles=3, gradient="doubly-reparameterized"),
    "renyi": partial(objectives.renyi, alpha=0.5, num_particles=3),
    "cubo": objectives.cubo,
    "beta_elbo": partial(objectives.beta_elbo, beta=0.5),
    "f_divergence": partial(objectives.f_divergence, f=lambda w: -jnp.log(w), log_evidence=0.0),
    "forward_kl": partial(objectives.forward_kl, num_particles=3, allow_biased=True),
    "tail_adaptive": partial(objectives.tail_adaptive, num_particles=3, allow_biased=True),
    "reweighted": partial(objectives.reweighted_wake_sleep, num_particles=3, allow_biased=True),
    "miwae": partial(objectives.miwae, num_particles=3, num_bounds=2),
    "ciwae": partial(objectives.ciwae, num_particles=3, beta=0.5),
    "piwae": partial(objectives.piwae, num_particles=3, num_bounds=2),
    "tvo": partial(objectives.tvo, betas=(0.0, 0.5), num_particles=3),
    "sumo": partial(objectives.sumo, num_particles=3, max_particles=8),
    "log_variance": partial(objectives.log_variance, num_particles=3),
    "trajectory_balance": partial(objectives.trajectory_balance, log_evidence=0.0),
    "reference": partial(objectives.log_variance, num_particles=3, reference=lambda: alone()),
    "sleep": lambda m, g, data: objectives.sleep_phase(m, lambda _: g(), {"y": 1.0}),
}


def alone():
    sample("z", NORMAL)


def joint():
    return sample("y", dist.Normal(sample("z", NORMAL), 0.5))


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_objective_refuses_an_undeclared_choice_and_takes_it_declared(name):
    objective, program = OBJECTIVES[name], joint if name == "sleep" else model
    with pytest.raises(errors.UnusedChoice, match=r"'u' at .*undeclared.*marginal\(guide, hide"):
        ppl.expectation(lambda: objective(program, guide, {}), allow_biased=True)(KEY)
    declared = ppl.marginal(guide, hide=["u"], algorithm=Exact())
    estimate = ppl.expectation(lambda: objective(program, declared, {}), allow_biased=True)
    assert jnp.isfinite(estimate(KEY))


def reverse(z):
    sample("u", dist.Normal(0.5 * z["z"], 0.8))


@pytest.mark.parametrize("algorithm", [Importance(1), Importance(4), Importance(2, reverse)])
def test_declared_as_advised_it_is_a_lower_bound(algorithm):
    """Below the ELBO of the marginal that the guide has in truth, N(0.6·0.4, 0.36 + 0.49)."""
    exact_guide = lambda: sample("z", dist.Normal(0.24, 0.85**0.5))
    bound = lambda q: ppl.expectation(lambda: elbo(model, q, {}))
    declared = ppl.marginal(guide, hide="u", algorithm=algorithm)
    keys = jax.random.split(KEY, 20_000)
    loose, tight = (jax.jit(jax.vmap(bound(q)))(keys) for q in (declared, exact_guide))
    error = ((jnp.var(loose) + jnp.var(tight)) / 20_000) ** 0.5
    assert -1.0 < jnp.mean(loose) - jnp.mean(tight) < 5 * error
    summed = ppl.marginal(guide, hide="u", algorithm=Exact())
    close(bound(summed)(KEY), elbo_at(summed))


def elbo_at(declared):
    trace = ppl.seed(lambda: ppl.simulate(declared))(KEY)
    z = trace.choices["z"]
    joint = NORMAL.log_prob(z) + dist.Normal(z, 0.5).log_prob(1.0)
    return joint - dist.Normal(0.24, 0.85**0.5).log_prob(z)
