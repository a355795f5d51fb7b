"""`simulate`, `replay` and `log_density`: running a program, and scoring it."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic

import equinox as eqx
import jax
import jax.numpy as jnp

from .._distributions.scored_draw import apart
from .._ir.address import nest, parse, render
from .._ir.compound import Compound
from .._ir.stage import P, T, stage
from .._walk.choices import checked_choices
from .._walk.feed import Choices, Nothing, Placed
from .._walk.record import Record, check_duplicates
from .._walk.site_record import SiteRecord, record_of, records_of
from .._walk.walker import Meaning, placed_sites, walk
from ..errors import ObservedMarginal


class Trace(eqx.Module, Generic[T]):
    """One run of a program.

    - `sites`: a dict from address (`"a/b"`) to the `SiteRecord` of each site: its value, what it
      draws from, its log density, whether it is observed, scaled, masked, reached. Sites in a
      `while_loop`, which has no fixed number of steps, are left out.
    - `log_density`: scalar, of the unobserved sites (scaled and masked as the program says).
    - `log_likelihood`: scalar, of the observed sites.
    - `value`: what the program returned.

    What is not read costs nothing once compiled; a trace that a compiled function *returns* is
    computed whole, so return what you need of it.
    """

    sites: dict[str, SiteRecord]
    log_density: jax.Array
    log_likelihood: jax.Array
    value: T

    @property
    def choices(self) -> dict[str, Any]:
        """Nested dict from address to the value of each unobserved site.

        Sites in `vmap` and `scan` are stacked, outermost first.
        """
        return nest({parse(a): s.value for a, s in self.sites.items() if not s.observed})

    @property
    def valid(self) -> dict[str, Any]:
        """For each choice that a branch may pass by, whether it was reached; nested as `choices`.

        Where not, the choice is a placeholder and has no density.
        """
        choices = {a: site for a, site in self.sites.items() if not site.observed}
        return nest({parse(a): s.valid for a, s in choices.items() if s.conditional})


def simulate(program: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Trace[T]:
    """Runs a program and keeps what happened; its sites are still random.

    Called inside another program (an objective), the sites become sites of that program, and
    whatever discharges it (`ppl.expectation`, `ppl.seed`) decides how they are drawn and how
    gradients pass them. So `ppl.seed(lambda: ppl.simulate(model))(key)` is a plain trace.

    **Law**: `log_density(p, simulate(p).choices) == t.log_density + t.log_likelihood`.

    **Raises** `DuplicateAddress`, `BranchMismatch`, `UnsupportedControlFlow`; `ObservedMarginal`
    where the program is a `marginal` that keeps nothing.

    ```python
    >>> import jax, ppl, numpyro.distributions as dist
    >>> def model():
    ...     x = ppl.sample("x", dist.Normal(0.0, 1.0))
    ...     ppl.sample("y", dist.Normal(x, 1.0), obs=2.0)
    >>> trace = ppl.seed(lambda: ppl.simulate(model))(jax.random.key(0))
    >>> sorted(trace.choices)
    ['x']

    ```
    """
    jaxpr, consts, rebuild, name = stage(program, *args, **kwargs)
    sites = list(placed_sites(jaxpr))
    check_duplicates(sites, name)
    _check_keeps(sites, name)
    outs, record = walk(jaxpr, consts, [], _simulate, Nothing())
    return _trace(record, rebuild(outs))


def _trace(record: Record, value: T) -> Trace[T]:
    return Trace(
        {render(path): site for path, site in record.sites.items()},
        _log(record.log_density),
        _log(record.log_likelihood),
        value,
    )


def _check_keeps(sites: Sequence[Placed], name: str) -> None:
    if sites and not any(placed.path for placed in sites):
        raise ObservedMarginal(
            f"Program {name!r} keeps no choice of its marginal at {sites[0].site.where}: there is "
            "nothing to simulate. Score it: ppl.log_density(program, {})."
        )


def _simulate(call, feed):
    if isinstance(call, Compound):
        return _simulate_compound(call)
    if call.operands.obs is not None:
        given = call.given()
        sites, log = record_of(call.bounded(), given)
        return call.site.returned(given), Record(sites, log_likelihood=log)
    drawn = call.scoring().bind()
    value, drawn_log = apart(drawn)
    sites, log = record_of(call, value, None if call.cuts_given else drawn_log)
    return drawn, Record(sites, log_density=log)


def _simulate_compound(call: Compound) -> tuple[list, Record]:
    if call.is_observed:
        values, log = call.data(), call.log_probs(call.observed)
        return values, Record(records_of(call, values, log), log_likelihood=jnp.sum(log))
    *values, log = call.simulate()
    return values, Record(records_of(call, values, log), log_density=jnp.sum(log))


def replay(
    program: Callable[P, T],
    choices: Mapping[str, Any],
    *args: P.args,
    **kwargs: P.kwargs,
) -> Trace[T]:
    """The run of a program at given choices: its unobserved sites take theirs.

    Draws nothing, so it may be called anywhere; differentiable in choices and arguments. What
    `choices` are, and what is raised, is as for `log_density`, which is the sum of this trace's
    `log_density` and `log_likelihood`, and cheaper to differentiate where no more is read.

    **Law**: `replay(p, t.choices)` is `t` again, for a trace t of p, but for what a `marginal` or
    `normalize` program estimates anew.

    ```python
    >>> import ppl, numpyro.distributions as dist
    >>> def model():
    ...     x = ppl.sample("x", dist.Normal(0.0, 1.0))
    ...     return ppl.sample("y", dist.Normal(2.0 * x, 1.0), obs=1.0)
    >>> trace = ppl.replay(model, {"x": 3.0})
    >>> round(float(trace.log_likelihood), 4), float(trace.sites["y"].distribution.mean)
    (-13.4189, 6.0)

    ```
    """
    outs, record, rebuild = _walked(_replay, program, choices, *args, **kwargs)
    return _trace(record, rebuild(outs))


def _walked(
    meaning: Meaning, program: Callable, choices: Mapping[str, Any], *args: Any, **kwargs: Any
) -> tuple[list, Record, Callable]:
    """A walk over a program at given choices."""
    jaxpr, consts, rebuild, name = stage(program, *args, **kwargs)
    sites = list(placed_sites(jaxpr))
    check_duplicates(sites, name)
    values = checked_choices(choices, sites, name, complete=True)
    return *walk(jaxpr, consts, [], meaning, Choices(values)), rebuild


def _replay(call, feed: Choices):
    given, observed = _given(call, feed)
    if isinstance(call, Compound):
        values, logs = call.returned(given), call.log_probs(given)
        sites, log = records_of(call, values, logs), jnp.sum(logs)
    else:
        values = call.site.returned(given)
        sites, log = record_of(call.bounded(), given)
    return values, Record(sites, **{"log_likelihood" if observed else "log_density": log})


def _given(call: Any, feed: Choices) -> tuple[Any, bool]:
    """The data or the choice of a site, and whether all of it is data."""
    if not isinstance(call, Compound):
        observed = call.operands.obs is not None
        return (call.given() if observed else feed.values[call.site.path]), observed
    pairs = zip(call.paths, call.observed, strict=True)
    given = [feed.values[path] if data is None else data for path, data in pairs]
    return given, all(data is not None for data in call.observed)


def log_density(
    program: Callable[P, Any],
    choices: Mapping[str, Any],
    *args: P.args,
    **kwargs: P.kwargs,
) -> jax.Array:
    """The joint log density of a program at given choices, its observed sites included.

    `choices` is a nested dict from address to value, as in `Trace.choices`; it must have exactly
    the program's unobserved sites. Scalar; differentiable in choices and arguments. Draws nothing,
    so it may be called anywhere. Outside a support that depends on arrays, as that of
    Uniform(0, t), a density is zero; outside one that does not, it is whatever the distribution's
    formula gives (`within_support`, `bounded`).

    **Raises** `MissingChoice`, `UnusedChoice`, `ObservedChoice`, `ChoiceShapeError`,
    `ChoiceTypeError`, each naming the address and the nearest known ones.

    ```python
    >>> import ppl, numpyro.distributions as dist
    >>> def model():
    ...     x = ppl.sample("x", dist.Normal(0.0, 1.0))
    ...     ppl.sample("y", dist.Normal(x, 1.0))
    >>> round(float(ppl.log_density(model, {"x": 0.0, "y": 0.0})), 4)
    -1.8379

    ```
    """
    _, record, _ = _walked(_score, program, choices, *args, **kwargs)
    return _log(record.log_density)


def _score(call, feed: Choices):
    given, _ = _given(call, feed)
    if isinstance(call, Compound):
        return call.returned(given), Record(log_density=call.log_prob(given))
    return call.site.returned(given), Record(log_density=call.bounded().log_prob(given))


def _log(total: Any) -> jax.Array:
    return jnp.zeros(()) if total is None else total


def within_support(
    program: Callable[P, Any],
    choices: Mapping[str, Any],
    *args: P.args,
    **kwargs: P.kwargs,
) -> jax.Array:
    """Whether every choice lies in the support of its distribution, where that says which it is.

    One boolean. Takes what `log_density` takes, and raises what it does. Outside a support that is
    known while tracing, a density is whatever its formula gives; an algorithm that moves choices
    about asks here first.

    ```python
    >>> import ppl, numpyro.distributions as dist
    >>> def model():
    ...     ppl.sample("rate", dist.Exponential(1.0))
    >>> [bool(ppl.within_support(model, {"rate": rate})) for rate in (-1.0, 1.0)]
    [False, True]

    ```
    """
    _, record, _ = _walked(_checked, program, choices, *args, **kwargs)
    return _log(record.log_density) == 0.0


def _checked(call, feed: Choices):
    given, observed = _given(call, feed)
    if isinstance(call, Compound):
        return call.returned(given), Record()
    outside = None if observed else call.outside(given)
    return call.site.returned(given), Record(log_density=outside)
