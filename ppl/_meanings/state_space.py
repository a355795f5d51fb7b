"""A program as a state-space model: what comes before its loop, and one step of the loop."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from .._ir.stage import P, stage
from .._jax import equations
from .._jax.control_flow import Call, Loop, form
from .._jax.run import run
from .._walk.walker import placed_sites
from ..errors import UnsupportedControlFlow


class StateSpace(NamedTuple):
    """A program whose last sites stand in one `lax.scan`.

    - `start`: a program, of the sites before the loop. It returns `(state, inputs)`: what the first
      step reads, and the inputs of the steps, with a leading axis of steps. Both are lists.
    - `step`: a program `(state, inputs of one step) -> state`, of the sites of one step.
    - `length`: how many steps; `fixed`: how many entries of the state, from the first, each step
      leaves as they are.

    ```python
    >>> import jax, ppl, numpyro.distributions as dist
    >>> def walk():
    ...     step = lambda x, _: (ppl.sample("x", dist.Normal(x, 1.0)), None)
    ...     return jax.lax.scan(step, 0.0, length=5)[0]
    >>> space = ppl.extend.state_space(walk)
    >>> state, inputs = space.start()
    >>> trace = ppl.seed(lambda: ppl.simulate(space.step, state, inputs))(jax.random.key(0))
    >>> list(trace.choices), space.length
    (['x'], 5)

    ```
    """

    start: Callable[[], tuple[list, list]]
    step: Callable[[list, list], list]
    length: int
    fixed: int = 0


def state_space(program: Callable[P, Any], *args: P.args, **kwargs: P.kwargs) -> StateSpace:
    """The program taken apart at its loop, to be run step by step (by a particle filter, say).

    The sites must stand in one `lax.scan`, or before it. **Raises** `UnsupportedControlFlow`.
    """
    staged = stage(program, *args, **kwargs)
    calls, loop = _located(staged.jaxpr, staged.name)

    def start():
        operands: Sequence[Any] = ()
        jaxpr, consts = staged.jaxpr, staged.consts
        for call in calls:
            operands = _operands(jaxpr, consts, operands, call.eqn)
            jaxpr, consts = call.body
        fixed, init, inputs = loop.split(_operands(jaxpr, consts, operands, loop.eqn))
        return [*fixed, *init], inputs

    def step(state, inputs):
        outs = run(*loop.body, [*state, *inputs])
        return [*state[: loop.num_consts], *loop.split_outputs(outs)[0]]

    return StateSpace(start, step, loop.length, loop.num_consts)


def _located(jaxpr: Any, name: str) -> tuple[list[Call], Loop]:
    """The loop that holds the last sites, and the calls that it stands in."""
    calls = []
    while True:
        sited = [eqn for eqn in jaxpr.eqns if equations.has_sites(eqn)]
        found = form(sited[-1]) if sited else None
        if isinstance(found, Call):
            calls.append(found)
            jaxpr = found.body.jaxpr
        elif isinstance(found, Loop) and _first_axis(found.eqn) and not found.reverse:
            return calls, found
        else:
            raise UnsupportedControlFlow(
                f"Program {name!r} is no state-space model: its last sites do not stand in a "
                "lax.scan that goes forward, outside any vmap. Write its steps as one lax.scan "
                "that nothing random follows, and put jax.vmap around the algorithm."
            )


def _first_axis(loop: Any) -> bool:
    """Whether steps are the first axis of what the loop's sites choose."""
    return all(p.site.loop_position(p.depth) == 0 for p in placed_sites(loop))


def _operands(jaxpr: Any, consts: Any, args: Sequence[Any], eqn: Any) -> list[Any]:
    """The operands of one equation, by running those before it."""
    before = jaxpr.eqns[: jaxpr.eqns.index(eqn)]
    return run(jaxpr.replace(eqns=before, outvars=eqn.invars), consts, args)
