"""Divergences between a guide's sites and the model's, in closed form where there is one."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from numpyro.distributions.kl import kl_divergence

import ppl
from ppl.errors import InvalidSetting

from ._gradients import sites_of


class Rewritten(NamedTuple):
    """The ELBO's terms: the sites whose divergence is known, and what remains of the others.

    - `divergence`: the sum of KL(q_i ‖ p_i) over the sites i that are known in closed form.
    - `prior`, `guide`: log p and log q of the sites that are not, as sampled.
    - `likelihood`: log p of the data.
    """

    divergence: jax.Array
    prior: jax.Array
    guide: jax.Array
    likelihood: jax.Array


def rewritten(joint: Callable, guide: Callable, choices: Mapping[str, Any]) -> Rewritten:
    """The terms of log p - log q at choices from the guide, those known in closed form rewritten.

    A site's term is rewritten where, in the guide, nothing that the model's site reads comes after
    it: given all that both distributions read, the site is then still drawn from the guide's.
    `joint` is the model, conditioned. **Raises** `InvalidSetting` where no site can be rewritten.
    """
    p, q = (_unweighted(f, choices) for f in (joint, guide))
    values = dict(sites_of(choices))
    before, reads = _upstream(guide), _reads(joint)
    after = {a: [read for read in reads[a] if a in before.get(read, ())] for a in q.keys() & p}
    divergences = {
        address: found
        for address in after
        if not after[address]
        if (found := _divergence(q[address], p[address], jnp.ndim(values[address]))) is not None
    }
    if not divergences:
        raise InvalidSetting(
            "analytic_kl=True, but the divergence is known in closed form at no site: "
            f"{_described(values, q, p, after)}. Leave analytic_kl out: the sampled terms have the "
            "same mean."
        )
    known = {a: values.pop(a) for a in sorted(divergences)}
    everything = {**known, **values}
    likelihood = ppl.log_density(ppl.intervene(joint, everything), {})
    rest = ppl.log_density(ppl.intervene(joint, known), values) - likelihood
    return Rewritten(
        sum((divergences[address] for address in known), jnp.zeros(())),
        rest,
        ppl.log_density(ppl.intervene(guide, known), values),
        likelihood,
    )


def _unweighted(program: Callable, choices: Mapping[str, Any]) -> dict[str, Any]:
    """The distributions of the sites that are neither scaled nor masked, by address."""
    weighted = {node.site.address for node in ppl.show(program).sites if node.weighted}
    found = sites_of(ppl.distributions(program, choices))
    return {address: d for address, d in found if address not in weighted}


def _reads(program: Callable) -> dict[str, set[str]]:
    """For each address, those that its distribution reads."""
    found: dict[str, set[str]] = {}
    for node in ppl.show(program).sites:
        found.setdefault(node.site.address, set()).update(map("/".join, node.parents))
    return found


def _upstream(program: Callable) -> dict[str, set[str]]:
    """For each address, itself and all the addresses that its value depends on."""
    above = {address: {address, *read} for address, read in _reads(program).items()}
    for _ in above:
        above = {a: set().union(*(above.get(b, {b}) for b in seen)) for a, seen in above.items()}
    return above


def _divergence(q: Any, p: Any, ndim: int) -> jax.Array | None:
    """KL(q ‖ p), summed over batch and lanes; None where NumPyro has no exact closed form."""
    lanes = ndim - len(q.batch_shape + q.event_shape)
    q, p = _elements(q), _elements(p)
    if any(isinstance(part, _UNFIT) for d in (q, p) for part in _layers(d)):
        return None

    def divergence(q: Any, p: Any) -> jax.Array:
        return jnp.sum(kl_divergence(q, p))

    for _ in range(lanes):
        divergence = jax.vmap(divergence)
    try:
        return jnp.sum(divergence(q, p))
    except NotImplementedError:
        return None


_UNFIT = (dist.Kumaraswamy, dist.Delta, dist.MaskedDistribution)
"""Of a truncated series; the sampled term again; masks of p and q that need not be the same."""


def _layers(distribution: Any) -> Iterator[Any]:
    """A distribution and what it wraps."""
    while distribution is not None:
        yield distribution
        distribution = getattr(distribution, "base_dist", None)


def _elements(distribution: Any) -> Any:
    """The distribution of one element, where it is a product of independent ones."""
    while isinstance(distribution, dist.Independent):
        distribution = distribution.base_dist
    return distribution


def _described(
    values: Mapping[str, Any],
    q: Mapping[str, Any],
    p: Mapping[str, Any],
    after: Mapping[str, list[str]],
) -> str:
    """Of each site, why its divergence is not known."""

    def family(distribution: Any) -> str:
        return type(_elements(distribution)).__name__

    def reason(address: str) -> str:
        if address not in after:
            return "scaled, masked, in a branch, or compound"
        if address in after[address]:
            return "in a loop, where it reads its own earlier steps"
        if after[address]:
            return f"the model's reads {after[address][0]!r}, which in the guide depends on it"
        return f"{family(q[address])} and {family(p[address])}, of which NumPyro knows none"

    return ", ".join(f"{address!r} ({reason(address)})" for address in values)
