"""The exact expectation and gradient of a program: the sum over all values of its sites.

Plain NumPy in double precision. All joint states are computed side by side, along the last
dimension of each array; loops, lanes and branches are run one by one. Derivatives are those of
complex steps: f(θ + ih) has the imaginary part h·f'(θ), without cancellation.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np

from . import families
from .operations import TABLE as OPERATIONS
from .syntax import Block, Body, Control, Draw, Let, Program

STEP = 1e-30
STATES = 4096
"""The most joint states."""


class TooManyStates(Exception):
    """A program has more joint states than the sum may have."""


class Exact(NamedTuple):
    """E[f], its gradient, and the size of what is summed: E|f|, and that of the gradient."""

    value: float
    gradient: np.ndarray
    size: float


class World:
    """All joint states of the choices: their digits, probabilities, and where the run is.

    - `idle`: the part of the probabilities that is of choices that are not reached.
    - `active`: in which states the statement is reached.
    - `density`: the log density of the sites since `simulate`, times `factor`.
    - `drawn`: the digits of the sites by address and place, to be recorded, or to be given.
    """

    def __init__(self, sizes: list[int]):
        self.states = int(np.prod(sizes))
        self.digits = iter(np.unravel_index(np.arange(self.states), sizes) if sizes else ())
        self.counting, self.sizes = not sizes, []
        self.chance: Any = np.ones(self.states, complex)
        self.idle: Any = np.ones(self.states)
        self.active: Any = np.ones(self.states, bool)
        self.factor: Any = 1.0
        self.density: Any = np.zeros(self.states, complex)
        self.path: tuple = ()
        self.drawn: dict = {}
        self.given = False

    @contextmanager
    def having(self, **changes: Any) -> Iterator[None]:
        """With attributes changed for a while."""
        before = {name: getattr(self, name) for name in changes}
        vars(self).update(changes)
        yield
        vars(self).update(before)

    def digit(self, size: int) -> Any:
        """The values of the next variable, by their number."""
        self.sizes.append(size)
        if self.counting:
            return np.zeros(1, int)
        return next(self.digits)

    def spread(self, array: Any, shape: tuple[int, ...]) -> Any:
        """An array with all states."""
        return np.broadcast_to(array, (*shape, self.states))


def exact(program: Program) -> Exact:
    """The expectation of a program."""
    sizes, runs = _sizes(program), []
    with np.errstate(all="ignore"):
        for i in range(len(program.theta)):
            world = World(sizes)
            theta = np.array(program.theta, complex) + 1j * STEP * (
                np.arange(len(program.theta)) == i
            )
            values = _result(program, world, theta)
            runs.append(np.where(world.chance == 0, 0.0, world.chance * values))
    gradient = np.array([np.sum(run.imag) / STEP for run in runs])
    size = np.sum(np.abs(runs[0].real)) + max(np.sum(np.abs(run.imag)) / STEP for run in runs)
    return Exact(float(np.sum(runs[0].real)), gradient, float(size))


def largest(program: Program) -> float:
    """The largest of result + log probability, over the states of what is reached."""
    world = World(_sizes(program))
    with np.errstate(all="ignore"):
        values = _result(program, world, np.array(program.theta, complex)).real
        logs = np.log(world.chance.real) - np.log(world.idle)
    return float(np.max(np.where(world.chance == 0, -np.inf, logs + values)))


def _sizes(program: Program) -> list[int]:
    """How many values each choice has."""
    counted = World([])
    with np.errstate(all="ignore"):
        _result(program, counted, np.array(program.theta, complex))
    if np.prod([float(n) for n in counted.sizes]) > STATES:
        raise TooManyStates
    return counted.sizes


def _result(program: Program, world: World, theta: Any) -> Any:
    env = {f"theta[{i}]": world.spread(x, ()) for i, x in enumerate(theta)}
    env["theta"] = world.spread(theta[:, None], theta.shape)
    return _run(program.body, [env["theta"]], env, world)[0]


def _run(body: Body, args: list, env: dict, world: World) -> list:
    """The results of a function, called in the environment `env`."""
    env = {**env, **dict(zip(body.params, args, strict=True))}
    for statement in body.statements:
        match statement:
            case Let():
                operands = [env[name] for name in statement.args]
                array = OPERATIONS[statement.op].run(*operands, *statement.static)
                env[statement.out] = world.spread(array, statement.type.shape)
            case Draw():
                env[statement.out] = _draw(statement, env, world)
            case Control():
                pass
            case Block():
                outs = BLOCKS[statement.kind](statement, env, world)
                env.update(zip(statement.outs, outs, strict=True))
    return [env[name] for name in body.results]


def _draw(site: Draw, env: dict, world: World) -> Any:
    """The values of a site, element by element of its batch."""
    (x,) = (env[name] for name in site.args)
    if site.obs is not None:
        log_density = families.normal_log_density(site.obs, x)
        world.density = world.density + _times(world, log_density)
        return world.spread(site.obs + 0j, ())
    chances = world.spread(families.TABLE[site.family].chances(x), _shape(site, x))
    values = np.empty((*chances.shape[1:-1], world.states), complex if site.type.real else int)
    for place in np.ndindex(chances.shape[1:-1]):
        values[place] = _element(site, place, chances[(slice(None), *place)], x, world)
    return values


def _shape(site: Draw, x: Any) -> tuple[int, ...]:
    family = families.TABLE[site.family]
    return (family.size, *x.shape[: -2 if family.last else -1])


def _element(site: Draw, place: tuple, chances: Any, x: Any, world: World) -> Any:
    name = (site.address, *world.path, *place)
    index = world.drawn[name] if world.given else world.digit(len(chances))
    own = chances[index, np.arange(world.states)]
    if not world.given:
        world.drawn[name] = index
        idle = np.where(world.active, 1.0, 1.0 / len(chances))
        world.idle = world.idle * idle
        world.chance = world.chance * np.where(world.active, own, idle)
    mean = x[place] if site.family == "normal" else None
    value = families.value(site.family, index, mean)
    log_density = families.normal_log_density(value, mean) if mean is not None else np.log(own)
    world.density = world.density + _times(world, log_density)
    return value


def _times(world: World, log_density: Any) -> Any:
    """A log density where it counts."""
    return np.where(world.active & (world.factor != 0), world.factor * log_density, 0.0)


def _call(block: Block, env: dict, world: World) -> list:
    return _run(block.bodies[0], [env[name] for name in block.args], env, world)


def _each(block: Block, env: dict, world: World) -> list:
    """Lane by lane, stacked."""
    arrays, results = [env[name] for name in block.args], []
    for i in range(block.static[0]):
        with world.having(path=(*world.path, i)):
            args = [*(array[i] for array in arrays), world.spread(i, ())]
            results.append(_run(block.bodies[0], args, env, world))
    return _stacked(results, block.types, world)


def _stacked(results: list, types: Any, world: World) -> list:
    if results:
        return [np.stack(column) for column in zip(*results, strict=True)]
    return [np.zeros((*t.shape, world.states), complex if t.real else int) for t in types]


def _scan(block: Block, env: dict, world: World) -> list:
    length, carried = block.static
    carry = [env[name] for name in block.args[:carried]]
    xs, results = [env[name] for name in block.args[carried:]], []
    for i in range(length):
        with world.having(path=(*world.path, i)):
            args = [*carry, *(x[i] for x in xs), world.spread(i, ())]
            out = _run(block.bodies[0], args, env, world)
        carry = out[:carried]
        results.append(out[carried:])
    return [*carry, *_stacked(results, block.types[carried:], world)]


def _fori(block: Block, env: dict, world: World) -> list:
    carry = [env[name] for name in block.args]
    for i in range(block.static[0]):
        carry = _run(block.bodies[0], [*carry, world.spread(i, ())], env, world)
    return carry


def _while(block: Block, env: dict, world: World) -> list:
    carry, going = [env[name] for name in block.args], world.active
    for _ in range(block.static[0]):
        with world.having(active=going):
            go, *new = _run(block.bodies[0], carry, env, world)
        carry = [np.where(going, a, b) for a, b in zip(new, carry, strict=True)]
        going = going & (go > 0)
    return carry


def _branches(index: Callable) -> Callable:
    def run(block: Block, env: dict, world: World) -> list:
        branch, taken = index(env[block.args[0]]), []
        for i, body in enumerate(block.bodies):
            with world.having(active=world.active & (branch == i)):
                taken.append(_run(body, [], env, world))
        return [np.choose(branch, columns) for columns in zip(*taken, strict=True)]

    return run


def _simulate(block: Block, env: dict, world: World) -> list:
    (factor,) = block.static
    factor = world.factor * (1.0 if factor is None else factor)
    factor = factor * (env[block.args[0]] > 0) if block.args else factor
    before, world.density = world.density, np.zeros(world.states, complex)
    with world.having(factor=factor):
        values = _run(block.bodies[0], [], env, world)
    own, world.density = world.density, before + world.density
    return [*values, own]


def _bound(block: Block, env: dict, world: World) -> list:
    """A function of the log importance weights of some particles."""
    model, guide = block.bodies
    _, count, combine = block.static
    logs = []
    for i in range(count):
        densities = []
        for body, given in ((guide, False), (model, True)):
            before, world.density = world.density, np.zeros(world.states, complex)
            with world.having(given=given, path=(*world.path, i)):
                _run(body, [], env, world)
            densities.append(world.density)
            world.density = before
        logs.append(densities[1] - densities[0])
    return [_power_mean(np.stack(logs), combine)]


def _power_mean(logs: Any, order: float) -> Any:
    """The log of the mean of powers, over the order."""
    if order == 0:
        return np.mean(logs, 0)
    return np.log(np.mean(np.exp(order * logs), 0)) / order


BLOCKS = {
    **dict.fromkeys(("jit", "checkpoint"), _call),
    **dict.fromkeys(("vmap", "map"), _each),
    "scan": _scan,
    "fori": _fori,
    "while": _while,
    "cond": _branches(lambda z: (z <= 0).astype(int)),
    "switch": _branches(lambda z: z),
    "simulate": _simulate,
    "bound": _bound,
}
