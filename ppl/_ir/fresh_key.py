"""`fresh_key`: a PRNG key of the run, inside a program."""

from collections.abc import Iterator
from typing import Any

import jax

from .._jax import equations, primitives
from .._jax.control_flow import bodies
from .foreign import refuse_handlers
from .site import user_location


def fresh_key() -> jax.Array:
    """A PRNG key of this run of the program: different at every call, step, lane and run.

    It is not a choice: it has no address and no density, and nothing conditions it. So noise that
    is no one's business but the program's can be drawn in place: dropout and other stochastic
    layers, random features, subsamples; and estimates within objectives, as
    `ppl.expectation(inner)(ppl.fresh_key(), x)` is an ordinary differentiable value, whose mean and
    mean gradient are those of E[inner(x)]. It may be nested, and differentiated inside of the
    program (`jax.grad`): semi-amortised guides, meta-learning, objectives of objectives.

    An objective that is not linear in such an estimate is one of the estimate, not of its mean:
    E[log ŵ] is not log E[ŵ].

    The density of a program with a key inside is that of the run with this key: where it is scored,
    the score is random, and is asked for inside another program. What is drawn from the key carries
    derivatives as any JAX code does; for a gradient in the distribution of something discrete, use
    `ppl.sample`.

    **Returns** one typed key (`jax.random.key`'s), a scalar; under `jax.vmap`, one for each lane.
    Particles of one site share the noise that comes after them.

    **Raises** `SampleOutsideTransformation` where nothing gives the program a meaning;
    `UnsuitableEstimator` in `ppl.log_expectation`, which draws nothing.

    ```python
    >>> import jax, ppl, numpyro.distributions as dist
    >>> def noisy(x):
    ...     return x * jax.random.normal(ppl.fresh_key()) ** 2
    >>> def objective(x):
    ...     return ppl.expectation(noisy)(ppl.fresh_key(), x) + noisy(1.0)
    >>> estimate = jax.vmap(ppl.expectation(objective), (0, None))
    >>> keys = jax.random.split(jax.random.key(0), 10_000)
    >>> bool(abs(estimate(keys, 2.0).mean() - 3.0) < 0.2)
    True

    ```
    """
    refuse_handlers("fresh_key()")
    impl: str = jax.config.jax_default_prng_impl  # pyright: ignore[reportAttributeAccessIssue]
    return primitives.fresh_key_p.bind(lanes=(), impl=impl, where=user_location())[0]


def keys_of(key: jax.Array, lanes: tuple[int, ...], impl: str) -> jax.Array:
    """Keys for the lanes of a `fresh_key` equation, for its generator `impl`, from one key."""
    wanted = jax.eval_shape(lambda: jax.random.key(0, impl=impl))
    if key.dtype != wanted.dtype:
        data = jax.eval_shape(lambda: jax.random.key_data(jax.random.key(0, impl=impl)))
        key = jax.random.wrap_key_data(jax.random.bits(key, data.shape, data.dtype), impl=impl)
    return jax.random.split(key, lanes) if lanes else key


def fresh_keys(jaxpr: Any) -> Iterator[Any]:
    """The `fresh_key` equations of a jaxpr, those in its control flow and sites included."""
    for eqn in filter(equations.has_sites, jaxpr.eqns):
        if equations.kind(eqn) == "fresh_key":
            yield eqn
        inside = eqn.params["bodies"] if equations.kind(eqn) == "compound" else bodies(eqn)
        for body in inside:
            yield from fresh_keys(body)
