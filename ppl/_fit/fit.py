"""`fit`: the training loop."""

import math
from collections.abc import Callable
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax

from .._jax.leaves import is_array
from .._meanings.seed import checked_key
from .arguments import check_objective, check_optimizer, check_resume, check_settings
from .driver import Run, has_tracers, train, train_in_trace
from .integers import warn_integers
from .loop import Inputs, Loop, Moment
from .minibatches import checked_data
from .nonfinite import nonfinite_update
from .parameters import as_arrays, split_parameters, strong
from .progress import progress_bar
from .result import FitResult, Params
from .sameness import Same, parts
from .step import TrainState, Update


def fit(
    objective: Callable,
    params: Params,
    optimizer: optax.GradientTransformation,
    *,
    key: Any,
    steps: int,
    num_samples: int = 1,
    data: Any = None,
    batch_size: int | None = None,
    maximize: bool = True,
    trainable: Any = None,
    mode: Literal["reverse", "forward"] = "reverse",
    on_nonfinite: Literal["raise", "skip", "stop"] = "raise",
    progress: bool = True,
    allow_biased: bool = False,
    resume: FitResult[Params] | None = None,
) -> FitResult[Params]:
    """Trains parameters to maximise the expectation of an objective by stochastic gradients.

    Each step averages `num_samples` independent estimates by `ppl.expectation(objective)` and makes
    one Optax update. Many steps run in one XLA program; later calls with the same objective,
    optimizer and shapes use it again. Ctrl-C returns what has been fitted so far.

    **Arguments**

    - `objective`: a program that returns one real scalar, called as `objective(params)`, or
      `objective(params, batch)` where `data` is given.
    - `params`: where training starts; any pytree. Floating-point arrays are trained, and Python
      floats that are not in an `equinox.Module`. A `ppl.State` is carried: its own rule updates
      it, from the average gradient of the step's estimates. Everything else is frozen. An integer
      that the objective's gradient would reach, such as a start of `0` for `0.0`, is warned of
      (`IntegerParameter`).
    - `optimizer`: an Optax transformation, those that read the loss (`value`) included.
    - `key`: one PRNG key. Step t uses `fold_in` of t, so that a run in two parts is a run in one.
    - `steps`: how many steps to take.
    - `data`, `batch_size`: a pytree of arrays with a common leading axis. Each epoch is a fresh
      random order, cut into batches; what does not fill a last batch sits that epoch out. Without
      `batch_size`, each step sees all data. The objective scales what it sums over a batch
      (`ppl.scale(program, size / batch_size)`).
    - `maximize`: False to minimise. Parameters of a `baseline` approach the cost either way.
    - `trainable`: which floating-point leaves to train: a function from a leaf to a bool, or a
      pytree prefix of `params` of bools.
    - `mode`: how the gradient is taken. `"forward"` is for objectives with a `while_loop`, which
      have no reverse mode, and for long loops with few parameters, as it stores no step of them. It
      is the same gradient, at the cost of a derivative for each number that is trained (and for
      each in a `State`).
    - `on_nonfinite`: where the objective or a gradient is not finite, `"raise"`, `"skip"` the
      update, or `"stop"` and return the fit before that step.
    - `progress`: show a bar with the objective and the steps a second (needs tqdm).
    - `allow_biased`: allow gradient estimators that are biased.
    - `resume`: an earlier result. Training goes on from it, step for step as if it had not
      stopped, given the same key; of `params` only the structure is read.

    Under `jax.vmap` (many restarts: `jax.vmap(lambda key: ppl.fit(..., key=key).params)(keys)`) or
    `jax.jit` there is no bar, and `"raise"` does as `"stop"`: parameters stay as they were before
    the step that was not finite, and the history from it on is NaN.

    As in `jax.jit`, values that the objective closes over are constants. A function or value that
    is bound anew is seen at the next call; an array or object changed in place is not.

    **Returns** a `FitResult`: `.params`, `.history`, `.opt_state`, `.plot()`.

    **Raises** `NotTrainable`, `NonFiniteUpdate`, `InvalidKey`, `InvalidObjective`,
    `InvalidOptimizer`, `InvalidData`, `InvalidSetting`, `InvalidState`, `ReverseModeLoop` where a
    `while_loop` needs `mode="forward"`, and what `ppl.expectation` raises.

    ```python
    >>> import jax, jax.numpy as jnp, optax, ppl, numpyro.distributions as dist
    >>> def model():
    ...     z = ppl.sample("z", dist.Normal(0.0, 1.0))
    ...     ppl.sample("x", dist.Normal(z, 1.0), obs=2.0)
    >>> def guide(phi):
    ...     ppl.sample("z", dist.Normal(phi["mean"], jnp.exp(phi["log_scale"])))
    >>> def elbo(phi):
    ...     q = ppl.simulate(guide, phi)
    ...     return ppl.log_density(model, q.choices) - q.log_density
    >>> result = ppl.fit(elbo, {"mean": 0.0, "log_scale": 0.0}, optax.adam(0.02),
    ...                  key=jax.random.key(0), steps=1000, num_samples=8, progress=False)
    >>> print(f"{result.params['mean']:.1f} {jnp.exp(result.params['log_scale']):.1f}")
    1.0 0.7

    ```
    """
    check_settings(steps, num_samples, mode, on_nonfinite)
    check_optimizer(optimizer)
    check_objective(objective, with_batch=data is not None)
    step_key, data_key = jax.random.split(checked_key(key, "ppl.fit(..., key=)"))
    data, minibatches = checked_data(data, batch_size)
    params = as_arrays(params)
    if resume is not None:
        check_resume(resume, params)
        params = resume.params
    trained, carried, frozen = split_parameters(params, trainable)
    opt_state = strong(optimizer.init(trained) if resume is None else resume.opt_state)
    (programs, frozen), static = eqx.partition((parts(objective), frozen), is_array)
    inputs = Inputs(step_key, data_key, programs, frozen, data)
    moment = Moment(
        TrainState(trained, carried, opt_state, jnp.asarray(True)),
        minibatches and minibatches.start(),
    )
    update = Update(num_samples, maximize, allow_biased, mode, skip=on_nonfinite == "skip")
    loop = Loop(Same(static[0]), Same(static[1]), Same(optimizer), update, minibatches)
    warn_integers(loop, inputs, moment, trainable)
    first = 0 if resume is None else resume.steps
    if loop.holds_tracers or has_tracers((inputs, moment)):
        run = train_in_trace(loop, inputs, moment, first, steps)
    else:
        with progress_bar(steps, progress) as bar:
            run = train(loop, inputs, moment, range(int(first), int(first) + steps), bar)
    if run.nonfinite is not None and on_nonfinite == "raise":
        raise nonfinite_update(loop, inputs, run.moment, run.nonfinite)
    return _result(run, eqx.combine(frozen, static[1]), resume)


def _result(run: Run, frozen: Any, earlier: FitResult | None) -> FitResult:
    trained, carried, opt_state, _ = run.moment.state
    history, skipped = run.rows._asdict(), run.skipped
    if earlier is not None:
        xp = np if isinstance(run.rows.objective, np.ndarray) else jnp
        history = {k: xp.concatenate([earlier.history[k], new]) for k, new in history.items()}
        skipped = skipped + earlier.skipped
    sizes = [x.size for x in jax.tree.leaves(trained)]
    return FitResult(
        params=eqx.combine(trained, carried, frozen),
        history=history,
        opt_state=opt_state,
        steps=run.done,
        skipped=skipped,
        interrupted=run.interrupted,
        nonfinite=run.nonfinite,
        seconds=run.seconds,
        steps_per_second=len(run.rows.objective) / run.seconds if run.seconds else math.nan,
        sizes=(sum(sizes), len(sizes), sum(map(is_array, jax.tree.leaves(frozen)))),
    )
