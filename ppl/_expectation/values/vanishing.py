"""Particles of weight zero add nothing to a derivative, though their cost may be infinite.

What multiplies such a particle's cost is zero, and so is what comes back to it in reverse mode. But
zero times the infinite derivative of a logarithm at zero is no number, and a sum over the particles
would not be one either. So, over particle axes, the equations whose derivative can be infinite pass
back nothing for nothing. Where derivatives are finite that is what JAX does anyway.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from ..._jax import equations, identities
from ..._jax.control_flow import bodies, form
from ..._jax.run import run
from .dimensions import is_elementwise
from .value import Axis, Value, meet_unbounded, spread

_SINGULAR = frozenset(
    ("acos", "acosh", "asin", "atanh", "cbrt", "digamma", "div", "erf_inv", "integer_pow", "lgamma")
) | {"log", "log1p", "pow", "rsqrt", "sqrt", "tan"}
"""Equations whose value or derivative is infinite somewhere."""

_LINEAR = frozenset(
    ("add", "add_any", "sub", "neg", "copy", "convert_element_type", "complex", "real", "imag")
) | {"select_n", "max", "min", "clamp", "abs", "sign", "stop_gradient"}
"""Equations whose derivative does not depend on the value, or is at most one."""


_TABLE = 16_384
"""The most elements of a constant that are looked through for infinite ones."""


def constant(array: Any) -> Value:
    """A constant or a literal as a value, `unbounded` where an element is known to be infinite."""
    known = not isinstance(array, Tracer) and jnp.size(array) <= _TABLE
    real = known and jnp.issubdtype(jnp.result_type(array), jnp.floating)
    return Value(array, unbounded=bool(real and np.isinf(np.asarray(array)).any()))


_CHOOSING = frozenset(("select_n", "gather", "dynamic_slice"))
"""Equations some of whose operands say which elements of others are taken."""


def unbounded(eqn: Any, vals: Sequence[Value]) -> bool:
    """Whether the outputs may be infinite: where they have particles, at one, and only there.

    So they are where an infinite derivative comes from particles, and where a particle chooses
    among numbers of which one may be infinite, such as the logarithms of probabilities.
    """
    if meet_unbounded(vals) or _chosen(eqn, vals):
        return True
    singular = equations.kind(eqn) in _SINGULAR or any(map(_is_singular, _inside(eqn)))
    return singular and (not any(map(spread, vals)) or any(map(spread, _read(eqn, vals))))


def _chosen(eqn: Any, vals: Sequence[Value]) -> bool:
    if equations.kind(eqn) not in _CHOOSING:
        return False
    by_particle = spread(vals[0]) if equations.kind(eqn) == "select_n" else any(map(spread, vals))
    return by_particle and any(val.unbounded for val in vals)


def _inside(eqn: Any) -> list[Any]:
    """The equations of the bodies of an equation, and of theirs."""
    inner = [e for body in bodies(eqn) for e in body.eqns]
    return [*inner, *(e for one in inner for e in _inside(one))]


def _is_singular(eqn: Any) -> bool:
    """Whether an equation of a body is infinite somewhere, or reads a literal that is."""
    literals = [v.val for v in eqn.invars if equations.is_literal(v)]
    return equations.kind(eqn) in _SINGULAR or any(constant(x).unbounded for x in literals)


def _read(eqn: Any, vals: Sequence[Value]) -> Sequence[Value]:
    """The operands that an infinite derivative may come from."""
    kind = equations.kind(eqn)
    return vals[1:] if kind == "div" else vals[:1] if kind == "pow" else vals


def emit(eqn: Any, vals: Sequence[Value]) -> Callable:
    """The equation as a function of arrays, which passes back nothing for nothing if it has to."""
    plain = lambda *arrays: equations.bind(eqn, arrays)  # noqa: E731
    kind, found = equations.kind(eqn), form(eqn)
    if not any(map(spread, vals)):
        return plain
    if found is not None and found.replaceable and unbounded(eqn, vals):
        replaced = found.with_bodies(partial(partial, _run_quietly))
        return lambda *arrays: equations.bind(replaced, arrays)
    if not is_elementwise(eqn) or kind in _LINEAR or not unbounded(eqn, vals):
        return plain
    if not jnp.issubdtype(eqn.outvars[0].aval.dtype, jnp.floating):
        return plain
    factors = [val.unbounded for val in vals]
    guarded = [kind != "mul" or factors[1 - i] for i in range(len(vals))]
    return lambda *arrays: [quiet(plain, guarded)(*arrays)] if any(guarded) else plain(*arrays)


def _run_quietly(jaxpr: Any, consts: Sequence[Any], *args: Any) -> list[Any]:
    """A body whose operands may all have particles and be infinite, as `emit` has its equations.

    What a loop carries may become infinite in any of its steps.
    """

    def entered(arrays):
        return [Value(x, axis, unbounded=True) for x in arrays]

    axis = (Axis(0),)

    def step(eqn, operands):
        vals = [x if isinstance(x, Value) else constant(x) for x in operands]
        outs = emit(eqn, vals)(*(val.array for val in vals))
        return [Value(out, axis, unbounded=unbounded(eqn, vals)) for out in outs]

    outs = run(jaxpr, entered(consts), entered(args), step)
    return [out.array if isinstance(out, Value) else out for out in outs]


def quiet(plain: Callable, guarded: Sequence[bool]) -> Callable:
    """An elementwise function whose derivatives, where `guarded`, are `share`s."""

    @jax.custom_jvp
    def function(*arrays):
        return plain(*arrays)[0]

    def rule(arrays, tangents):
        out, total = function(*arrays), None
        for i, tangent in enumerate(tangents):
            if type(tangent) is jax.custom_derivatives.SymbolicZero:
                continue
            of_one = lambda x, i=i: plain(*arrays[:i], x, *arrays[i + 1 :])[0]  # noqa: E731
            term = _tangent(of_one, arrays[i], tangent, out, guarded[i])
            total = term if total is None else total + term
        return out, jnp.zeros_like(out) if total is None else total

    function.defjvp(rule, symbolic_zeros=True)
    return function


def _tangent(of_one: Callable, x: Any, tangent: Any, out: Any, guarded: bool) -> Any:
    if not guarded:
        return jax.jvp(of_one, (x,), (tangent,))[1]
    slope = jax.jvp(of_one, (x,), (jnp.ones_like(x),))[1]
    return identities.share(jnp.broadcast_to(tangent, out.shape), slope)
