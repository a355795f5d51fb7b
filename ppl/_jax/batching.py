"""JAX's batching rules of control flow, wrapped where there are sites; elsewhere they are JAX's."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jax.interpreters import batching

from .control_flow import BATCHED, Form, bodies, form
from .equations import has_sites, is_jaxpr, kind


class _Eqn(NamedTuple):
    """What a form needs of an equation that is being batched."""

    primitive: Any
    params: Any


def rewrite_under_vmap(of: type[Form], rewrite: Callable[[Any, Any], Callable | None]) -> None:
    """Has `vmap` treat the equations of one form, with sites, by way of a rewriting.

    `rewrite(form, dims)` returns a function of the equation's operands that means the same and is
    batched in its place, or None where JAX's own rule is right as it stands.
    """
    primitive = BATCHED[of]
    original = _rule_of(primitive)

    def rule(axis_data, operands, dims, **params):
        found = form(_Eqn(primitive, params))
        if found is not None and any(has_sites(body.jaxpr) for body in found.bodies):
            replacement = rewrite(found, dims)
            if replacement is not None:
                batched = jax.vmap(
                    replacement,
                    in_axes=tuple(dims),
                    axis_size=axis_data.size,
                    axis_name=axis_data.name,
                    spmd_axis_name=axis_data.spmd_name,
                )
                out = batched(*operands)
                return out, [0] * len(out)
        return original(axis_data, operands, dims, **params)

    batching.fancy_primitive_batchers[primitive] = rule


def _rule_of(primitive: Any) -> Callable:
    """JAX's batching rule of a primitive, as a fancy one.

    Releases of JAX differ in whether those that are not asked where nothing is mapped are fancy.
    """
    if primitive in batching.fancy_primitive_batchers:
        return batching.fancy_primitive_batchers[primitive]
    plain: Any = batching.primitive_batchers
    original = plain[primitive]

    def rule(axis_data, operands, dims, **params):
        if any(d is not None for d in dims):
            return original(operands, dims, **params)
        out = primitive.bind(*operands, **params)
        return out, [None] * len(out)

    return rule


ALONE = {
    *("device_put", "optimization_barrier", "rng_bit_generator", "sharding_constraint"),
    *("custom_vmap_call", "io_callback", "pure_callback"),
}
"""Primitives whose equation is about more than its numbers, mixes those of lanes, or has a rule of
its user's for them."""


def is_mapped(eqn: Any) -> bool:
    """Whether an equation does to several operands, stacked, what it does to each.

    Control flow costs more where it is mapped, and functions with batching rules of their own may
    do something else. Functions with a derivative of their own are mapped with it.
    """
    if kind(eqn) == "custom_jvp_call":
        return not any(map(_holds_alone, bodies(eqn)))
    if kind(eqn) in ALONE or any(map(is_jaxpr, eqn.params.values())):
        return False
    plain: Any = batching.primitive_batchers
    fancy = eqn.primitive in batching.fancy_primitive_batchers
    return fancy or (isinstance(plain, dict) and eqn.primitive in plain)


def _holds_alone(jaxpr: Any) -> bool:
    inside = (body for eqn in jaxpr.eqns for body in bodies(eqn))
    return any(kind(eqn) in ALONE for eqn in jaxpr.eqns) or any(map(_holds_alone, inside))
