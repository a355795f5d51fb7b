"""Which law the estimate of a density keeps, and who may read it.

A density p is known (the law `"exact"`), or there is an estimate w of it with E[w] = p
(`"weight"`), or with E[log w] = log p (`"log"`), or with neither (None). Weights, evidences and
bounds of several particles are right with the first two; an evidence lower bound with the first and
the third, and with the second a lower one. What reads one density twice, as a Metropolis step does,
or a power of it, needs the first.
"""

from collections.abc import Collection, Iterable
from typing import Any, Literal, Protocol, runtime_checkable

from .._ir.fresh_key import fresh_keys
from ..errors import EstimatedDensity

Law = Literal["exact", "weight", "log"] | None

WEIGHTS: tuple[Law, ...] = ("exact", "weight")


@runtime_checkable
class _Site(Protocol):
    @property
    def address(self) -> str: ...
    @property
    def where(self) -> str: ...
    @property
    def law(self) -> str | None: ...


_SAID: dict[str | None, str] = {
    "exact": "w = p",
    "weight": "E[w] = p",
    "log": "E[log w] = log p, and not E[w] = p",
    None: "neither E[w] = p nor E[log w] = log p",
}


def check_laws(sites: Iterable[_Site], by: str, laws: Collection[Law] = WEIGHTS) -> None:
    """Raises `EstimatedDensity` where the density at a site is an estimate of another law.

    `by` is what reads the densities, for the message, and `laws` are those it is right with. Sites
    are those of `ppl.sites`; a density that is no estimate has the law `"exact"`.
    """
    for site in sites:
        if site.law not in laws:
            raise EstimatedDensity(
                f"{by} needs {' or '.join(_SAID[law] for law in laws)} of densities that may be "
                f"estimates w; that at {site.address!r}, {site.where}, has {_SAID[site.law]}, by "
                f"its algorithm. {_remedy(site.law, laws)}"
            )


def _remedy(law: str | None, laws: Collection[Law]) -> str:
    if "weight" not in laws:
        return (
            "Give the program an algorithm that is exact (stdlib.inference.Exact), or draw its "
            "hidden choices along with the others, without ppl.marginal."
        )
    remedy = (
        "Give the program an algorithm with E[w] = p (stdlib.inference.Importance, SMC, Exact, ...)"
    )
    return f"{remedy}, or use it in an ELBO." if law == "log" else f"{remedy}."


def check_deterministic(jaxpr: Any, by: str) -> None:
    """Raises `EstimatedDensity` where a program draws from a fresh key: its density is random."""
    for eqn in fresh_keys(jaxpr):
        raise EstimatedDensity(
            f"{by} needs w = p of its density, which is another one in each run, as the program "
            f"draws from ppl.fresh_key() at {eqn.params['where']}. Draw that noise by ppl.sample, "
            "so that it is a choice like the others."
        )
