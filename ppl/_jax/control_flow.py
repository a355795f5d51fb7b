"""Control flow: which equations have bodies that are entered, and how each enters them.

`form(eqn)` reads an equation with bodies as one of six forms: what its bodies are, how its operands
are split among them, and how it is emitted again with others. `FORMS` has a row a primitive; a new
one (JAX's or your own) that is like a call or a loop is one more row, and every meaning, analysis
and evaluation enters it. Names and parameters differ between releases of JAX; forms do not.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax import lax
from jax._src.custom_batching import custom_vmap_p

from .equations import Body, is_jaxpr, kind, opened

__all__ = [
    "FORMS",
    "Branches",
    "Call",
    "CallLike",
    "Checkpoint",
    "CustomRule",
    "Form",
    "Loop",
    "While",
    "form",
    "rule_of",
]


@dataclasses.dataclass(frozen=True, eq=False)
class Form:
    """An equation with bodies that are entered.

    `held` names the parameters that hold them; `label` is what users are shown. `replaceable` says
    whether the equation means the same with other bodies that do the same (`with_bodies`).
    """

    eqn: Any
    held: tuple[str, ...]
    label: str
    replaceable: ClassVar[bool] = True

    @property
    def bodies(self) -> list[Body]:
        """The bodies, in order, each with its constants."""
        return [opened(body) for name in self.held for body in _listed(self.eqn.params[name])]

    def with_bodies(self, run_of: Callable[[Any, Sequence[Any]], Callable]) -> Any:
        """The equation with other bodies: `run_of(jaxpr, consts)` is a function that does it."""
        replaced = {name: _each(self.eqn.params[name], run_of) for name in self.held}
        return self.eqn.replace(params={**self.eqn.params, **replaced})


# --- one body, over the equation's operands ------------------------------------------------------


class CallLike(Form):
    """One body, entered once, that takes the equation's operands and gives its outputs."""

    @property
    def body(self) -> Body:
        """The body."""
        return self.bodies[0]


class Call(CallLike):
    """A call, as `jax.jit` makes it: the equation is its body."""


class Checkpoint(CallLike):
    """A body whose intermediate values are computed again where they are differentiated."""

    def wrap(self, body: Callable) -> Callable:
        """`jax.checkpoint` of another function, with the options of this one."""
        names = ("prevent_cse", "policy")
        options = {name: self.eqn.params[name] for name in names if name in self.eqn.params}
        return jax.checkpoint(body, **options)


class CustomRule(CallLike):
    """A body with a rule of its own, to differentiate or batch it, lost where it is entered."""

    replaceable = False


# --- loops ---------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, eq=False)
class Loop(Form):
    """A `scan`: a body for each of `length` steps, over constants, a carry and scanned inputs.

    The body gives the new carry, and the outputs of its step, which are stacked.
    """

    num_consts: int
    num_carry: int
    length: int
    reverse: bool
    unroll: Any

    @property
    def body(self) -> Body:
        """The body of one step: `(*consts, *carry, *inputs of the step) -> (*carry, *outputs)`."""
        return self.bodies[0]

    def split(self, operands: Sequence[Any]) -> tuple[list, list, list]:
        """The equation's operands as constants, initial carry and scanned inputs."""
        last = self.num_consts + self.num_carry
        consts, carry = operands[: self.num_consts], operands[self.num_consts : last]
        return list(consts), list(carry), list(operands[last:])

    def split_outputs(self, outs: Sequence[Any]) -> tuple[list, list]:
        """The body's outputs, or the equation's, as carry and (stacked) outputs."""
        return list(outs[: self.num_carry]), list(outs[self.num_carry :])

    def scan(self, body: Callable, init: Any, xs: Any) -> tuple[Any, Any]:
        """`lax.scan` of another function, with the options of this loop."""
        options = {"length": self.length, "reverse": self.reverse, "unroll": self.unroll}
        return lax.scan(body, init, xs, **options)


@dataclasses.dataclass(frozen=True, eq=False)
class While(Form):
    """A `while_loop`: a body again and again while a predicate of the carry holds.

    Each of the two has constants of its own.
    """

    predicate_consts: int
    body_consts: int
    replaceable = False

    @property
    def predicate(self) -> Body:
        """`(*its constants, *carry) -> (flag,)`."""
        return self.bodies[0]

    @property
    def body(self) -> Body:
        """`(*its constants, *carry) -> carry`."""
        return self.bodies[1]

    def split(self, operands: Sequence[Any]) -> tuple[list, list, list]:
        """The operands as constants of the predicate, constants of the body, initial carry."""
        first, second = self.predicate_consts, self.predicate_consts + self.body_consts
        return list(operands[:first]), list(operands[first:second]), list(operands[second:])

    @staticmethod
    def loop(unfinished: Callable, advance: Callable, carry: list, extra: Any) -> Any:
        """`lax.while_loop` over a carry and something extra: `advance(carry, extra)` gives both.

        A `while_loop` that JAX has batched has a predicate for each lane; a lane that has ended
        keeps its carry.
        """

        def step(state):
            carry, extra = state
            going = unfinished(carry)
            new, extra = advance(carry, extra)
            if going.ndim:
                pairs = zip(new, carry, strict=True)
                new = [jnp.where(_leading(going, x), x, old) for x, old in pairs]
            return new, extra

        return lax.while_loop(lambda state: jnp.any(unfinished(state[0])), step, (carry, extra))


# --- branches ------------------------------------------------------------------------------------


class Branches(Form):
    """A `cond` or `switch`: one of several bodies, by an index; they take the other operands."""

    def split(self, operands: Sequence[Any]) -> tuple[Any, list]:
        """The index, and what the bodies take."""
        index, *rest = operands
        return index, rest


# --- the table -----------------------------------------------------------------------------------


def _held(eqn: Any) -> tuple[str, ...]:
    """The parameter that holds the one body of an equation like a call."""
    names = ("jaxpr", "call_jaxpr", "fun_jaxpr", "call")
    return (next(name for name in names if name in eqn.params),)


def _call(eqn: Any) -> Call:
    return Call(eqn, _held(eqn), "jit")


def _checkpoint(eqn: Any) -> Checkpoint:
    return Checkpoint(eqn, _held(eqn), "checkpoint")


def _custom_jvp(eqn: Any) -> CustomRule:
    return CustomRule(eqn, _held(eqn), "custom_jvp_call")


def _custom_vjp(eqn: Any) -> CustomRule:
    return CustomRule(eqn, _held(eqn), "custom_vjp_call")


def _custom_vmap(eqn: Any) -> CustomRule:
    return CustomRule(eqn, _held(eqn), "custom_vmap_call")


def _scan(eqn: Any) -> Loop:
    params = eqn.params
    if "num_consts" in params:
        consts, carry = params["num_consts"], params["num_carry"]
    else:
        consts, carry, _ = (len(part) for part in params["ft_in"].unpack())
    length, reverse, unroll = params["length"], params["reverse"], params["unroll"]
    return Loop(eqn, ("jaxpr",), f"scan {length}", consts, carry, length, reverse, unroll)


def _while(eqn: Any) -> While:
    counts = eqn.params["cond_nconsts"], eqn.params["body_nconsts"]
    return While(eqn, ("cond_jaxpr", "body_jaxpr"), "while", *counts)


def _cond(eqn: Any) -> Branches:
    return Branches(eqn, ("branches",), "cond")


FORMS: dict[str, Callable[[Any], Form]] = {
    **dict.fromkeys(("jit", "pjit", "closed_call", "core_call"), _call),
    **dict.fromkeys(("checkpoint", "remat", "remat2"), _checkpoint),
    "custom_jvp_call": _custom_jvp,
    **dict.fromkeys(("custom_vjp_call", "custom_vjp_call_jaxpr"), _custom_vjp),
    "custom_vmap_call": _custom_vmap,
    "scan": _scan,
    "while": _while,
    "cond": _cond,
}
"""By the name of a primitive: what reads its equations as a form."""

BATCHED = {
    CustomRule: custom_vmap_p,
    Loop: lax.scan_p,
    While: lax.while_p,
    Branches: lax.cond_p,
}
"""The primitives whose batching rules have to know of sites, by form."""


def form(eqn: Any) -> Form | None:
    """How an equation enters its bodies, or None where it has none that are entered.

    ```python
    >>> import jax
    >>> from ppl.extend import control_flow
    >>> sums = lambda x: jax.lax.scan(lambda c, x: (c + x, c), 0.0, x)[1]
    >>> jaxpr = jax.make_jaxpr(sums)(jax.numpy.ones(3))
    >>> loop = control_flow.form(jaxpr.eqns[0])
    >>> loop.label, loop.num_carry, len(loop.body.jaxpr.invars)
    ('scan 3', 1, 2)

    ```
    """
    row = FORMS.get(eqn.primitive.name)
    return None if row is None else row(eqn)


def rule_of(eqn: Any, rules: Mapping[Any, Callable]) -> Callable | None:
    """The rule of an equation, given its form, or it itself where it has none.

    `rules` are by form, or by the name of a primitive without one.
    """
    found = form(eqn)
    rule = rules.get(kind(eqn) if found is None else type(found))
    return None if rule is None else partial(rule, found or eqn)


def bodies(eqn: Any) -> list[Any]:
    """The open jaxprs inside an equation, whatever it is."""
    found = form(eqn)
    if found is not None:
        return [body.jaxpr for body in found.bodies]
    parts = (part for param in eqn.params.values() for part in _listed(param))
    return [opened(part).jaxpr for part in filter(is_jaxpr, parts)]


def departs(eqn: Any) -> bool:
    """Whether an equation's bodies run other than once each, as they stand: loops, branches."""
    found = form(eqn)
    return found is not None and not isinstance(found, CallLike)


# --- parts of parameters -------------------------------------------------------------------------


def _listed(param: Any) -> Sequence[Any]:
    return param if isinstance(param, tuple | list) else (param,)


def _each(param: Any, run_of: Callable) -> Any:
    if isinstance(param, tuple | list):
        return type(param)(_each(body, run_of) for body in param)
    jaxpr, consts = opened(param)
    structs = [
        jax.ShapeDtypeStruct(v.aval.shape, v.aval.dtype, weak_type=v.aval.weak_type)
        for v in jaxpr.invars
    ]
    closed = jax.make_jaxpr(run_of(jaxpr, consts))(*structs)
    return closed if hasattr(param, "jaxpr") else closed.jaxpr


def _leading(flags: jax.Array, like: jax.Array) -> jax.Array:
    return flags.reshape(flags.shape + (1,) * (like.ndim - flags.ndim))
