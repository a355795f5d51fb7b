"""Finite choices and continuous ones given them: a sum over joint states of integrals."""

import itertools
import math
from collections.abc import Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist

import ppl
from ppl import log_sum_exp, sample
from ppl.errors import TooManyJointStates, UnsuitableEstimator
from ppl.extend import Target

from ._choices import merged
from ._hidden import REMEDY
from ._integral import Integral, zeros_of
from ._weights import taken

JOINT_STATES = 1024


class Mixture(Integral):
    """Exact where the hidden choices at the addresses `finite` are, and `rest` is of the others.

    A draw is first of the site `"state"`, of the finite choices together, then as `rest` draws.
    """

    finite: tuple[str, ...] = eqx.field(static=True)
    rest: Integral

    def simulate(self, target: Target) -> tuple[Mapping[str, Any], jax.Array]:
        """A draw from the posterior, and its density."""
        states, log_masses = self._masses(target)
        chances = jax.nn.log_softmax(log_masses)
        index = sample("state", dist.Categorical(logits=chances))
        state = taken(states, index)
        rest, log_density = self.rest.simulate(_given(target, state))
        return merged(state, rest), chances[index] + log_density

    def log_evidence(self, target: Target) -> jax.Array:
        """log p(x)."""
        return log_sum_exp(self._masses(target)[1])

    def _masses(self, target: Target) -> tuple[Mapping[str, Any], jax.Array]:
        """All joint states of the finite choices, and the log evidence with each of them."""
        states = _joint_states(target, self.finite)
        log_mass = lambda state: self.rest.log_evidence(_given(target, state))  # noqa: E731
        return states, jax.vmap(log_mass)(states)


def _given(target: Target, state: Mapping[str, Any]) -> Target:
    return Target(target.program, merged(target.observed, state))


def _joint_states(target: Target, addresses: tuple[str, ...]) -> Mapping[str, Any]:
    """Every combination of values of every element of some choices, along a leading axis."""
    found = ppl.replay(target.prior, zeros_of(target)).sites
    elements = [math.prod(_at(target.hidden, address).shape) for address in addresses]
    supports = [_support(found, address) for address in addresses]
    count = math.prod(len(s) ** n for s, n in zip(supports, elements, strict=True))
    if count > JOINT_STATES:
        raise TooManyJointStates(
            f"Exact() integrates continuous choices once for each joint state of "
            f"{', '.join(map(repr, addresses))}: {count} of them, over the limit of "
            f"{JOINT_STATES}. {REMEDY}"
        )
    each = [s for s, n in zip(supports, elements, strict=True) for _ in range(n)]
    table = np.asarray(list(itertools.product(*each)))
    columns = np.split(table, np.cumsum(elements)[:-1], axis=1)
    states: dict[str, Any] = {}
    for address, column in zip(addresses, columns, strict=True):
        struct = _at(target.hidden, address)
        values = jnp.asarray(column.reshape(count, *struct.shape), struct.dtype)
        states = merged(states, ppl.nest_choices({address: values}))
    return states


def _support(sites: Mapping[str, ppl.SiteRecord], address: str) -> np.ndarray:
    """The values that each element of a site may take."""
    distribution, values = sites[address].distribution, None
    if distribution is not None and not sites[address].conditional:
        try:
            with jax.ensure_compile_time_eval():
                values = np.asarray(distribution.enumerate_support(expand=False))
        except jax.errors.JAXTypeError:
            pass
    if values is None or math.prod(values.shape) != len(values):
        raise UnsuitableEstimator(
            f"Exact() cannot list the values of {address!r}, to integrate continuous choices given "
            "each of them. Where both kinds meet, finite ones are numbers whose support does not "
            f"depend on traced values, outside lax.cond. {REMEDY}"
        )
    return values.reshape(-1)


def _at(tree: Mapping[str, Any], address: str) -> Any:
    for name in address.split("/"):
        tree = tree[name]
    return tree
