"""Mean gradients where discreteness meets variational inference: ours and NumPyro's, against exact.

Each case is one guide parameter of a small model with an exact answer by enumeration or
quadrature. Ours uses the default estimators; nothing is said about the sites.
"""

import itertools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from numpyro.contrib.control_flow import scan
from numpyro.infer import RenyiELBO, Trace_ELBO

import ppl
from ppl import sample
from stdlib.objectives import elbo, iwelbo

RUNS = 20_000
OBSERVED = 0.8
SERIES = jnp.array([0.2, 1.1, 0.5])


class Case(NamedTuple):
    """One gradient, three ways: functions of the parameter (and a key, but for the exact one)."""

    name: str
    at: float
    exact: Callable
    ours: Callable
    numpyro: Callable


def _bernoulli_terms(logit, factor=1.0):
    """q(b), and log p - log q, for both values of the one discrete site."""
    for b in (0, 1):
        log_q = dist.Bernoulli(logits=logit).log_prob(b)
        log_p = dist.Bernoulli(logits=0.5).log_prob(b) + dist.Normal(1.4 * b, 1.0).log_prob(
            OBSERVED
        )
        yield jnp.exp(log_q), factor * (log_p - log_q)


def _model():
    b = sample("b", dist.Bernoulli(logits=0.5))
    sample("y", dist.Normal(1.4 * b, 1.0), obs=OBSERVED)


def _guide(logit):
    sample("b", dist.Bernoulli(logits=logit))


def _peer_model():
    b = numpyro.sample("b", dist.Bernoulli(logits=0.5))
    numpyro.sample("y", dist.Normal(1.4 * b, 1.0), obs=OBSERVED)


def _peer(loss, model, guide):
    return lambda logit, key: -loss.loss(key, {}, model, lambda: guide(logit))


def _peer_guide(logit):
    numpyro.sample("b", dist.Bernoulli(logits=logit))


def discrete_elbo() -> Case:
    """A discrete site under the ELBO."""
    return Case(
        "discrete site, ELBO",
        0.3,
        lambda logit: sum(q * cost for q, cost in _bernoulli_terms(logit)),
        lambda logit: elbo(_model, lambda: _guide(logit), {}),
        _peer(Trace_ELBO(), _peer_model, _peer_guide),
    )


def discrete_bound() -> Case:
    """A discrete site under a 5-sample importance-weighted bound."""

    def exact(logit):
        terms = list(_bernoulli_terms(logit))
        total = 0.0
        for picks in itertools.product(terms, repeat=5):
            chance = jnp.prod(jnp.stack([q for q, _ in picks]))
            bound = jax.nn.logsumexp(jnp.stack([cost for _, cost in picks])) - jnp.log(5)
            total += chance * bound
        return total

    return Case(
        "discrete site, 5-sample bound",
        0.3,
        exact,
        lambda logit: iwelbo(_model, lambda: _guide(logit), {}, num_particles=5),
        _peer(RenyiELBO(0.0, 5), _peer_model, _peer_guide),
    )


def scaled() -> Case:
    """A discrete local site under a scale of 10."""

    def peer(program):
        return lambda *args: numpyro.handlers.scale(program, scale=10.0)(*args)

    return Case(
        "discrete site under scale 10",
        0.3,
        lambda logit: sum(q * cost for q, cost in _bernoulli_terms(logit, 10.0)),
        lambda logit: elbo(ppl.scale(_model, 10.0), ppl.scale(lambda: _guide(logit), 10.0), {}),
        _peer(Trace_ELBO(), peer(_peer_model), peer(_peer_guide)),
    )


def _mixture(logit):
    weights = dist.Categorical(logits=jnp.stack([logit, 0.0]))
    return dist.MixtureSameFamily(weights, dist.Normal(jnp.array([-1.0, 0.8]), 0.5))


def mixture() -> Case:
    """The weight of a mixture, a continuous site that is not reparameterisable."""

    def exact(logit):
        z = jnp.linspace(-9.0, 9.0, 6001)
        log_q = _mixture(logit).log_prob(z)
        log_p = dist.Normal(0.0, 1.5).log_prob(z) + dist.Normal(z**2, 1.0).log_prob(1.3)
        return jnp.sum(jnp.exp(log_q) * (log_p - log_q)) * (z[1] - z[0])

    def programs(site):
        def model():
            site("y", dist.Normal(site("z", dist.Normal(0.0, 1.5)) ** 2, 1.0), obs=1.3)

        return model, lambda logit: site("z", _mixture(logit))

    model, guide = programs(sample)
    return Case(
        "mixture weight, ELBO",
        0.4,
        exact,
        lambda logit: elbo(model, lambda: guide(logit), {}),
        _peer(Trace_ELBO(), *programs(numpyro.sample)),
    )


def chain() -> Case:
    """A discrete state inside `scan`, in model and guide."""

    def exact(logit):
        total = 0.0
        for path in itertools.product((0, 1), repeat=len(SERIES)):
            log_q, log_p, last = 0.0, 0.0, 0
            for z, y in zip(path, SERIES, strict=True):
                log_q += dist.Bernoulli(logits=logit + last).log_prob(z)
                log_p += dist.Bernoulli(0.3 + 0.4 * last).log_prob(z)
                log_p += dist.Normal(z, 1.0).log_prob(y)
                last = z
            total += jnp.exp(log_q) * (log_p - log_q)
        return total

    def programs(site, loop):
        def model():
            def step(z, y):
                z = site("z", dist.Bernoulli(0.3 + 0.4 * z))
                site("y", dist.Normal(z, 1.0), obs=y)
                return z, None

            loop(step, 0, SERIES)

        def guide(logit):
            def step(z, _):
                return site("z", dist.Bernoulli(logits=logit + z)), None

            loop(step, 0, None, length=len(SERIES))

        return model, guide

    model, guide = programs(sample, jax.lax.scan)
    return Case(
        "discrete state in scan, ELBO",
        0.2,
        exact,
        lambda logit: elbo(model, lambda: guide(logit), {}),
        _peer(Trace_ELBO(), *programs(numpyro.sample, scan)),
    )


def _mean(gradient: Callable, at: float) -> str:
    keys = jax.random.split(jax.random.key(0), RUNS)
    draws = jax.jit(jax.vmap(lambda key: gradient(at, key)))(keys)
    return f"{draws.mean():.4f} ± {draws.std() / RUNS**0.5:.4f}"


def main() -> list[str]:
    """One table."""
    lines = [
        f"### Mean gradient over {RUNS:,} runs, ± standard error (NumPyro {numpyro.__version__})",
        "",
        "| guide parameter of | exact | ours | NumPyro |",
        "|---|---:|---:|---:|",
    ]
    for make in (discrete_elbo, discrete_bound, scaled, mixture, chain):
        case = make()
        estimate = ppl.expectation(case.ours)
        ours = _mean(lambda at, key, f=estimate: jax.grad(f, argnums=1)(key, at), case.at)
        theirs = _mean(jax.grad(case.numpyro), case.at)
        exact = jax.grad(case.exact)(case.at)
        lines.append(f"| {case.name} | {exact:.4f} | {ours} | {theirs} |")
    return ["\n".join(lines)]
