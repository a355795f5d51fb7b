"""`survey`: a look at each distribution of a program, while it is traced."""

from collections.abc import Callable, Container, Iterator
from typing import Any, NamedTuple

import jax

from . import _internals as internals
from ._address import Path
from ._site import Site, read_call
from ._stage import stage


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
    is looked at where it is drawn. An address may come several times, as from several branches.

    ```python
    >>> import ppl, numpyro.distributions as dist
    >>> def model():
    ...     ppl.sample("rate", dist.Exponential(1.0))
    >>> [(seen.site.address, seen.found) for seen in ppl.survey(model, lambda d: d.batch_shape)]
    [('rate', ())]

    ```
    """
    staged = stage(program, *args, **kwargs)
    return [_seen(eqn, certain, look) for eqn, certain in _sites(staged.jaxpr)]


def _sites(
    jaxpr: Any, certain: bool = True, wanted: Container[Path] | None = None
) -> Iterator[tuple[Any, bool]]:
    for eqn in filter(internals.has_sites, jaxpr.eqns):
        kind = internals.kind(eqn)
        if kind == "compound":
            drawn = {site.path for site in eqn.params["sites"] if not site.observed}
            body = eqn.params["bodies"][0]
            yield from _sites(body, certain, drawn if wanted is None else wanted)
        elif kind != "sample":
            for body in internals.bodies(eqn):
                yield from _sites(body, certain and kind != "cond", wanted)
        elif wanted is None or eqn.params["site"].path in wanted:
            yield eqn, certain


def _seen(eqn: Any, certain: bool, look: Callable[[Any], Any]) -> Seen:
    site, seen = eqn.params["site"], []

    def lane(operands):
        counts = certain and not operands.masks and not operands.active
        seen.append(Seen(site, look(operands.distribution), counts))
        return ()

    avals = [jax.ShapeDtypeStruct(v.aval.shape, v.aval.dtype) for v in eqn.invars]
    jax.eval_shape(lambda *leaves: read_call(site, leaves).over_lanes(lane), *avals)
    return seen[0]
