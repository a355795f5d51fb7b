"""`seed`: plain forward sampling."""

from collections.abc import Callable
from typing import Any, Concatenate

import jax
import jax.numpy as jnp

from .._ir.compound import Compound
from .._ir.stage import P, T, keyed, stage
from .._walk.feed import Keys
from .._walk.record import Record
from .._walk.walker import walk
from ..errors import InvalidKey


def seed(program: Callable[P, T]) -> Callable[Concatenate[Any, P], T]:
    """Runs a program forward: `(key, *args) -> the program's output`.

    Each site draws from its distribution; observed sites return their data. Estimators play no
    part. `key` is one PRNG key, typed (`jax.random.key`) or legacy (`jax.random.PRNGKey`); the
    result composes with `jit`, `vmap` and `grad` (which is then the derivative of the one run, not
    of an expectation: for that use `ppl.expectation`).

    **Raises** `InvalidKey` where the first argument is not a single key.

    ```python
    >>> import jax, ppl, numpyro.distributions as dist
    >>> def walk(start):
    ...     def step(x, _):
    ...         x = x + ppl.sample("step", dist.Normal(0.0, 1.0))
    ...         return x, x
    ...     return jax.lax.scan(step, start, None, length=3)[1]
    >>> ppl.seed(walk)(jax.random.key(0), 0.0).shape
    (3,)

    ```
    """

    @keyed(program)
    def seeded(key: Any, *args: P.args, **kwargs: P.kwargs) -> T:
        key = checked_key(key, "ppl.seed(program)")
        jaxpr, consts, rebuild, _ = stage(program, *args, **kwargs)
        outs, _ = walk(jaxpr, consts, [], _draw, Keys(key))
        return rebuild(outs)

    return seeded


def _draw(call, feed: Keys):
    if isinstance(call, Compound):
        if call.is_observed:
            return call.data(), Record()
        staged = stage(call.forward)
        return walk(staged.jaxpr, staged.consts, [], _draw, feed)
    return call.draw(feed.key), Record()


def checked_key(key: Any, caller: str) -> jax.Array:
    """One typed key, from a typed or a legacy one."""
    dtype = getattr(key, "dtype", None)
    shape = getattr(key, "shape", ())
    typed = dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key)
    if typed and shape == ():
        return key
    if dtype == jnp.uint32 and len(shape) == 1:
        return jax.random.wrap_key_data(jnp.asarray(key))
    got = f"keys of shape {shape}" if typed else f"{type(key).__name__}" + _described(dtype, shape)
    remedy = "Map over keys with jax.vmap." if typed else "Make one with jax.random.key(0)."
    raise InvalidKey(f"The first argument of {caller} must be one PRNG key, got {got}. {remedy}")


def _described(dtype, shape) -> str:
    return "" if dtype is None else f" ({dtype}{list(shape)})"
