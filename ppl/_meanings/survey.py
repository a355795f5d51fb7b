"""`survey`: a look at each distribution of a program, while it is traced."""

from collections.abc import Callable, Container, Iterator
from typing import Any, NamedTuple

import jax

from .._distributions.law import is_masked
from .._ir.address import Path
from .._ir.site import Site, read_call
from .._ir.stage import stage
from .._jax import equations
from .._jax.control_flow import Branches, bodies, form


class Seen(NamedTuple):
    """What a look at one site's distribution has found.

    `certain`: whether the site counts whenever the program runs, neither masked nor in a branch.
    """

    site: Site
    found: Any
    certain: bool


def survey(program: Callable, look: Callable[[Any], Any], *args: Any, **kwargs: Any) -> list[Seen]:
    """What `look` finds at each site of a program, observed ones included.

    It is given the distribution as one lane of the site sees it, with traced arrays, and must
    return something static: nothing is computed. An address of a `marginal` or `normalize` program
    is looked at where it is drawn, and None is found where it is observed. An address may come
    several times, as from several branches.

    ```python
    >>> import ppl, numpyro.distributions as dist
    >>> def model():
    ...     ppl.sample("rate", dist.Exponential(1.0))
    >>> [(seen.site.address, seen.found) for seen in ppl.survey(model, lambda d: d.batch_shape)]
    [('rate', ())]

    ```
    """
    return list(_looked(stage(program, *args, **kwargs).jaxpr, look))


def _looked(
    jaxpr: Any,
    look: Callable[[Any], Any],
    certain: bool = True,
    wanted: Container[Path] | None = None,
) -> Iterator[Seen]:
    for eqn in filter(equations.has_sites, jaxpr.eqns):
        kind = equations.kind(eqn)
        if kind == "compound" and wanted is None:
            sites = eqn.params["sites"]
            yield from (Seen(site, None, False) for site in sites if site.observed)
            drawn = {site.path for site in sites if not site.observed}
            yield from _looked(eqn.params["bodies"][0], look, certain, drawn)
        elif kind == "compound":
            yield from _looked(eqn.params["bodies"][0], look, certain, wanted)
        elif kind != "sample":
            always = certain and not isinstance(form(eqn), Branches)
            for body in bodies(eqn):
                yield from _looked(body, look, always, wanted)
        elif wanted is None or eqn.params["site"].path in wanted:
            yield _seen(eqn, certain, look)


def _seen(eqn: Any, certain: bool, look: Callable[[Any], Any]) -> Seen:
    site, seen = eqn.params["site"], []

    def lane(operands):
        masked = operands.masks or operands.active or is_masked(operands.distribution)
        seen.append(Seen(site, look(operands.distribution), certain and not masked))
        return ()

    avals = [jax.ShapeDtypeStruct(v.aval.shape, v.aval.dtype) for v in eqn.invars]
    jax.eval_shape(lambda *leaves: read_call(site, leaves).over_lanes(lane), *avals)
    return seen[0]
