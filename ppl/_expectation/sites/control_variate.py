"""Control variates: a baseline that the objective itself gives for a site's score."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from jax.lax import stop_gradient

from ..._ir.address import Path, render
from ..._ir.site import Loop
from ...errors import InvalidControlVariate
from ..interpret.evaluation import Evaluation
from ..values.lanes import deps_of, move
from ..values.value import Value, each_array, event_shape, place
from .own_lane import Environment, reads_own_lane
from .weighted_site import WeightedSite


def control_variate(
    eqn: Any, vals: Sequence[Value], env: Environment, evaluation: Evaluation
) -> list[Value]:
    """Notes the baseline with its site; `env` is what is known of what it is computed from."""
    (value,), paths, where = vals, eqn.params["paths"], eqn.params["where"]
    named = f"ppl.control_variate({_addresses(paths)}, ...) at {where}"
    if evaluation.ledger.outer is not None:
        raise InvalidControlVariate(
            f"{named} is inside a loop, a branch or a checkpoint. Return its value from there "
            "(stacked, for a loop) and call ppl.control_variate after it."
        )
    for number in _scored(paths, evaluation, named):
        opened = evaluation.opened[number]
        _check(value, opened, named)
        if value.sites >> number & 1:
            _check_own_lane(eqn, value, env, number, opened, named)
        evaluation.ledger.give(number, _fit(value, opened))
    return []


def _addresses(paths: Sequence[Path]) -> str:
    addresses = [render(path) for path in paths]
    return repr(addresses[0] if len(addresses) == 1 else addresses)


def _scored(paths: Sequence[Path], evaluation: Evaluation, named: str) -> list[int]:
    """The sites with a score that are meant: of one address all, which must have it."""
    opened = list(enumerate(evaluation.opened))
    places = [number for number, site in opened if site.site and site.site.path in paths]
    if len(paths) != 1:
        places = [number for number in places if _has_score(evaluation.opened[number])]
    if places:
        return places
    known = ", ".join(sorted({site.site.address for _, site in opened if site.site})) or "none"
    which = "this address" if len(paths) == 1 else "one of these addresses"
    raise InvalidControlVariate(
        f"{named}: no site with a score has {which} so far. Sites with weights: {known}. "
        "Call it after the site, with the address that the objective sees; give the site "
        "ppl.ScoreFunction(), or leave out the control variate, or the option that asks for it."
    )


def _has_score(opened: WeightedSite) -> bool:
    return not (opened.axis or opened.perturbed)


def _check(value: Value, opened: WeightedSite, named: str) -> None:
    if not _has_score(opened):
        raise InvalidControlVariate(
            f"{named}: the site has several particles, and no score to subtract from. Give it "
            "ppl.ScoreFunction(), or leave the control variate out."
        )
    if opened.given is not None:
        raise InvalidControlVariate(
            f"{named}: the site has one already. Add their values in one ppl.control_variate."
        )
    shape, lanes = event_shape(value), [opened.lane_sizes[d] for d in _written_order(opened)]
    if list(shape) != lanes[: len(shape)]:
        raise InvalidControlVariate(
            f"{named}: the value has shape {shape}, the site's lanes (its vmaps and loops, "
            f"outermost first, and its batch) {tuple(lanes)}. Give a scalar, or an array of its "
            "first lane dimensions."
        )


def _check_own_lane(
    eqn: Any, value: Value, env: Environment, number: int, opened: WeightedSite, named: str
) -> None:
    shape, site = event_shape(value), opened.site
    assert site is not None
    places = _written_order(opened)[: len(shape)]
    if reads_own_lane(eqn.invars[0], env, number, site.path, places, shape):
        raise InvalidControlVariate(
            f"{named}: the value depends on the site's own choice (or cannot be seen not to), so "
            "its mean is not zero. Compute it from what comes before the site or, lane by lane, "
            "from the choices of other lanes: as jnp.sum(x) - x, by jnp.where with a mask that is "
            "a constant, or from shifted lanes."
        )


def _written_order(opened: WeightedSite) -> list[int]:
    """The site's lane dimensions (loops, then vmaps, then batch) in the order of its choices."""
    assert opened.site is not None
    loops, vmaps = list(range(len(opened.loops))), len(opened.site.vmaps)
    noted = sum(isinstance(axis, Loop) for axis in opened.site.around)
    order, inner = loops[: len(loops) - noted], iter(loops[len(loops) - noted :])
    mapped = iter(range(len(loops), len(loops) + vmaps))
    order += [next(inner if isinstance(axis, Loop) else mapped) for axis in opened.site.around]
    return order + list(range(len(loops) + vmaps, len(opened.lane_sizes)))


def _fit(value: Value, opened: WeightedSite) -> Value:
    """The value, of one entry a lane."""
    places = _written_order(opened)[: len(event_shape(value))]

    def filled(array, axes):
        array = stop_gradient(place(array, places, len(opened.lane_sizes), lead=len(axes)))
        return jnp.broadcast_to(array, (*array.shape[: len(axes)], *opened.lane_sizes))

    lanes = move(deps_of(value), lambda d: places[d]).relations
    return each_array(filled, value)._replace(relations=lanes)
