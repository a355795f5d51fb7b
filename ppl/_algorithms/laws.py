"""Which law the estimate of a density keeps, and who may read it.

An estimate w of a density p has E[w] = p (the law `"weight"`), or E[log w] = log p (the law
`"log"`), or neither (None). Weights, evidences and bounds of several particles are right with the
first alone; an evidence lower bound with the second, and with the first a lower one.
"""

from collections.abc import Collection, Iterable
from typing import Literal, Protocol

from ..errors import EstimatedDensity

Law = Literal["weight", "log"] | None


class _Site(Protocol):
    @property
    def address(self) -> str: ...
    @property
    def where(self) -> str: ...
    @property
    def law(self) -> str | None: ...


_SAID: dict[str | None, str] = {
    "weight": "E[w] = p",
    "log": "E[log w] = log p, and not E[w] = p",
    None: "neither E[w] = p nor E[log w] = log p",
}


def check_laws(sites: Iterable[_Site], by: str, laws: Collection[Law] = ("weight",)) -> None:
    """Raises `EstimatedDensity` where the density at a site is an estimate of another law.

    `by` is what reads the densities, for the message, and `laws` are those it is right with. Sites
    are those of `ppl.sites`; a density that is no estimate counts as one of the law `"weight"`.
    """
    for site in sites:
        if site.law not in laws:
            raise EstimatedDensity(
                f"{by} needs {' or '.join(_SAID[law] for law in laws)} of densities that are "
                f"estimates w; that at {site.address!r}, {site.where}, has {_SAID[site.law]}, by "
                f"its algorithm. {_remedy(site.law)}"
            )


def _remedy(law: str | None) -> str:
    remedy = (
        "Give the program an algorithm with E[w] = p (stdlib.inference.Importance, SMC, Exact, ...)"
    )
    return f"{remedy}, or use it in an ELBO." if law == "log" else f"{remedy}."
