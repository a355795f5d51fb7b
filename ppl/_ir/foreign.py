"""NumPyro's statements and handlers, which say nothing to a program: where one is met, an error.

NumPyro is not imported. Where it is loaded, a handler of ours lies on its stack while a program is
traced, and each message that reaches it is a statement that nobody else has taken.
"""

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from ..errors import ForeignStatement
from .site import user_location

_HARMLESS = {"deterministic", "inspect"}

_STATEMENTS = {
    "sample": "ppl.sample({name!r}, distribution), with obs= for data",
    "factor": "ppl.sample({name!r}, numpyro.distributions.Unit(log_factor), obs=jnp.zeros(0))",
    "plate": (
        "a batched distribution, such as dist.Normal(loc, 1.0).expand([n]), or jax.vmap (of "
        "ppl.scale(rows, size / subsample_size), for a minibatch)"
    ),
    "param": "an argument of the program, which ppl.fit trains",
    "subsample": "data[indices], or ppl.fit(..., data=data, batch_size=...)",
    "control_flow": "jax.lax.scan or jax.lax.cond",
    "prng_key": "ppl.sample with a distribution, and give the key to ppl.seed(program)(key, ...)",
    "mutable": "an argument and a returned value, or a ppl.State for ppl.fit",
}

_HANDLERS = {
    "block": "ppl.marginal(program, keep, algorithm)",
    "condition": "ppl.condition(program, observed)",
    "do": "ppl.intervene(program, values)",
    "infer_config": "ppl.with_estimators(program, estimators)",
    "mask": "ppl.mask(program, flag)",
    "plate": _STATEMENTS["plate"],
    "replay": "ppl.log_density(program, choices)",
    "scale": "ppl.scale(program, factor)",
    "scope": "ppl.scope(program, prefix)",
    "seed": "ppl.seed(program)(key, ...)",
    "substitute": "ppl.log_density(program, choices), or ppl.condition(program, observed)",
    "trace": "ppl.seed(partial(ppl.simulate, program))(key, ...)",
}


class _Guard:
    """A handler at the bottom of a program's own stack."""

    def process_message(self, message: Mapping[str, Any]) -> None:
        """Refuses a statement, unless NumPyro itself collects those of a model of its own."""
        above = _stack()[_depth() :]
        traced = any(type(handler).__name__ == "trace" for handler in above)
        if message["type"] not in _HARMLESS and not traced:
            raise ForeignStatement(_refusal(message))

    def postprocess_message(self, message: Mapping[str, Any]) -> None:
        """Nothing: the message was harmless."""


@contextmanager
def no_foreign_statements() -> Iterator[None]:
    """Refuses NumPyro's statements while a program is traced."""
    stack = _stack()
    depth = len(stack)
    stack.append(_Guard())
    try:
        yield
    finally:
        del stack[depth:]


def refuse_handlers(what: str, program: Any = None) -> None:
    """Raises where a handler of NumPyro is around `what`: the program itself, or one open here."""
    handlers = [*_stack()[_depth() :], *([program] if _is_handler(program) else [])]
    if handlers:
        kind = type(handlers[-1]).__name__
        remedy = _HANDLERS.get(kind)
        raise ForeignStatement(
            f"{_handler_name(kind)} is around {what} at {user_location()}. It acts on NumPyro's "
            "own statements alone: here it would have no effect. "
            + (f"Write {remedy}." if remedy else "Leave it out: it has no counterpart.")
        )


def _refusal(message: Mapping[str, Any]) -> str:
    kind, name = message["type"], message.get("name")
    if kind == "sample" and (message.get("infer") or {}).get("is_auxiliary"):
        kind = "factor"
    remedy = _STATEMENTS.get(kind, "what it computes, by JAX").format(name=name)
    said = f"numpyro.{kind}({name!r}, ...)" if name else f"numpyro.{kind}(...)"
    if kind == "control_flow":
        said = "numpyro.contrib.control_flow's scan or cond"
    return (
        f"{said} at {user_location()} is a statement of NumPyro: in a program of ppl it would "
        f"have no effect. Write {remedy}."
    )


def _handler_name(kind: str) -> str:
    return f"numpyro.{kind}" if kind == "plate" else f"numpyro.handlers.{kind}"


def _stack() -> list:
    return getattr(sys.modules.get("numpyro.primitives"), "_PYRO_STACK", [])


def _is_handler(program: Any) -> bool:
    module = sys.modules.get("numpyro.primitives")
    return module is not None and isinstance(program, module.Messenger)


def _depth() -> int:
    """How far up the innermost program's guard lies on the stack."""
    guards = [i for i, handler in enumerate(_stack()) if isinstance(handler, _Guard)]
    return guards[-1] + 1 if guards else 0
