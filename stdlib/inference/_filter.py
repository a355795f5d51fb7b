"""The particle filter: a program that moves, weighs and resamples particles step by step."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.scipy.special import logsumexp

import ppl
from ppl import StateSpace, Target, condition, intervene, log_density, sample, simulate

from ._weights import effective_size, taken, with_first
from .resampling import Ancestors

Choices = Mapping[str, Any]


class Settings(NamedTuple):
    """What a filter is told: see `SMC`."""

    num_particles: int
    proposal: Callable | None
    scheme: type[Ancestors]
    ess_threshold: float


class Lineage(NamedTuple):
    """A particle: what its next step reads, its own inputs (if it has any), its last choices."""

    state: list
    inputs: list | None
    choices: Choices


class Run(NamedTuple):
    """What a filter leaves: log weights of the paths (normalised) and the log evidence.

    `path(index)` traces back the choices of one path.
    """

    log_weights: jax.Array
    log_evidence: jax.Array
    path: Callable[[Any], Choices]


def particle_filter(settings: Settings, target: Target, given: Choices | None = None) -> Run:
    """Runs a filter; with `given` choices, these are the path of the first particle throughout."""
    space = ppl.state_space(target.prior)
    filtering = _Filter(settings, space, _data(space, target), _parted(space, given))
    lineages, inputs, begun = filtering.start()
    start = uniform(settings.num_particles) + begun.log_weights
    lineages, gained = filtering.step(lineages, (0, taken(inputs, 0)))
    first, log_weights, total = lineages.choices, *normalized(start + gained)

    def step(carry, at):
        lineages, log_weights = carry
        ancestors, log_weights = resample(settings, log_weights, given is not None)
        lineages, gained = filtering.step(taken(lineages, ancestors), at)
        log_weights, gain = normalized(log_weights + gained)
        return (lineages, log_weights), (lineages.choices, ancestors, gain)

    later = jnp.arange(1, space.length), taken(inputs, slice(1, None))
    (_, log_weights), (choices, ancestors, gains) = lax.scan(step, (lineages, log_weights), later)

    def path(index):
        back = lambda i, at: (at[1][i], taken(at[0], i))  # noqa: E731
        origin, rest = lax.scan(back, index, (choices, ancestors), reverse=True)
        return merged(taken(begun.choices, origin), with_first(rest, taken(first, origin)))

    return Run(log_weights, total + jnp.sum(gains), path)


class _Begun(NamedTuple):
    """What was chosen before the loop, `(n, ...)`, and what it weighs."""

    choices: Choices
    log_weights: jax.Array


class _Filter(NamedTuple):
    """The steps of a filter.

    `data` are the observed choices of the loop, by step; `given` the retained particle's choices
    before the loop, and in it.
    """

    settings: Settings
    space: StateSpace
    data: Choices
    given: tuple[Choices, Choices] | None

    def start(self) -> tuple[Lineage, list, _Begun]:
        """The particles before the first step, the inputs that they share, and what they chose."""
        count = self.settings.num_particles
        if not Target(self.space.start, {}).hidden:
            trace = simulate(self.space.start)
            state, inputs = trace.value
            state = jax.tree.map(lambda x: jnp.broadcast_to(x, (count, *jnp.shape(x))), state)
            weights = jnp.broadcast_to(trace.log_likelihood, (count,))
            return self._lineage(state, None, inputs), inputs, _Begun({}, weights)
        free = count - (self.given is not None)
        traces = jax.vmap(lambda _: simulate(self.space.start))(jnp.arange(free))
        found = traces.value, traces.choices, traces.log_likelihood
        if self.given is not None:
            own = simulate(intervene(self.space.start, self.given[0]))
            found = with_first(found, (own.value, dict(self.given[0]), own.log_likelihood))
        (state, inputs), choices, weights = found
        return self._lineage(state, inputs, taken(inputs, 0)), [], _Begun(choices, weights)

    def _lineage(self, state: list, own: list | None, inputs: list) -> Lineage:
        """Particles with zeros for the choices of a step before the first."""
        program = partial(self.space.step, taken(state, 0), taken(inputs, 0))
        structs = Target(program, {}).hidden
        count = self.settings.num_particles
        zeros = jax.tree.map(lambda s: jnp.zeros((count, *s.shape), s.dtype), structs)
        return Lineage(state, own, zeros)

    def step(self, lineages: Lineage, at: tuple[Any, list]) -> tuple[Lineage, jax.Array]:
        """One step of all particles: where they are, and what their weights gain."""
        if self.given is None:
            return jax.vmap(lambda lineage: self._moved(lineage, at))(lineages)
        first, others = taken(lineages, 0), taken(lineages, slice(1, None))
        moved = jax.vmap(lambda lineage: self._moved(lineage, at))(others)
        return with_first(moved, self._retained(first, at))

    def _moved(self, lineage: Lineage, at: tuple[Any, list]) -> tuple[Lineage, jax.Array]:
        step, proposal = self._step(lineage, at), self.settings.proposal
        if proposal is None:
            trace = simulate(step)
            choices, gain = trace.choices, trace.log_likelihood
        else:
            drawn = simulate(proposal, *self._context(lineage, at))
            Target(step, {}).check(drawn.choices)
            choices, trace = drawn.choices, simulate(condition(step, drawn.choices))
            gain = trace.log_likelihood - drawn.log_density
        return Lineage(trace.value, lineage.inputs, choices), gain

    def _retained(self, lineage: Lineage, at: tuple[Any, list]) -> tuple[Lineage, jax.Array]:
        assert self.given is not None
        step, proposal = self._step(lineage, at), self.settings.proposal
        choices = taken(self.given[1], at[0])
        if proposal is None:
            trace = simulate(intervene(step, choices))
            gain = trace.log_likelihood
        else:
            trace = simulate(condition(step, choices))
            log_q = log_density(proposal, choices, *self._context(lineage, at))
            gain = trace.log_likelihood - log_q
        return Lineage(trace.value, lineage.inputs, choices), gain

    def _step(self, lineage: Lineage, at: tuple[Any, list]) -> Callable:
        inputs = at[1] if lineage.inputs is None else taken(lineage.inputs, at[0])
        return partial(self.space.step, lineage.state, inputs)

    def _context(self, lineage: Lineage, at: tuple[Any, list]) -> tuple:
        return at[0], lineage.choices, taken(self.data, at[0])


def resample(
    settings: Settings, log_weights: jax.Array, retained: bool
) -> tuple[jax.Array, jax.Array]:
    """The ancestors of the next particles, and the weights that they start from.

    Where the first particle is `retained`, it is its own ancestor.
    """
    count = settings.num_particles
    everyone = jnp.arange(count)

    def drawn():
        ancestors = settings.scheme(log_weights, count - retained)
        return jnp.append(everyone[:retained], sample("ancestors", ancestors)), uniform(count)

    if settings.ess_threshold >= 1.0:
        return drawn()
    low = effective_size(log_weights) < settings.ess_threshold * count
    return lax.cond(low, drawn, lambda: (everyone, log_weights))


def uniform(count: int) -> jax.Array:
    """Equal log weights."""
    return jnp.full(count, -jnp.log(count))


def normalized(log_weights: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Log weights that sum to one, and the log of what they summed to."""
    total = logsumexp(log_weights)
    return log_weights - total, total


def _addresses(program: Callable) -> set[str]:
    return {node.site.address for node in ppl.show(program).sites}


def _data(space: StateSpace, target: Target) -> Choices:
    """The observed choices that have a value for each step."""
    return _within(target.observed, _addresses(space.start), inside=False)


def _parted(space: StateSpace, given: Choices | None) -> tuple[Choices, Choices] | None:
    """Choices before the loop, and in it."""
    if given is None:
        return None
    before = _addresses(space.start)
    return _within(given, before, inside=True), _within(given, before, inside=False)


def _within(choices: Choices, addresses: set[str], inside: bool, prefix: str = "") -> Choices:
    """The choices at some addresses, or at all others."""
    found = {}
    for name, value in choices.items():
        if isinstance(value, Mapping):
            deeper = _within(value, addresses, inside, f"{prefix}{name}/")
            found.update({name: deeper} if deeper else {})
        elif (prefix + name in addresses) == inside:
            found[name] = value
    return found


def merged(first: Choices, second: Choices) -> dict[str, Any]:
    """The choices of two programs, scope by scope."""
    both = first.keys() & second.keys()
    return {**first, **second, **{name: merged(first[name], second[name]) for name in both}}
