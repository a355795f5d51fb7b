"""State-space models with some of their choices summed out, step by step.

What is left is a state-space model of the other choices. In place of what is carried of the choices
summed out, it carries the mean and the covariance of that, given the choices drawn and the
observations so far: the Kalman filter of each particle (Rao-Blackwellised particles). Where nothing
of them is carried, each step sums out its own.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jax.scipy.linalg import cho_solve, solve_triangular

from ppl import condition, sample, simulate
from ppl.errors import InvalidSetting, UnsuitableEstimator
from ppl.extend import StateSpace, Target

from ._chain import first_order, second_order
from ._choices import Choices, merged, within
from ._degree import CONSTANT, Degree
from ._hidden import Fills, addresses_of, check_deterministic, check_fixed_supports, listed, suits
from ._integral import zeros_of
from ._parts import Degrees, Parts, chosen, flat, parts_of, replaced
from .exact import integral_for


def drawn_in(target: Target, exact: Sequence[str]) -> set[str]:
    """The hidden choices that are not summed out."""
    hidden = addresses_of(target.hidden)
    unknown = sorted(set(exact) - set(hidden))
    if unknown:
        raise InvalidSetting(
            f"SMC(exact=...) sums out hidden choices of the target, and {_quoted(unknown)} is none "
            f"of them: these are {_quoted(hidden)}."
        )
    return set(hidden) - set(exact)


def collapsed(target: Target, space: StateSpace, drawn: set[str]) -> StateSpace:
    """A state-space model of the choices that are drawn, with the evidence of the others."""
    exact = [address for address in addresses_of(target.hidden) if address not in drawn]
    parts = parts_of(target, space, drawn)
    degrees = parts.degrees()
    _check(target, exact, drawn, degrees)
    if not any(degrees.hidden):
        return _each_alone(parts)
    _check_gaussian(target, exact, degrees)
    return _filtered(parts, degrees.hidden)


class _Factor(eqx.Module):
    """A factor of the density, as an observed site."""

    log: Any

    def log_prob(self, value: Any) -> Any:
        return self.log


def _weigh(log_factor: Any) -> None:
    sample("exact", _Factor(log_factor), obs=jnp.zeros(()))


# --- nothing is carried --------------------------------------------------------------------------


def _each_alone(parts: Parts) -> StateSpace:
    """Each step integrates its own choices."""
    space = parts.space

    def start():
        return _alone(space.start, parts.before)

    def step(state, inputs):
        return _alone(lambda: space.step(state, inputs), parts.each)

    return space._replace(start=start, step=step)


def _alone(program: Callable, zeros: Choices) -> Any:
    if not zeros:
        trace = simulate(program)
        _weigh(trace.log_likelihood)
        return trace.value
    trace = simulate(condition(program, zeros))
    target = Target(program, trace.choices)
    _weigh(integral_for(target).log_evidence(target) - trace.log_density)
    return trace.value


# --- a Gaussian is carried -----------------------------------------------------------------------


class _Belief(NamedTuple):
    """A normal distribution of what a step reads."""

    mean: jax.Array
    spread: jax.Array


def _filtered(parts: Parts, hidden: Sequence[bool]) -> StateSpace:
    """Each step takes a belief of what is carried to that of what it hands on."""
    space, shown = parts.space, [not flag for flag in hidden]
    like = jax.eval_shape(lambda: parts.start(parts.drawn_before, parts.before).value[0])
    zeros = [jnp.zeros(s.shape, s.dtype) for s in like]
    read, rebuild = ravel_pytree(chosen(zeros, hidden))
    own, each = ravel_pytree(parts.each)
    first, before = ravel_pytree(parts.before)

    def start():
        trace = simulate(condition(space.start, parts.before))

        def local(u):
            scored = parts.start(trace.choices, before(u))
            return scored.log_density, flat(scored.value[0], hidden)

        state, inputs = trace.value
        known = _Belief(jnp.zeros(0), jnp.zeros((0, 0)))
        return [*chosen(state, shown), *_moved(local, known, first, trace.log_density)], inputs

    def step(state, inputs):
        *rest, mean, spread = state
        whole = _whole(rest, rebuild(mean), hidden)
        trace = simulate(condition(lambda: space.step(whole, inputs), parts.each))

        def local(x):
            state = _whole(rest, rebuild(x[: read.size]), hidden)
            scored = parts.step(trace.choices, state, inputs, each(x[read.size :]))
            return scored.log_density, flat(scored.value, hidden)

        belief = _moved(local, _Belief(mean, spread), own, trace.log_density)
        return [*chosen(trace.value, shown), *belief]

    return StateSpace(start, step, space.length)


def _whole(shown: Sequence[Any], others: Sequence[Any], hidden: Sequence[bool]) -> list:
    rest = iter(shown)
    return replaced([None if flag else next(rest) for flag in hidden], hidden, others)


def _moved(local: Callable, belief: _Belief, own: jax.Array, of_drawn: jax.Array) -> _Belief:
    """The belief after a step, which weighs what the step's evidence adds."""
    log_mass, belief = _updated(local, belief, own)
    _weigh(log_mass - of_drawn)
    return belief


def _updated(local: Callable, belief: _Belief, own: jax.Array) -> tuple[jax.Array, _Belief]:
    """The mass of exp(log density of a step) under a belief, and the belief of what it hands on.

    `local(x)` is that log density and what is handed on, of what is read and `own` choices. These
    are integrated out first, about the likeliest of them given the mean of the belief.
    """
    k, (mean, spread) = belief.mean.size, belief
    curvature, jacobian = second_order(local, jnp.concatenate([jnp.zeros(k), own]))
    factor = jnp.linalg.cholesky(curvature[k:, k:])
    begun = first_order(local, jnp.concatenate([mean, own])).slope[k:]
    about = first_order(local, jnp.concatenate([mean, own + cho_solve((factor, True), begun)]))
    back = cho_solve((factor, True), curvature[k:, :k])
    step = cho_solve((factor, True), about.slope[k:])
    slope = about.slope[:k] - back.T @ about.slope[k:]
    through = jnp.eye(k) + spread @ (curvature[:k, :k] - curvature[:k, k:] @ back)
    solved = jnp.linalg.solve(through, jnp.concatenate([spread, (spread @ slope)[:, None]], 1))
    spread, shift = solved[:, :k], solved[:, k]
    sign, log_det = jnp.linalg.slogdet(through)
    log_volume = 0.5 * own.size * jnp.log(2.0 * jnp.pi) - jnp.sum(jnp.log(jnp.diag(factor)))
    log_mass = about.value + 0.5 * about.slope[k:] @ step + log_volume
    log_mass = log_mass + 0.5 * slope @ shift - 0.5 * jnp.where(sign > 0, log_det, jnp.nan)
    closed = jacobian[:, :k] - jacobian[:, k:] @ back
    half = solve_triangular(factor, jacobian[:, k:].T, lower=True)
    moved = about.moved + closed @ shift + jacobian[:, k:] @ step
    spread = closed @ (0.5 * (spread + spread.T)) @ closed.T + half.T @ half
    return log_mass, _Belief(moved, spread)


# --- what cannot be ------------------------------------------------------------------------------


def _check(target: Target, exact: Sequence[str], drawn: set[str], degrees: Degrees) -> None:
    check_deterministic(target.log_density, zeros_of(target))
    if degrees.of_drawn > CONSTANT:
        reason = f"the distribution of one that it draws ({_quoted(sorted(drawn))}) reads them"
        raise _refusal(target, exact, reason, degrees.of_drawn)
    if degrees.inputs > CONSTANT:
        raise _refusal(target, exact, "what the loop scans over reads them", degrees.inputs)


def _check_gaussian(target: Target, exact: Sequence[str], degrees: Degrees) -> None:
    state = max(degrees.state)
    if state.power > 1:
        raise _refusal(target, exact, "what a step hands on is not linear in them", state)
    if degrees.log_density.power > 2:
        reason = "the log density of a step is not quadratic in them"
        raise _refusal(target, exact, reason, degrees.log_density)
    bounded = [address for address in exact if not suits(target, address, Fills("real"))]
    if bounded:
        raise _refusal(target, bounded, "they may not be any real number", CONSTANT)
    zeros = zeros_of(target)
    drawn = within(zeros, set(exact), inside=False)
    given = Target(target.program, merged(target.observed, drawn))
    check_fixed_supports(given, within(zeros, set(exact), inside=True))


def _refusal(target: Target, exact: Sequence[str], why: str, degree: Degree) -> UnsuitableEstimator:
    through = f", because of `{degree.through}`" if degree.through else ""
    return UnsuitableEstimator(
        f"SMC(exact=...) cannot sum {listed(target, list(exact))} out step by step, given the "
        f"choices that it draws: {why}{through}. A step sums out what it chooses alone (finite, "
        "Gaussian, conjugate), and carries Gaussian choices in which its log density is quadratic, "
        "and what it hands on linear. Leave the others out of exact=, so that they are drawn."
    )


def _quoted(addresses: Sequence[str]) -> str:
    return ", ".join(map(repr, addresses))
