"""`marginal` and `normalize`: programs whose densities an algorithm estimates."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from .._distributions.scored_draw import apart
from .._ir.address import Path, flatten, nearest, nest, parse, render
from .._ir.compound import Compound, Joint
from .._ir.site import Site, user_location
from .._ir.stage import P, Staged, stage, standing_for
from .._jax.run import run
from .._meanings.trace import log_density
from .._walk.choices import checked_choices
from .._walk.feed import Nothing, Placed
from .._walk.record import Record, check_duplicates
from .._walk.site_record import values_of
from .._walk.walker import placed_sites, walk
from ..errors import InvalidSetting, ObservedMarginal, UnknownAddress
from .algorithm import Algorithm, Target
from .laws import Law


def marginal(
    program: Callable[P, Any],
    keep: str | Sequence[str] | None = None,
    algorithm: Algorithm | None = None,
    *,
    hide: str | Sequence[str] | None = None,
) -> Callable[P, dict[str, Any]]:
    """The program over some of its choices alone: the others are integrated out.

    Estimand of its density: p(x) = ∫ p(x, u) du, over the hidden choices u of the program, at
    the kept ones x. `log_density` gives log w with E[w] = p(x), `simulate` x and log w with
    E[1/w | x] = 1/p(x); both without error where the algorithm is exact. Called inside another
    program, it is one compound site with the kept addresses. It returns the kept choices, a
    nested dict.

    As a guide, in an ELBO, it gives hierarchical bounds: `Importance(n, proposal)` those of
    HVI and IWHVI; in an importance-weighted bound, DIWHVI.

    **Arguments**

    - `keep`: the addresses to keep; one that is a scope keeps all the addresses in it. With none,
      the program has no choices, and its density is the evidence of its observed sites.
    - `hide`: in place of `keep`, the addresses or scopes that do not stay.
    - `algorithm`: `stdlib.inference.Importance(n)`, `Exact()`, `SMC(n)`, ... It is given the
      `ppl.extend.Target` of the hidden choices, with x observed.

    **Raises** `InvalidSetting` where not one of `keep` and `hide` is given, or no algorithm; when
    the program runs `UnknownAddress`, `ProposalMismatch`, `ObservedMarginal` where a program with
    observed sites, or one that keeps nothing, is simulated: such a one can be scored.

    Sources: Becker et al. 2024; Lew et al. 2023; Ranganath et al. 2016 (HVI); Sobolev & Vetrov
    2019 (IWHVI).

    ```python
    >>> import jax, ppl, numpyro.distributions as dist
    >>> from stdlib.inference import Exact
    >>> def mixture():
    ...     z = ppl.sample("z", dist.Bernoulli(0.25))
    ...     ppl.sample("x", dist.Normal(4.0 * z, 1.0))
    >>> only_x = ppl.marginal(mixture, "x", Exact())
    >>> round(float(ppl.log_density(only_x, {"x": 4.0})), 3)
    -2.304

    ```
    """
    integrator, select = _asked(keep, hide, algorithm)

    @standing_for(program)
    def marginalized(*args: P.args, **kwargs: P.kwargs) -> dict[str, Any]:
        where, staged = user_location(), stage(program, *args, **kwargs)
        places = _free_sites(staged)
        kept = select(places, staged.name)
        again, paths = _again(staged), list(kept)

        def target(values):
            return Target(again, nest(dict(zip(paths, values, strict=True))))

        def draw():
            choices = _drawn(again)
            return [choices[path] for path in paths]

        def simulate():
            _check_unobserved(staged)
            choices = _drawn(again)
            values = [choices.pop(path) for path in paths]
            if not choices:
                return [*values, target(values).exactly.log_density({})]
            given = target(values).exactly
            return [*values, integrator.log_evidence_given(given, nest(choices))]

        def density(*values):
            if len(paths) == len(places):
                return [log_density(again, target(values).observed)]
            return [integrator.log_evidence(target(values))]

        law = _law(staged, "exact" if len(kept) == len(places) else integrator.law)
        if not kept:
            return _weighed(where, density, law) if any(placed_sites(staged.jaxpr)) else {}
        return _bound("marginal", kept, where, law, draw, simulate, density)

    return marginalized


def normalize(
    program: Callable[P, Any], observed: Mapping[str, Any], algorithm: Algorithm
) -> Callable[P, dict[str, Any]]:
    """The posterior of a program given some of its choices, as a program.

    It draws the other choices by the algorithm, and its density is that of what the algorithm
    draws (not of the exact posterior, unless the algorithm is exact): `log_density` gives log w
    with E[w] = q(u), `simulate` u and log w with E[1/w | u] = 1/q(u). So it can be a guide, a
    proposal or a part of another program, where it is one compound site with the unobserved
    addresses. It returns them, a nested dict. Where the algorithm is exact, a part of them may be
    conditioned on, or kept by `marginal`: a posterior marginal.

    **Arguments**

    - `observed`: nested dict from address to value; `{}` where the program has its data as `obs=`.
    - `algorithm`: `stdlib.inference.SIR(n)`, `Exact()`, `SMC(n)`, ...

    **Raises** (when the program runs) `UnusedChoice`, `ObservedChoice`, `ChoiceShapeError`,
    `ChoiceTypeError`, `ProposalMismatch`; `PartialObservation` where a part is known of a
    posterior that is not exact, or is scaled or masked.

    Source: Lew et al. 2023, 'Probabilistic programming with stochastic probabilities'.

    ```python
    >>> import jax, ppl, numpyro.distributions as dist
    >>> from stdlib.inference import Exact
    >>> def mixture():
    ...     z = ppl.sample("z", dist.Bernoulli(0.25))
    ...     ppl.sample("x", dist.Normal(4.0 * z, 1.0))
    >>> posterior = ppl.normalize(mixture, {"x": 2.0}, Exact())
    >>> round(float(ppl.log_density(posterior, {"z": 1})), 3)
    -1.386

    ```
    """

    @standing_for(program)
    def normalized(*args: P.args, **kwargs: P.kwargs) -> dict[str, Any]:
        where, staged = user_location(), stage(program, *args, **kwargs)
        places = _free_sites(staged)
        given = checked_choices(
            observed, list(placed_sites(staged.jaxpr)), staged.name, complete=False
        )
        target = Target(_again(staged), nest(given))
        hidden = {path: placed for path, placed in places.items() if path not in given}

        def simulate():
            choices, log_q = algorithm.simulate(target)
            target.check(choices)
            flat = flatten(choices)
            return [*(flat[path] for path in hidden), log_q]

        def density(*values):
            choices = nest(dict(zip(hidden, values, strict=True)))
            return [algorithm.log_density(target, choices)]

        def joint():
            choices = _drawn(target.prior)
            return [choices[path] for path in hidden]

        def normalized(program):
            return lambda: _normalized(program, algorithm, where)

        law = _law(staged, algorithm.law)
        known = Joint(joint, normalized) if law == "exact" else None
        return _bound("posterior", hidden, where, law, None, simulate, density, known)

    return normalized


def _bound(
    name: str,
    places: Mapping[Path, Placed],
    where: str,
    law: Law,
    draw: Callable | None,
    simulate: Callable,
    density: Callable,
    joint: Joint | None = None,
) -> dict[str, Any]:
    sites = tuple(
        Site(
            path,
            None,
            (),
            jax.ShapeDtypeStruct(placed.shape, placed.site.out.dtype),
            where,
            law=law,
        )
        for path, placed in places.items()
    )
    if not sites:
        return {}
    observed = (None,) * len(sites)
    values = Compound(name, sites, draw, simulate, density, observed, joint=joint).bind()
    return nest(dict(zip(places, values, strict=True)))


def _normalized(program: Callable[[], list], algorithm: Algorithm, where: str) -> list:
    """A run of a program with data, and one over their evidence as one more factor."""
    values, evidence = program(), algorithm.log_evidence(Target(program, {}))
    _weighed(where, lambda: [-evidence], "exact")
    return values


def _weighed(where: str, density: Callable, law: Law) -> dict[str, Any]:
    """A compound site without choices: nameless, observed, and of the given density."""
    nothing = jnp.zeros(0)
    struct = jax.ShapeDtypeStruct(nothing.shape, nothing.dtype)
    site = Site((), None, (), struct, where, observed=True, law=law)
    draw, simulate = lambda: [nothing], lambda: [nothing, *density()]
    Compound("marginal", (site,), draw, simulate, lambda _: density(), (nothing,)).bind()
    return {}


def _law(staged: Staged, own: Law) -> Law:
    """The weakest of an algorithm's and those of the compound sites of its program."""
    laws: set[Law] = {own}
    for placed in placed_sites(staged.jaxpr):
        laws.add(placed.site.law)
    if laws <= {"exact", "weight"}:
        return "weight" if "weight" in laws else "exact"
    return "log" if laws <= {"exact", "log"} else None


def _again(staged: Staged) -> Callable[[], Any]:
    """A staged program as a program without arguments."""

    def program():
        return staged.rebuild(run(staged.jaxpr, staged.consts))

    program.__name__ = staged.name
    return program


def _drawn(program: Callable) -> dict[Path, Any]:
    """Runs a program for its choices alone; its sites stay random."""

    def meaning(call, feed):
        drawn = call.bind()
        values = drawn if isinstance(call, Compound) else [apart(drawn)[0]]
        return drawn, Record(values_of(call, values))

    staged = stage(program)
    sites = walk(staged.jaxpr, staged.consts, [], meaning, Nothing())[1].sites
    return {path: site.value for path, site in sites.items() if not site.observed}


def _free_sites(staged: Staged) -> dict[Path, Placed]:
    places = list(placed_sites(staged.jaxpr))
    check_duplicates(places, staged.name)
    return {placed.path: placed for placed in places if not placed.site.observed}


def _asked(
    keep: str | Sequence[str] | None, hide: str | Sequence[str] | None, algorithm: Algorithm | None
) -> tuple[Algorithm, Callable[[Mapping[Path, Placed], str], dict[Path, Placed]]]:
    """Who integrates, and `(places, name) -> those that stay`."""
    wanted, select = (keep, _kept) if hide is None else (hide, _left)
    if algorithm is None or wanted is None or (keep is not None and hide is not None):
        raise InvalidSetting(
            "ppl.marginal needs the choices that stay, or those that do not, and who integrates "
            'those out: ppl.marginal(program, keep=["x"], algorithm=Importance(1)), or hide=["u"].'
        )
    addresses = [wanted] if isinstance(wanted, str) else list(wanted)
    return algorithm, functools.partial(select, addresses)


def _left(addresses: Sequence[str], places: Mapping[Path, Placed], name: str) -> dict[Path, Placed]:
    """What is left where some are hidden."""
    hidden = _kept(addresses, places, name, "hide")
    return {path: placed for path, placed in places.items() if path not in hidden}


def _kept(
    addresses: Sequence[str], places: Mapping[Path, Placed], name: str, asked: str = "keep"
) -> dict[Path, Placed]:
    kept = {}
    for address in addresses:
        prefix = parse(address)
        found = {path: p for path, p in places.items() if path[: len(prefix)] == prefix}
        if not found:
            raise UnknownAddress(
                f"marginal(..., {asked}={list(addresses)!r}, ...): program {name!r} has no "
                f"unobserved site at {render(prefix)!r}. {nearest(prefix, places)}"
            )
        kept.update(found)
    return kept


def _check_unobserved(staged: Staged) -> None:
    for placed in placed_sites(staged.jaxpr):
        if placed.site.observed:
            raise ObservedMarginal(
                f"Program {staged.name!r} has an observed site, {placed.site.address!r} at "
                f"{placed.site.where}, so its marginal can be scored (ppl.log_density) but not "
                "simulated with a density. Leave its data out, or draw from its posterior with "
                "ppl.normalize."
            )
