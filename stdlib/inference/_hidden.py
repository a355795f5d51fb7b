"""What is known of hidden choices when a program is traced: addresses, supports, what moves."""

import glob
from collections.abc import Callable, Mapping
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jax.core import Tracer
from jax.tree_util import keystr, tree_flatten_with_path
from numpyro.distributions import constraints

import ppl
from ppl.errors import UnmatchedPattern, UnsuitableEstimator
from ppl.extend import Estimator, Particles, Target

from ._degree import CONSTANT, culprits, degree_in

REMEDY = (
    "Integrate by an algorithm that draws instead, such as stdlib.inference.Importance(n), SMC(n) "
    "or AIS(n, schedule, kernel)."
)


def addresses_of(choices: Mapping[str, Any]) -> list[str]:
    """The addresses of choices, in the order of their leaves."""
    return [
        keystr(path, simple=True, separator="/") for path, _ in tree_flatten_with_path(choices)[0]
    ]


def listed(target: Target, addresses: list[str]) -> str:
    """Addresses, with what they draw from, and where."""
    sites = _sites(target)
    placed = [(address, sites[address]) for address in addresses]
    return " and ".join(f"{a!r} ({site.distribution} at {site.where})" for a, site in placed)


def suits(target: Target, address: str, estimator: Estimator) -> bool:
    """Whether an estimator suits the site at an address; of a posterior's sites it is not known."""
    site = _sites(target)[address]
    if site.distribution == "posterior":
        return False
    asked = ppl.with_estimators(target.prior, {glob.escape(address): estimator})
    try:
        ppl.sites(asked)
        if site.compound:  # what its parts raise, they raise where they are run
            jax.eval_shape(ppl.seed(asked), jax.random.key(0))
    except (UnsuitableEstimator, UnmatchedPattern):
        return False
    return True


def _sites(target: Target) -> dict[str, ppl.SiteInfo]:
    return {site.address: site for site in ppl.sites(target.prior)}


# --- checks --------------------------------------------------------------------------------------


def check_fixed_supports(target: Target, zeros: Mapping[str, Any]) -> None:
    """The supports of observed choices must not move with hidden ones.

    Within bounds a density may be that of a family, and yet it does not integrate to its mass.
    """
    known = [glob.escape(address) for address in addresses_of(target.observed)]
    free = ppl.uncondition(target.prior, known) if known else target.program

    def inside(choices):
        return ppl.within_support(ppl.intervene(free, choices), target.observed)

    addresses = addresses_of(zeros)
    degree = degree_in(jax.make_jaxpr(inside)(zeros).jaxpr, addresses)
    moving, _ = culprits(degree, addresses, lambda degree: degree == CONSTANT)
    if moving:
        raise UnsuitableEstimator(
            f"Exact() cannot integrate {listed(target, moving)} out: the support of an observed "
            f"choice moves with that, so that the posterior is cut off. {REMEDY}"
        )


def check_deterministic(log_joint: Callable, zeros: Mapping[str, Any]) -> None:
    """The joint log density must not be estimated by draws."""
    drawn = [repr(site.address) for site in ppl.sites(log_joint, zeros)]
    if drawn:
        raise UnsuitableEstimator(
            "Exact() needs densities without error, and a part of the program estimates its own "
            f"by drawing {', '.join(drawn)}. Give that part Exact() as its algorithm too. {REMEDY}"
        )


# --- supports ------------------------------------------------------------------------------------


SUPPORTS = {
    "real": constraints.real,
    "positive": constraints.positive,
    "unit interval": constraints.unit_interval,
    "simplex": constraints.simplex,
}
"""Supports of one element that are integrated over."""


class Fills(Estimator):
    """Stands at a site only to be asked whether the support is known to be all of a given one."""

    support: str = eqx.field(static=True)

    def particles(self, key: jax.Array, distribution: Any) -> Particles:
        """None: nothing is drawn from the site."""
        raise NotImplementedError

    def unsuitable(self, distribution: Any) -> str | None:
        """Another support, or an unknown one."""
        same = _filled(distribution) is SUPPORTS[self.support]
        return None if same else f"its support is not known to be all of: {self.support}"


def _filled(distribution: Any) -> Any:
    """The support of one element; None where values may fill a part of it only.

    A transform says where it maps its domain to, whatever it maps: hence the look at what is
    mapped.
    """
    support = _elementwise(getattr(distribution, "support", None))
    mapped = getattr(distribution, "base_dist", None)
    if mapped is None:
        return support
    transforms = getattr(distribution, "transforms", None)
    domain = _elementwise(transforms[0].domain) if transforms else support
    return support if _filled(mapped) is domain else None


def _elementwise(support: Any) -> Any:
    while hasattr(support, "base_constraint"):
        support = support.base_constraint
    if isinstance(support, constraints.interval) and _is_number(support.lower_bound, 0.0):
        return constraints.unit_interval if _is_number(support.upper_bound, 1.0) else support
    return support


def _is_number(x: Any, number: float) -> bool:
    return not isinstance(x, Tracer) and bool(np.all(np.asarray(x) == number))
