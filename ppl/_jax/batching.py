"""JAX's batching rules of control flow, wrapped where there are sites; elsewhere they are JAX's."""

from collections.abc import Callable
from typing import Any

import jax
from jax import lax
from jax.interpreters import batching

from .equations import has_sites


class _Eqn:
    """What the rewriting rules need of an equation that is being batched."""

    def __init__(self, primitive, params):
        self.primitive, self.params = primitive, params


def rewrite_under_vmap(name: str, rewrite: Callable[[Any, Any], Callable | None]) -> None:
    """Has `vmap` treat the equations `name` with sites by way of a rewriting.

    `rewrite(eqn, dims)` returns a function of the equation's operands that means the same and is
    batched in its place, or None where JAX's own rule is right as it stands.
    """
    primitive = {"scan": lax.scan_p, "while": lax.while_p, "cond": lax.cond_p}[name]
    original = batching.fancy_primitive_batchers[primitive]

    def rule(axis_data, operands, dims, **params):
        bodies = [params[k] for k in ("jaxpr", "body_jaxpr") if k in params]
        if any(map(has_sites, (*bodies, *params.get("branches", ())))):
            replacement = rewrite(_Eqn(primitive, params), dims)
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
