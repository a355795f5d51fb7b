"""Divergences between a guide's sites and the model's, in closed form where there is one."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from numpyro.distributions.kl import kl_divergence

import ppl
from ppl import SiteRecord, Trace
from ppl.errors import InvalidSetting

from .._supports import contains, support_of


def log_ratio(joint: Callable, guide: Callable, p: Trace, q: Trace) -> jax.Array:
    """log p - log q of the unobserved sites; -KL(q_i ‖ p_i) where that is known in closed form.

    A site's term is rewritten where, in the guide, nothing that the model's site reads comes after
    it: given all that both distributions read, the site is then still drawn from the guide's.
    `joint` is the model, conditioned; `q` a run of the guide, `p` one of `joint` at its choices.
    **Raises** `InvalidSetting` where no site can be rewritten.
    """
    before, reads = _upstream(guide), _reads(joint)
    sites = {a: (p.sites[a], q.sites[a]) for a in q.sites}
    known, kept = jnp.zeros(()), {}
    for address, (mine, theirs) in sites.items():
        after = [read for read in reads[address] if address in before.get(read, ())]
        reason = _unfit(mine, theirs, address, after)
        divergence = None if reason else _divergence(theirs, mine)
        if divergence is None:
            kept[address] = reason or _unknown(theirs, mine)
        else:
            known = known - divergence
    if len(kept) == len(sites):
        why = ", ".join(f"{address!r} ({reason})" for address, reason in kept.items())
        raise InvalidSetting(
            "analytic_kl=True, but the divergence is known in closed form at no site: "
            f"{why}. Leave analytic_kl out: the sampled terms have the same mean."
        )
    for mine, theirs in (sites[address] for address in kept):
        known = known + jnp.sum(mine.log_density) - jnp.sum(theirs.log_density)
    return known


def _unfit(p: SiteRecord, q: SiteRecord, address: str, after: Sequence[str]) -> str:
    """Why a site's divergence is not that of its two distributions; nothing where it is."""
    if any(d.distribution is None or d.weighted or d.conditional for d in (p, q)):
        return "scaled, masked, in a branch, or compound"
    if address in after:
        return "in a loop, where it reads its own earlier steps"
    return f"the model's reads {after[0]!r}, which in the guide depends on it" if after else ""


def _unknown(q: SiteRecord, p: SiteRecord) -> str:
    names = (type(_elements(site.distribution)).__name__ for site in (q, p))
    return f"{' and '.join(names)}, of which NumPyro knows none"


def _reads(program: Callable) -> dict[str, set[str]]:
    """For each address, those that its distribution reads."""
    found: dict[str, set[str]] = {}
    for site in ppl.sites(program):
        found.setdefault(site.address, set()).update(site.reads)
    return found


def _upstream(program: Callable) -> dict[str, set[str]]:
    """For each address, itself and all the addresses that its value depends on."""
    above = {address: {address, *read} for address, read in _reads(program).items()}
    for _ in above:
        above = {a: set().union(*(above.get(b, {b}) for b in seen)) for a, seen in above.items()}
    return above


def _divergence(q: SiteRecord, p: SiteRecord) -> jax.Array | None:
    """KL(q ‖ p), summed over batch and lanes; None where NumPyro has no exact closed form."""
    mine, theirs = _elements(q.distribution), _elements(p.distribution)
    if any(isinstance(part, _UNFIT) for d in (mine, theirs) for part in _layers(d)):
        return None
    if not contains(support_of(p.distribution), support_of(q.distribution)):
        return None

    def divergence(q: Any, p: Any) -> jax.Array:
        return jnp.sum(kl_divergence(q, p))

    for _ in jnp.shape(q.log_density):
        divergence = jax.vmap(divergence)
    try:
        return jnp.sum(divergence(mine, theirs))
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
