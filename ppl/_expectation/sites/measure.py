"""The particles of one site: its estimator, applied to every lane."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.lax import stop_gradient

from ..._distributions.cut import gated
from ..._distributions.law import law
from ..._ir.call import Call, Operands, read_call
from ..._ir.estimator import (
    Estimator,
    Particles,
    check_estimator,
    default_estimator,
    scorable,
    scores_as_it_draws,
)
from ..._ir.site import Site
from ..._jax import identities
from ..._jax.leaves import Static
from ..._walk.restaged import sample_equations
from ...errors import BiasedEstimator, SiteFailure, UnsuitableEstimator


class Measure(NamedTuple):
    """The particles of a site's lanes, the batch among them.

    Values are `(particles, *lanes, *event)`, weights `(particles, *lanes)` or None where constantly
    one. With `shared_weights` (constants of the particles), weights are relative to these.
    `baseline` and `control` are `(*lanes)` or None, `chances` are like the weights or None.
    `log_prob` are the log densities of the values, `(particles, *lanes)`, where they are drawn
    along. A tree: what is not an array stands for one, such as an axis.
    """

    values: Any
    weights: Any = None
    shared_weights: Any = None
    baseline: Any = None
    control: Any = None
    chances: Any = None
    log_prob: Any = None


class Kind(NamedTuple):
    """What is known of a site's measure without running it.

    `constants`: shared weights; `values`: those of the particles, the same for all elements; both
    if fixed. `baseline` and `control`: whether it has them.
    """

    particles: int
    weighted: bool = False
    normalized: bool = True
    perturbed: bool = False
    coupled: bool = False
    shared: Any = None
    constants: np.ndarray | None = None
    values: tuple | None = None
    exact: bool = False
    baseline: bool = False
    control: bool = False
    site: Site | None = None


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

    def kind(*leaves):
        return measure(read_call(site, leaves), jax.random.key(0), allow_biased, ())[1]

    return jax.eval_shape(kind, *[jax.ShapeDtypeStruct(a.shape, a.dtype) for a in avals]).value


def kinds_within(jaxpr: Any, allow_biased: bool) -> list[Kind]:
    """The kinds of all the sites of a jaxpr, nested ones included."""
    return [
        kind_of(eqn.params["site"], [v.aval for v in eqn.invars], allow_biased)
        for eqn in sample_equations(jaxpr)
    ]


def measure(
    call: Call, key: jax.Array, allow_biased: bool, flags: tuple
) -> tuple[Measure, Static[Kind]]:
    """The measures of all the lanes of a site, and what is known of them.

    `flags` say, beside the site's own, whether control flow reaches it: where it does not, its
    measure is one particle. Each lane is measured by itself, `(particles, *batch, *event)`, and the
    lanes are mapped.
    """
    if call.operands.obs is not None:
        return Measure(call.data()[None]), Static(Kind(1))
    shape = (*call.site.lane_shape, *call.site.out.shape)
    if math.prod(shape) == 0:  # no elements: nothing is random, and nothing to weigh
        return Measure(jnp.zeros((1, *shape), call.site.out.dtype)), Static(Kind(1, exact=True))

    def lane(operands: Operands, key):
        return _measure_lane(call.site, operands, key, allow_biased, flags)

    lanes_last: Any = (Measure(1, 1, 0, 0, 0, 1, 1), None)
    out, kind = call.over_lanes(lane, call.keys(key), out_axes=lanes_last)
    if out.shared_weights is None or not call.site.vmaps:
        return out, kind
    if kind.value.constants is None:
        _check_one_for_all(call, lambda operands, key: lane(operands, key)[0].shared_weights, key)
    shared = out.shared_weights.reshape(-1, out.shared_weights.shape[-1])[0]
    return out._replace(shared_weights=shared), kind


def _measure_lane(
    site: Site, operands: Operands, key: jax.Array, allow_biased: bool, flags: tuple
) -> tuple[Measure, Static[Kind]]:
    reached = (*operands.active, *flags)
    if site.scores is not None:
        return _scored(site, operands, key, reached)
    estimator, drawn = _draw(site, operands, key, allow_biased, reached)
    values, weights = jnp.asarray(drawn.values), drawn.weights
    if weights is None and drawn.control is not None:
        weights = jnp.ones((1, *jnp.shape(drawn.control)))
    shared = None if drawn.shared_weights is None else jnp.asarray(drawn.shared_weights)
    kind = Static(_kind(drawn, weights is not None, estimator.exact, site))
    if weights is None:
        return Measure(values), kind
    if shared is not None:
        weights = _relative(weights, shared)
    chances = drawn.chances
    if chances is not None:
        chances = jnp.broadcast_to(chances, weights.shape)
    for flag in reached:
        weights = jnp.where(flag, weights, _first_alone(weights) if shared is None else 1.0)
        chances = None if chances is None else jnp.where(flag, chances, _first_alone(chances))
    baseline = _cost(drawn.baseline, weights, reached, is_control=False)
    control = _cost(drawn.control, weights, reached, is_control=True)
    return Measure(values, weights, shared, baseline, control, chances), kind


def _scored(
    site: Site, operands: Operands, key: jax.Array, reached: tuple
) -> tuple[Measure, Static[Kind]]:
    """A plain draw with its log density, both of one pass."""
    estimator = estimator_of(site, operands, allow_biased=False)
    assert scores_as_it_draws(estimator), site
    value, log = site.drawn(gated(operands.distribution, reached), key)
    kind = _kind(Particles(value[None], None), False, estimator.exact, site)
    return Measure(value[None], log_prob=log[None]), Static(kind)


def _draw(
    site: Site, operands: Operands, key: jax.Array, allow_biased: bool, reached: tuple
) -> tuple[Estimator, Particles]:
    """The estimator of a lane and its particles, pushed through the law's transforms."""
    operands = operands._replace(
        distribution=gated(operands.distribution, reached),
        estimator=gated(operands.estimator, reached),
    )
    estimator = estimator_of(site, operands, allow_biased)
    if not estimator.exact:
        site.check_drawable(operands.distribution)
    base = law(operands.distribution)
    seen = scorable(base.base, estimator, operands.distribution, site)
    drawn = estimator.particles(key, seen)
    check_particles(drawn, site)
    drawn = drawn._replace(values=base.pushed(drawn.values))
    promised = estimator.second_order or estimator.exact or allow_biased
    if promised or drawn.perturbed:  # of perturbations it is said where they are met
        return estimator, drawn
    return estimator, _of_first_order(drawn, second_derivative(site, estimator))


def _relative(weights: jax.Array, shared: jax.Array) -> jax.Array:
    """Weights `(particles, *batch)` by the constants `(particles,)` that all lanes share."""
    constants = shared.reshape(-1, *(1 for _ in weights.shape[1:]))
    return jnp.where(constants == 0, 1.0, weights / jnp.where(constants == 0, 1.0, constants))


def _cost(cost: Any, weights: jax.Array, reached: tuple, is_control: bool) -> jax.Array | None:
    """A baseline or control `(*batch)`: where the site is not reached, nothing is to be learnt."""
    if cost is None:
        return None
    cost = _of_elements(cost, weights.shape[1:], is_control)
    for flag in reached:
        cost = jnp.where(flag, cost, _unread(cost, is_control))
    return cost


def _kind(drawn: Any, weighted: bool, exact: bool, site: Site) -> Kind:
    return Kind(
        drawn.values.shape[0],
        weighted,
        drawn.normalized,
        drawn.perturbed,
        drawn.shared_weights is not None,
        drawn.shared,
        _known(drawn.shared_weights),
        _constants(drawn.values),
        exact,
        drawn.baseline is not None,
        drawn.control is not None,
        site,
    )


def _check_one_for_all(call: Call, shared: Callable, key: jax.Array) -> None:
    """Raises where shared weights, which are traced, are made of what differs by lane.

    Not by which lanes are reached: that cuts off derivatives alone.
    """
    call = call.with_operand("active", ())
    try:
        jax.eval_shape(lambda: call.over_lanes(shared, call.keys(key), out_axes=None))
    except SiteFailure:
        raise UnsuitableEstimator(
            f"The lanes of site {call.site.address!r} at {call.site.where} share their particles, "
            "and each has constants of its own for these (such as the eta of Rebar). Give all "
            "lanes the same, or the site an estimator without Particles.shared_weights."
        ) from None


def check_particles(drawn: Any, site: Site) -> None:
    """Raises where a field of an estimator's particles has no meaning beside the others."""
    count, shape = drawn.values.shape[0], getattr(drawn.shared_weights, "shape", ())
    wrong = {
        f"{count} values and no weights": drawn.weights is None and count != 1,
        "a baseline and no weights": drawn.weights is None and drawn.baseline is not None,
        f"a baseline for {count} particles": drawn.baseline is not None and count != 1,
        "chances and not perturbed=True": drawn.chances is not None and not drawn.perturbed,
        "shared_weights and perturbed=True": drawn.shared_weights is not None and drawn.perturbed,
        "a shared name and no shared_weights": drawn.shared is not None
        and drawn.shared_weights is None,
        f"shared_weights of shape {shape} for {count} particles": drawn.shared_weights is not None
        and shape != (count,),
    }
    said = [what for what, met in wrong.items() if met]
    if said:
        raise UnsuitableEstimator(
            f"The estimator of site {site.address!r} at {site.where} gives {said[0]}. "
            "See the docstring of ppl.extend.Particles."
        )


def _known(shared: Any) -> np.ndarray | None:
    """Shared weights, where they are known while tracing."""
    return None if shared is None or isinstance(shared, Tracer) else np.asarray(shared)


def second_derivative(site: Site, estimator: Any = None) -> str:
    """What is wrong with a second derivative at a site."""
    name = "The estimator" if estimator is None else f"{type(estimator).__name__}"
    return (
        f"{name} at site {site.address!r}, {site.where}, is unbiased in value and first derivative "
        "alone, and a second derivative was taken in what the site's distribution depends on. "
        "Choose an estimator whose second derivatives are unbiased (ppl.ScoreFunction(), or "
        "another that says `second_order = True`), or accept the bias: "
        "ppl.expectation(objective, allow_biased=True)."
    )


def _of_first_order(drawn: Particles, message: str) -> Particles:
    """The same particles, whose derivatives are not differentiated again."""

    def once(array):
        if not isinstance(array, jax.Array) or not jnp.issubdtype(array.dtype, jnp.inexact):
            return array
        return identities.first_order(array, [array], message)

    return drawn._replace(values=once(drawn.values), weights=once(drawn.weights))


def _constants(values: Any) -> tuple | None:
    """The particles' values, where the estimator gave constants that all elements share."""
    if not isinstance(values, np.ndarray) or not np.issubdtype(values.dtype, np.integer):
        return None
    rows = values.reshape(len(values), -1)
    return tuple(rows[:, 0].tolist()) if (rows == rows[:, :1]).all() else None


def _of_elements(cost: Any, batch: tuple[Any, ...], shared: bool) -> jax.Array:
    """A value for each element of the batch; one that is `shared` is a sum over them."""
    cost = jnp.asarray(cost)
    alone = shared and cost.ndim < len(batch)
    return jnp.broadcast_to(cost / math.prod(batch) if alone else cost, batch)


def _unread(cost: jax.Array, control: bool) -> Any:
    """A baseline or control of a site that is not reached: it is neither learnt nor counted."""
    return 0.0 if control else stop_gradient(cost)


def _first_alone(weights: jax.Array) -> jax.Array:
    return jnp.zeros_like(weights).at[0].set(1.0)
