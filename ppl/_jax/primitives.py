"""The primitives: `sample`, `compound`, `control_variate` and `fresh_key`.

They carry an effect, so an unread (observed) site survives JAX's dead-code elimination. The
batching rule of `sample` only records the mapped axis; it is a fancy batcher, which JAX also calls
when no operand is mapped, so sites in `vmap` draw independently per lane. A site may have a second
output, the log density of its draw; where nobody reads it, dead-code elimination takes it off.
"""

from collections.abc import Callable

import jax
from jax._src import core, effects
from jax.interpreters import ad, batching, mlir, partial_eval

from ..errors import DifferentiatedSite, SampleOutsideTransformation


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
    return [core.ShapedArray(out.shape, out.dtype) for out in site.outs], {SampleEffect()}


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
    outs = sample_p.bind(*moved, site=site.batched(axis_data.size, mapped))
    return outs, [0] * len(outs)


def _sample_dce_rule(used, eqn):
    if not all(used[1:]):  # the log density of the draw
        eqn = eqn.replace(outvars=eqn.outvars[:1], params={"site": eqn.params["site"].unscored()})
    return [True] * len(eqn.invars), eqn


sample_p.def_impl(_undischarged)
mlir.register_lowering(sample_p, lambda ctx, *args, site: _undischarged(site=site))
ad.primitive_jvps[sample_p] = _differentiated
batching.fancy_primitive_batchers[sample_p] = _sample_batching_rule
partial_eval.dce_rules[sample_p] = _sample_dce_rule


control_variate_p = core.Primitive("control_variate")
control_variate_p.multiple_results = True


@control_variate_p.def_effectful_abstract_eval
def _control_variate_abstract_eval(value, *, paths, where):
    return [], {SampleEffect()}


def _control_variate_batching_rule(axis_data, operands, dims, *, paths, where):
    (value,), (dim,) = operands, dims
    if dim is None:
        value, dim = jax.numpy.broadcast_to(value, (axis_data.size, *value.shape)), 0
    return control_variate_p.bind(jax.numpy.moveaxis(value, dim, 0), paths=paths, where=where), []


# outside `expectation` there is no score, so it means nothing
control_variate_p.def_impl(lambda value, **_: [])
mlir.register_lowering(control_variate_p, lambda ctx, value, **_: [])
ad.primitive_jvps[control_variate_p] = lambda primals, tangents, **params: (
    control_variate_p.bind(*primals, **params),
    [],
)
batching.fancy_primitive_batchers[control_variate_p] = _control_variate_batching_rule


fresh_key_p = core.Primitive("fresh_key")
fresh_key_p.multiple_results = True


@fresh_key_p.def_effectful_abstract_eval
def _fresh_key_abstract_eval(*, lanes, impl, where):
    key = jax.eval_shape(lambda: jax.random.key(0, impl=impl))
    return [core.ShapedArray(lanes, key.dtype)], {SampleEffect()}


def _no_key(*, where, **_):
    raise SampleOutsideTransformation(
        f"fresh_key() at {where} ran outside any transformation: there is no run for it to be a "
        "key of. Give the program a meaning: ppl.seed(program)(key, ...) to run it, or "
        "ppl.expectation(objective)(key, ...); where it was scored, "
        "ppl.seed(lambda: ppl.log_density(program, choices))(key)."
    )


def _fresh_key_batching_rule(axis_data, operands, dims, *, lanes, **params):
    return fresh_key_p.bind(lanes=(axis_data.size, *lanes), **params), [0]


fresh_key_p.def_impl(_no_key)
mlir.register_lowering(fresh_key_p, lambda ctx, **params: _no_key(**params))
batching.fancy_primitive_batchers[fresh_key_p] = _fresh_key_batching_rule


compound_p = core.Primitive("compound")
compound_p.multiple_results = True


@compound_p.def_effectful_abstract_eval
def _compound_abstract_eval(*_, name, sites, bodies, joint, masks):
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
