"""Proposals of Metropolis and Hastings, cut off from derivatives where they are never accepted."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.core import eval_jaxpr

Proposal = Callable[[jax.Array, jax.Array], tuple[jax.Array, jax.Array]]


def proposed(propose: Proposal, old: jax.Array, noise: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Where `propose(old, noise)` leads, and the probability at which that is accepted.

    `propose` gives a new vector and the log of its ratio of Metropolis and Hastings, minus infinity
    where it is impossible. Where the probability is no number, or smaller than one that a uniform
    float can be below, it is zero, the vector is the old one and nothing has derivatives: those of
    a trajectory that overflowed are no numbers, and a `where` behind it would multiply them by 0.
    """

    def guarded(old, noise):
        new, log_ratio = propose(old, noise)
        rate = jnp.exp(jnp.minimum(log_ratio, 0.0))
        possible = (rate > jnp.finfo(rate.dtype).eps) & jnp.all(jnp.isfinite(new))
        return jnp.where(possible, new, old), jnp.where(possible, rate, 0.0)

    closed = jax.make_jaxpr(guarded)(old, noise)
    if closed.effects:  # sites in it: an estimated density, whose own derivatives are estimated too
        return guarded(old, noise)
    return _cut(closed.jaxpr, closed.consts, old, noise)


def _run(jaxpr: Any, consts: list, old: jax.Array, noise: jax.Array) -> tuple:
    return tuple(eval_jaxpr(jaxpr, consts, old, noise))


_cut = eqx.filter_custom_jvp(_run)


@_cut.def_jvp
def _cut_jvp(primals: tuple, tangents: tuple) -> tuple:
    moving = jax.tree.map(lambda t: t is not None, tangents, is_leaf=lambda t: t is None)
    smooth, rest = eqx.partition(primals, moving)
    out, linear = jax.linearize(lambda smooth: _run(*eqx.combine(smooth, rest)), smooth)
    kept = lambda ts: jax.tree.map(lambda t: jnp.where(out[1] > 0.0, t, 0.0), ts)  # noqa: E731
    return out, kept(linear(kept(tangents)))
