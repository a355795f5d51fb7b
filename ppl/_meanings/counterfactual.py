"""`counterfactual`: a program and what it would have done, had some of its sites been others."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

import jax
import jax.numpy as jnp

from .._analysis.influence import Influence, influences, key_of
from .._distributions.bounded import Bounded
from .._distributions.coupling import coupled
from .._distributions.cut import gated
from .._distributions.finite import Finite, redrawn, table
from .._distributions.law import is_censored
from .._distributions.scored_draw import ScoredDraw, apart
from .._ir.call import Call, Operands
from .._ir.compound import Compound
from .._ir.fresh_key import fresh_key, fresh_keys
from .._ir.stage import P, T, stage, standing_for
from .._walk.choices import checked_choices
from .._walk.feed import Feed, Keys, Nothing, Placed, Shared
from .._walk.record import Record, check_duplicates
from .._walk.site_record import SiteRecord, drawn_of, values_of
from .._walk.walker import placed_sites, walk
from ..errors import UncoupledSite
from .rewrite import constant

NOISE = "counterfactual"
"""The scope of what is drawn for the changed world alone."""


def counterfactual(program: Callable[P, T], changes: Mapping[str, Any]) -> Callable[P, tuple[T, T]]:
    """The program beside what it would have returned, had some of its sites had other values.

    It runs the program as it is, and once more with `changes` put in (a nested dict, as for
    `intervene`; observed sites may be changed too) and with the same noise. It returns both values.
    Its sites are those of the program: so it is conditioned, scored and fitted as the program is,
    and what is so learnt of the noise (abduction) holds in the changed world (action, prediction:
    Pearl 2009, section 7.1).

    Counterfactuals do not follow from a program's law alone. This is what they are here: each site
    is a function of what its distribution reads and of noise of its own, independent of all other,
    and in the changed world

    - a site that nothing changed has an influence on has the value that it had;
    - a continuous one is moved to the same quantile: x' = F'⁻¹(F(x)) for each number, which is
      loc' + scale'·(x - loc)/scale where a family has these. A Gaussian vector has its noise
      through the lower Cholesky factor of its covariance; a transformed distribution through what
      it transforms; a `Delta` has none;
    - a finite one too, in the order of its support. Its value says of the quantile U that
      F(x-) < U <= F(x), so that U, uniform in there, is drawn: the new value is a site, of its
      chances under U, at the old address in the scope `"counterfactual"`;
    - one that is reached in the changed world alone is drawn there, at its address in that scope;
    - `ppl.fresh_key()` gives the same keys.

    The monotone coupling is one choice among many: another mechanism is written as a program that
    has its noise as sites and computes the rest.

    **Law**: but for the sites in the scope `"counterfactual"` its density is that of the program;
    `counterfactual(p, changes)(...)[1]` alone has the law of `intervene(p, changes)(...)`, where
    the program has no data: these are moved too, by what they say of the noise.

    Intervene on the program, not on the result: `counterfactual(intervene(p, a), b)` compares two
    interventions.

    **Raises** (when the program runs) `UncoupledSite` where a change reaches a site of another
    distribution, such as a `Poisson`, censored data, or a `marginal` or `normalize` program;
    `UnsupportedControlFlow` for sites in a `while_loop`; `UnusedChoice`, `ChoiceShapeError`,
    `ChoiceTypeError` for `changes`.

    Sources: Pearl 2009, 'Causality'; for the monotone coupling, Balke & Pearl 1994 and Angrist &
    Imbens 1995.

    ```python
    >>> import jax, ppl, numpyro.distributions as dist
    >>> def model():
    ...     dose = ppl.sample("dose", dist.Normal(0.0, 1.0))
    ...     return ppl.sample("effect", dist.Normal(2.0 * dose, 1.0))
    >>> seen = ppl.condition(model, {"dose": 1.0, "effect": 2.5})
    >>> twins = ppl.seed(ppl.counterfactual(seen, {"dose": 0.0}))(jax.random.key(0))
    >>> [float(effect) for effect in twins]
    [2.5, 0.5]

    ```
    """

    @standing_for(program)
    def twins(*args: P.args, **kwargs: P.kwargs) -> tuple[T, T]:
        jaxpr, consts, rebuild, name = stage(program, *args, **kwargs)
        sites = list(placed_sites(jaxpr))
        check_duplicates(sites, name)
        values = checked_choices(changes, list(map(_free, sites)), name, complete=False)
        reached = influences(jaxpr, values)
        keys = Keys(fresh_key()) if any(fresh_keys(jaxpr)) else Nothing()
        once, record = walk(jaxpr, consts, [], _recorded, keys)
        shared = Shared(values, record.sites, keys)
        again, _ = walk(jaxpr, consts, [], _changed(reached), shared)
        return rebuild(once), rebuild(again)

    return twins


def _free(placed: Placed) -> Placed:
    return placed._replace(site=dataclasses.replace(placed.site, observed=False))


def _recorded(call: Any, feed: Feed) -> tuple[Any, Record]:
    """Emits a site again, with the record of its value and of what it is drawn from."""
    drawn = call.bind()
    if isinstance(call, Compound):
        return drawn, Record(values_of(call, drawn))
    return drawn, Record(drawn_of(call, *apart(drawn)))


def _changed(reached: Mapping[tuple, Influence]) -> Callable:
    """The meaning of a site in the changed world."""

    def meaning(call: Any, feed: Shared) -> tuple[Any, Record]:
        if isinstance(call, Compound):
            return _compound(call, feed, reached), Record()
        path, influence = call.site.path, reached[key_of(call.site)]
        if path in feed.values:
            return constant(call.site, feed.values[path]), Record()
        record = feed.records[path]
        if not influence.any:
            log = record.log_prob
            return record.value if log is None else ScoredDraw(record.value, log), Record()
        return _moved(call, record, influence), Record()

    return meaning


def _compound(call: Compound, feed: Shared, reached: Mapping[tuple, Influence]) -> list:
    if not feed.values.keys().isdisjoint(call.paths):
        given = call.without_data(call.paths).with_data(feed.values)
        if given.is_observed:
            return given.data()
    if any(reached[key_of(site)].any for site in call.sites):
        raise _uncoupled(
            call.described, "how its choices follow from noise is not known to the program"
        )
    return [feed.records[path].value if path else jnp.zeros(0) for path in call.paths]


def _moved(call: Call, record: SiteRecord, influence: Influence) -> Any:
    """The value of a site that the change reaches."""
    if record.distribution is None and influence.any:
        raise _uncoupled(_named(call), "branches draw it from distributions of several forms")
    if call.site.observed and is_censored(call.operands.distribution):
        raise _uncoupled(_named(call), "it is censored, and what it was may lie beyond the data")
    value = record.value
    valid = record.valid if influence.reached and record.conditional else None
    rows = _redrawn(call, record, influence, valid)
    if rows is not None:
        return _noise(call, rows).bind()
    if valid is None:
        return _coupled(call, record, influence, value, None)
    fresh, _ = apart(_noise(call, None, jnp.logical_not(valid)).bind())
    moved = _coupled(call, record, influence, value, valid)
    return jnp.where(_spread(valid, value), moved, fresh)


def _spread(flags: jax.Array, value: jax.Array) -> jax.Array:
    return flags.reshape(flags.shape + (1,) * (value.ndim - flags.ndim))


def _noise(call: Call, rows: Finite | None, flag: Any = None) -> Call:
    """A site in the scope of noise: of its own distribution, or of listed values and chances."""
    call = call.with_sites(lambda site: site.unscored().under((NOISE,)))
    call = call.with_operand("obs", None).with_operand("masks", ()).with_operand("scales", ())
    if rows is not None:
        call = call.with_operand("estimator", None)
        call = call.with_operand("distribution", rows, lanes=True)
    return call if flag is None else call.flagged(flag)


def _redrawn(call: Call, record: SiteRecord, influence: Influence, valid: Any) -> Finite | None:
    """What a finite site is drawn from in the changed world, by lane; None where it is another."""

    def lane(operands: Operands, parts: Any, value: Any, valid: Any) -> Finite | None:
        old, new = _pair(operands, parts, influence, [])
        rows = [table(distribution, value.shape) for distribution in (old, new)]
        if rows[0] is None or rows[1] is None or rows[0].values.shape != rows[1].values.shape:
            return None
        found = redrawn(rows[0], rows[1], value)
        chances = (
            found.chances if valid is None else jnp.where(valid, found.chances, rows[1].chances)
        )
        return Finite(rows[1].values.astype(call.site.out.dtype), chances)

    return call.over_lanes(lane, record._parts, record.value, valid)


def _coupled(
    call: Call, record: SiteRecord, influence: Influence, value: jax.Array, valid: Any
) -> jax.Array:
    """The values of a continuous site in the changed world, by lane."""

    def refuse(reason: str) -> NoReturn:
        raise _uncoupled(_named(call), reason)

    def lane(operands: Operands, parts: Any, value: Any, valid: Any) -> jax.Array:
        flags = [*operands.active, *([] if valid is None else [valid])]
        old, new = _pair(operands, parts, influence, flags)
        return coupled(old, new, gated(value, flags), refuse).astype(value.dtype)

    return call.over_lanes(lane, record._parts, value, valid)


def _pair(operands: Operands, parts: Any, influence: Influence, flags: list) -> tuple[Any, Any]:
    """The distributions of both worlds; what no change reaches is the same object in the two."""
    new = operands.distribution
    new = new.distribution if isinstance(new, Bounded) else new
    mine, treedef = jax.tree.flatten(gated(parts.whole(), flags))
    theirs = jax.tree.leaves(gated(new, flags))
    leaves = zip(mine, theirs, influence.leaves, strict=True)
    shared = [own if moved else other for own, other, moved in leaves]
    return jax.tree.unflatten(treedef, shared), jax.tree.unflatten(treedef, theirs)


def _named(call: Call) -> str:
    family = type(call.operands.distribution).__name__
    return f"Site {call.site.address!r} at {call.site.where}, drawn from {family},"


def _uncoupled(named: str, reason: str) -> UncoupledSite:
    return UncoupledSite(
        f"{named} is reached by what ppl.counterfactual changes, and what it would have been "
        f"instead is not known: {reason}. Write its noise as a site of its own and its value as a "
        'function of that, such as u = sample("u", dist.Uniform(0.0, 1.0)) and a quantile at u, or '
        "give it a distribution with `cdf` and `icdf`, or change it too."
    )
