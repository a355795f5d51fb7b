"""Gaussian hidden choices: where the log density is quadratic in them, by completing the square."""

import glob
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jax.flatten_util import ravel_pytree
from jax.scipy.linalg import cho_solve
from jax.tree_util import keystr, tree_flatten_with_path
from numpyro.distributions import constraints

import ppl
from ppl import Estimator, Particles, Target, sample
from ppl.errors import UnmatchedPattern, UnsuitableEstimator

from ._degree import BEYOND, CONSTANT, culprits
from ._integral import Integral, zeros_of

REMEDY = (
    "Integrate by an algorithm that draws instead, such as stdlib.inference.Importance(n), SMC(n) "
    "or AIS(n, schedule, kernel)."
)


class Gaussian(Integral):
    """Exact where the joint log density is quadratic in all the hidden choices together."""

    def simulate(self, target: Target) -> tuple[Mapping[str, Any], jax.Array]:
        """A reparameterised draw from the posterior, and its density."""
        log_joint, zeros, rebuild = _proved(target)
        square = completed_square(log_joint, zeros)
        posterior = dist.MultivariateNormal(square.mean, precision_matrix=square.precision)
        drawn = sample("exact", posterior)
        return rebuild(drawn), log_joint(drawn) - square.log_mass

    def log_evidence(self, target: Target) -> jax.Array:
        """log p(x)."""
        log_joint, zeros, _ = _proved(target)
        return completed_square(log_joint, zeros).log_mass


class Square(NamedTuple):
    """exp(f) for a quadratic f, as a mass times a normal density."""

    log_mass: jax.Array
    mean: jax.Array
    precision: jax.Array


def completed_square(f: Callable[[jax.Array], jax.Array], start: jax.Array) -> Square:
    """The square of a quadratic f completed; NaN where exp(f) has no finite integral.

    With P = -f'', that integral is exp(f(m) + gᵀP⁻¹g/2) (2π)^(d/2) |P|^(-1/2), about every point m
    where the slope is g. About the mean, where g is next to nothing, rounding errors are smallest.
    """
    slope = jax.grad(f)
    units = jnp.eye(start.size, dtype=start.dtype)
    precision = -jax.vmap(lambda unit: jax.jvp(slope, (start,), (unit,))[1])(units)
    factor = jnp.linalg.cholesky(precision)
    about = start + cho_solve((factor, True), slope(start))
    rest = slope(about)
    step = cho_solve((factor, True), rest)
    log_volume = 0.5 * start.size * jnp.log(2.0 * jnp.pi) - jnp.sum(jnp.log(jnp.diag(factor)))
    return Square(f(about) + 0.5 * rest @ step + log_volume, about + step, precision)


# --- the proof -----------------------------------------------------------------------------------


def addresses_of(choices: Mapping[str, Any]) -> list[str]:
    """The addresses of choices, in the order of their leaves."""
    return [
        keystr(path, simple=True, separator="/") for path, _ in tree_flatten_with_path(choices)[0]
    ]


def suits(target: Target, address: str, estimator: Estimator) -> bool:
    """Whether an estimator suits the site at an address; of a posterior's sites it is not known."""
    node = _nodes(target)[address]
    if node.distribution == "posterior":
        return False
    asked = ppl.with_estimators(target.prior, {glob.escape(address): estimator})
    try:
        ppl.show(asked)
        if node.site.compound:  # what its parts raise, they raise where they are run
            jax.eval_shape(ppl.seed(asked), jax.random.key(0))
    except (UnsuitableEstimator, UnmatchedPattern):
        return False
    return True


def _proved(target: Target) -> tuple[Callable, jax.Array, Callable]:
    """The log density of flat hidden choices, known to be quadratic; zeros; what shapes them."""
    zeros = zeros_of(target)
    log_joint = eqx.filter_closure_convert(target.log_density, zeros)
    _check_supports(target, zeros)
    _check_deterministic(log_joint, zeros)
    _check_quadratic(target, log_joint, zeros)
    flat, rebuild = ravel_pytree(zeros)
    return lambda u: log_joint(rebuild(u)), flat, rebuild


def _check_supports(target: Target, zeros: Mapping[str, Any]) -> None:
    """Within bounds a density may be quadratic, and yet it does not integrate to a Gaussian's mass.

    For the same reason the support of an observed choice must not move with hidden ones.
    """
    bounded = [a for a in addresses_of(zeros) if not suits(target, a, RealLine())]
    if bounded:
        raise UnsuitableEstimator(
            f"Exact() takes finite hidden choices and Gaussian ones. {_listed(target, bounded)} "
            "can be neither: the support is not finite, nor all real numbers, as far as is known. "
            f"{REMEDY}"
        )

    def inside(choices):
        return ppl.within_support(ppl.intervene(target.program, choices), target.observed)

    jaxpr = jax.make_jaxpr(inside)(zeros).jaxpr
    moving, _ = culprits(jaxpr, addresses_of(zeros), lambda degree: degree == CONSTANT)
    if moving:
        raise UnsuitableEstimator(
            f"Exact() cannot integrate {_listed(target, moving)} out: the support of an observed "
            f"choice moves with that, so that the posterior is cut off. {REMEDY}"
        )


def _check_deterministic(log_joint: Callable, zeros: Mapping[str, Any]) -> None:
    drawn = [repr(node.site.address) for node in ppl.show(log_joint, zeros).sites]
    if drawn:
        raise UnsuitableEstimator(
            "Exact() needs densities without error, and a part of the program estimates its own "
            f"by drawing {', '.join(drawn)}. Give that part Exact() as its algorithm too. {REMEDY}"
        )


def _check_quadratic(target: Target, log_joint: Callable, zeros: Mapping[str, Any]) -> None:
    jaxpr = jax.make_jaxpr(log_joint)(zeros).jaxpr
    spoilers, degree = culprits(jaxpr, addresses_of(zeros), lambda degree: degree.power < BEYOND)
    if spoilers:
        raise UnsuitableEstimator(
            f"Exact() cannot integrate {_listed(target, spoilers)} out: the joint log density is "
            f"not quadratic in {'them together' if len(spoilers) > 1 else 'it'}, because of "
            f"`{degree.through}` on the way. {REMEDY}"
        )


def _listed(target: Target, addresses: list[str]) -> str:
    """Addresses, with what they draw from, and where."""
    nodes = _nodes(target)
    placed = [(address, nodes[address]) for address in addresses]
    return " and ".join(f"{a!r} ({node.distribution} at {node.site.where})" for a, node in placed)


def _nodes(target: Target) -> dict[str, Any]:
    return {node.site.address: node for node in ppl.show(target.prior).sites}


class RealLine(Estimator):
    """Stands at a site only to be asked whether the support is all real numbers, or vectors.

    That of an affine map is said to be, whatever it maps: hence the look at what is mapped.
    """

    def particles(self, key: jax.Array, distribution: Any) -> Particles:
        """None: nothing is drawn from the site."""
        raise NotImplementedError

    def unsuitable(self, distribution: Any) -> str | None:
        """A support with bounds, or an unknown one."""
        support: Any = getattr(distribution, "support", None)
        while hasattr(support, "base_constraint"):
            support = support.base_constraint
        if support is not constraints.real:
            return "its support is not the whole real line"
        mapped = getattr(distribution, "base_dist", None)
        return None if mapped is None else self.unsuitable(mapped)
