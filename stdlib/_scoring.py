"""The density that one program has at what another draws: guides and models, proposals and targets.

Where a distribution's formula is read outside its support it gives a number, and not the density,
which is zero. So supports are compared, site by site and while tracing: pairs that are known to fit
cost nothing, others have density zero outside, and those that are known not to fit are an error.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any, TypeVar, cast

import ppl
from ppl.errors import ObservedGuide, SupportMismatch

from ._supports import contains, support_of

Program = TypeVar("Program", bound=Callable)


def check_unobserved(guide: Callable) -> None:
    """Raises `ObservedGuide` where a guide has an observed site."""
    _check_unobserved(ppl.survey(guide, lambda distribution: None), "guide")


def _check_unobserved(sites: Iterable[ppl.Seen], what: str) -> None:
    for site in (seen.site for seen in sites if seen.site.observed):
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
) -> Program:
    """The program, to be scored at the choices that `sampler(*args)` draws.

    Its density is zero outside the supports of its sites, where it is not known that the sampler
    draws within them. `what` and `by` are what messages call sampler and program.

    **Raises** `ObservedGuide` where the sampler observes; `SupportMismatch` where the support of
    one of its sites is known not to be within that of the program's.
    """
    sites = ppl.survey(sampler, support_of, *args)
    _check_unobserved(sites, what)
    drawn = defaultdict(list)
    for seen in sites:
        drawn[seen.site.path].append(seen)
    unproved = []
    for outer in ppl.survey(program, support_of):
        if outer.site.observed:
            continue
        verdicts = [contains(outer.found, inner.found) for inner in drawn[outer.site.path]]
        if len(verdicts) == 1 and verdicts[0] is False and outer.certain:
            raise _mismatch(drawn[outer.site.path][0], outer, what, by)
        if not (verdicts and all(verdicts)):
            unproved.append(outer.site.address)
    return cast(Program, ppl.bounded(program, unproved)) if unproved else program


def proposed_by(proposal: Callable, program: Program, *args: Any) -> Program:
    """The same for the choices that `proposal(*args)` draws for a target's program."""
    return at_draws_of(proposal, program, *args, what="proposal", by="target")


def at_choices_of(program: Callable, proposal: Program, *args: Any) -> Program:
    """The proposal, to be scored at a target's choices: of what it never draws, density zero."""
    drawn = defaultdict(list)
    for seen in ppl.survey(program, support_of):
        drawn[seen.site.path].append(seen.found)
    sites = ppl.survey(proposal, support_of, *args)
    fits = lambda seen: all(contains(seen.found, inner) for inner in drawn[seen.site.path])  # noqa: E731
    unproved = [seen.site.address for seen in sites if not fits(seen)]
    return cast(Program, ppl.bounded(proposal, unproved)) if unproved else proposal


def _mismatch(inner: ppl.Seen, outer: ppl.Seen, what: str, by: str) -> SupportMismatch:
    q, p = inner.found, outer.found
    return SupportMismatch(
        f"Site {outer.site.address!r}: the {what} draws it at {inner.site.where} from {q.family}, "
        f"with support {q.written}, and the {by} scores it at {outer.site.where} by {p.family}, "
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
