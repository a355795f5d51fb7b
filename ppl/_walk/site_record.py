"""The record of one site in one run: what `Trace.sites` holds."""

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from .._distributions.bounded import Bounded
from .._ir.address import Path
from .._ir.call import Call, Operands
from .._ir.compound import Compound
from .._jax.leaves import merge, partition
from .feed import Placed


@partial(
    jax.tree_util.register_dataclass, data_fields=["arrays"], meta_fields=["static", "treedef"]
)
@dataclasses.dataclass(frozen=True)
class Parts:
    """A distribution taken apart, so that its arrays can be stacked over lanes and steps."""

    arrays: list
    static: tuple
    treedef: Any

    def whole(self) -> Any:
        return merge(self.arrays, self.static, self.treedef)


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["value", "log_density", "log_prob", "_factor", "_valid", "_parts"],
    meta_fields=["observed", "_dims"],
)
@dataclasses.dataclass(frozen=True, repr=False)
class SiteRecord:
    """What one site did in one run of a program.

    All arrays have the site's loops and vmaps in front, outermost first, as its choice has; behind
    them `value` has the shape of one draw, `log_prob` and `factor` that of the distribution's
    batch. With B the leading dimensions:

    - `value`: what was drawn, or the data.
    - `log_prob`: log densities of single elements at that value, before `ppl.scale` and `ppl.mask`.
    - `factor`: what these count: scales times masks.
    - `log_density`: `B`, what the site adds to the trace's log density or log likelihood: of the
      batch, Σ factor · log_prob, zero where masked or not reached, with derivatives zero there.
    - `valid`: `B`, whether control flow reached the site; where not, value and log density are
      placeholders.
    - `observed`: whether it has data.

    **Law**: the `log_density` of all sites, summed, is the trace's `log_density + log_likelihood`.

    The addresses of one `marginal` or `normalize` program have one log density together: the first
    address has it, scaled and masked, also as its `log_prob`; the others have zero, and None. (A
    marginal that keeps nothing has no address, and no record.) `log_prob` is None too where two
    branches score one address in different shapes.

    ```python
    >>> import jax, ppl, numpyro.distributions as dist
    >>> def model():
    ...     x = ppl.sample("x", dist.Normal(0.0, 1.0))
    ...     ppl.sample("y", dist.Normal(x, 2.0).expand([3]), obs=jax.numpy.zeros(3))
    >>> sites = ppl.replay(model, {"x": 1.0}).sites
    >>> sites["y"].log_prob.shape, sites["y"].observed, float(sites["y"].distribution.mean[0])
    ((3,), True, 1.0)
    >>> sites["x"]
    SiteRecord(of Normal, value=1.0, log_density=-1.4189...)

    ```
    """

    value: Any
    log_density: Any = None
    log_prob: Any = None
    _factor: Any = None
    _valid: Any = None
    _parts: Parts | None = None
    observed: bool = False
    _dims: int = 0  # of one draw

    def __repr__(self) -> str:
        numbers = f"value={_shown(self.value)}, log_density={_shown(self.log_density)}"
        kind = "" if self._parts is None else f"of {type(self.distribution).__name__}, "
        return f"SiteRecord({kind}{numbers}{', observed' if self.observed else ''})"

    @property
    def distribution(self) -> Any:
        """What the site draws from or is scored by, its arrays with the leading dimensions.

        `scale` and `mask` act on the density alone. None at an address of a `marginal` or
        `normalize` program, and where two branches draw from distributions of different classes.
        """
        return None if self._parts is None else self._parts.whole()

    @property
    def factor(self) -> Any:
        """What each element of `log_prob` counts: scales times masks."""
        if self._factor is None and self.log_prob is not None:
            return jnp.ones(jnp.shape(self.log_prob), self.log_prob.dtype)
        return self._factor

    @property
    def valid(self) -> Any:
        """Whether control flow reached the site, by loop step and lane."""
        return jnp.ones(self._leading, bool) if self._valid is None else self._valid

    @property
    def conditional(self) -> bool:
        """Whether a branch may pass it by."""
        return self._valid is not None

    @property
    def weighted(self) -> bool:
        """Whether its density is scaled or masked."""
        return self._factor is not None

    def each(self, function: Callable[[Any, Any], Any]) -> Any:
        """`function(distribution, value)` at each step and lane, stacked as the values are.

        Where `distribution` is None, so is what the function is given.

        ```python
        >>> import jax, jax.numpy as jnp, ppl, numpyro.distributions as dist
        >>> def model():
        ...     jax.vmap(lambda m: ppl.sample("x", dist.Normal(m, 2.0)))(jnp.arange(3.0))
        >>> site = ppl.replay(model, {"x": jnp.zeros(3)}).sites["x"]
        >>> site.each(lambda d, x: d.entropy() + 0.0 * x).shape
        (3,)

        ```
        """

        def one(parts, value):
            return function(None if parts is None else parts.whole(), value)

        for _ in self._leading:
            one = jax.vmap(one)
        return one(self._parts, self.value)

    @property
    def _leading(self) -> tuple[int, ...]:
        shape = jnp.shape(self.value)
        return shape[: len(shape) - self._dims]


def _shown(x: Any) -> str:
    """A number in full, a larger array by its type and shape."""
    known = jnp.shape(x) == () and not isinstance(x, Tracer | jax.ShapeDtypeStruct)
    return str(x) if known else eqx.tree_pformat(x)


def values_of(call: Call | Compound, values: Sequence[Any]) -> dict[Path, SiteRecord]:
    """Records of the values alone, by path."""
    if isinstance(call, Compound):
        sites, observed = call.sites, [data is not None for data in call.observed]
    else:
        sites, observed = [call.site], [call.operands.obs is not None]
    return {
        site.path: SiteRecord(
            value, _valid=call.reached(), observed=has_data, _dims=len(site.out.shape)
        )
        for site, value, has_data in zip(sites, values, observed, strict=True)
        if site.path
    }


def drawn_of(call: Call, value: Any, log: Any = None) -> dict[Path, SiteRecord]:
    """The record of a site's value and of what it is drawn from, by path.

    Without a density, but for the log densities that were drawn along, if they were.
    """
    (record,) = values_of(call, [value]).values()
    parts = call.over_lanes(_parts)
    return {call.site.path: dataclasses.replace(record, log_prob=log, _parts=parts)}


def record_of(
    call: Call, given: Any, drawn: Any = None
) -> tuple[dict[Path, SiteRecord], jax.Array]:
    """The record of a site at a value, by path, and its share of the log density.

    `drawn` are the log densities that were drawn along with the value, if they were.
    """
    log, logs, scored, parts = call.score(given, drawn, _parts)
    record = SiteRecord(
        call.site.returned(given),
        logs,
        scored.log_probs,
        scored.factor,
        call.reached(),
        parts,
        call.operands.obs is not None,
        len(call.site.out.shape),
    )
    return {call.site.path: record}, log


def _parts(operands: Operands) -> Parts:
    distribution = operands.distribution
    if isinstance(distribution, Bounded):
        distribution = distribution.distribution
    leaves, treedef = jax.tree.flatten(distribution)
    arrays, static, _ = partition([_as_array(leaf) for leaf in leaves])
    return Parts(arrays, static, treedef)


def _as_array(leaf: Any) -> Any:
    """A leaf, as an array where it is a number: loops and branches have others there."""
    if isinstance(leaf, bool) or not isinstance(leaf, int | float):
        return leaf
    return np.asarray(leaf, jnp.result_type(float if isinstance(leaf, float) else int))


def records_of(compound: Compound, values: Sequence[Any], log: Any) -> dict[Path, SiteRecord]:
    """The records of a compound site's addresses; the first has its log densities, by lane."""
    log, reached = jnp.asarray(log), compound.reached()
    records = {}
    for i, (site, value) in enumerate(zip(compound.sites, values, strict=True)):
        records[site.path] = SiteRecord(
            value,
            jnp.zeros_like(log) if i else log,
            None if i else log,
            _valid=reached,
            observed=compound.observed[i] is not None,
            _dims=len(site.out.shape),
        )
    return {path: record for path, record in records.items() if path}


def placeholder(placed: Placed, like: SiteRecord) -> SiteRecord:
    """A record of a site that is not reached, of the form of another."""
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), like)
    return dataclasses.replace(
        zeros, value=jnp.zeros(placed.shape, placed.site.out.dtype), _valid=None
    )


def conform(records: Sequence[SiteRecord]) -> list[SiteRecord]:
    """Records of one address in several branches, with what they do not have in common left out.

    They then have arrays of the same shapes.
    """
    shapes = {_shape(r.log_prob) for r in records}
    alike = len(shapes) == 1
    weighted = any(r._factor is not None for r in records)
    same = all(_form(r._parts) == _form(records[0]._parts) for r in records)
    return [
        dataclasses.replace(
            r,
            log_prob=r.log_prob if alike else None,
            _factor=r.factor if alike and weighted else None,
            _parts=r._parts if same else None,
        )
        for r in records
    ]


def _shape(log_prob: Any) -> Any:
    return None if log_prob is None else jnp.shape(log_prob)


def _form(parts: Parts | None) -> Any:
    """What must be the same for two distributions to be one with other arrays."""
    if parts is None:
        return None
    return parts.static, parts.treedef, [(jnp.shape(x), jnp.result_type(x)) for x in parts.arrays]


def select(chosen: Any, new: SiteRecord, old: SiteRecord) -> SiteRecord:
    """By lane, one of the records of an address in two branches, of which one at most is valid."""
    both = conform([new, old])

    def where(new, old):
        flags = jnp.reshape(chosen, chosen.shape + (1,) * (jnp.ndim(new) - chosen.ndim))
        return jnp.where(flags, new, old)

    made = jax.tree.map(where, *(dataclasses.replace(r, _valid=None) for r in both))
    return dataclasses.replace(made, _valid=new.valid | old.valid)
