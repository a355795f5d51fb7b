"""The evidence lower bound, term by term."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

import ppl

from .._scoring import BOUNDS
from ..objectives._gradients import joint_at


def elbo_terms(
    model: Callable, guide: Callable, observed: Mapping[str, Any]
) -> dict[str, jax.Array]:
    """What each address adds to the bound: log p - log q of a choice, log p of data.

    The arguments are those of `elbo`. To be called inside an objective, as that: `ppl.expectation`
    of it estimates all the terms from one run, and their gradients.

    **Law**: the terms sum to `elbo(model, guide, observed)` of the same run.

    **Returns** one scalar for each address, summed over its elements, loops and vmaps; zero in a
    branch that is not reached. A choice that the guide draws nearer to the posterior than to the
    prior has a negative term, in the mean minus its part of the divergence. The addresses of one
    `marginal` or `normalize` program have their density together, at the first of them. What has no
    address, as a marginal that keeps nothing, is under `"(no address)"`.

    **Raises** what `elbo` does.

    ```python
    >>> import jax, ppl, numpyro.distributions as dist
    >>> from stdlib.diagnostics import elbo_terms
    >>> def model():
    ...     z = ppl.sample("z", dist.Normal(0.0, 1.0))
    ...     ppl.sample("x", dist.Normal(z, 1.0))
    >>> def guide():
    ...     ppl.sample("z", dist.Normal(1.0, 0.5))
    >>> estimate = ppl.expectation(lambda: elbo_terms(model, guide, {"x": 2.0}))
    >>> terms = jax.vmap(estimate)(jax.random.split(jax.random.key(0), 10_000))
    >>> {address: round(float(term.mean()), 1) for address, term in sorted(terms.items())}
    {'x': -1.5, 'z': -0.8}

    ```
    """
    q, joint = ppl.simulate(guide), joint_at(model, observed, guide, laws=BOUNDS)
    p = ppl.replay(joint, q.choices)
    terms = {address: jnp.sum(site.log_density) for address, site in p.sites.items()}
    if any(site.address not in terms for site in ppl.sites(joint)):
        whole = p.log_density + p.log_likelihood
        terms["(no address)"] = whole - sum(terms.values(), jnp.zeros(()))
    for address, site in q.sites.items():
        terms[address] -= jnp.sum(site.log_density)
    return terms
