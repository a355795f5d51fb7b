"""Hierarchical bounds: HVI, IWHVI and DIWHVI, from `marginal` inside `elbo` and `iwelbo`."""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist

import ppl
from ppl import sample
from stdlib.inference import Importance
from stdlib.objectives import elbo, iwelbo
from stdlib.testing import QUICK, assert_unbiased, exact_measure
from tests.stdlib.bounds import KEY

P = {"theta": 0.6, "tilt": 0.8, "offset": -0.3, "mean": 0.4, "aux": 0.3}
NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(10)
LOG_WEIGHTS = np.log(WEIGHTS / WEIGHTS.sum())


def model(p):
    z = sample("z", dist.Bernoulli(probs=0.4))
    sample("x", dist.Normal(p["theta"] * z, 0.8), obs=0.9)


def log_model(p, z):
    return jnp.where(z, jnp.log(0.4), jnp.log(0.6)) + dist.Normal(p["theta"] * z, 0.8).log_prob(0.9)


def guide(p):
    """Of z, with a normal choice u that the marginal hides."""
    u = sample("u", dist.Normal(p["mean"], 0.8))
    sample("z", dist.Bernoulli(probs=jax.nn.sigmoid(p["tilt"] * u + p["offset"])))


def auxiliary(p, given):
    """r(u | z), with a parameter of its own."""
    sample("u", dist.Normal(p["aux"] + 0.4 * given["z"], 0.9))


# --- exact bounds, by quadrature over every u ----------------------------------------------------


def log_z(p, u, z):
    return jax.nn.log_sigmoid((2 * z - 1) * (p["tilt"] * u + p["offset"]))


def particles(p, inner, proposed):
    """Of one particle of the outer bound: the log mass of each state, and its log weight.

    A state is z, u_0 from the guide, and the `inner` - 1 others from the proposal. The weight is
    p(x, z) over the mean of q(u_i, z) / r(u_i | z).
    """
    index = np.asarray(list(itertools.product(range(len(NODES)), repeat=inner)))
    masses, weights = [], []
    for z in (0, 1):
        mean, scale = (p["aux"] + 0.4 * z, 0.9) if proposed else (p["mean"], 0.8)
        means = jnp.stack([p["mean"], *[mean] * (inner - 1)])
        u = means + jnp.asarray([0.8, *[scale] * (inner - 1)]) * NODES[index]
        log_joint = dist.Normal(p["mean"], 0.8).log_prob(u) + log_z(p, u, z)
        logs = log_joint - dist.Normal(mean, scale).log_prob(u)
        masses.append(LOG_WEIGHTS[index].sum(1) + log_z(p, u[:, 0], z))
        weights.append(log_model(p, z) - jax.nn.logsumexp(logs, axis=1) + jnp.log(inner))
    return jnp.concatenate(masses), jnp.concatenate(weights)


def exact_bound(p, inner, outer=1, proposed=True):
    masses, weights = particles(p, inner, proposed)
    states = np.asarray(list(itertools.product(range(len(masses)), repeat=outer)))
    logs = jax.nn.logsumexp(weights[states], axis=1) - jnp.log(outer)
    return jnp.sum(jnp.exp(jnp.sum(masses[states], axis=1)) * logs)


def bound(p, inner, outer=1, proposed=True):
    proposal = partial(auxiliary, p) if proposed else None
    only_z = ppl.marginal(partial(guide, p), "z", Importance(inner, proposal))
    objective = elbo if outer == 1 else partial(iwelbo, num_particles=outer)
    return objective(partial(model, p), only_z, {})


BOUNDS = {
    "HVI": {"inner": 1},
    "IWHVI": {"inner": 2},
    "DIWHVI": {"inner": 2, "outer": 2},
    "IWHVI from the prior": {"inner": 2, "proposed": False},
}


def test_values_and_gradients():
    """In the parameters of the model, of the guide, of what it hides, and of the proposal."""

    def total(f):
        return lambda params: sum(p["value"] * f(p, **BOUNDS[name]) for name, p in params.items())

    params = {name: jax.tree.map(jnp.asarray, {"value": 1.0, **P}) for name in BOUNDS}
    options = {"num_samples": 50_000, "tolerance": 2e-4}
    assert_unbiased(total(bound), params, exact=total(exact_bound), key=KEY, **options)


def test_a_beta_choice_is_hidden():
    """HVI from the prior, with u a probability: implicit derivatives, and the score of z."""

    def hiding(p):
        sample("z", dist.Bernoulli(probs=sample("u", dist.Beta(jnp.exp(p["mean"]), 1.7))))

    def objective(p):
        return elbo(partial(model, p), ppl.marginal(partial(hiding, p), "z", Importance(1)), {})

    def exact(p):
        u, mass = exact_measure(dist.Beta(jnp.exp(p["mean"]), 1.7))
        terms = [
            jnp.where(z, u, 1 - u) * (log_model(p, z) - jnp.log(jnp.where(z, u, 1 - u)))
            for z in (0, 1)
        ]
        return jnp.sum(mass * (terms[0] + terms[1]))

    at = {name: P[name] for name in ("theta", "mean")}
    assert_unbiased(objective, at, exact=exact, key=KEY, num_samples=50_000, tolerance=1e-3)


def test_directions_of_the_bounds():
    """Below the ELBO of the marginal itself; nearer with more inner particles."""

    def bounds():
        given = [jnp.exp(log_z(P, P["mean"] + 0.8 * NODES, z)) for z in (0, 1)]
        log_marginal = jnp.log(jnp.stack(given) @ jnp.exp(LOG_WEIGHTS))
        log_joint = jnp.stack([log_model(P, z) for z in (0, 1)])
        marginal = jnp.exp(log_marginal) @ (log_joint - log_marginal)
        inner = [exact_bound(P, count) for count in (1, 2, 3)]
        return inner, marginal, exact_bound(P, 2, 2), jax.nn.logsumexp(log_joint)

    (one, two, three), marginal, both, evidence = jax.jit(bounds, compiler_options=QUICK)()
    assert one < two < three < marginal
    assert two < both < evidence
