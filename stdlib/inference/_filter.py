"""The particle filter: a program that moves, weighs and resamples particles step by step.

With a rejuvenation kernel K, a path of T steps is (v_1, u_1, ..., v_T, u_T): v_t are drawn and
weighed at step t, and moved to u_t after resampling, from which the path goes on. As K is
reversible with respect to p(u_t, y_t | s_t), s_t the state before step t, the weights are those of
an SMC whose target is ∏ p(u_t, y_t | s_t) K(u_t → v_t) = ∏ p(v_t, y_t | s_t) K(v_t → u_t), the
resample-move algorithm (Gilks & Berzuini 2001; Del Moral, Doucet & Jasra 2006). Over v it sums to
p(u, y), so that the evidence and the law of the u are as they were. Given u, its v are independent,
v_t ~ K(u_t → ·): what the retained particle of a conditional run draws, to be weighed with. The
last move weighs nothing, so only the one path that is drawn makes it.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

import ppl
from ppl import condition, log_density, replay, sample, simulate
from ppl.extend import StateSpace, Target

from .._scoring import at_choices_of, proposed_by
from ._choices import Choices, merged, within
from ._collapsed import collapsed, drawn_in
from ._weights import effective_size, taken, with_first, with_last
from .kernels import Kernel
from .resampling import Ancestors

At = tuple[Any, list]  # the number of a step, and the inputs that the particles share at it


class Settings(NamedTuple):
    """What a filter is told: see `SMC`."""

    num_particles: int
    proposal: Callable | None
    scheme: type[Ancestors]
    ess_threshold: float
    rejuvenation: Kernel | None
    exact: tuple[str, ...] = ()


class Lineage(NamedTuple):
    """A particle: what its next step reads, its own inputs (if it has any), its last choices.

    `before` is what its last step read, where a kernel is to move the choices of that step.
    """

    state: list
    inputs: list | None
    choices: Choices
    before: list | None = None


class Run(NamedTuple):
    """What a filter leaves: log weights of the paths (normalised) and the log evidence.

    `path(index)` traces back the choices of one path, and makes its last move.
    """

    log_weights: jax.Array
    log_evidence: jax.Array
    path: Callable[[Any], Choices]


def particle_filter(settings: Settings, target: Target, given: Choices | None = None) -> Run:
    """Runs a filter; with `given` choices, these are the path of the first particle throughout.

    Paths are of the choices that are drawn, not of those summed out.
    """
    space = ppl.extend.state_space(target.prior)
    before, drawn = _addresses(space.start), drawn_in(target, settings.exact)
    if settings.exact:
        space = collapsed(target, space, drawn)
    kept = None if given is None else _parted(within(given, drawn, inside=True), before)
    filtering = _Filter(settings, space, _parted(target.observed, before)[1], kept)
    begun = filtering.start()
    start = uniform(settings.num_particles) + begun.log_weights
    if space.length == 0:
        return _no_steps(
            _parted(within(target.hidden, drawn, inside=True), before)[1], begun, start
        )
    lineages, inputs = filtering.lineages(begun)
    lineages, gained = filtering.step(lineages, (0, taken(inputs, 0)))
    log_weights, total = normalized(start + gained)

    def step(carry, at):
        lineages, log_weights = carry
        ancestors, log_weights = resample(settings, log_weights, given is not None)
        parents = filtering.rejuvenated(taken(lineages, ancestors), at[0])
        lineages, gained = filtering.step(parents, at[1])
        log_weights, gain = normalized(log_weights + gained)
        return (lineages, log_weights), (parents.choices, ancestors, gain)

    times = jnp.arange(space.length)
    earlier, later = slice(None, -1), slice(1, None)
    at = [(times[which], taken(inputs, which)) for which in (earlier, later)]
    (last, log_weights), (choices, ancestors, gains) = lax.scan(step, (lineages, log_weights), at)

    def path(index):
        end = filtering.renewed(taken(last, index), (times[-1], taken(inputs, -1)))
        back = lambda i, at: (at[1][i], taken(at[0], i))  # noqa: E731
        origin, rest = lax.scan(back, index, (choices, ancestors), reverse=True)
        return merged(taken(begun.choices, origin), with_last(rest, end.choices))

    return Run(log_weights, total + jnp.sum(gains), path)


class _Begun(NamedTuple):
    """What was chosen before the loop, `(n, ...)`, what it weighs, and what the steps read.

    That is the first one's state, `(n, ...)`, and the inputs: `own` of each particle or `shared`.
    """

    choices: Choices
    log_weights: jax.Array
    state: list
    own: list | None
    shared: list


def _no_steps(in_loop: Choices, begun: _Begun, start: jax.Array) -> Run:
    """The run over a loop of no steps: what came before it, weighed."""
    log_weights, total = normalized(start)
    empty = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), in_loop)

    def path(index):
        return merged(empty, taken(begun.choices, index))

    return Run(log_weights, total, path)


class _Filter(NamedTuple):
    """The steps of a filter.

    `data` are the observed choices of the loop, by step; `given` the retained particle's choices
    before the loop, and in it.
    """

    settings: Settings
    space: StateSpace
    data: Choices
    given: tuple[Choices, Choices] | None

    def start(self) -> _Begun:
        """What comes before the loop."""
        count = self.settings.num_particles
        if not Target(self.space.start, {}).hidden:
            trace = simulate(self.space.start)
            state, inputs = trace.value
            state = jax.tree.map(lambda x: jnp.broadcast_to(x, (count, *jnp.shape(x))), state)
            weights = jnp.broadcast_to(trace.log_likelihood, (count,))
            return _Begun({}, weights, state, None, inputs)
        free = count - (self.given is not None)
        traces = jax.vmap(lambda _: simulate(self.space.start))(jnp.arange(free))
        found = traces.value, traces.choices, traces.log_likelihood
        if self.given is not None:
            own = replay(self.space.start, self.given[0])
            found = with_first(found, (own.value, dict(self.given[0]), own.log_likelihood))
        (state, inputs), choices, weights = found
        return _Begun(choices, weights, state, inputs, [])

    def lineages(self, begun: _Begun) -> tuple[Lineage, list]:
        """Particles before the first step, with zeros for the choices of one before; the inputs."""
        inputs = begun.shared if begun.own is None else taken(begun.own, 0)
        program = partial(self.space.step, taken(begun.state, 0), taken(inputs, 0))
        structs = Target(program, {}).hidden
        count = self.settings.num_particles
        zeros = jax.tree.map(lambda s: jnp.zeros((count, *s.shape), s.dtype), structs)
        return Lineage(begun.state, begun.own, zeros), begun.shared

    def step(self, lineages: Lineage, at: At) -> tuple[Lineage, jax.Array]:
        """One step of all particles: where they are, and what their weights gain."""
        return self._each(self._moved, self._retained, lineages, at)

    def rejuvenated(self, lineages: Lineage, at: At) -> Lineage:
        """All particles with their last choices, those of this step, moved by the kernel."""
        if self.settings.rejuvenation is None:
            return lineages
        return self._each(self.renewed, self._returned, lineages, at)

    def renewed(self, lineage: Lineage, at: At) -> Lineage:
        """A particle with its last choices moved, and with the state that follows from them."""
        kernel = self.settings.rejuvenation
        if kernel is None:
            return lineage
        target = Target(self._last_step(lineage, at), {})
        return _continued(lineage, target.program, kernel.step(target, lineage.choices))

    def _returned(self, lineage: Lineage, at: At) -> Lineage:
        """The retained particle at its given choices: these are what its own were moved to."""
        assert self.given is not None
        return _continued(lineage, self._last_step(lineage, at), taken(self.given[1], at[0]))

    def _each(self, move: Callable, retained: Callable, lineages: Lineage, at: At) -> Any:
        """One move for all particles, but for the retained one."""
        if self.given is None:
            return jax.vmap(lambda lineage: move(lineage, at))(lineages)
        first, others = taken(lineages, 0), taken(lineages, slice(1, None))
        moved = jax.vmap(lambda lineage: move(lineage, at))(others)
        return with_first(moved, retained(first, at))

    def _moved(self, lineage: Lineage, at: At) -> tuple[Lineage, jax.Array]:
        step, proposal = self._step(lineage, at), self.settings.proposal
        if proposal is None:
            trace = simulate(step)
            choices, gain = trace.choices, trace.log_likelihood
        else:
            context = self._context(lineage, at)
            drawn = simulate(proposal, *context)
            Target(step, {}).check(drawn.choices)
            step = proposed_by(proposal, step, *context)
            choices, trace = drawn.choices, simulate(condition(step, drawn.choices))
            gain = trace.log_likelihood - drawn.log_density
        return self._stepped(lineage, trace.value, choices), gain

    def _retained(self, lineage: Lineage, at: At) -> tuple[Lineage, jax.Array]:
        assert self.given is not None
        step, proposal = self._step(lineage, at), self.settings.proposal
        kernel = self.settings.rejuvenation
        choices = taken(self.given[1], at[0])
        if kernel is not None:  # reversible: what the given choices may have been moved from
            choices = kernel.step(Target(step, {}), choices)
        if proposal is None:
            trace = replay(step, choices)
            gain = trace.log_likelihood
        else:
            trace = simulate(condition(step, choices))
            context = self._context(lineage, at)
            scored = at_choices_of(step, proposal, *context)
            log_q = log_density(scored, choices, *context)
            gain = trace.log_likelihood - log_q
        return self._stepped(lineage, trace.value, choices), gain

    def _stepped(self, lineage: Lineage, state: list, choices: Choices) -> Lineage:
        before = None if self.settings.rejuvenation is None else lineage.state
        return Lineage(state, lineage.inputs, choices, before)

    def _step(self, lineage: Lineage, at: At) -> Callable:
        inputs = at[1] if lineage.inputs is None else taken(lineage.inputs, at[0])
        return partial(self.space.step, lineage.state, inputs)

    def _last_step(self, lineage: Lineage, at: At) -> Callable:
        assert lineage.before is not None
        return self._step(lineage._replace(state=lineage.before), at)

    def _context(self, lineage: Lineage, at: At) -> tuple:
        return at[0], lineage.choices, taken(self.data, at[0])


def _continued(lineage: Lineage, step: Callable, choices: Choices) -> Lineage:
    """A particle with other choices at its last step."""
    state = replay(step, choices).value
    return lineage._replace(state=state, choices=choices)


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
    """Log weights that sum to one, and the log of what they summed to: if to zero, equal ones."""
    total = ppl.log_sum_exp(log_weights)
    rest = log_weights - jnp.where(jnp.isneginf(total), 0.0, total)
    return jnp.where(jnp.isneginf(total), uniform(len(log_weights)), rest), total


def _addresses(program: Callable) -> set[str]:
    return {site.address for site in ppl.sites(program)}


def _parted(choices: Choices, before: set[str]) -> tuple[Choices, Choices]:
    """Choices before the loop, and in it."""
    return within(choices, before, inside=True), within(choices, before, inside=False)
