"""The density that one program has at what another draws: guides and models, proposals and targets.

Where a distribution's formula is read outside its support it gives a number, and not the density,
which is zero. So supports are compared, site by site and while tracing: pairs that are known to fit
cost nothing, others have density zero outside, and those that are known not to fit are an error.
"""

import difflib
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, TypeVar, cast

import ppl
from ppl.errors import ObservedGuide, SupportMismatch, UnusedChoice
from ppl.extend import check_laws

from ._supports import Support, contains, support_of

Program = TypeVar("Program", bound=Callable)
Laws = tuple[Literal["exact", "weight", "log"], ...]

WEIGHTS: Laws = ("exact", "weight")
BOUNDS: Laws = ("exact", "weight", "log")
"""Of densities that are read as weights, and in an evidence lower bound."""


def check_unobserved(guide: Callable) -> None:
    """Raises `ObservedGuide` where a guide has an observed site."""
    _check_unobserved(ppl.sites(guide), "guide")


def _check_unobserved(sites: Iterable[ppl.SiteInfo], what: str) -> None:
    for site in (site for site in sites if site.observed):
        raise ObservedGuide(
            f"The {what} observes site {site.address!r} at {site.where} (by obs=, "
            "ppl.condition, a factor, or a marginal that keeps nothing). The density of what "
            f"it draws has no such term, and with it the {what} is not normalised. Put the "
            "site into the model; for draws from a posterior, write ppl.normalize(program, "
            "observed, algorithm)."
        )


def at_draws_of(
    sampler: Callable,
    program: Program,
    *args: Any,
    what: str = "guide",
    by: str = "model",
    laws: Laws = WEIGHTS,
    declared: bool = True,
) -> Program:
    """The program, to be scored at the choices that `sampler(*args)` draws.

    Its density is zero outside the supports of its sites, where it is not known that the sampler
    draws within them. `what` and `by` are what messages call sampler and program. `laws` are those
    that both densities may keep, where they are estimates.

    **Raises** `ObservedGuide` where the sampler observes; `EstimatedDensity` where a density has
    another law; `UnusedChoice` where a guide has choices that the other program has not, if these
    must be `declared`; `SupportMismatch` where the support of one of the sampler's sites is known
    not to be within that of the program's.
    """
    sites = ppl.sites(sampler, *args)
    _check_unobserved(sites, what)
    scored = ppl.sites(program)
    check_laws(sites, f"What reads the density of the {what}", laws)
    check_laws(scored, f"What reads the density of the {by}", laws)
    if declared and by == "guide":
        _check_declared(scored, sites, by, what)
    elif declared:
        _check_declared(sites, scored, what, by)
    drawn = _by_address(sites)
    unproved = []
    for outer, support in _looked(scored):
        if outer.observed:
            continue
        inner = drawn[outer.address]
        verdicts = [contains(support, other) for _, other in inner]
        if len(verdicts) == 1 and verdicts[0] is False and outer.certain:
            raise _mismatch(inner[0], (outer, support), what, by)
        if not (verdicts and all(verdicts)):
            unproved.append(outer.address)
    return cast(Program, ppl.bounded(program, unproved)) if unproved else program


def _check_declared(
    guide: Iterable[ppl.SiteInfo], other: Iterable[ppl.SiteInfo], what: str, by: str
) -> None:
    """Raises `UnusedChoice` where a guide has a choice of its own that is not integrated out."""
    known = {site.address for site in other}
    for site in (site for site in guide if not site.observed and site.address not in known):
        near = ", ".join(map(repr, difflib.get_close_matches(site.address, known, cutoff=0.5)))
        raise UnusedChoice(
            f"The {what} has a choice {site.address!r} at {site.where}, and the {by} has none of "
            f"this address. {f'Nearest: {near}. ' if near else ''}Give it an address of the "
            f"{by}'s; or, where it is auxiliary, declare it, so that it is integrated out: "
            f"ppl.marginal({what}, hide=[{site.address!r}], algorithm=Importance(1)), of "
            "stdlib.inference; Importance(m, proposal) with a learnt reverse program; or Exact()."
        )


def _looked(sites: Iterable[ppl.SiteInfo]) -> list[tuple[ppl.SiteInfo, Support]]:
    """The plain sites that draw or score the addresses of a program, with their supports."""
    plain = [one for site in sites for one in site.plain]
    return [(site, site.look(support_of)[0]) for site in plain]


def _by_address(sites: Iterable[ppl.SiteInfo]) -> Mapping[str, list[tuple[ppl.SiteInfo, Support]]]:
    found = defaultdict(list)
    for site, support in _looked(sites):
        found[site.address].append((site, support))
    return found


def proposed_by(proposal: Callable, program: Program, *args: Any) -> Program:
    """The same for the choices that `proposal(*args)` draws for a target's program."""
    return at_draws_of(proposal, program, *args, what="proposal", by="target", declared=False)


def at_choices_of(program: Callable, proposal: Program, *args: Any) -> Program:
    """The proposal, to be scored at a target's choices: of what it never draws, density zero."""
    drawn = _by_address(ppl.sites(program))
    unproved = [
        site.address
        for site, support in _looked(ppl.sites(proposal, *args))
        if not all(contains(support, inner) for _, inner in drawn[site.address])
    ]
    return cast(Program, ppl.bounded(proposal, unproved)) if unproved else proposal


def _mismatch(
    inner: tuple[ppl.SiteInfo, Support], outer: tuple[ppl.SiteInfo, Support], what: str, by: str
) -> SupportMismatch:
    (drawn, q), (scored, p) = inner, outer
    return SupportMismatch(
        f"Site {scored.address!r}: the {what} draws it at {drawn.where} from {q.family}, "
        f"with support {q.written}, and the {by} scores it at {scored.where} by {p.family}, "
        f"with support {p.written}. Of what is drawn outside that, the density is zero. "
        + _remedy(p.written, p.event, p.bijection, what)
    )


def _remedy(written: str, event: int, bijection: bool, what: str) -> str:
    if not bijection or "..." in written:
        return f"Give the {what} a distribution whose values are all within {written}."
    joined = f".to_event({event})" if event else ""
    return (
        f"Map the {what}'s draws into {written}:\n"
        f"    into = dist.transforms.biject_to(dist.constraints.{written})\n"
        f"    dist.TransformedDistribution(dist.Normal(m, s){joined}, into)"
    )
