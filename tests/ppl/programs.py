"""Programs of every form of control flow, each with its density and its moments worked out by hand.

Densities are sums of `jax.scipy.stats` terms; means and covariances of the returned values are
closed forms. Nothing here is computed with `ppl` but the programs themselves.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax import lax
from jax.scipy.stats import bernoulli, expon, norm

from ppl import sample

THETA = 0.5
CASES: list["Case"] = []

normal, logpmf = norm.logpdf, bernoulli.logpmf
A, B, C = np.array([-1.0, 1.0]), np.array([-2.0, 0.0, 2.0]), np.array([0.0, 1.0, 2.0, 3.0])
FLAGS = np.array([True, False, True])
TIMES = np.array([[min(s, t) for s in range(1, 4)] for t in range(1, 4)], float)
"""The covariance of three steps of a random walk."""


class Case(NamedTuple):
    """A program of one argument and what is known of it at `THETA`.

    `shapes`: its choices. `density(theta, choices)`: its log density; with `endless` (a while_loop,
    whose sites are not recorded) a function of the returned value instead. `mean` and `cov`: of
    the flattened value. `valid(choices)`: which conditional sites were reached.
    """

    program: Callable
    shapes: dict[str, tuple[int, ...]]
    density: Callable
    mean: Any
    cov: Any
    valid: Callable = lambda choices: {}
    endless: bool = False

    def __repr__(self):
        return self.program.__name__


def case(shapes, density, mean, cov=None, **rest):
    """Registers a program; without `cov` its values are independent with variance one."""
    mean = np.ravel(np.asarray(mean, float))

    def register(program):
        exact = np.eye(mean.size) if cov is None else np.reshape(cov, (mean.size, mean.size))
        CASES.append(Case(program, shapes, density, mean, exact, **rest))
        return program

    return register


def _pair(t, c):
    return normal(c["x"], t) + normal(c["y"], c["x"], 0.5)


pair = case({"x": (), "y": ()}, _pair, [THETA, THETA], [[1, 1], [1, 1.25]])


@pair
def straight(theta):
    x = sample("x", dist.Normal(theta, 1.0))
    return jnp.stack([x, sample("y", dist.Normal(x, 0.5))])


@pair
def in_jit(theta):
    inner = jax.jit(lambda m: sample("x", dist.Normal(m, 1.0)))
    x = inner(theta)
    return jnp.stack([x, jax.jit(lambda: sample("y", dist.Normal(x, 0.5)))()])


@pair
def in_checkpoint(theta):
    return jax.checkpoint(straight)(theta)


@pair
def in_nested_calls(theta):
    return jax.checkpoint(jax.jit(lambda m: jax.jit(straight)(m)))(theta)


@case({"x": (3,)}, lambda t, c: normal(c["x"][0], t) + normal(c["x"][1:], c["x"][:-1]).sum(),
      [THETA] * 3, TIMES)  # fmt: skip
def in_scan(theta):
    def step(x, _):
        x = sample("x", dist.Normal(x, 1.0))
        return x, x

    return lax.scan(step, theta, None, length=3)[1]


@case({"x": (3,)}, lambda t, c: normal(c["x"][2], t) + normal(c["x"][:2], c["x"][1:]).sum(),
      [THETA] * 3, TIMES[::-1, ::-1])  # fmt: skip
def in_reverse_scan(theta):
    def step(x, _):
        x = sample("x", dist.Normal(x, 1.0))
        return x, x

    return lax.scan(step, theta, None, length=3, reverse=True)[1]


def _drifting(t, c):
    x = c["x"]
    return normal(x[0], 1.0) + normal(x[1], x[0] + t) + normal(x[2], x[1] + 2 * t)


@case({"x": (3,)}, _drifting, 1.0 + 3 * THETA, 3.0)
def in_fori_loop(theta):
    return lax.fori_loop(0, 3, lambda i, x: sample("x", dist.Normal(x + i * theta, 1.0)), 1.0)


@case({"x": (3,)}, lambda t, c: normal(c["x"], t * B).sum(), THETA * B)
def in_map(theta):
    return lax.map(lambda m: sample("x", dist.Normal(m, 1.0)), theta * B)


def _either(t, c):
    branches = jnp.where(c["b"] == 1, normal(c["x"], t), normal(c["y"], -2.0, 0.5))
    return logpmf(c["b"], 0.3) + branches


MIX = 0.3 * THETA - 0.7 * 2.0
MIX_VAR = 0.3 * (1 + THETA**2) + 0.7 * (0.25 + 4.0) - MIX**2


@case({"b": (), "x": (), "y": ()}, _either, MIX, MIX_VAR,
      valid=lambda c: {"x": c["b"] == 1, "y": c["b"] == 0})  # fmt: skip
def in_cond(theta):
    return lax.cond(
        sample("b", dist.Bernoulli(0.3)) == 1,
        lambda m: sample("x", dist.Normal(m, 1.0)),
        lambda m: sample("y", dist.Normal(-2.0, 0.5)),
        theta,
    )


def _three(t, c):
    cases = [normal(c["x"], t), normal(c["x"], t + 5.0, 2.0), expon.logpdf(c["z"])]
    return (
        jnp.log(jnp.array([0.2, 0.3, 0.5]))[c["k"]] + jnp.choose(c["k"], cases, mode="clip")
    ).sum()


SW = 0.2 * THETA + 0.3 * (THETA + 5) + 0.5
SW_VAR = 0.2 * (1 + THETA**2) + 0.3 * (4 + (THETA + 5) ** 2) + 0.5 * 2 - SW**2
switched = {"valid": lambda c: {"x": c["k"] != 2, "z": c["k"] == 2}}


@case({"k": (), "x": (), "z": ()}, _three, SW, SW_VAR, **switched)
def in_switch(theta):
    branches = [
        lambda m: sample("x", dist.Normal(m, 1.0)),
        lambda m: sample("x", dist.Normal(m + 5.0, 2.0)),
        lambda m: sample("z", dist.Exponential(1.0)),
    ]
    return lax.switch(sample("k", dist.Categorical(jnp.array([0.2, 0.3, 0.5]))), branches, theta)


@case({"k": (2,), "x": (2,), "z": (2,)}, _three, [SW, SW], np.eye(2) * SW_VAR, **switched)
def in_vmapped_switch(theta):
    return jax.vmap(in_switch, in_axes=None, axis_size=2)(theta)


def _while(theta, steps):
    def body(state):
        i, draws = state
        return i + 1, draws.at[i].set(sample("x", dist.Normal(theta, 1.0)))

    return lax.while_loop(lambda state: state[0] < steps, body, (0, jnp.zeros(3)))[1]


@case({}, lambda t, value: normal(value, t).sum(), [THETA] * 3, endless=True)
def in_while_loop(theta):
    return _while(theta, 3)


REACHED = np.tril(np.ones((3, 3)))


@case({}, lambda t, value: (REACHED * normal(value, t)).sum(), THETA * REACHED,
      np.diag(REACHED.ravel()), endless=True)  # fmt: skip
def in_vmapped_while(theta):
    return jax.vmap(_while, (None, 0))(theta, jnp.arange(1, 4))


@case({"x": (3,)}, lambda t, c: normal(c["x"], t * B).sum(), THETA * B)
def in_vmap(theta):
    return jax.vmap(lambda m: sample("x", dist.Normal(m, 1.0)))(theta * B)


@case({"x": (3,)}, lambda t, c: normal(c["x"], t).sum(), [THETA] * 3)
def in_vmap_unmapped(theta):
    return jax.vmap(lambda _: sample("x", dist.Normal(theta, 1.0)))(B)


@case({"x": (2, 3)}, lambda t, c: normal(c["x"], t * A[:, None] + B).sum(),
      THETA * A[:, None] + B)  # fmt: skip
def in_vmap_twice(theta):
    lane = lambda a, b: sample("x", dist.Normal(theta * a + b, 1.0))
    return jax.vmap(jax.vmap(lane, (None, 0)), (0, None))(A, B)


@case({"x": (2, 3)}, lambda t, c: normal(c["x"], t * A[:, None]).sum(),
      THETA * (A[:, None] + 0 * B))  # fmt: skip
def in_vmap_half_mapped(theta):
    lanes = lambda a: jax.vmap(lambda _: sample("x", dist.Normal(theta * a, 1.0)))(B)
    return jax.vmap(lanes)(A)


@case({"x": (3, 2)}, lambda t, c: normal(c["x"], t * B[:, None] + A).sum(),
      THETA * B + A[:, None])  # fmt: skip
def in_vmap_of_trailing_axes(theta):
    lane = jax.vmap(lambda m: sample("x", dist.Normal(m, 1.0)))
    return jax.vmap(lane, in_axes=1, out_axes=1)(A[:, None] + theta * B)


@case({"x": (2, 3, 4)}, lambda t, c: normal(c["x"], t * (A[:, None, None] + C)).sum(),
      THETA * (A[:, None, None] + 0 * B[:, None] + C))  # fmt: skip
def in_vmap_thrice(theta):
    lane = lambda a, c: sample("x", dist.Normal(theta * (a + c), 1.0))
    lanes = jax.vmap(jax.vmap(lane, (None, 0)), (None, None), axis_size=3)
    return jax.vmap(lanes, (0, None))(A, C)


def _walks(start, c):
    before = jnp.concatenate([start, c["x"][..., :-1]], axis=-1)
    return normal(c["x"], before).sum()


@case({"x": (2, 3)}, lambda t, c: _walks(t * A[:, None], c),
      THETA * A[:, None] + np.zeros(3), np.kron(np.eye(2), TIMES))  # fmt: skip
def in_vmap_of_scan(theta):
    return jax.vmap(in_scan)(theta * A)


@case({"x": (3, 2)}, lambda t, c: _walks(t * A[:, None], {"x": c["x"].T}),
      THETA * A + np.zeros((3, 1)), np.kron(TIMES, np.eye(2)))  # fmt: skip
def in_scan_of_vmap(theta):
    def step(x, _):
        x = jax.vmap(lambda m: sample("x", dist.Normal(m, 1.0)))(x)
        return x, x

    return lax.scan(step, theta * A, None, length=3)[1]


@case({"x": (4, 2, 3)}, lambda t, c: _walks((t * C[:, None] + A)[..., None], c),
      np.repeat(THETA * C[:, None] + A, 3), np.kron(np.eye(8), TIMES))  # fmt: skip
def in_scan_of_vmap_of_scan(theta):
    return lax.scan(lambda _, c: (None, jax.vmap(in_scan)(theta * c + A)), None, C)[1]


@case({"x": (2, 3, 4)}, lambda t, c: normal(c["x"], t * A[:, None, None] + C).sum(),
      THETA * A[:, None, None] + 0 * B[:, None] + C)  # fmt: skip
def in_vmap_of_scan_of_vmap(theta):
    row = lambda a: jax.vmap(lambda c: sample("x", dist.Normal(theta * a + c, 1.0)))(C)
    return jax.vmap(lambda a: lax.map(lambda _: row(a), B))(A)


@case({"b": (3,), "x": (3,), "y": (3,)}, lambda t, c: _either(t, c).sum(), [MIX] * 3,
      np.eye(3) * MIX_VAR, valid=lambda c: {"x": c["b"] == 1, "y": c["b"] == 0})  # fmt: skip
def cond_in_scan(theta):
    return lax.scan(lambda _, x: (None, in_cond(theta)), None, B)[1]


@case({"b": (3,), "x": (3,), "y": (3,)}, lambda t, c: _either(t, c).sum(), [MIX] * 3,
      np.eye(3) * MIX_VAR, valid=lambda c: {"x": c["b"] == 1, "y": c["b"] == 0})  # fmt: skip
def cond_in_vmap(theta):
    return jax.vmap(lambda _: in_cond(theta))(B)


@case({"b": (), "x": (3,)}, lambda t, c: logpmf(c["b"], 0.3)
      + jnp.where(c["b"] == 1, _walks(jnp.array([t]), c), 0.0), [0.3 * THETA] * 3,
      0.3 * (TIMES + THETA**2) - (0.3 * THETA) ** 2,
      valid=lambda c: {"x": np.broadcast_to(c["b"] == 1, 3)})  # fmt: skip
def scan_in_cond(theta):
    flag = sample("b", dist.Bernoulli(0.3)) == 1
    return lax.cond(flag, in_scan, lambda _: jnp.zeros(3), theta)


@case({"x": (3,)}, lambda t, c: jnp.where(FLAGS, normal(c["x"], t), normal(c["x"], -t)).sum(),
      np.where(FLAGS, THETA, -THETA), valid=lambda c: {"x": np.full(3, True)})  # fmt: skip
def one_address_in_both_branches(theta):
    def lane(flag):
        draw = lambda m: sample("x", dist.Normal(m, 1.0))
        return lax.cond(flag, draw, lambda m: draw(-m), theta)

    return jax.vmap(lane)(FLAGS)
