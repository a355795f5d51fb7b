"""The particles of one site: its estimator, applied to every lane."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .. import _internals as internals
from .._estimator import check_estimator, default_estimator
from .._site import Call, Operands, Site, read_call
from ..errors import BiasedEstimator


class Measure(NamedTuple):
    """The particles of a site's lanes, the batch among them.

    Values are `(particles, *lanes, *event)`, weights `(particles, *lanes)` or None where constantly
    one. For `runs` (constants of the particles), weights are relative to these. `baseline` and
    `control` are `(*lanes)` or None, `chances` are like the weights or None.
    """

    values: jax.Array
    weights: jax.Array | None = None
    runs: jax.Array | None = None
    baseline: jax.Array | None = None
    control: jax.Array | None = None
    chances: jax.Array | None = None


class Kind(NamedTuple):
    """What is known of a site's measure without running it.

    `constants` of its runs and `values` of its particles, the same for all elements, if fixed.
    """

    particles: int
    weighted: bool = False
    normalized: bool = True
    perturbed: bool = False
    runs: bool = False
    shared: Any = None
    constants: np.ndarray | None = None
    values: tuple | None = None
    exact: bool = False


def estimator_of(site: Site, operands: Operands, allow_biased: bool) -> Any:
    """The estimator of a site, checked."""
    estimator = operands.estimator or default_estimator(operands.distribution)
    check_estimator(estimator, operands.distribution, site.address, site.where)
    if not (estimator.unbiased or allow_biased):
        raise BiasedEstimator(
            f"{type(estimator).__name__} at site {site.address!r}, {site.where}, is biased. "
            "Choose an unbiased estimator, or accept it: "
            "ppl.expectation(objective, allow_biased=True)."
        )
    return estimator


def kind_of(site: Site, avals: Any, allow_biased: bool) -> Kind:
    """The kind of a site's measure, from the shapes of its operands."""
    found: list[Kind] = []

    def trace(*leaves):
        return measure(read_call(site, leaves), jax.random.key(0), allow_biased, (), found)

    jax.eval_shape(trace, *[jax.ShapeDtypeStruct(a.shape, a.dtype) for a in avals])
    return found[0]


def kinds_within(jaxpr: Any, allow_biased: bool) -> list[Kind]:
    """The kinds of all the sites of a jaxpr, nested ones included."""
    kinds = []
    for eqn in jaxpr.eqns:
        if internals.kind(eqn) == "sample":
            kinds.append(kind_of(eqn.params["site"], [v.aval for v in eqn.invars], allow_biased))
        elif internals.has_sites(eqn):
            for body in internals.bodies(eqn):
                kinds += kinds_within(body, allow_biased)
    return kinds


def measure(call: Call, key: jax.Array, allow_biased: bool, flags: tuple, found: list) -> Measure:
    """The measures of all the lanes of a site.

    `flags` say, beside the site's own, whether control flow reaches it: where it does not, its
    measure is one particle. `found` receives the measure's `Kind`.
    """
    if call.operands.obs is not None:
        found[:] = [Kind(1)]
        return Measure(call.data()[None])

    def lane(operands: Operands, key):
        estimator = estimator_of(call.site, operands, allow_biased)
        drawn = estimator.particles(key, operands.distribution)
        values, weights = drawn.values, drawn.weights
        runs = drawn.runs is not None
        found[:] = [
            Kind(
                values.shape[0],
                weights is not None,
                drawn.normalized,
                drawn.perturbed,
                runs,
                drawn.shared,
                drawn.runs if isinstance(drawn.runs, np.ndarray) else None,
                _constants(values),
                estimator.exact,
            )
        ]
        if weights is None:
            return Measure(jnp.asarray(values))
        constants, extra = None, (1,) * (weights.ndim - 1)
        if runs:
            constants = jnp.reshape(jnp.asarray(drawn.runs), (-1, *extra))
            weights = jnp.where(
                constants == 0, 1.0, weights / jnp.where(constants == 0, 1.0, constants)
            )
        chances = drawn.chances
        if chances is not None:
            chances = jnp.broadcast_to(chances, weights.shape)
        for flag in (*operands.active, *flags):
            weights = jnp.where(flag, weights, 1.0 if runs else _first_alone(weights))
            chances = None if chances is None else jnp.where(flag, chances, _first_alone(chances))
        costs = []
        for cost in (drawn.baseline, drawn.control):
            if cost is not None:
                cost = _of_elements(cost, weights.shape[1:], cost is drawn.control)[None]
            costs.append(cost)
        return Measure(jnp.asarray(values), weights, constants, costs[0], costs[1], chances)

    out = call.over_lanes(lane, call.keys(key), out_axes=1)
    if out.runs is not None:
        out = out._replace(runs=out.runs.reshape(out.runs.shape[0], -1)[:, 0])
    costs = [None if cost is None else cost[0] for cost in (out.baseline, out.control)]
    return out._replace(baseline=costs[0], control=costs[1])


def _constants(values: Any) -> tuple | None:
    """The particles' values, where the estimator gave constants that all elements share."""
    if not isinstance(values, np.ndarray) or not np.issubdtype(values.dtype, np.integer):
        return None
    rows = values.reshape(len(values), -1)
    return tuple(rows[:, 0].tolist()) if (rows == rows[:, :1]).all() else None


def _of_elements(cost: Any, batch: tuple[int, ...], shared: bool) -> jax.Array:
    """A value for each element of the batch; one that is `shared` is a sum over them."""
    cost = jnp.asarray(cost)
    alone = shared and cost.ndim < len(batch)
    return jnp.broadcast_to(cost / math.prod(batch) if alone else cost, batch)


def _first_alone(weights: jax.Array) -> jax.Array:
    return jnp.zeros_like(weights).at[0].set(1.0)
