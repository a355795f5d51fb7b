"""Gaussian choices whose precision is unknown: a normal with its variance, and regressions.

One positive number s, of Gamma or inverse Gamma statistics, multiplies (or divides) all that the
joint log density says of the Gaussian choices w: it is c + a·T + s·q(w), where q is quadratic and
T, the statistics of the conjugate choices, log s among them. Then w integrates to a factor
s^(-d/2)·exp(s·max q), and s to the normaliser of its family: Student's distribution, for data. Or
nothing is multiplied, and each part of the choices is integrated on its own.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jax.flatten_util import ravel_pytree

import ppl
from ppl import sample
from ppl.errors import UnsuitableEstimator
from ppl.extend import Target, propagate

from ._choices import Choices, merged, within
from ._conjugate import GAMMA, INVERSE_GAMMA, Family, Joint, drawn_at, joint_in, joint_of
from ._degree import CONSTANT, DEGREES, LINEAR, ZERO, Degree, highest
from ._gaussian import Square, completed_square
from ._hidden import REMEDY, addresses_of, check_deterministic, check_fixed_supports, listed
from ._integral import Integral, zeros_of


class Scaled(Integral):
    """Exact where the choices at `real` are Gaussian given the others; one or none scales them.

    `supports` are those of the others. A draw is of these, as of conjugate choices, and then of
    standard normal noise, `"gaussian"`.
    """

    real: tuple[str, ...] = eqx.field(static=True)
    supports: tuple[str, ...] = eqx.field(static=True)

    def simulate(self, target: Target) -> tuple[Mapping[str, Any], jax.Array]:
        """A reparameterised draw from the posterior, and its density."""
        mass = self._mass(target)
        choices: Choices = {}
        for address, law in zip(mass.joint.addresses, mass.posteriors, strict=True):
            choices = merged(choices, drawn_at(address, law))
        noise = sample("gaussian", dist.Normal(jnp.zeros(mass.square.size), 1.0).to_event(1))
        choices = merged(choices, mass.gaussian(noise, choices))
        return choices, target.log_density(choices) - mass.log

    def log_evidence(self, target: Target) -> jax.Array:
        """log p(x)."""
        return self._mass(target).log

    def _mass(self, target: Target) -> "_Mass":
        zeros = zeros_of(target)
        check_fixed_supports(target, zeros)
        check_deterministic(target.log_density, zeros)
        flat, rebuild = ravel_pytree(within(zeros, set(self.real), inside=True))
        families = self._families(target, flat, rebuild)
        joint = joint_in(_given(target, rebuild(flat)), families)
        start = joint.statistics()
        log_joint = eqx.filter_closure_convert(
            lambda w, statistics: joint_in(_given(target, rebuild(w)), families).affine(statistics),
            flat,
            start,
        )
        affine = jax.value_and_grad(log_joint, 1)
        separate = _is_separate(lambda w: affine(w, start)[1], flat)
        scale = None if separate else self._scale(target, joint, log_joint, flat)
        part = (lambda constant, _: constant) if scale is None else scale.part
        square = completed_square(lambda w: part(*affine(w, start)), flat, rebuild)
        return _Mass(joint, scale, square, *affine(square.mean, start))

    def _families(self, target: Target, flat: jax.Array, rebuild: Callable) -> tuple[Family, ...]:
        """Those of the conjugate choices, whatever the Gaussian ones are."""
        found: list[tuple[Family, ...]] = []

        def proved(w):
            found.append(joint_of(_given(target, rebuild(w)), self.supports).families)

        jax.eval_shape(proved, flat)
        return found[0]

    def _scale(self, target: Target, joint: Joint, log_joint: Callable, flat: jax.Array) -> "Scale":
        """What multiplies all that is said of the Gaussian choices: proved by degrees."""
        jaxpr = jax.make_jaxpr(log_joint)(flat, joint.statistics()).jaxpr

        def degree(w: Degree, scale: Scale | None = None) -> Degree:
            places = [
                ZERO if scale is not None and (i, j) == (scale.index, 1) else CONSTANT
                for i, family in enumerate(joint.families)
                for j in range(len(family.statistics))
            ]
            return propagate(DEGREES, jaxpr, [w, *places])[0]

        whole = degree(LINEAR)
        if whole.power > 2:
            reason = f"it is not quadratic in {self._named(target)}, because of `{whole.through}`"
            raise self._refusal(target, reason)
        found = [scale for scale in _scales(joint) if degree(LINEAR, scale) <= CONSTANT]
        if not found:
            reason = f"it reads {self._named(target)} in a term that no such number scales"
            raise self._refusal(target, reason)
        return found[0]

    def _named(self, target: Target) -> str:
        return listed(target, list(self.real))

    def _refusal(self, target: Target, reason: str) -> UnsuitableEstimator:
        others = [a for a in addresses_of(target.hidden) if a not in self.real]
        return UnsuitableEstimator(
            "Exact() integrates Gaussian choices together with conjugate ones where one number, a "
            "precision or a variance, scales all that the joint log density says of the Gaussian "
            f"ones. With {listed(target, others)} given, {reason}. {REMEDY}"
        )


def _given(target: Target, choices: Choices) -> Target:
    return Target(target.program, merged(target.observed, choices))


def _is_separate(slopes: Callable, flat: jax.Array) -> bool:
    """Whether the statistics of the conjugate choices multiply nothing that reads the others."""
    degrees = propagate(DEGREES, jax.make_jaxpr(slopes)(flat).jaxpr, [LINEAR])
    return highest(degrees) <= CONSTANT


class Scale(NamedTuple):
    """The number s: a conjugate choice, the `index`-th, or its inverse."""

    index: int
    address: str
    inverse: bool

    def part(self, constant: jax.Array, slopes: Any) -> jax.Array:
        """The slope of a log density in s."""
        return slopes[self.index][1].reshape(())

    def of(self, choices: Choices) -> jax.Array:
        """s, of choices."""
        value = ppl.flatten_choices(choices)[self.address].reshape(())
        return 1.0 / value if self.inverse else value


def _scales(joint: Joint) -> Iterator[Scale]:
    """The choices that may be one: single numbers whose statistics are a log and themselves."""
    sizes = [leaf.size for leaf in jax.tree.leaves(joint.zeros)]
    for i, (address, family) in enumerate(zip(joint.addresses, joint.families, strict=True)):
        if family in (GAMMA, INVERSE_GAMMA) and sizes[i] == 1:
            yield Scale(i, address, family is INVERSE_GAMMA)


class _Mass(NamedTuple):
    """The integral over all choices, from that over Gaussian ones at s = 1.

    `constant` and `slopes` are of the log density at their mean. Without a scale, the Gaussian
    choices are on their own.
    """

    joint: Joint
    scale: Scale | None
    square: Square
    constant: jax.Array
    slopes: list[list[jax.Array]]

    @property
    def integrated(self) -> list[list[jax.Array]]:
        """The slopes once the Gaussian choices are integrated out."""
        if self.scale is None:
            return self.slopes
        log, number = self.slopes[self.scale.index]
        power = 0.5 * self.square.size * (1.0 if self.scale.inverse else -1.0)
        found = [log + power, jnp.broadcast_to(self.square.peak, number.shape)]
        return [found if i == self.scale.index else s for i, s in enumerate(self.slopes)]

    @property
    def log(self) -> jax.Array:
        """The log of the integral."""
        rest = self.square.peak if self.scale is None else self.constant
        return self.joint.log_mass(rest + self.square.log_volume, self.integrated)

    @property
    def posteriors(self) -> list[dist.Distribution]:
        """The laws of the conjugate choices."""
        pairs = zip(self.joint.families, self.integrated, strict=True)
        return [family.posterior(*slopes) for family, slopes in pairs]

    def gaussian(self, noise: jax.Array, others: Choices) -> Choices:
        """The Gaussian choices that standard normal noise is moved to, given the others."""
        scale = 1.0 if self.scale is None else self.scale.of(others)
        return self.square.at(noise / jnp.sqrt(scale))
