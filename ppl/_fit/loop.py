"""Many training steps in one XLA program."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax

from .._meanings.seed import seed
from .ahead import DrawnAhead, draw_ahead
from .minibatches import Minibatches
from .sameness import Same, whole
from .step import Measured, TrainState, Update

MOST_PROGRAMS = 16
_PROGRAMS: dict = {}  # from (loop, capacity) to the compiled program, the last used one last


class Inputs(NamedTuple):
    """The arrays that the program reads and does not change.

    `objective` and `frozen` hold the arrays among the objective's and the parameters' leaves.
    """

    step_key: jax.Array
    data_key: jax.Array
    objective: Any
    frozen: Any
    data: Any


class Moment(NamedTuple):
    """All that changes from step to step."""

    state: TrainState
    shuffle: Any  # of minibatches: a Shuffle


class Loop(NamedTuple):
    """What the program is made from besides arrays. Equal loops share a compiled program.

    `objective` and `frozen` have None in place of each array.
    """

    objective: Same
    frozen: Same
    optimizer: Same
    update: Update
    minibatches: Minibatches | None

    @property
    def holds_tracers(self) -> bool:
        """Whether values that are not known yet are among the constants."""
        return any(x.holds_tracers for x in (self.objective, self.frozen, self.optimizer))

    def compiled(self, capacity: int) -> Callable:
        """`run` with this capacity, or what `keep` has kept of an equal loop."""
        kept = _PROGRAMS.pop((self, capacity), None)
        if kept is not None:
            _PROGRAMS[self, capacity] = kept  # now the last to be dropped
        return kept or jax.jit(functools.partial(self.run, capacity))

    def keep(self, capacity: int, program: Callable) -> None:
        """Keeps a compiled program, under what its objective is after it was traced.

        An objective that counts how often it is traced is so the same one the next time.
        """
        if self.holds_tracers:
            return
        again = self._replace(
            objective=Same(self.objective.value), optimizer=Same(self.optimizer.value)
        )
        _PROGRAMS[again, capacity] = program
        while len(_PROGRAMS) > MOST_PROGRAMS:
            del _PROGRAMS[next(iter(_PROGRAMS))]

    def run(
        self, capacity: int, inputs: Inputs, moment: Moment, first: Any, end: Any
    ) -> tuple[Moment, Measured]:
        """Takes the steps `first <= step < end`, at most `capacity`; row i measures `first + i`.

        The steps are taken in blocks, whose randomness is drawn ahead. Blocks begin at fixed steps,
        wherever a call does: so a run in two parts sees the very numbers of a run in one.
        """
        ahead = self._step(inputs, moment, first)
        period = self.minibatches.per_epoch if self.minibatches else 2**31 - 1
        length = min(ahead.block, period)

        def block(carry):
            step, (state, shuffle), rows = carry
            if self.minibatches:
                shuffle = self.minibatches.shuffle(inputs.data_key, step // period, shuffle)
            begin = step - (step % period) % length
            stop = jnp.minimum(begin + length, (step // period + 1) * period)
            stop = jnp.minimum(stop, end)
            steps = begin + jnp.arange(length, dtype=jnp.int32)
            keys = jax.vmap(jax.random.fold_in, (None, 0))(inputs.step_key, steps)
            drawn = jax.vmap(ahead.draw)(keys)

            def body(step, carry):
                state, rows = carry
                now = [lax.dynamic_index_in_dim(x, step - begin, keepdims=False) for x in drawn]
                state, row = ahead.rest(now, state, shuffle, step)
                return state, jax.tree.map(lambda xs, x: xs.at[step - first].set(x), rows, row)

            state, rows = lax.fori_loop(step, stop, body, (state, rows))
            return stop, Moment(state, shuffle), rows

        rows = jax.tree.map(lambda x: jnp.zeros(capacity, x.dtype), ahead.out[1])
        return lax.while_loop(lambda carry: carry[0] < end, block, (first, moment, rows))[1:]

    def gradient(self, inputs: Inputs, moment: Moment, step: Any) -> tuple[jax.Array, Any]:
        """The objective and its gradient at one step, as `run` would find them."""
        key, moment = self._at(inputs, moment, step)
        loss = self.update.loss(key, *self.problem(inputs, moment.shuffle, step))
        value, (gradient, _) = self.update.value_and_gradient(loss, moment.state)
        if self.update.maximize:
            return -value, jax.tree.map(jnp.negative, gradient)
        return value, gradient

    def plain_run(self, inputs: Inputs, moment: Moment, step: Any) -> jax.Array:
        """The objective in one plain run of it (no estimator), with the data of one step."""
        key, moment = self._at(inputs, moment, step)
        frozen, objective, batch = self.problem(inputs, moment.shuffle, step)
        return seed(objective)(key, eqx.combine(*moment.state[:2], frozen), *batch)

    def _at(self, inputs: Inputs, moment: Moment, step: Any) -> tuple[jax.Array, Moment]:
        """The key of a step, and the moment with the shuffle of its epoch."""
        if self.minibatches:
            epoch = step // self.minibatches.per_epoch
            shuffle = self.minibatches.shuffle(inputs.data_key, epoch, moment.shuffle)
            moment = moment._replace(shuffle=shuffle)
        return jax.random.fold_in(inputs.step_key, step), moment

    def problem(self, inputs: Inputs, shuffle: Any, step: Any) -> tuple[Any, Callable, tuple]:
        """The frozen parameters, the objective and its arguments besides the parameters."""
        frozen = eqx.combine(inputs.frozen, self.frozen.value)
        objective = whole(eqx.combine(inputs.objective, self.objective.value))
        if inputs.data is None:
            return frozen, objective, ()
        if self.minibatches is None:
            return frozen, objective, (inputs.data,)
        return frozen, objective, (self.minibatches.take(inputs.data, shuffle.order, step),)

    def _step(self, inputs: Inputs, moment: Moment, first: Any) -> DrawnAhead:
        def step(key, state, shuffle, step):
            problem = self.problem(inputs, shuffle, step)
            return self.update(key, state, self.optimizer.value, *problem)

        return draw_ahead(step, inputs.step_key, *moment, first)
