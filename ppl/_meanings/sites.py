"""`sites`: what is known of each site of a program while it is traced."""

import dataclasses
import functools
from collections.abc import Callable, Container, Iterator
from typing import Any

import jax

from .._analysis.graph import Node, nodes
from .._distributions.law import is_masked, stated
from .._ir.address import Path, render
from .._ir.call import Operands, read_call
from .._ir.site import Site
from .._ir.stage import P, stage
from .._jax import equations
from .._jax.control_flow import Branches, bodies, form
from .._jax.leaves import is_array
from .._walk.walker import placed_sites


class _Graph:
    """What takes a walk over the whole program, made where it is first asked for."""

    def __init__(self, jaxpr: Any):
        self.jaxpr = jaxpr

    @functools.cached_property
    def nodes(self) -> dict[tuple, Node]:
        return {_key(node.site): node for node in nodes(self.jaxpr)}

    @functools.cached_property
    def shapes(self) -> dict[Path, tuple[int, ...]]:
        return {placed.path: placed.shape for placed in placed_sites(self.jaxpr)}


@dataclasses.dataclass(frozen=True, eq=False)
class SiteInfo:
    """What is known of a site while its program is traced.

    - `address`, `where`: its address, and the line that it is written in.
    - `observed`: whether it has data.
    - `compound`: whether it is an address of a `marginal` or `normalize` program.
    """

    address: str
    where: str
    observed: bool
    compound: bool
    _inside: tuple["SiteInfo", ...]
    _site: Site
    _eqn: Any
    _graph: _Graph
    _branched: bool

    def __repr__(self) -> str:
        return f"SiteInfo({self.address!r}, {self.distribution}, at {self.where})"

    @property
    def distribution(self) -> str:
        """The class of its distribution; `"marginal"` or `"posterior"` of a compound one."""
        if self.compound:
            return self._eqn.params["name"]
        return type(self._operands.distribution).__name__

    @property
    def estimator(self) -> str:
        """The class of the estimator that it was given, or nothing."""
        own = None if self.compound else self._operands.estimator
        return "" if own is None else type(own).__name__

    @property
    def weighted(self) -> bool:
        """Whether its density is scaled or masked (inside a compound one this is not known)."""
        return not self.compound and bool(self._operands.scales or self._operands.masks)

    @property
    def certain(self) -> bool:
        """Whether it counts whenever the program runs: neither masked, nor in a branch."""
        if self.compound or self._branched:
            return False
        operands = self._operands
        return not (operands.masks or operands.active or is_masked(operands.distribution))

    @property
    def law(self) -> str | None:
        """Which law its density keeps, where that is an estimate (`ppl.extend.Algorithm`)."""
        return self._site.law

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of its choice: loops and vmaps around it (no `while_loop`), then one draw."""
        return self._graph.shapes[self._site.path]

    @property
    def dtype(self) -> Any:
        """The dtype of its choice."""
        return self._site.out.dtype

    @property
    def support(self) -> Any:
        """The support of its distribution, its arrays as shapes; None where none is stated."""
        found = self.look(lambda distribution: _abstract(stated(distribution, "support")))
        return found[0] if len(found) == 1 else None

    @property
    def around(self) -> tuple[str, ...]:
        """The loops, branches and vmaps around it, outermost first, such as `"scan 5"`."""
        return self._node.around

    @property
    def loops(self) -> tuple:
        """`(number, length, reverse)` of each `scan` around it, outermost first.

        The number tells the loops of the program apart.
        """
        return self._node.loops

    @property
    def loop_axes(self) -> tuple[int, ...]:
        """The axes of its choice that the steps of these loops stand along."""
        count = len(self.loops)
        return tuple(self._site.loop_position(count - i) + i for i in range(count))

    @property
    def reads(self) -> tuple[str, ...]:
        """The addresses of the nearest sites upstream: in a loop, those of earlier steps too."""
        return tuple(map(render, self._node.parents))

    @property
    def reads_now(self) -> tuple[str, ...]:
        """Those of them in the innermost loop around it whose value at the same step it reads."""
        return tuple(map(render, self._node.now))

    def look(self, function: Callable[[Any], Any]) -> list:
        """What a function finds at its distribution: one entry for each place where it is drawn.

        The function is given the distribution as one lane of the site sees it, with traced arrays,
        and must return something static: nothing is computed. A compound site is looked at where
        it is drawn, and not at all where it is observed.

        ```python
        >>> import ppl, numpyro.distributions as dist
        >>> def model():
        ...     ppl.sample("rate", dist.Exponential(1.0))
        >>> ppl.sites(model)[0].look(lambda d: d.batch_shape)
        [()]

        ```
        """
        return [
            _look(site._eqn, lambda operands: function(operands.distribution))
            for site in self.plain
        ]

    @property
    def plain(self) -> tuple["SiteInfo", ...]:
        """Itself; of a compound site, those inside at which it is drawn; none where it has data."""
        return self._inside if self.compound else (self,)

    @property
    def _node(self) -> Node:
        return self._graph.nodes[_key(self._site)]

    @property
    def _operands(self) -> Operands:
        return read_call(self._site, [v.aval for v in self._eqn.invars]).operands


def sites(program: Callable[P, Any], *args: P.args, **kwargs: P.kwargs) -> list[SiteInfo]:
    """What is known of each site of a program while it is traced, in order.

    An address may come several times, from several branches. Nothing is drawn or computed.

    ```python
    >>> import jax, ppl, numpyro.distributions as dist
    >>> def model():
    ...     x = ppl.sample("x", dist.Gamma(2.0, 1.0))
    ...     jax.vmap(lambda y: ppl.sample("y", dist.Normal(x, 1.0), obs=y))(jax.numpy.ones(3))
    >>> for site in ppl.sites(model):
    ...     print(site.address, site.distribution, site.shape, site.reads, site.observed)
    x Gamma () () False
    y Normal (3,) ('x',) True

    ```
    """
    return sites_of(stage(program, *args, **kwargs).jaxpr)


def sites_of(jaxpr: Any) -> list[SiteInfo]:
    """The sites of a staged program."""
    return list(_found(jaxpr, _Graph(jaxpr)))


def _found(
    jaxpr: Any, graph: _Graph, wanted: Container[Path] | None = None, branched: bool = False
) -> Iterator[SiteInfo]:
    """The sites of a jaxpr; with `wanted`, those that draw these paths, within compound ones."""
    for eqn in filter(equations.has_sites, jaxpr.eqns):
        kind = equations.kind(eqn)
        if kind == "compound":
            yield from _compound(eqn, graph, wanted, branched)
        elif kind != "sample":
            inside = branched or isinstance(form(eqn), Branches)
            for body in bodies(eqn):
                yield from _found(body, graph, wanted, inside)
        elif wanted is None or eqn.params["site"].path in wanted:
            yield _info(eqn.params["site"], eqn, (), graph, branched)


def _compound(
    eqn: Any, graph: _Graph, wanted: Container[Path] | None, branched: bool
) -> Iterator[SiteInfo]:
    body = eqn.params["bodies"][0]
    if wanted is not None:
        yield from _found(body, graph, wanted, branched)
        return
    within = _Graph(body)
    for site in eqn.params["sites"]:
        inside = () if site.observed else _found(body, within, {site.path}, branched)
        yield _info(site, eqn, tuple(inside), graph, branched)


def _info(site: Site, eqn: Any, inside: tuple, graph: _Graph, branched: bool) -> SiteInfo:
    return SiteInfo(
        site.address, site.where, site.observed, site.compound, inside, site, eqn, graph, branched
    )


def _look(eqn: Any, function: Callable[[Operands], Any]) -> Any:
    """What a function finds at the operands of one lane of a site."""
    site, seen = eqn.params["site"], []

    def lane(operands):
        seen.append(function(operands))
        return ()

    avals = [jax.ShapeDtypeStruct(v.aval.shape, v.aval.dtype) for v in eqn.invars]
    jax.eval_shape(lambda *leaves: read_call(site, leaves).over_lanes(lane), *avals)
    return seen[0]


def _abstract(tree: Any) -> Any:
    shape = lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype) if is_array(x) else x  # noqa: E731
    return jax.tree.map(shape, tree)


def _key(site: Site) -> tuple:
    return site.path, site.branch, site.where
