"""Operations: their text in JAX, and what they do in NumPy.

In NumPy an array has one more dimension, the last: the joint states of all the choices. Reals are
complex numbers there, of which the imaginary part carries a derivative.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from .syntax import Type


class Operation(NamedTuple):
    """`text` has `{0}`, `{1}` for the arguments and `{s[0]}` for constants.

    `result` is a type, from the types and the constants, or None where the operation is not for
    them; `static` draws constants. A `rough` one jumps or has a kink.
    """

    text: str
    run: Callable
    result: Callable[..., Type | None]
    static: Callable[..., tuple] = lambda rng, *types: ()
    rough: bool = False

    @property
    def arity(self) -> int:
        """How many arguments it has."""
        return next(n for n in range(4) if f"{{{n}}}" not in self.text)


def same(x: Type, *static: Any) -> Type | None:
    """Elementwise, of reals."""
    return x if x.real else None


def broadcast(x: Type, y: Type) -> Type | None:
    """Elementwise, of two real arrays of one shape, or one of them a scalar."""
    if not (x.real and y.real) or (x.shape != y.shape and x.shape and y.shape):
        return None
    return Type(x.shape or y.shape)


def selected(z: Type, x: Type, y: Type, *static: Any) -> Type | None:
    """By integers of the same shape, or by one."""
    both = broadcast(x, y)
    return both if both and not z.real and z.shape in ((), both.shape) else None


def integers(z: Type, *static: Any) -> Type | None:
    """Elementwise, of integers."""
    return None if z.real else z


def vector(x: Type, new: int | None = None, least: int = 0) -> Type | None:
    """Along the first dimension, of anything; `new` is its length."""
    if not x.shape or x.shape[0] < least:
        return None
    return x if new is None else x._replace(shape=(new, *x.shape[1:]))


def inner(x: Type, least: int = 0) -> Type | None:
    """Without the first dimension."""
    return x._replace(shape=x.shape[1:]) if x.shape and x.shape[0] >= least else None


def logsumexp(x: Any) -> Any:
    top = np.max(x.real, axis=0)
    return top + np.log(np.sum(np.exp(x - top), axis=0))


def softmax(x: Any) -> Any:
    shares = np.exp(x - np.max(x.real, axis=-2, keepdims=True))
    return shares / np.sum(shares, axis=-2, keepdims=True)


def gather(x: Any, z: Any) -> Any:
    """The rows of x whose numbers are in z, state by state."""
    if z.ndim == 1:
        return x[z, ..., np.arange(z.size)].T if x.ndim > 2 else x[z, np.arange(z.size)]
    return np.stack([gather(x, row) for row in z]) if len(z) else z.astype(complex)


def placed(x: Any, y: Any, i: int) -> Any:
    x = np.array(np.broadcast_to(x, np.broadcast_shapes(x.shape, y.shape)))
    x[i] = y
    return x


def number(rng: Any) -> float:
    return round(float(rng.uniform(-1.2, 1.2)), 2)


def permutation(rng: Any, x: Type) -> tuple:
    return (rng.permutation(x.shape[0]).tolist(),) if x.shape else ([],)


def place(rng: Any, x: Type, *others: Type) -> tuple:
    return (int(rng.integers(x.shape[0])),) if x.shape and x.shape[0] else (0,)


def one_more(x: Type, y: Type) -> Type | None:
    return x._replace(shape=(2, *x.shape)) if x == y and len(x.shape) < 2 else None


def joined(x: Type, y: Type) -> Type | None:
    fits = x.size == y.size and x.shape and y.shape and x.shape[1:] == y.shape[1:]
    return x._replace(shape=(x.shape[0] + y.shape[0], *x.shape[1:])) if fits else None


def indexed(x: Type, z: Type) -> Type | None:
    fits = x.shape and not z.real and z.size <= x.shape[0] and len(z.shape) + len(x.shape) <= 2
    return x._replace(shape=(*z.shape, *x.shape[1:])) if fits and x.real else None


def product(x: Type, *static: Any) -> Type | None:
    return Type((2,)) if x == Type((3,)) else None


def counted(z: Type) -> Type | None:
    return z._replace(shape=(*z.shape, z.size), size=None) if not z.real and not z.shape else None


ROWS = [[0.3, -0.7, 0.4], [0.6, 0.2, -0.5]]

TABLE: dict[str, Operation] = {
    # no arguments
    "number": Operation(
        "{s[0]}", lambda c: np.array([c + 0j]), lambda *s: Type(), lambda r: (number(r),)
    ),
    "numbers": Operation(
        "jnp.array({s[0]})",
        lambda c: np.array(c, complex)[..., None],
        lambda c: Type((len(c),)),
        lambda r: ([number(r) for _ in range(r.integers(1, 4))],),
    ),
    "constant": Operation(
        "jnp.full({s[0]}, {s[1]})",
        lambda shape, c: np.full((*shape, 1), c, complex),
        lambda shape, c: Type(shape),
        lambda rng: ((int(rng.integers(0, 2)),), number(rng)),
    ),
    "integer zeros": Operation(
        "jnp.zeros({s[0]}, int)",
        lambda shape, size: np.zeros((*shape, 1), int),
        lambda shape, size: Type(shape, size),
        lambda rng: ((int(rng.integers(0, 2)),), 2),
    ),
    "integers": Operation(
        "jnp.array({s[0]})",
        lambda c, size: np.array(c, int)[..., None],
        lambda c, size: Type(np.shape(c), size),
        lambda r: (r.integers(0, 2, r.integers(1, 4)).tolist(), 2),
    ),
    # reals, elementwise
    "negate": Operation("-{0}", lambda x: -x, same),
    "sine": Operation("jnp.sin({0})", np.sin, same),
    "tanh": Operation("jnp.tanh({0})", np.tanh, same),
    "square": Operation("jnp.square({0})", np.square, same),
    "power": Operation("{0} ** 3", lambda x: x * x * x, same),
    "exponential": Operation("jnp.exp(0.3 * {0})", lambda x: np.exp(0.3 * x), same),
    "sigmoid": Operation("jax.nn.sigmoid({0})", lambda x: 1 / (1 + np.exp(-x)), same),
    "affine": Operation(
        "{s[0]} * {0} + {s[1]}",
        lambda x, a, b: a * x + b,
        same,
        lambda rng, x: (number(rng), number(rng)),
    ),
    "cut": Operation("jax.lax.stop_gradient({0})", lambda x: x.real + 0j, same),
    "add": Operation("{0} + {1}", np.add, broadcast),
    "subtract": Operation("{0} - {1}", np.subtract, broadcast),
    "multiply": Operation("{0} * {1}", np.multiply, broadcast),
    "divide": Operation("{0} / (1.5 + {1} * {1})", lambda x, y: x / (1.5 + y * y), broadcast),
    "maximum": Operation(
        "jnp.maximum({0}, {1} + 0.1234)",
        lambda x, y: np.where(x.real > y.real + 0.1234, x, y + 0.1234),
        broadcast,
        rough=True,
    ),
    "above": Operation(
        "jnp.where({0} > {s[0]}, {0}, {s[1]} * {0})",
        lambda x, c, d: np.where(x.real > c, x, d * x),
        same,
        lambda rng, x: (round(rng.uniform(-1, 1), 4), number(rng)),
        rough=True,
    ),
    "truncate": Operation(
        "jnp.asarray({0} + 0.1234).astype(int).astype(float)",
        lambda x: np.trunc(x.real + 0.1234) + 0j,
        same,
        rough=True,
    ),
    # integers
    "real": Operation(
        "{s[0]} * {0}",
        lambda z, c: c * z + 0j,
        lambda z, c: None if z.real else Type(z.shape),
        lambda rng, z: (number(rng),),
    ),
    "successor": Operation(
        "({0} + 1) % {s[0]}", lambda z, k: (z + 1) % k, integers, lambda r, z: (z.size,)
    ),
    "positive": Operation(
        "jnp.asarray({0} > 0, int)",
        lambda z: (z > 0).astype(int),
        lambda z: None if z.real else z._replace(size=2),
    ),
    "together": Operation(
        "({0} + {1}) % {s[0]}",
        lambda z, w, k: (z + w) % k,
        lambda z, w, k: z if z == w and not z.real else None,
        lambda rng, z, w: (z.size,),
    ),
    "beyond": Operation(
        "jnp.asarray({0} > {s[0]}, int)",
        lambda x, c: (x.real > c).astype(int),
        lambda x, c: x._replace(size=2) if x.real else None,
        lambda rng, x: (round(rng.uniform(-1, 1), 4),),
        rough=True,
    ),
    "select": Operation(
        "jnp.where({0} == {s[0]}, {1}, {2})",
        lambda z, x, y, k: np.where(z == k, x, y),
        selected,
        lambda rng, z, x, y: (int(rng.integers(2)),),
    ),
    "choose": Operation("{0}[{1}]", gather, indexed),
    "one hot": Operation(
        "jax.nn.one_hot({0}, {s[0]})",
        lambda z, k: np.stack([(z == i) + 0j for i in range(k)]),
        lambda z, k: counted(z),
        lambda rng, z: (z.size,),
    ),
    # rearrangements
    "reverse": Operation("{0}[::-1]", lambda x: x[::-1], vector),
    "flip": Operation("jnp.flip({0}, 0)", lambda x: x[::-1], vector),
    "roll": Operation("jnp.roll({0}, 1, 0)", lambda x: np.roll(x, 1, 0), vector),
    "permute": Operation(
        "{0}[jnp.array({s[0]}, int)]",
        lambda x, p: x[p],
        lambda x, p: vector(x, len(p)),
        permutation,
    ),
    "rest": Operation(
        "{0}[1:]", lambda x: x[1:], lambda x: vector(x, x.shape[0] - 1 if x.shape else 0, 1)
    ),
    "front": Operation(
        "{0}[:-1]", lambda x: x[:-1], lambda x: vector(x, x.shape[0] - 1 if x.shape else 0, 1)
    ),
    "every other": Operation(
        "{0}[::2]", lambda x: x[::2], lambda x: vector(x, (x.shape[0] + 1) // 2 if x.shape else 0)
    ),
    "element": Operation("{0}[{s[0]}]", lambda x, i: x[i], lambda x, i: inner(x, 1), place),
    "stack": Operation("jnp.stack([{0}, {1}])", lambda x, y: np.stack([x, y]), one_more),
    "concatenate": Operation(
        "jnp.concatenate([{0}, {1}])", lambda x, y: np.concatenate([x, y]), joined
    ),
    "put": Operation(
        "{0}.at[{s[0]}].set({1})",
        placed,
        lambda x, y, i: x if x.real and inner(x, 1) == y else None,
        place,
    ),
    "spread": Operation(
        "jnp.broadcast_to({0}, {s[0]})",
        lambda x, shape: np.broadcast_to(x, (*shape, x.shape[-1])),
        lambda x, shape: x._replace(shape=shape) if not x.shape else None,
        lambda rng, x: ((int(rng.integers(1, 4)),),),
    ),
    "repeat": Operation(
        "jnp.repeat({0}, 2, 0)",
        lambda x: np.repeat(x, 2, 0),
        lambda x: vector(x, 2 * x.shape[0]) if x.shape and x.shape[0] < 3 else None,
    ),
    "transpose": Operation(
        "{0}.T",
        lambda x: np.swapaxes(x, 0, 1),
        lambda x: x._replace(shape=x.shape[::-1]) if len(x.shape) == 2 else None,
    ),
    "ravel": Operation(
        "{0}.ravel()",
        lambda x: x.reshape(-1, x.shape[-1]),
        lambda x: x._replace(shape=(x.shape[0] * x.shape[1],)) if len(x.shape) == 2 else None,
    ),
    # what mixes lanes
    "sum": Operation(
        "jnp.sum({0}, 0)", lambda x: np.sum(x, 0), lambda x: inner(x) if x.real else None
    ),
    "total": Operation(
        "jnp.sum({0})",
        lambda x: np.sum(x.reshape(-1, x.shape[-1]), 0),
        lambda x: Type() if x.real and x.shape else None,
    ),
    "mean": Operation(
        "jnp.mean({0}, 0)", lambda x: np.mean(x, 0), lambda x: inner(x, 1) if x.real else None
    ),
    "prod": Operation(
        "jnp.prod({0}, 0)", lambda x: np.prod(x, 0), lambda x: inner(x) if x.real else None
    ),
    "cumsum": Operation(
        "jnp.cumsum({0}, 0)", lambda x: np.cumsum(x, 0), lambda x: same(x) and vector(x)
    ),
    "differences": Operation(
        "{0}[1:] - {0}[:-1]",
        lambda x: x[1:] - x[:-1],
        lambda x: same(x) and vector(x, x.shape[0] - 1 if x.shape else 0, 1),
    ),
    "outer": Operation(
        "{0}[:, None] * {1}[None, :]",
        lambda x, y: x[:, None] * y[None, :],
        lambda x, y: (
            Type(x.shape + y.shape)
            if x.real and y.real and len(x.shape) == len(y.shape) == 1
            else None
        ),
    ),
    "dot": Operation(
        "jnp.dot({0}, {1})",
        lambda x, y: np.sum(x * y, 0),
        lambda x, y: Type() if x == y and x.real and len(x.shape) == 1 else None,
    ),
    "matrix": Operation(
        f"jnp.array({ROWS}) @ {{0}}",
        lambda x: np.array(ROWS) @ x,
        product,
    ),
    "logsumexp": Operation(
        "jax.nn.logsumexp({0}, 0)", logsumexp, lambda x: inner(x, 1) if x.real else None
    ),
    "softmax": Operation(
        "jax.nn.softmax({0})", softmax, lambda x: x if x.real and x.shape and x.shape[-1] else None
    ),
}
