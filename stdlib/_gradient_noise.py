"""The noise of a gradient estimate: its moments over many keys, and what one estimate costs."""

import glob
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

import ppl
from ppl.errors import InvalidSetting, NonScalarObjective, NotTrainable

BATCHES = 16
"""Into at least so many parts are samples divided, for a standard error of their variance."""
MEMORY = 256 * 2**20
"""Bytes that the estimates computed at once may take."""
QUICK = {"xla_backend_optimization_level": 0}
"""What is run once is hardly worth optimising: compilation dominates."""


class Moments(NamedTuple):
    """Of each array of a sample, over `count` samples.

    `mean` and `variance` have its shape; `total`, its variances added up, and that number's
    standard error `error` are scalars. All in double precision, of the sample's structure.
    """

    mean: Any
    variance: Any
    total: Any
    error: Any
    count: int


class Compiled(NamedTuple):
    """One estimate with its gradient, compiled: FLOPs, and bytes taken while it runs."""

    call: Callable
    flops: float
    memory: int


class Written(NamedTuple):
    """The estimators that a program gives to an address, by default or not.

    `names` are those of their classes; `pathwise` says whether one of them is; `estimator` is the
    only one, or None where the program computes its settings, or has several.
    """

    names: tuple[str, ...]
    pathwise: bool
    estimator: ppl.extend.Estimator | None


def split(params: Any) -> tuple[Any, Any]:
    """The floating-point arrays, which are differentiated, and everything else, which is not.

    A Python float counts as an array outside of an `equinox.Module`, where it is a setting.
    """

    def array(node: Any) -> Any:
        return jnp.asarray(node, jnp.result_type(float)) if type(node) is float else node

    params = jax.tree.map(array, params, is_leaf=lambda node: isinstance(node, eqx.Module))
    trained, rest = eqx.partition(params, _is_floating)
    if not jax.tree.leaves(trained):
        raise NotTrainable(
            "The parameters have no floating-point array, so there is no gradient to measure. "
            "Make what the gradient is taken in a float array, as in jnp.asarray(0.0)."
        )
    return jax.tree.map(jnp.asarray, trained), rest


def _is_floating(leaf: Any) -> bool:
    return eqx.is_inexact_array(leaf) and jnp.issubdtype(leaf.dtype, jnp.floating)


def value_and_gradient(objective: Callable, rest: Any, allow_biased: bool = False) -> Callable:
    """One estimate and its gradient, `(key, trained, *more)`; the objective is called with `more`.

    `trained` and `rest` are the parts of the parameters.
    """
    estimate = ppl.expectation(objective, allow_biased=allow_biased)

    def run(key: Any, trained: Any, *more: Any) -> tuple[jax.Array, Any]:
        def value(trained):
            return one_scalar(estimate(key, eqx.combine(trained, rest), *more), objective)

        return jax.value_and_grad(value)(trained)

    return run


def one_scalar(estimates: Any, objective: Callable) -> jax.Array:
    """The estimates of an objective, which is to be one. Raises `NonScalarObjective`."""
    if isinstance(estimates, jax.Array):
        return estimates
    name = getattr(objective, "__name__", type(objective).__name__)
    raise NonScalarObjective(
        f"There is a gradient to measure of one real scalar, and objective {name!r} returns "
        f"{len(jax.tree.leaves(estimates))} in a {type(estimates).__name__}. Measure one of them: "
        "lambda *args: objective(*args)[...]."
    )


def compiled(run: Callable, key: Any, trained: Any) -> Compiled:
    """Compiles one call: FLOPs are those that XLA's `cost_analysis` reports."""
    call = jax.jit(run).lower(key, trained).compile()
    memory = call.memory_analysis()
    taken = getattr(memory, "temp_size_in_bytes", 0) + getattr(memory, "output_size_in_bytes", 0)
    return Compiled(call, float((call.cost_analysis() or {}).get("flops", math.nan)), taken)


def moments(sample: Callable, key: Any, trained: Any, num_samples: int, memory: int) -> Moments:
    """The moments of `sample(key, trained)`, a pytree of arrays, in one compiled loop.

    `memory` is what one sample takes: it bounds how many are computed at once. `num_samples` is
    rounded up to a multiple of that.
    """
    batch = max(2, min(-(-num_samples // BATCHES), MEMORY // max(memory, 1)))
    rounds = -(-num_samples // batch)

    def run(key: Any, trained: Any) -> tuple[Any, Any]:
        def step(before, at):
            index, keys = at
            draws = jax.vmap(lambda key: sample(key, trained))(keys)
            mean = jax.tree.map(lambda x: jnp.mean(x, 0), draws)
            squares = jax.tree.map(lambda x, m: jnp.sum(jnp.square(x - m), 0), draws, mean)
            return _merged(before, (mean, squares), index, batch), _totals(squares, batch)

        shape = jax.eval_shape(sample, key, trained)
        zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shape)
        keys = jax.random.split(key, (rounds, batch))
        return jax.lax.scan(step, (zeros, zeros), (jnp.arange(rounds), keys))

    (mean, squares), totals = _double(jax.jit(run, compiler_options=QUICK)(key, trained))
    count = rounds * batch
    variance = jax.tree.map(lambda s: s / (count - 1), squares)
    spread = jax.tree.map(lambda t: np.std(t, ddof=1) / rounds**0.5, totals) if rounds > 1 else None
    return Moments(
        mean,
        variance,
        jax.tree.map(np.sum, variance),
        jax.tree.map(lambda _: math.nan, totals) if spread is None else spread,
        count,
    )


def _merged(before: Any, batch: Any, index: jax.Array, size: int) -> Any:
    """Means and sums of squared deviations of all batches so far (Chan et al. 1979)."""
    (mean, squares), (new_mean, new_squares) = before, batch
    steps = jax.tree.map(lambda new, old: new - old, new_mean, mean)
    mean = jax.tree.map(lambda m, d: m + d / (index + 1).astype(m.dtype), mean, steps)
    squares = jax.tree.map(
        lambda old, new, d: (
            old + new + jnp.square(d) * (size * index / (index + 1)).astype(d.dtype)
        ),
        squares,
        new_squares,
        steps,
    )
    return mean, squares


def _totals(squares: Any, size: int) -> Any:
    return jax.tree.map(lambda s: jnp.sum(s) / (size - 1), squares)


def _double(tree: Any) -> Any:
    return jax.tree.map(lambda x: np.asarray(x, np.float64), tree)


def rounding() -> float:
    """The relative error that arithmetic may make of a gradient which is exact otherwise."""
    return 100 * float(jnp.finfo(jnp.result_type(float)).eps)


def sites(objective: Callable, params: Any) -> dict[str, Written]:
    """The addresses of an objective's unobserved sites, in order, and what they have."""
    found: dict[str, Written] = {}
    drawn = [site.address for site in ppl.sites(objective, params) if not site.observed]
    addresses = dict.fromkeys(drawn)

    def noting(address: str) -> Callable[[ppl.extend.Estimator], ppl.extend.Estimator]:
        def noted(own: ppl.extend.Estimator) -> ppl.extend.Estimator:
            computed = any(isinstance(x, Tracer) for x in jax.tree.leaves(own))
            here = Written((type(own).__name__,), own.pathwise, None if computed else own)
            found[address] = _both(found.get(address, here), here)
            return own

        return noted

    ppl.sites(chosen(objective, {address: noting(address) for address in addresses}), params)
    return {address: found[address] for address in addresses}


def _both(one: Written, other: Written) -> Written:
    """Of an address that several sites have."""
    same = one.estimator is not None and _alike(one.estimator, other.estimator)
    names = tuple(dict.fromkeys([*one.names, *other.names]))
    return Written(names, one.pathwise or other.pathwise, one.estimator if same else None)


def _alike(one: Any, other: Any) -> bool:
    """Whether two estimators are certainly the same; arrays, which may be traced, by identity."""
    leaves, others = jax.tree.leaves(one), jax.tree.leaves(other)
    arrays = lambda x: hasattr(x, "dtype")  # noqa: E731
    return jax.tree.structure(one) == jax.tree.structure(other) and all(
        a is b or (not arrays(a) and not arrays(b) and a == b)
        for a, b in zip(leaves, others, strict=True)
    )


def chosen(objective: Callable, estimators: dict[str, Any]) -> Callable:
    """The objective with estimators by address, which are no patterns here."""
    return ppl.with_estimators(objective, {glob.escape(a): e for a, e in estimators.items()})


def check_samples(num_samples: Any) -> None:
    """There is no variance of a single sample."""
    if not isinstance(num_samples, int) or num_samples < 2:
        raise InvalidSetting(
            f"num_samples must be an integer of at least 2, got {num_samples!r}. "
            "Write, for example, num_samples=1024."
        )


def check_choice(name: str, value: Any, allowed: Sequence[str]) -> None:
    """One of a few words."""
    if value not in allowed:
        words = " or ".join(map(repr, allowed))
        raise InvalidSetting(f"{name} must be {words}, got {value!r}. Write {name}={allowed[0]!r}.")
