"""Evaluating one site: its values and weights, over the particles and worlds of what it reads."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from ..._ir.call import read_call
from ..._jax import equations
from ..._jax.control_flow import Call, form
from ..._jax.run import run
from ...errors import UnsuitableEstimator
from ..interpret.evaluation import Evaluation
from ..values.dimensions import Along
from ..values.expansion import MixedSteps, conform, mixed_dims
from ..values.lanes import Deps, deps_of, join, move
from ..values.slices import mix_slices
from ..values.value import (
    Axis,
    Known,
    Segment,
    Value,
    Worlds,
    append_worlds,
    each_array,
    event_shape,
    with_sorted_axes,
)
from ..values.vanishing import constant
from ..values.worlds import expansion_of, perturb_again
from ..values.zeros import log_with_zeros
from .baseline import note
from .coupled import coupled_axis, open_coupled
from .gating import gate
from .measure import Kind, measure
from .weighted_site import WeightedSite


def sample(eqn: Any, vals: Sequence[Value], keys: Any, evaluation: Evaluation) -> list[Value]:
    """The value of a site, and its log density where that is drawn along.

    Its weights are noted in the evaluation; what is drawn along with has none.
    """
    site, flags = eqn.params["site"], evaluation.scope.active

    def measured(*arrays):
        call, active = read_call(site, arrays[: len(vals)]), arrays[len(vals) :]
        return measure(call, keys.key, evaluation.allow_biased, active)

    found, known = _trace_lanes(measured, [*vals, *flags], evaluation.calling(eqn))
    (values, weights, constants, *costs, log), kind = found, known.value
    if evaluation.all_exact and not kind.exact and not site.observed:
        raise UnsuitableEstimator(
            f"ppl.log_expectation sums over every choice, but site {site.address!r} at "
            f"{site.where} is drawn. Give it stdlib.estimators.Enumerate(), or for all sites: "
            'ppl.with_estimators(program, {"*": Enumerate()}).'
        )
    if weights is None:
        scores = [] if log is None else [_first(log)._replace(unbounded=True)]
        return [_first(values), *scores]
    value, weight = _align(values, weights, evaluation)
    call = read_call(site, [val.array for val in vals])
    if evaluation.all_exact:
        real = kind.particles == 1 or _by_logits(call.operands.distribution)
        log = log_with_zeros if evaluation.scope.zeros and not real else _log
        weight = each_array(lambda array, _: log(array), weight)
    opening = _Opening(call, kind, evaluation, constants, costs)
    if kind.coupled:
        return [opening.coupled(value, weight)]
    if kind.perturbed:
        return [opening.worlds(value, weight)]
    if kind.particles == 1:
        return [opening.one(_first(value), _first(weight))]
    return [opening.axis(value, weight)]


def _by_logits(distribution: Any) -> bool:
    """Whether probabilities are exponentials, whose derivative is zero where they are."""
    while hasattr(distribution, "base_dist"):
        distribution = distribution.base_dist
    return "logits" in getattr(distribution, "arg_constraints", ())


def _log(weight: jax.Array) -> jax.Array:
    possible = weight > 0
    return jnp.where(possible, jnp.log(jnp.where(possible, weight, 1.0)), -jnp.inf)


def _align(value: Value, weight: Value, evaluation: Evaluation) -> tuple[Value, Value]:
    """A value with the provenance of its weight as well: what a weight reads, its value does.

    Both have a leading dimension of particles, so their lanes are dimensions of the same number.
    """
    deps = join([deps_of(value), deps_of(weight)])
    (value,) = conform(evaluation, [value], mixed_dims(evaluation, [value], [deps]))
    return value._replace(sites=deps.sites, relations=deps.relations), weight


class _Opening:
    """What happens to a site's values and weights, by the kind of its measure."""

    def __init__(
        self, call: Any, kind: Kind, evaluation: Evaluation, constants: Any, costs: Sequence
    ):
        self.site, self.estimator = call.site, call.operands.estimator
        self.kind, self.evaluation, self.constants, self.costs = kind, evaluation, constants, costs

    def _open(
        self,
        value: Value,
        weight: Value,
        axis: bool = False,
        normalized: bool = False,
        perturbed: bool = False,
    ) -> Value:
        """Opens the site; the value then depends on it lane by lane, where its lanes come first.

        In a loop it may depend on the site's earlier steps already.
        """
        lanes, scope = event_shape(weight)[1 if perturbed else 0 :], self.evaluation.scope
        baseline, control, chances = self.costs
        if baseline is not None:
            baseline = note(baseline, weight, self.evaluation)
        opened = WeightedSite(
            self.site,
            weight,
            (*scope.lengths, *lanes),
            axis,
            normalized,
            perturbed,
            baseline,
            control=control,
            chances=chances,
            loops=scope.loops,
        )
        number = self.evaluation.ledger.open(opened)
        own = self._own(number, lanes)
        deps = join([deps_of(value), own])
        mixed = (None,) if own.relations else ()
        lost = None in deps.relations.get(number, mixed)
        if lost and any(axis.site == number for axis in value.axes):
            raise MixedSteps(scope.loops[-1])
        return value._replace(sites=deps.sites, relations=deps.relations)

    def _own(self, number: int, lanes: tuple[int, ...]) -> Deps:
        """What depends on a site lane by lane, where its lanes come first, and on no other."""
        relation = (*self.evaluation.scope.own_steps, *(Along(d) for d in range(len(lanes))))
        return Deps(1 << number, {number: relation} if relation else {})

    def one(self, value: Value, weight: Value) -> Value:
        """One particle: no axis."""
        return self._open(value, weight)

    def axis(self, value: Value, weight: Value) -> Value:
        """Several particles, whose number multiplies with that of others: a named axis."""
        axis = Axis(self.evaluation.ledger.next)
        value, weight = _name(value, axis), _name(weight, axis)
        value = self._open(value, weight, axis=True, normalized=self.kind.normalized)
        constants = self.kind.values
        return value if constants is None else value._replace(known=Known(axis, constants))

    def worlds(self, value: Value, weight: Value) -> Value:
        """A particle and its perturbations: new worlds, in which those of other sites are not."""
        own = Segment(self.evaluation.ledger.next, (), self.kind.particles - 1)
        array = jnp.moveaxis(value.array, len(value.axes), 0)[1:]
        base, worlds = _first(value), Worlds(array, value.axes, (own,))
        base = base._replace(worlds=self._add_worlds(base, worlds, event_shape(weight)[1:]))
        array = jax.lax.slice_in_dim(weight.array, 1, None, axis=len(weight.axes))
        weight = weight._replace(array=array, worlds=None)
        return self._open(base, weight, normalized=True, perturbed=True)

    def _add_worlds(self, base: Value, new: Worlds, lanes: tuple[int, ...]) -> Worlds:
        """The worlds in which a value is, and new ones; in a loop, some are of earlier steps."""
        number, evaluation = new.segments[0].site, self.evaluation
        forms = [s.form for s in base.worlds.segments if s.site == number] if base.worlds else []
        if not forms:
            return append_worlds(base.worlds, new)
        own = self._own(number, lanes)
        relation = join([deps_of(base), own]).relations.get(
            number, (None,) * len(evaluation[number].lane_sizes)
        )
        mixed = {d for d, along in enumerate(relation) if along is None}.union(*forms)
        (base,) = conform(evaluation, [base], {number: mixed})
        drawn = base._replace(worlds=new, relations=own.relations)
        sizes = evaluation[number].lane_sizes
        expansion = expansion_of(drawn, number, mixed, sizes)
        return perturb_again(base, drawn, expansion, evaluation.number_of)

    def coupled(self, value: Value, weight: Value) -> Value:
        """Particles that go together with those of other lanes: one axis of runs of the program."""
        axis = coupled_axis(self.evaluation, self.kind, self.estimator)
        if axis is None:
            axis = open_coupled(self.evaluation, self.constants, self.kind, self.estimator)
        bit = 1 << axis.site
        value, weight = (
            _run_of(val, axis)._replace(sites=val.sites | bit) for val in (value, weight)
        )
        steps = tuple(Along(-loop.level) for loop in self.evaluation[axis.site].loops)
        if steps:
            value, weight = (
                v._replace(relations={**v.relations, axis.site: steps}) for v in (value, weight)
            )
        return self.one(value, weight)


def _run_of(val: Value, axis: Axis) -> Value:
    """Particles as runs: in each run of what the site reads, the particle of that run."""

    def diagonal(array, axes):
        array = jnp.moveaxis(array, [axes.index(axis), len(axes)], [0, 1])
        index = jnp.arange(array.shape[0])
        return jnp.moveaxis(array[index, index], 0, axes.index(axis))

    has = {axis in part.axes for part in (val, val.worlds) if part is not None}
    if has == {False}:
        return _name(val, axis)
    assert has == {True}
    return _trailing_lanes(each_array(diagonal, val))


def _trailing_lanes(val: Value) -> Value:
    deps = move(deps_of(val), lambda d: d - 1)
    return val._replace(relations=deps.relations)


def _first(val: Value) -> Value:
    """The first particle."""

    def first(array, axes):
        return lax.squeeze(lax.slice_in_dim(array, 0, 1, axis=len(axes)), [len(axes)])

    return _trailing_lanes(each_array(first, val))


def _name(val: Value, axis: Axis) -> Value:
    """The leading dimension of particles, as a named axis; it is the last of all."""
    if val.worlds:
        val = val._replace(worlds=val.worlds._replace(axes=(*val.worlds.axes, axis)))
    val = val._replace(axes=(*val.axes, axis))
    return with_sorted_axes(_trailing_lanes(val))


def _val(x: Any) -> Value:
    return x if isinstance(x, Value) else Value(x)


def _trace_lanes(fn: Callable, vals: Sequence[Value], evaluation: Evaluation) -> Any:
    """`fn` of the values, each array that it returns as a value over what it depends on.

    `fn` is others' code (an estimator, a distribution) and takes a site's operands `(*lanes, ...)`
    together. Mapped over the axes of all of them, each output would have them all, and depend on
    every lane. So it is traced once, on shapes without axes, and its equations are evaluated as the
    program's own are: a support of K states stays `(K,)` though its probabilities are
    `(*axes, K, *lanes)`.
    """
    random = [val for val in vals if val.sites]
    if not random:
        return jax.tree.map(Value, fn(*(v.array for v in vals)))
    structs = [jax.typeof(v.array) for v in random]
    structs = [
        jax.ShapeDtypeStruct(s.shape[len(v.axes) :], s.dtype, weak_type=s.weak_type)
        for s, v in zip(structs, random, strict=True)
    ]

    def of_random(*arrays):
        given = iter(arrays)
        return fn(*(next(given) if val.sites else val.array for val in vals))

    closed, shape = jax.make_jaxpr(of_random, return_shape=True)(*structs)

    def step(eqn, operands):
        inputs = [_val(x) for x in operands]
        found = form(eqn)
        if isinstance(found, Call):
            consts = list(map(Value, found.body.consts))
            return run(found.body.jaxpr, consts, inputs, step)
        if equations.kind(eqn) == "gated":
            return gate(eqn, inputs, evaluation)
        return evaluation.bind(eqn, inputs)

    outs = run(closed.jaxpr, [constant(c) for c in closed.consts], random, step)
    whole = [mix_slices(evaluation, _val(out)) for out in outs]
    return jax.tree.unflatten(jax.tree.structure(shape), whole)
