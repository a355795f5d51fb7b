"""Where the edge of a support lies, and what it moves with.

The derivative of ∫ f p has a term at each edge of the support that moves with the parameters,
f times the density there, which the score of p does not see. So a log density that is
differentiated as a score refuses the derivative of its edges, unless the density vanishes at them.
"""

import copy
from collections.abc import Callable
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.custom_derivatives import SymbolicZero

from .._analysis.dataflow import flow, merged
from .._analysis.sampler import is_point
from .._jax import equations
from .._jax.control_flow import CallLike, form
from .._jax.leaves import merge, partition
from .._jax.run import run
from .law import is_a, is_discrete, stated, traced

_SPINE = ("ExpandedDistribution", "Independent")
_PARTS = ("base_dist", "component_distribution", "component_distributions", "marginal_dist")
_LIGHT = ("Normal", "MultivariateNormal", "LowRankMultivariateNormal", "StandardNormal")
"""Their tails vanish faster than any power, also where a transform makes an edge of them."""
_STRETCHES = ("AffineTransform", "ExpTransform", "SigmoidTransform", "SoftplusTransform")
"""Transforms that are one to one and grow or fall no faster than an exponential."""
_VANISHING = ("Levy",)
"""Their density and all its derivatives vanish at the edge, whatever their parameters."""
_POWER = 0.25
"""A density vanishes at an edge where it falls at least like this power of the distance."""


def guarded(distribution: Any, refuse: Callable[[], NoReturn]) -> Any:
    """The distribution; its `log_prob` calls `refuse` where the score of a moving edge is taken."""
    moving = traced(edges(distribution))
    if not moving:
        return distribution
    attached = _attached(refuse)
    made, log_prob = copy.copy(distribution), distribution.log_prob
    guard = lambda *args, **kwargs: attached(log_prob(*args, **kwargs), *moving)  # noqa: E731
    object.__setattr__(made, "log_prob", guard)
    return made


def _attached(refuse: Callable[[], NoReturn]) -> Callable:
    """`(log_prob, *edges) -> log_prob`, whose derivative in the edges is refused."""

    @jax.custom_jvp
    def attached(log_prob, *edges):
        return log_prob

    def rule(primals, tangents):
        tangent, *moved = tangents
        if not all(isinstance(t, SymbolicZero) for t in moved):
            refuse()
        return primals[0], tangent

    attached.defjvp(rule, symbolic_zeros=True)
    return attached


def edges(distribution: Any) -> list[Any]:
    """The places of a support's edges at which the density does not vanish, numbers or arrays.

    They are those of each element of a vector; `0` and `1` stand for the edge of a support that is
    no interval. What cannot be placed is left to the arrays that move it.
    """
    if is_a(distribution, *_SPINE):
        return edges(distribution.base_dist)
    if is_a(distribution, "TransformedDistribution"):
        return _images(distribution)
    if hasattr(distribution, "bijection"):
        return _edges_of_bijection(distribution)
    if is_a(distribution, "Delta"):
        return jax.tree.leaves(distribution.v)
    if is_discrete(distribution) or is_a(distribution, *_VANISHING):
        return []
    if is_point(distribution):
        return jax.tree.leaves(distribution)
    parts = [part for name in _PARTS for part in _listed(getattr(distribution, name, None))]
    return [*_ends(distribution), *(edge for part in parts for edge in edges(part))]


def _listed(part: Any) -> list[Any]:
    return list(part) if isinstance(part, list | tuple) else [] if part is None else [part]


def _ends(distribution: Any) -> list[Any]:
    """The edges of the support that a distribution states."""
    support = stated(distribution, "support")
    if any(map(callable, jax.tree.leaves(support))):
        return _read_by(distribution)
    return _ends_of(support)


def _ends_of(support: Any) -> list[Any]:
    """The edges of a constraint."""
    while hasattr(support, "base_constraint"):
        support = support.base_constraint
    if support is None or is_a(support, "_Real", "_Dependent"):
        return []
    ends = [getattr(support, f"{side}_bound", None) for side in ("lower", "upper")]
    return _finite(ends) or traced(support) or [0.0, 1.0]


def _finite(ends: list[Any]) -> list[Any]:
    """Ends that are there: not None, nor known to be infinite."""
    return [x for x in ends if x is not None and (isinstance(x, Tracer) or np.all(np.isfinite(x)))]


def _read_by(distribution: Any) -> list[Any]:
    """The arrays of a distribution that a support written as a function reads."""
    leaves, static, treedef = partition(distribution)
    structs = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in leaves]
    value = jax.eval_shape(distribution.sample, jax.random.key(0))

    def inside(leaves, value):
        return merge(leaves, static, treedef).support(value)

    jaxpr = jax.make_jaxpr(inside)(structs, value).jaxpr
    ins = [frozenset({i}) for i in range(len(jaxpr.invars))]
    reads = merged(flow(jaxpr, ins, lambda eqn, ins, _, control: [merged([control, *ins])]))
    return [x for i, x in enumerate(leaves) if i in reads]


def _images(distribution: Any) -> list[Any]:
    """The edges of a transformed distribution: those of its base, and what infinity is sent to."""
    base, found, fixed = distribution.base_dist, edges(distribution.base_dist), []
    while is_a(base, *_SPINE):
        base = base.base_dist
    light = is_a(base, *_LIGHT)
    for transform in _flat(distribution.transforms):
        arrays = traced(transform)
        if arrays and fixed is not None:
            found, fixed = _not_vanishing(found, base, fixed), None
        elif fixed is not None:
            fixed.append(transform)
        if transform.domain.event_dim:
            found = [*found, *(arrays if found else [])]
        else:
            found = _finite([image(transform, edge) for edge in found])
        if not (light and is_a(transform, *_STRETCHES)):
            found += _ends_of(stated(transform, "codomain"))
    return found


def _flat(transforms: list[Any]) -> list[Any]:
    """The transforms, those that are composed taken apart."""
    return [part for t in transforms for part in (_flat(t.parts) if hasattr(t, "parts") else [t])]


def _not_vanishing(found: list[Any], base: Any, transforms: list[Any]) -> list[Any]:
    """Those edges of transforms without parameters at which the density does not vanish."""
    fixed: Any = None if is_a(base, "Delta") else _of_constants(base)
    support = stated(fixed, "support")
    vectors = any(transform.domain.event_dim for transform in transforms)
    if support is None or vectors or getattr(fixed, "event_shape", ()) or traced(found):
        return found

    def log_density(value):
        jacobian = 0.0
        for transform in reversed(transforms):
            source = transform.inv(value)
            jacobian, value = jacobian + transform.log_abs_det_jacobian(source, value), source
        inside = jnp.asarray(support(value))
        value = jnp.where(inside, value, getattr(support, "feasible_like", jnp.asarray)(value))
        return jnp.where(inside, fixed.log_prob(value) - jacobian, -jnp.inf)

    shape = getattr(fixed, "batch_shape", ())
    with jax.ensure_compile_time_eval(), np.errstate(all="ignore"):
        return [edge for edge in found if not _vanishes(log_density, np.asarray(edge), shape)]


def _vanishes(log_density: Callable, edge: np.ndarray, shape: tuple[int, ...]) -> bool:
    """Whether a density falls like a power of the distance to an edge, from either side."""
    edge = np.broadcast_to(edge, np.broadcast_shapes(edge.shape, shape))
    steps = np.array([-(2.0**-18), 2.0**-18, -(2.0**-12), 2.0**-12])
    places = edge + np.multiply.outer(steps, np.maximum(np.abs(edge), 1.0))
    density = np.asarray(log_density(places))
    near, far = np.maximum(density[0], density[1]), np.maximum(density[2], density[3])
    return bool(np.all((far > -np.inf) & (far - near > _POWER * np.log(2.0**6))))


def _of_constants(distribution: Any) -> Any:
    """The distribution made again of arguments that are numbers, or None where one is traced."""
    if not traced(distribution):
        return distribution
    names = getattr(distribution, "arg_constraints", {})
    given = {name: getattr(distribution, name) for name in names}
    if not given or traced(given):
        return None
    with jax.ensure_compile_time_eval():
        return type(distribution)(**given)


def image(transform: Any, edge: Any) -> Any:
    """Where a transform sends an edge; a factor of zero keeps it from moving with the other."""
    leaves, static, treedef = partition(transform)
    jaxpr = jax.make_jaxpr(lambda leaves, edge: merge(leaves, static, treedef)(edge))(leaves, edge)
    return run(jaxpr.jaxpr, jaxpr.consts, [*leaves, edge], _folded)[0]


def _folded(eqn: Any, operands: list[Any]) -> list[Any]:
    """An equation, evaluated now where it can be: 0 · x is 0, and 0 and 1 are their own powers."""
    kind, known = equations.kind(eqn), [not isinstance(x, Tracer) for x in operands]
    found = form(eqn)
    if isinstance(found, CallLike):
        return run(*found.body, operands, _folded)
    zero = any(k and np.all(np.asarray(x) == 0) for k, x in zip(known, operands, strict=True))
    if kind == "mul" and zero:
        return [np.zeros(eqn.outvars[0].aval.shape, eqn.outvars[0].aval.dtype)]
    if kind == "pow" and known[0] and np.all(np.isin(operands[0], (0, 1))):
        return [np.broadcast_to(operands[0], eqn.outvars[0].aval.shape)]
    if not all(known):
        return equations.bind(eqn, operands)
    with jax.ensure_compile_time_eval():
        return equations.bind(eqn, [jnp.asarray(x) for x in operands])


def _edges_of_bijection(distribution: Any) -> list[Any]:
    """FlowJAX states no supports: a base with an edge is moved by all that a bijection has."""
    base = distribution.base_dist
    while hasattr(base, "base_dist"):
        base = base.base_dist
    made_by_hand = is_a(base, "_StandardExponential", "_StandardGamma", "Beta")
    moved = is_a(base, "_StandardUniform") or (made_by_hand and is_a(distribution, "Transformed"))
    return traced(distribution) if moved else []
