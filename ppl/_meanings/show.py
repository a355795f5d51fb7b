"""`show`: the traced IR of a program, to be read, and its graph, to be looked at."""

from collections.abc import Callable, Sequence
from html import escape
from typing import Any

import jax.numpy as jnp

from .._ir.stage import P, stage
from .sites import SiteInfo, sites_of

_WIDTH, _HEIGHT, _GAP_X, _GAP_Y = 128, 44, 24, 44


class Listing:
    """What `show` returns: prints as text, draws itself as a graph in Jupyter.

    `sites` lists what `ppl.sites` does; `jaxpr` is the IR.
    """

    def __init__(self, name: str, jaxpr: Any):
        self.name, self.jaxpr, self.sites = name, jaxpr, sites_of(jaxpr)

    def __repr__(self) -> str:
        rows = [("site", "distribution", "shape", "inside", "reads", "estimator")]
        rows += [_row(site) for site in self.sites]
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        lines = [
            "  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip()
            for row in rows
        ]
        return "\n".join([f"program {self.name}", "", *lines, "", str(self.jaxpr)])

    def _repr_svg_(self) -> str:
        return _svg(self.sites)


def show(program: Callable[P, Any], *args: P.args, **kwargs: P.kwargs) -> Listing:
    """The program's sites and its traced IR: a jaxpr with `sample` equations.

    Printed, it is a table of the sites (what each draws from, its shape, the loops and lanes around
    it, the sites it reads) and the jaxpr; in Jupyter, the graph of the sites, observed ones shaded.

    ```python
    >>> import ppl, numpyro.distributions as dist
    >>> def model():
    ...     x = ppl.sample("x", dist.Normal(0.0, 1.0))
    ...     ppl.sample("y", dist.Normal(x, 1.0), obs=2.0)
    >>> [site.address for site in ppl.show(model).sites]
    ['x', 'y']

    ```
    """
    staged = stage(program, *args, **kwargs)
    return Listing(staged.name, staged.jaxpr)


def _row(site: SiteInfo) -> tuple[str, ...]:
    shape = f"{jnp.dtype(site.dtype).name}{list(site.shape)}"
    kind = site.distribution + (" (observed)" if site.observed else "")
    around, reads = " > ".join(site.around), ", ".join(site.reads)
    return site.address, kind, shape, around, reads, site.estimator


def _svg(sites: Sequence[SiteInfo]) -> str:
    where = _places(sites)
    across = max((x for x, _ in where.values()), default=0) + _WIDTH + 2 * _GAP_X
    down = max((y for _, y in where.values()), default=0) + _HEIGHT + _GAP_X
    drawn = {site.address: site for site in sites}
    arrows = [
        _arrow(where[parent], where[path])
        for path, site in drawn.items()
        for parent in site.reads
        if parent in where and parent != path
    ]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{across}" height="{down}" '
        'font-family="sans-serif" font-size="12" text-anchor="middle">'
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="8" '
        'markerHeight="8" orient="auto"><path d="M0 0L8 4L0 8z" fill="#555"/></marker></defs>'
        + "".join(arrows)
        + "".join(_ellipse(site, where[path]) for path, site in drawn.items())
        + "</svg>"
    )


def _places(sites: Sequence[SiteInfo]) -> dict:
    """The top left corner of each site: a row below all the sites it reads."""
    row: dict = {}
    for site in sites:
        above = [row[p] for p in site.reads if p in row and p != site.address]
        row[site.address] = 1 + max(above, default=-1)
    filled: dict[int, int] = {}
    where = {}
    for path, level in row.items():
        column = filled.get(level, 0)
        filled[level] = column + 1
        where[path] = (_GAP_X + column * (_WIDTH + _GAP_X), _GAP_X + level * (_HEIGHT + _GAP_Y))
    return where


def _arrow(start: tuple[int, int], end: tuple[int, int]) -> str:
    """Straight down to the next row; past rows in between, around them on the right."""
    (x1, y1), (x2, y2) = start, end
    half = _WIDTH // 2
    if y2 - y1 == _HEIGHT + _GAP_Y:
        line = f"M{x1 + half} {y1 + _HEIGHT}L{x2 + half} {y2}"
    else:
        bend = max(x1, x2) + _WIDTH + _GAP_X
        right = x1 + _WIDTH, y1 + _HEIGHT // 2, x2 + _WIDTH, y2 + _HEIGHT // 2
        line = f"M{right[0]} {right[1]}C{bend} {right[1]},{bend} {right[3]},{right[2]} {right[3]}"
    return f'<path d="{line}" fill="none" stroke="#555" marker-end="url(#tip)"/>'


def _ellipse(site: SiteInfo, corner: tuple[int, int]) -> str:
    x, y = corner[0] + _WIDTH // 2, corner[1] + _HEIGHT // 2
    fill = "#d0d7de" if site.observed else "#ffffff"
    around = " ".join(site.around)
    return (
        f'<ellipse cx="{x}" cy="{y}" rx="{_WIDTH // 2}" ry="{_HEIGHT // 2}" fill="{fill}" '
        f'stroke="#333"><title>{escape(site.where)}</title></ellipse>'
        f'<text x="{x}" y="{y - 2}" font-weight="bold">{escape(site.address)}</text>'
        f'<text x="{x}" y="{y + 13}" fill="#555" font-size="10">'
        f"{escape(site.distribution)}{escape(' · ' + around if around else '')}</text>"
    )
