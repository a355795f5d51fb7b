"""`distributions`: what each site of a program draws from."""

from collections.abc import Callable, Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from .._analysis.graph import nodes
from .._ir.address import Path, nest
from .._ir.compound import Compound
from .._ir.site import Call, Operands
from .._ir.stage import P, stage
from .._jax.leaves import merge, partition
from .._walk.choices import checked_choices
from .._walk.feed import Choices
from .._walk.record import Record, check_duplicates
from .._walk.walker import placed_sites, walk


def distributions(
    program: Callable[P, Any],
    choices: Mapping[str, Any],
    *args: P.args,
    **kwargs: P.kwargs,
) -> dict[str, Any]:
    """The distributions of a program's unobserved sites, at given choices.

    A nested dict from address to distribution, as the site draws from it: `scale` and `mask` act on
    the log density alone. Left out are sites that stand in `cond` or `switch`, or belong to a
    `marginal` or `normalize` program. Where a site stands in
    `vmap` or `scan`, the arrays of its distribution have the leading axes that its choice has: map
    over both with `jax.vmap`, once for each of these axes.

    `choices` and what is raised are as for `log_density`. Differentiable in choices and arguments;
    draws nothing. It is for what needs more of a site than its density, such as a divergence or an
    entropy in closed form.

    ```python
    >>> import jax.numpy as jnp, ppl, numpyro.distributions as dist
    >>> def model():
    ...     x = ppl.sample("x", dist.Normal(0.0, 1.0))
    ...     ppl.sample("y", dist.Normal(x, 2.0))
    >>> found = ppl.distributions(model, {"x": 3.0, "y": 0.0})
    >>> float(found["y"].mean), float(found["y"].variance)
    (3.0, 4.0)

    ```
    """
    jaxpr, consts, _, name = stage(program, *args, **kwargs)
    sites = list(placed_sites(jaxpr))
    check_duplicates(sites, name)
    values = checked_choices(choices, sites, name, complete=True)
    branching = _in_branches(jaxpr)

    def meaning(call, feed):
        if isinstance(call, Compound):
            pairs = zip(call.paths, call.observed, strict=True)
            given = [feed.values[path] if data is None else data for path, data in pairs]
            return call.returned(given), Record()
        if call.operands.obs is not None:
            return call.data(), Record()
        path = call.site.path
        value = call.site.returned(feed.values[path])
        if call.operands.active or path in branching:
            return value, Record()
        return value, Record({path: _parts(call)})

    _, record = walk(jaxpr, consts, [], meaning, Choices(values))
    found: dict[Path, Any] = {path: parts.whole() for path, parts in record.values.items()}
    return nest(found)


class _Parts(eqx.Module):
    """A distribution taken apart, so that its arrays can be stacked over lanes and steps."""

    arrays: list
    static: tuple = eqx.field(static=True)
    treedef: Any = eqx.field(static=True)

    def whole(self) -> Any:
        return merge(self.arrays, self.static, self.treedef)


def _parts(call: Call) -> _Parts:
    def one(operands: Operands) -> _Parts:
        numbers = jax.tree.map(
            lambda x: jnp.asarray(x) if isinstance(x, int | float) else x, operands.distribution
        )
        return _Parts(*partition(numbers))

    return call.over_lanes(one)


def _in_branches(jaxpr: Any) -> set[Path]:
    found = nodes(jaxpr)
    return {node.site.path for node in found if node.branched or node.site.branch}
