"""Divergences between a guide's sites and the model's, in closed form where there is one."""

from collections.abc import Callable, Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp

import ppl
from ppl import SiteInfo, SiteRecord, Trace, replay, simulate
from ppl.errors import InvalidSetting

from .._supports import contains, support_of
from ._divergence import divergence
from ._gradients import joint_at

AnalyticKL = bool | Literal["all"]


def analytic_kl_sites(
    model: Callable, guide: Callable, observed: Mapping[str, Any]
) -> dict[str, str | None]:
    """Which sites `analytic_kl=True` rewrites: None for these, for others why they stay sampled.

    By address; the arguments are those of `elbo`. Nothing is drawn or computed.

    ```python
    >>> import ppl, numpyro.distributions as dist
    >>> from stdlib.objectives import analytic_kl_sites
    >>> def model():
    ...     z = ppl.sample("z", dist.Normal(0.0, 1.0))
    ...     ppl.sample("x", dist.StudentT(3.0, ppl.sample("w", dist.Cauchy(z, 1.0)), 1.0))
    >>> def guide():
    ...     ppl.sample("z", dist.Normal(0.5, 1.0)), ppl.sample("w", dist.Cauchy(0.0, 1.0))
    >>> for address, why in analytic_kl_sites(model, guide, {"x": 1.0}).items():
    ...     print(address, "-", why)
    z - None
    w - of Cauchy and Cauchy no closed form is known

    ```
    """
    found = {}

    def look():
        q, joint = simulate(guide), joint_at(model, observed, guide)
        p = replay(joint, q.choices)
        found.update({a: why for a, (_, why) in _looked(joint, guide, p, q).items()})

    ppl.sites(look)
    return found


def log_ratio(
    joint: Callable, guide: Callable, p: Trace, q: Trace, wanted: AnalyticKL = True
) -> jax.Array:
    """log p - log q of the unobserved sites; -KL(q_i ‖ p_i) where that is known in closed form.

    A site's term is rewritten where, in the guide, nothing that the model's site reads comes after
    it: given all that both distributions read, the site is then still drawn from the guide's.
    `joint` is the model, conditioned; `q` a run of the guide, `p` one of `joint` at its choices.
    **Raises** `InvalidSetting` where no site can be rewritten, or one cannot and all are `wanted`.
    """
    found = _looked(joint, guide, p, q)
    kept = {address: why for address, (_, why) in found.items() if why is not None}
    _check(kept, len(found), wanted)
    total = jnp.zeros(())
    for address, (known, _) in found.items():
        if known is None:
            total += jnp.sum(p.sites[address].log_density) - jnp.sum(q.sites[address].log_density)
        else:
            total -= known
    return total


def _check(kept: Mapping[str, str], count: int, wanted: AnalyticKL) -> None:
    reasons = ", ".join(f"{address!r} ({why})" for address, why in kept.items())
    if wanted not in (True, "all"):
        raise InvalidSetting(f"analytic_kl must be True, False or 'all', got {wanted!r}.")
    if len(kept) == count:
        raise InvalidSetting(
            f"analytic_kl={wanted!r}, but the divergence is known in closed form at no site: "
            f"{reasons}. Leave analytic_kl out: the sampled terms have the same mean."
        )
    if kept and wanted == "all":
        raise InvalidSetting(
            "analytic_kl='all', but the divergence is not known in closed form at "
            f"{reasons}. Write analytic_kl=True, which leaves these terms sampled, of the same "
            "mean, or change these distributions."
        )


def _looked(
    joint: Callable, guide: Callable, p: Trace, q: Trace
) -> dict[str, tuple[jax.Array | None, str | None]]:
    """The divergence of each unobserved site, or why it is not known."""
    order, found = _Order(joint, guide), {}
    for address, theirs in q.sites.items():
        mine = p.sites[address]
        why = _unfit(mine, theirs) or order.why_not(address)
        known = None if why else _divergence(theirs, mine)
        if known is None:
            found[address] = None, why or _unknown(theirs, mine)
        else:
            found[address] = known, None
    return found


def _unfit(p: SiteRecord, q: SiteRecord) -> str | None:
    """Why a site's term is not that of its two distributions."""
    unfit = any(d.distribution is None or d.weighted or d.conditional for d in (p, q))
    return "scaled, masked, in a branch, or compound" if unfit else None


def _divergence(q: SiteRecord, p: SiteRecord) -> jax.Array | None:
    """KL(q ‖ p), summed over batch, lanes and steps; None where no closed form is known."""
    if not contains(support_of(p.distribution), support_of(q.distribution)):
        return None
    one, unknown = divergence, []

    def lane(mine: Any, theirs: Any) -> jax.Array:
        found = one(mine, theirs)
        unknown.append(found is None)
        return jnp.zeros(()) if found is None else found

    for _ in jnp.shape(q.log_density):
        lane = jax.vmap(lane)
    total = jnp.sum(lane(q.distribution, p.distribution))
    return None if any(unknown) else total


def _unknown(q: SiteRecord, p: SiteRecord) -> str:
    mine, theirs = (support_of(site.distribution).family for site in (q, p))
    return f"of {mine} and {theirs} no closed form is known"


class _Order:
    """In which order two programs draw their sites, and which of them read which."""

    def __init__(self, model: Callable, guide: Callable):
        self.model, self.guide = _by_address(model), _by_address(guide)
        self.upstream = _closure({a: _all(s, "reads") for a, s in self.guide.items()})
        self.upstream_now = _closure({a: _all(s, "reads_now") for a, s in self.guide.items()})

    def why_not(self, address: str) -> str | None:
        """What the model's site reads that the guide draws given the site; None where nothing is.

        In a loop of both programs, what is read of earlier steps comes before the site.
        """
        for read in sorted(_all(self.model[address], "reads")):
            if address in self.upstream.get(read, ()) and not self._earlier(address, read):
                if read == address:
                    return "in a loop, whose steps the model and the guide do not take alike"
                return f"the model's reads {read!r}, which in the guide depends on it"
        return None

    def _earlier(self, address: str, read: str) -> bool:
        """Whether the model's site reads nothing of another that the guide draws given the site."""
        pairs = [(self.guide, address), (self.guide, read), (self.model, address)]
        pairs += [(self.model, read)]
        if any(len(sites.get(name, ())) != 1 for sites, name in pairs):
            return False
        mine, theirs, scored, seen = (sites[name][0] for sites, name in pairs)
        if not _one_loop(mine, theirs) or not _one_loop(scored, seen) or not _alike(mine, scored):
            return False
        if not _alike(theirs, seen):
            return False
        return read not in scored.reads_now or address not in self.upstream_now[read]


def _one_loop(one: SiteInfo, other: SiteInfo) -> bool:
    """Whether two sites stand in one loop, and in no other."""
    return len(one.loops) == 1 and one.loops == other.loops


def _alike(one: SiteInfo, other: SiteInfo) -> bool:
    """Whether the sites of two programs go through their steps in one order, on one axis."""
    (mine,), (theirs,) = one.loops, other.loops
    return one.loop_axes == other.loop_axes and mine[1:] == theirs[1:]


def _by_address(program: Callable) -> dict[str, list[SiteInfo]]:
    found: dict[str, list[SiteInfo]] = {}
    for site in ppl.sites(program):
        found.setdefault(site.address, []).append(site)
    return found


def _all(sites: list[SiteInfo], name: str) -> set[str]:
    return {read for site in sites for read in getattr(site, name)}


def _closure(reads: Mapping[str, set[str]]) -> dict[str, set[str]]:
    """For each address, itself and all the addresses that its value depends on."""
    above = {address: {address, *read} for address, read in reads.items()}
    for _ in above:
        above = {a: set().union(*(above.get(b, {b}) for b in seen)) for a, seen in above.items()}
    return above
