"""The file that touches JAX's internals: the `sample` primitive and the shape of equations.

The primitive carries an effect, so an unread (observed) site survives JAX's dead-code elimination.
Its batching rule only records the mapped axis; it is a fancy batcher, which JAX also calls when no
operand is mapped, so sites in `vmap` draw independently per lane. Three of JAX's own batching rules
(`scan`, `while`, `cond`) are wrapped for equations that contain sites; the wrapped rule is JAX's.
"""

import itertools
import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import jax
from jax import lax
from jax._src import core, effects, source_info_util
from jax.interpreters import ad, batching, mlir

from .errors import (
    DifferentiatedSite,
    SampleOutsideTransformation,
)


class SampleEffect(effects.Effect):
    """Marks equations that contain a site."""

    def __str__(self) -> str:
        return "Sample"

    __repr__ = __str__
    __eq__ = lambda self, other: type(self) is type(other)  # noqa: E731
    __hash__ = lambda self: hash(type(self))  # noqa: E731


for _allowed in (
    effects.lowerable_effects,
    effects.control_flow_allowed_effects,
    effects.custom_derivatives_allowed_effects,
    effects.remat_allowed_effects,
):
    _allowed.add_type(SampleEffect)

sample_p = core.Primitive("sample")
sample_p.multiple_results = True


@sample_p.def_effectful_abstract_eval
def _sample_abstract_eval(*_, site):
    aval = core.ShapedArray(site.lane_shape + site.out.shape, site.out.dtype)
    return [aval], {SampleEffect()}


def _undischarged(*_, site, **__):
    raise SampleOutsideTransformation(
        f"sample({site.address!r}) at {site.where} ran outside any transformation. "
        "Give the program a meaning: ppl.seed(program)(key, ...) to run it, "
        "ppl.simulate(program, ...) inside an objective, or ppl.expectation(objective)(key, ...)."
    )


def _differentiated(primals, tangents, *, site):
    raise DifferentiatedSite(
        f"sample({site.address!r}) at {site.where} was differentiated before its randomness was "
        "discharged. Write jax.grad(ppl.expectation(objective), argnums=1)(key, ...), in which the "
        "site is discharged first: outside of any program, or in one that takes the key as an "
        "argument."
    )


def _sample_batching_rule(axis_data, operands, dims, *, site):
    moved = [
        x if d is None else jax.numpy.moveaxis(x, d, 0) for x, d in zip(operands, dims, strict=True)
    ]
    mapped = tuple(d is not None for d in dims)
    return sample_p.bind(*moved, site=site.batched(axis_data.size, mapped)), [0]


sample_p.def_impl(_undischarged)
mlir.register_lowering(sample_p, lambda ctx, *args, site: _undischarged(site=site))
ad.primitive_jvps[sample_p] = _differentiated
batching.fancy_primitive_batchers[sample_p] = _sample_batching_rule


control_variate_p = core.Primitive("control_variate")
control_variate_p.multiple_results = True


@control_variate_p.def_effectful_abstract_eval
def _control_variate_abstract_eval(value, *, path, where):
    return [], {SampleEffect()}


def _control_variate_batching_rule(axis_data, operands, dims, *, path, where):
    (value,), (dim,) = operands, dims
    if dim is None:
        value, dim = jax.numpy.broadcast_to(value, (axis_data.size, *value.shape)), 0
    return control_variate_p.bind(jax.numpy.moveaxis(value, dim, 0), path=path, where=where), []


# outside `expectation` there is no score, so it means nothing
control_variate_p.def_impl(lambda value, **_: [])
mlir.register_lowering(control_variate_p, lambda ctx, value, **_: [])
ad.primitive_jvps[control_variate_p] = lambda primals, tangents, **params: (
    control_variate_p.bind(*primals, **params),
    [],
)
batching.fancy_primitive_batchers[control_variate_p] = _control_variate_batching_rule


compound_p = core.Primitive("compound")
compound_p.multiple_results = True


@compound_p.def_effectful_abstract_eval
def _compound_abstract_eval(*_, name, sites, bodies, masks):
    avals = [core.ShapedArray(s.lane_shape + s.out.shape, s.out.dtype) for s in sites]
    return avals, {SampleEffect()}


compound_p.def_impl(lambda *_, sites, **__: _undischarged(site=sites[0]))
mlir.register_lowering(compound_p, lambda ctx, *_, sites, **__: _undischarged(site=sites[0]))
ad.primitive_jvps[compound_p] = lambda primals, tangents, *, sites, **_: _differentiated(
    primals, tangents, site=sites[0]
)


def batch_compound_sites(rule: Callable) -> None:
    """Has `vmap` treat compound sites by `rule(axis_data, operands, dims, params) -> outputs`."""

    def batched(axis_data, operands, dims, **params):
        outs = rule(axis_data, operands, dims, params)
        return outs, [0] * len(outs)

    batching.fancy_primitive_batchers[compound_p] = batched


# --- equations -----------------------------------------------------------------------------------


_ALIASES = {
    "pjit": "jit",
    "closed_call": "jit",
    "core_call": "jit",
    "remat2": "checkpoint",
    "remat": "checkpoint",
    "custom_vjp_call_jaxpr": "custom_vjp_call",
}


def kind(eqn: Any) -> str:
    """What sort of equation it is: its primitive's name, the same in every supported JAX."""
    name = str(eqn.primitive.name)
    return _ALIASES.get(name, name)


def has_sites(thing: Any) -> bool:
    """Whether an equation or a jaxpr contains a site.

    An equation has the effects of its bodies, but for a few (`reduce`) that JAX lets hide them.
    """
    if any(isinstance(effect, SampleEffect) for effect in thing.effects):
        return True
    inside = getattr(thing, "params", {}).values()
    return any(has_sites(opened(p)[0]) for p in inside if hasattr(opened(p)[0], "eqns"))


def live(jaxpr: Any) -> list[Any]:
    """The equations of a jaxpr that its outputs read, and those with effects (sites)."""
    read = {atom for atom in jaxpr.outvars if not is_literal(atom)}
    kept = []
    for eqn in reversed(jaxpr.eqns):
        if eqn.effects or has_sites(eqn) or any(v in read for v in eqn.outvars):
            kept.append(eqn)
            read |= {atom for atom in eqn.invars if not is_literal(atom)}
    return kept[::-1]


def is_literal(atom: Any) -> bool:
    """Whether an operand of an equation is a literal."""
    return isinstance(atom, core.Literal)


def literal(atom: Any) -> jax.Array:
    """The value of a literal as an array; JAX holds some as Python scalars."""
    return jax.numpy.asarray(atom.val, atom.aval.dtype)


def opened(jaxpr: Any) -> tuple[Any, Sequence[Any]]:
    """A closed or open jaxpr as the open one and its constants."""
    return getattr(jaxpr, "jaxpr", jaxpr), getattr(jaxpr, "consts", ())


def body_of(eqn: Any) -> tuple[Any, Sequence[Any]]:
    """The body of a call-like or scan equation, opened."""
    params = eqn.params
    for name in ("jaxpr", "call_jaxpr", "fun_jaxpr"):
        if name in params:
            return opened(params[name])
    raise KeyError(f"{eqn.primitive} has no body")


def bodies(eqn: Any) -> list[Any]:
    """The open jaxprs inside an equation."""
    params = eqn.params
    names = ("jaxpr", "call_jaxpr", "fun_jaxpr", "cond_jaxpr", "body_jaxpr")
    found = [params[name] for name in names if name in params]
    return [opened(body)[0] for body in (*found, *params.get("branches", ()))]


REPLACEABLE = frozenset(("jit", "checkpoint", "scan", "cond"))
"""Equations whose bodies `with_bodies` replaces."""


def with_bodies(eqn: Any, run_of: Callable) -> Any:
    """The equation with other bodies: `run_of(jaxpr, consts)` is a function that does the same."""

    def again(body):
        jaxpr, consts = opened(body)
        structs = [
            jax.ShapeDtypeStruct(v.aval.shape, v.aval.dtype, weak_type=v.aval.weak_type)
            for v in jaxpr.invars
        ]
        closed = jax.make_jaxpr(run_of(jaxpr, consts))(*structs)
        return closed if hasattr(body, "jaxpr") else closed.jaxpr

    params = dict(eqn.params)
    if "branches" in params:
        params["branches"] = tuple(map(again, params["branches"]))
    else:
        params["jaxpr"] = again(params["jaxpr"])
    return eqn.replace(params=params)


def scan_split(eqn: Any, operands: Sequence[Any]) -> tuple[list, list, list]:
    """The operands of a `scan` equation as constants, initial carry and scanned inputs."""
    params = eqn.params
    if "num_consts" in params:
        consts, carry = params["num_consts"], params["num_carry"]
    else:
        consts, carry, _ = (len(part) for part in params["ft_in"].unpack())
    return (
        list(operands[:consts]),
        list(operands[consts : consts + carry]),
        list(operands[consts + carry :]),
    )


def bind(eqn: Any, operands: Sequence[Any]) -> list[Any]:
    """Runs one equation on new operands, keeping custom derivative rules and source lines."""
    params = eqn.primitive.get_bind_params(eqn.params)
    if isinstance(params, tuple):
        subfuns, params = params
        operands = [*subfuns, *operands]
    info = eqn.source_info
    stack = source_info_util.current_name_stack() + info.name_stack
    with ExitStack() as context:
        context.enter_context(source_info_util.user_context(info.traceback, name_stack=stack))
        context.enter_context(eqn.ctx.manager)
        out = eqn.primitive.bind(*operands, **params)
    return list(out) if eqn.primitive.multiple_results else [out]


def scopes(eqn: Any) -> str:
    """The named scopes that an equation was emitted in, outermost first."""
    return str(eqn.source_info.name_stack)


def source_line(eqn: Any) -> str:
    """Where in the user's files an equation comes from."""
    frames = _frames(eqn)
    outside = [f for f in frames if not is_library(f.file_name)]
    users = [f for f in outside if not f.file_name.startswith(_STDLIB)] or outside or frames
    if not users:
        return "an unknown line"
    return f"{users[0].file_name}:{users[0].start_line} ({users[0].function_name})"


def placed(eqn: Any, within: Sequence[Any]) -> Any:
    """The equation, or the innermost one around it, that knows which line it comes from.

    The body of a function that JAX itself compiles (`jnp.where`) is traced once and has the line of
    its first caller: there it is the call that knows.
    """
    calls = [i for i, outer in enumerate(within) if is_call_of_jax(outer)]
    around = within[: calls[0] + 1] if calls else (*within, eqn)
    return next((e for e in reversed(around) if _frames(e)), eqn)


def is_call_of_jax(eqn: Any) -> bool:
    """Whether an equation calls a function of JAX's own."""
    info = getattr(body_of(eqn)[0], "debug_info", None) if kind(eqn) == "jit" else None
    return _PARTS[0] in (getattr(info, "func_src_info", None) or "")


def written_by_user(eqn: Any) -> bool:
    """Whether an equation comes from a line of the user's, not from inside a library."""
    frames = _frames(eqn)
    return bool(frames) and not is_library(frames[0].file_name)


def _frames(eqn: Any) -> list[Any]:
    """The frames outside of JAX, and of what batches control flow in JAX's place."""
    frames = source_info_util.user_frames(eqn.source_info.traceback)
    return list(itertools.dropwhile(lambda frame: _stands_between(frame.file_name), frames))


def _stands_between(file: str) -> bool:
    """Whether a file has frames between JAX's and the user's: rules for JAX, checks of types."""
    return file in _BATCHING or file.startswith("<@") or f"{os.sep}jaxtyping{os.sep}" in file


_LIBRARIES = ("jax", "equinox", "jaxtyping", "numpyro", "beartype", "optax", "flowjax")
_PARTS = tuple(os.sep + os.path.join("site-packages", name) + os.sep for name in _LIBRARIES)
_HERE = os.path.dirname(os.path.abspath(__file__)) + os.sep
_BATCHING = tuple(_HERE + name for name in ("_internals.py", "_vmap.py"))
_STDLIB = os.path.join(os.path.dirname(os.path.dirname(_HERE)), "stdlib") + os.sep


def is_library_of_distributions(file: str) -> bool:
    """Whether a file belongs to a library whose distributions a program samples from."""
    return any(os.sep + name + os.sep in file for name in ("numpyro", "flowjax"))


def is_library(file: str) -> bool:
    """Whether a file belongs to this package or to a library below the user's code."""
    return file.startswith((_HERE, "<@")) or any(part in file for part in _PARTS)


# --- JAX's batching rules of control flow, wrapped where there are sites -------------------------


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
