"""`simulate` and `log_density`: running a program, and scoring it."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic

import equinox as eqx
import jax
import jax.numpy as jnp

from .._ir.address import nest
from .._ir.compound import Compound
from .._ir.stage import P, T, stage
from .._walk.choices import checked_choices
from .._walk.feed import Choices, Nothing, Placed
from .._walk.record import Record, check_duplicates
from .._walk.walker import placed_sites, walk
from ..errors import ObservedMarginal


class Trace(eqx.Module, Generic[T]):
    """One run of a program.

    - `choices`: nested dict from address to the value of each unobserved site; sites in `vmap` and
      `scan` are stacked, outermost first. Sites in a `while_loop` are left out.
    - `log_density`: scalar, of those sites (scaled and masked as the program says).
    - `log_likelihood`: scalar, of the observed sites.
    - `value`: what the program returned.
    - `valid`: for each site that a branch may pass by, whether it was reached; where not, its
      choice is a placeholder and has no density.
    """

    choices: dict[str, Any]
    log_density: jax.Array
    log_likelihood: jax.Array
    value: T
    valid: dict[str, Any]


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
    return Trace(
        nest(record.values),
        _log(record.log_density),
        _log(record.log_likelihood),
        rebuild(outs),
        nest(record.valid),
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
        return call.site.returned(given), Record(log_likelihood=call.bounded().log_prob(given))
    value = call.bind()
    reached = call.reached()
    valid = {} if reached is None else {call.site.path: reached}
    return value, Record({call.site.path: value}, valid, log_density=call.log_prob(value))


def _simulate_compound(call: Compound) -> tuple[list, Record]:
    if call.is_observed:
        return call.data(), Record(log_likelihood=call.log_prob(call.observed))
    *values, log = call.simulate()
    reached = call.reached()
    valid = {} if reached is None else dict.fromkeys(call.paths, reached)
    choices = dict(zip(call.paths, values, strict=True))
    return values, Record(choices, valid, log_density=jnp.sum(log))


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
    jaxpr, consts, _, name = stage(program, *args, **kwargs)
    sites = list(placed_sites(jaxpr))
    check_duplicates(sites, name)
    values = checked_choices(choices, sites, name, complete=True)
    _, record = walk(jaxpr, consts, [], _score, Choices(values))
    return _log(record.log_density)


def _score(call, feed: Choices):
    if isinstance(call, Compound):
        given = _values(call, feed)
        return call.returned(given), Record(log_density=call.log_prob(given))
    observed = call.operands.obs is not None
    given = call.given() if observed else feed.values[call.site.path]
    return call.site.returned(given), Record(log_density=call.bounded().log_prob(given))


def _values(call: Compound, feed: Choices) -> list:
    pairs = zip(call.paths, call.observed, strict=True)
    return [feed.values[path] if data is None else data for path, data in pairs]


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
    jaxpr, consts, _, name = stage(program, *args, **kwargs)
    sites = list(placed_sites(jaxpr))
    check_duplicates(sites, name)
    values = checked_choices(choices, sites, name, complete=True)
    _, record = walk(jaxpr, consts, [], _checked, Choices(values))
    return _log(record.log_density) == 0.0


def _checked(call, feed: Choices):
    if isinstance(call, Compound):
        return call.returned(_values(call, feed)), Record()
    if call.operands.obs is not None:
        return call.data(), Record()
    given = feed.values[call.site.path]
    return call.site.returned(given), Record(log_density=call.outside(given))
