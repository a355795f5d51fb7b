"""One training step: an estimate of the objective, its gradient, one Optax update."""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

from .._expectation import estimator
from .._ir.stage import program_name
from ..errors import NonScalarObjective
from .carried import inexact, updated_states
from .gradient import Mode, differentiated_by, value_and_gradient


class TrainState(NamedTuple):
    """What a step changes."""

    trained: Any
    carried: Any  # the leaves of each `ppl.State`
    opt_state: Any
    alive: Any  # False once frozen


class Measured(NamedTuple):
    """What a step reports: the objective and the norm of its gradient, as one row of history."""

    objective: Any
    grad_norm: Any


class Update(NamedTuple):
    """One step of training: `(key, state, optimizer, frozen, objective, batch) -> ...`.

    The step estimates `objective(params, *batch)`, where `params` is what is trained together with
    what is `frozen`. Optimizers minimise; `maximize` says that the objective is to go up. Where a
    step is not finite, `skip` leaves it out, and `freeze` it and all that follow. `mode` is that of
    the gradient.
    """

    num_samples: int
    maximize: bool
    allow_biased: bool
    mode: Mode = "reverse"
    skip: bool = False
    freeze: bool = False

    def loss(self, key: jax.Array, frozen: Any, objective: Callable, batch: tuple) -> Callable:
        """What the step minimises, given its random choices: of what is trained and carried."""
        estimate = estimator(objective, allow_biased=self.allow_biased, minimized=not self.maximize)

        def loss(trained, carried):
            params = eqx.combine(trained, carried, frozen)
            if self.num_samples == 1:
                value = one_scalar(estimate(key, params, *batch), objective)
            else:
                keys = jax.random.split(key, self.num_samples)
                values = jax.vmap(lambda key: estimate(key, params, *batch))(keys)
                value = jnp.mean(one_scalar(values, objective))
            return -value if self.maximize else value

        return loss

    def __call__(self, key, state, optimizer, *problem) -> tuple[TrainState, Measured]:
        """The next state, and what was measured at this one."""
        loss = self.loss(key, *problem)
        value, (gradient, of_states) = self.value_and_gradient(loss, state)
        at_states = differentiated_by(self.mode, lambda trained: loss(trained, state.carried))

        def value_fn(trained, **_):
            return at_states(trained)

        optimizer = optax.with_extra_args_support(optimizer)
        updates, opt_state = optimizer.update(
            gradient, state.opt_state, state.trained, value=value, grad=gradient, value_fn=value_fn
        )
        trained = optax.apply_updates(state.trained, updates)
        ascent = jax.tree.map(jnp.negative, of_states)
        carried = updated_states(state.carried, problem[0], ascent)
        new = TrainState(trained, carried, opt_state, state.alive)
        measured = Measured(-value if self.maximize else value, norm(gradient))
        return self._guarded(new, state, measured)

    def value_and_gradient(self, loss: Callable, state: TrainState) -> tuple[Any, tuple[Any, Any]]:
        """The loss at a state, and its gradients in what is trained and in what is carried."""

        def of_floats(trained, floats):
            return loss(trained, eqx.combine(floats, state.carried))

        return value_and_gradient(of_floats, self.mode, state.trained, inexact(state.carried))

    def _guarded(
        self, new: TrainState, old: TrainState, measured: Measured
    ) -> tuple[TrainState, Measured]:
        if not (self.skip or self.freeze):
            return new, measured
        good = jnp.isfinite(measured.objective) & jnp.isfinite(measured.grad_norm)
        if self.freeze:
            good &= old.alive
            new = new._replace(alive=good)
            measured = Measured(*(jnp.where(good, x, jnp.nan) for x in measured))
        new = jax.tree.map(lambda a, b: jnp.where(good, a, b), new, old)
        return new, measured


def one_scalar(estimates: Any, objective: Callable) -> jax.Array:
    """The estimates of an objective, which is to be one. Raises `NonScalarObjective`."""
    if isinstance(estimates, jax.Array):
        return estimates
    raise NonScalarObjective(
        f"ppl.fit trains by one real scalar, and objective {program_name(objective)!r} returns "
        f"{len(jax.tree.leaves(estimates))} in a {type(estimates).__name__}. Return their sum, "
        "each times its factor; ppl.expectation(objective)(key, params) estimates the parts."
    )


def norm(gradient: Any) -> jax.Array:
    """The Euclidean norm over all leaves, in float32 at least."""
    wide = [x.astype(jnp.promote_types(x.dtype, jnp.float32)) for x in jax.tree.leaves(gradient)]
    return jnp.sqrt(sum(jnp.sum(jnp.square(x)) for x in wide))
