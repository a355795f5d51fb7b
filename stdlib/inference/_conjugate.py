"""Conjugate hidden choices: where the log density is affine in the statistics of a known family."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax.scipy.special import betaln, gammaln

import ppl
from ppl import sample
from ppl.errors import UnsuitableEstimator
from ppl.extend import Target

from ._choices import merged
from ._degree import BEYOND, Degree, culprits
from ._hidden import (
    REMEDY,
    addresses_of,
    check_deterministic,
    check_fixed_supports,
    listed,
)
from ._integral import Integral, zeros_of
from ._monomial import ONE, Affine, Base, Constant, Monomial, degree_of, plain
from ._statistics import evaluate


class Family(NamedTuple):
    """Densities exp(s·T(u)) of statistics T: their slopes s give the law and its normaliser.

    - `statistics`: their names; `base` makes of them what is known of u.
    - `posterior`: the distribution with given slopes.
    - `log_normaliser`: the log of the integral, by element; NaN where it is not finite.
    """

    statistics: tuple[str, ...]
    base: Callable[..., Base]
    posterior: Callable[..., dist.Distribution]
    log_normaliser: Callable[..., jax.Array]


def _where_proper(value: jax.Array, *positive: jax.Array) -> jax.Array:
    proper = jnp.all(jnp.stack(positive) > 0.0, axis=0)
    return jnp.where(proper, value, jnp.nan)


def _log_gamma_mass(shape: jax.Array, rate: jax.Array) -> jax.Array:
    return _where_proper(gammaln(shape) - shape * jnp.log(rate), shape, rate)


def _log_beta_mass(a: jax.Array, b: jax.Array) -> jax.Array:
    return _where_proper(betaln(a, b), a, b)


def _log_dirichlet_mass(a: jax.Array) -> jax.Array:
    log_mass = jnp.sum(gammaln(a), -1) - gammaln(jnp.sum(a, -1))
    return _where_proper(log_mass, jnp.min(a, -1))


def _arbitrary(log: jax.Array) -> np.ndarray:
    """Numbers of the unit interval, in the shape of their logs."""
    return np.random.default_rng(0).uniform(0.2, 0.8, jnp.shape(log))


def _arbitrary_shares(log: jax.Array) -> np.ndarray:
    """Numbers that sum to one, in the shape of their logs."""
    shares = _arbitrary(log)
    return shares / shares.sum(-1, keepdims=True)


BETA = Family(
    ("log u", "log(1 - u)"),
    lambda log, complement: Base(log, complement=complement, high=1.0, example=_arbitrary(log)),
    lambda log, complement: dist.Beta(1.0 + log, 1.0 + complement),
    lambda log, complement: _log_beta_mass(1.0 + log, 1.0 + complement),
)
GAMMA = Family(
    ("log u", "u"),
    lambda log, itself: Base(log, itself),
    lambda log, itself: dist.Gamma(1.0 + log, -itself),
    lambda log, itself: _log_gamma_mass(1.0 + log, -itself),
)
INVERSE_GAMMA = Family(
    ("log u", "1/u"),
    lambda log, inverse: Base(log, inverse=inverse),
    lambda log, inverse: dist.InverseGamma(-1.0 - log, -inverse),
    lambda log, inverse: _log_gamma_mass(-1.0 - log, -inverse),
)
DIRICHLET = Family(
    ("log u",),
    lambda log: Base(log, high=1.0, example=_arbitrary_shares(log)),
    lambda log: dist.Dirichlet(1.0 + log),
    lambda log: _log_dirichlet_mass(1.0 + log),
)

FAMILIES: dict[str, tuple[Family, ...]] = {
    "unit interval": (BETA,),
    "positive": (GAMMA, INVERSE_GAMMA),
    "simplex": (DIRICHLET,),
}
"""By the support of one element."""


class Conjugate(Integral):
    """Exact where the joint log density is affine in statistics of the hidden choices.

    `supports` are those of the elements of the hidden choices, one for each choice. A draw is one
    site for each, its address under `"exact"`.
    """

    supports: tuple[str, ...] = eqx.field(static=True)

    def simulate(self, target: Target) -> tuple[Mapping[str, Any], jax.Array]:
        """A reparameterised draw from the posterior, and its density."""
        joint = self._proved(target)
        constant, slopes = joint.constant_and_slopes()
        choices: dict[str, Any] = {}
        for address, family, slope in zip(joint.addresses, joint.families, slopes, strict=True):
            choices = merged(choices, drawn_at(address, family.posterior(*slope)))
        return choices, target.log_density(choices) - joint.log_mass(constant, slopes)

    def log_evidence(self, target: Target) -> jax.Array:
        """log p(x)."""
        joint = self._proved(target)
        return joint.log_mass(*joint.constant_and_slopes())

    def _proved(self, target: Target) -> "Joint":
        zeros = zeros_of(target)
        check_fixed_supports(target, zeros)
        check_deterministic(target.log_density, zeros)
        return joint_of(target, self.supports)


def drawn_at(address: str, posterior: dist.Distribution) -> dict[str, Any]:
    """A draw of the choice at an address, under `"exact"`."""
    *scopes, name = ["exact", *address.split("/")]
    value = ppl.scope(lambda: sample(name, posterior), "/".join(scopes))()
    return ppl.nest_choices({address: value})


class Joint(NamedTuple):
    """A joint log density, as a jaxpr, and the family of each hidden choice."""

    jaxpr: Any
    zeros: Mapping[str, Any]
    families: tuple[Family, ...] = ()

    @property
    def addresses(self) -> list[str]:
        """Those of the hidden choices."""
        return addresses_of(self.zeros)

    def with_family(self, address: str, family: Family) -> "Joint":
        """The same with another family at an address."""
        pairs = zip(self.addresses, self.families, strict=True)
        return self._replace(families=tuple(family if a == address else f for a, f in pairs))

    def statistics(self) -> list[list[jax.Array]]:
        """Zeros for the statistics of each hidden choice."""
        leaves = jax.tree.leaves(self.zeros)
        return [[x] * len(f.statistics) for x, f in zip(leaves, self.families, strict=True)]

    def value(self, statistics: Sequence[Sequence[jax.Array]], varying: Sequence[str]) -> Any:
        """The log density at some statistics, where choices at all but some addresses are held."""
        addresses, leaves = self.addresses, jax.tree.leaves(self.zeros)
        inputs = [
            Monomial(ONE, family.base(*known)) if address in varying else Constant(zeros)
            for address, family, known, zeros in zip(
                addresses, self.families, statistics, leaves, strict=True
            )
        ]
        (value,) = evaluate(self.jaxpr.jaxpr, self.jaxpr.consts, inputs)
        return plain(value, "copy")

    def degree(self, varying: Sequence[str]) -> Degree:
        """That of the log density in the statistics of the choices at some addresses."""
        found = []
        jax.eval_shape(lambda t: found.append(degree_of(self.value(t, varying))), self.statistics())
        return found[0]

    def constant_and_slopes(self) -> tuple[jax.Array, list[list[jax.Array]]]:
        """Those of the log density as an affine function of the statistics."""
        return jax.value_and_grad(self.affine)(self.statistics())

    def affine(self, statistics: Sequence[Sequence[jax.Array]]) -> jax.Array:
        """The log density at some statistics, in which it is known to be affine."""
        value = self.value(statistics, self.addresses)
        assert isinstance(value, Affine | Constant)
        return value.array

    def log_mass(self, constant: jax.Array, slopes: Sequence[Sequence[jax.Array]]) -> jax.Array:
        """The log of the integral of the density with that constant and these slopes."""
        masses = map(lambda family, s: family.log_normaliser(*s), self.families, slopes)
        return constant + sum(map(jnp.sum, masses))


# --- the proof -----------------------------------------------------------------------------------


def joint_in(target: Target, families: tuple[Family, ...]) -> Joint:
    """The joint log density of a target, and a family for each hidden choice."""
    zeros = zeros_of(target)
    return Joint(jax.make_jaxpr(target.log_density)(zeros), zeros, families)


def joint_of(target: Target, supports: Sequence[str]) -> Joint:
    """The joint log density, known to be affine in the statistics of its families."""
    joint = joint_in(target, ())
    return joint._replace(families=_families(target, joint, supports))


def _fits(degree: Degree) -> bool:
    return degree.power < BEYOND


def _families(target: Target, joint: Joint, supports: Sequence[str]) -> tuple[Family, ...]:
    """A family for each hidden choice, such that the log density is affine in all statistics."""
    first = joint._replace(families=tuple(FAMILIES[support][0] for support in supports))
    if _fits(first.degree(joint.addresses)):
        return first.families
    degrees = {
        address: [(f, first.with_family(address, f).degree([address])) for f in FAMILIES[support]]
        for address, support in zip(joint.addresses, supports, strict=True)
    }
    for address, tried in degrees.items():
        fitting = [family for family, degree in tried if _fits(degree)]
        if not fitting:
            raise UnsuitableEstimator(
                f"Exact() cannot integrate {listed(target, [address])} out: the joint log density "
                f"is not affine in {_reasons(tried)}. {REMEDY}"
            )
        first = first.with_family(address, fitting[0])
    spoilers, degree = culprits(first.degree, joint.addresses, _fits)
    if spoilers:
        raise UnsuitableEstimator(
            f"Exact() cannot integrate {listed(target, spoilers)} out: the joint log density is "
            f"not affine in the statistics of them together, because of `{degree.through}` on the "
            f"way. {REMEDY}"
        )
    return first.families


def _reasons(tried: Sequence[tuple[Family, Degree]]) -> str:
    return ", nor in ".join(
        f"{' and '.join(family.statistics)}, because of `{degree.through}` on the way"
        for family, degree in tried
    )
