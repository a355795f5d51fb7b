"""Value and gradient of every form of control flow × every estimator, against brute-force sums.

A form is written twice: as a program, whose sites are `draw(name, t)`, and as a nested sum in
plain JAX, where `total(name, t, f)` is E[f(x)] for x drawn at `name`. A site is a Normal
(reparameterised; Gauss-Hermite) or a Bernoulli (score function or enumeration; two terms). Names
that begin with "p" are predicates: never reparameterised, since the objective jumps there.
"""

import itertools
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from jax import lax
from jax.scipy.stats import norm

import ppl
from ppl import Reparameterized, ScoreFunction, sample
from stdlib.estimators import Enumerate
from stdlib.testing import assert_unbiased

THETA = 0.4
SPREAD = 0.6
NODES, MASS = np.polynomial.hermite_e.hermegauss(16)
NODES, MASS = jnp.asarray(NODES, jnp.float32), jnp.asarray(MASS / MASS.sum(), jnp.float32)

GRID = jnp.linspace(-4.5, 4.5, 801)

ESTIMATORS = {"R": Reparameterized(), "S": ScoreFunction(), "E": Enumerate()}
MIXED = {"a": "R", "b": "S", "c": "E", "d": "R", "p": "S", "p2": "E"}
KINDS = ["reparameterized", "score", "enumerate", "mixed"]


def kind_at(kind: str, name: str) -> str:
    if kind == "mixed":
        return MIXED[name]
    return "S" if kind == "reparameterized" and name.startswith("p") else kind[0].upper()


def drawing(kind: str) -> Callable:
    def draw(name, t):
        of = kind_at(kind, name)
        if of == "R":
            return sample(name, dist.Normal(jnp.tanh(t), SPREAD), ESTIMATORS[of])
        return 1.0 * sample(name, dist.Bernoulli(logits=t), ESTIMATORS[of])

    return draw


def totalling(kind: str) -> Callable:
    def total(name, t, f, kinks=False):
        if kind_at(kind, name) == "R" and kinks:
            density = norm.pdf(GRID, jnp.tanh(t), SPREAD) * (GRID[1] - GRID[0])
            return jnp.sum(density * jax.vmap(f)(GRID))
        if kind_at(kind, name) == "R":
            return jnp.sum(MASS * jax.vmap(f)(jnp.tanh(t) + SPREAD * NODES))
        heads = 1.0 / (1.0 + jnp.exp(-t))
        return (1.0 - heads) * f(jnp.float32(0.0)) + heads * f(jnp.float32(1.0))

    return total


FORMS: dict[str, tuple[Callable, Callable]] = {}


def form(exact: Callable) -> Callable:
    """Registers a program `(draw, t)` with its brute-force sum `(total, t)`."""

    def register(program):
        FORMS[program.__name__] = (program, exact)
        return program

    return register


# --- straight lines and calls ---------------------------------------------------------------------


def pair(f):
    """E[f(a, b)] for b that depends on a."""
    return lambda total, t: total("a", t, lambda a: total("b", t * a + 0.2, lambda b: f(a, b)))


def mixed_cost(a, b):
    return jnp.cos(a) * b + a + jnp.sin(a - 2.0 * b)


@form(pair(mixed_cost))
def straight(draw, t):
    a = draw("a", t)
    return mixed_cost(a, draw("b", t * a + 0.2))


@form(pair(mixed_cost))
def in_jit(draw, t):
    @jax.jit
    def inner(t):
        a = draw("a", t)
        return mixed_cost(a, draw("b", t * a + 0.2))

    return inner(t)


@form(pair(mixed_cost))
def in_nested_jit(draw, t):
    @jax.jit
    def outer(t):
        a = jax.jit(partial(draw, "a"))(t)
        return jax.jit(lambda a: mixed_cost(a, draw("b", t * a + 0.2)))(a)

    return outer(t)


@form(
    lambda total, t: total(
        "a", t, lambda x: total("a", t - x, lambda y: jnp.sin(x + 0.5 * y) + x * (1.0 - y))
    )
)
def in_a_cached_jit_used_twice(draw, t):
    """The second call draws afresh, although JAX traced the function once."""
    cached = jax.jit(partial(draw, "a"))
    x = ppl.scope(cached, "first")(t)
    y = ppl.scope(cached, "second")(t - x)
    return jnp.sin(x + 0.5 * y) + x * (1.0 - y)


@form(pair(mixed_cost))
def in_checkpoint(draw, t):
    @jax.checkpoint
    def inner(t):
        a = draw("a", t)
        return a, draw("b", t * a + 0.2)

    return mixed_cost(*inner(t))


def bent(a, b):
    return jax.nn.relu(a - 0.3) * jax.nn.softplus(b - a) + jax.nn.gelu(b)


@form(
    lambda total, t: total(
        "a", t, lambda a: total("b", t * a + 0.2, lambda b: bent(a, b), kinks=True), kinks=True
    )
)
def custom_jvp_downstream(draw, t):
    a = draw("a", t)
    return bent(a, draw("b", t * a + 0.2))


@jax.custom_vjp
def cube(x):
    return x**3


cube.defvjp(lambda x: (x**3, x), lambda x, g: (3.0 * g * x**2,))


@form(pair(lambda a, b: (a - b) ** 3 + b * (a + 0.2) ** 3))
def custom_vjp_downstream(draw, t):
    a = draw("a", t)
    b = draw("b", t * a + 0.2)
    return cube(a - b) + b * cube(a + 0.2)


@form(lambda total, t: pair(mixed_cost)(total, t) - pair(mixed_cost)(total, 2.0 * t))
def sub_program_in_scopes(draw, t):
    def inner(t):
        a = draw("a", t)
        return mixed_cost(a, draw("b", t * a + 0.2))

    return ppl.scope(inner, "left")(t) - ppl.scope(inner, "right")(2.0 * t)


# --- loops ----------------------------------------------------------------------------------------


def chain(name, steps, advance, cost):
    """E[cost(state)] after some steps x ~ name(t + 0.4 state), state = advance(state, x)."""

    def exact(total, t, state=0.0, step=0):
        if step == steps:
            return cost(state)
        return total(
            name, t + 0.4 * state, lambda x: exact(total, t, advance(state, x, step), step + 1)
        )

    return exact


def turn(state, x, step):
    return jnp.sin(state + x) + 0.1 * step


def spiral(state):
    return jnp.cos(2.0 * state) + state**2


@form(chain("a", 3, turn, spiral))
def in_scan(draw, t):
    def step(state, i):
        return turn(state, draw("a", t + 0.4 * state), i), None

    return spiral(lax.scan(step, 0.0, jnp.arange(3))[0])


@form(chain("b", 3, turn, spiral))
def in_scan_from_an_array(draw, t):
    def step(state, i):
        return turn(state, draw("b", t + 0.4 * state), i), None

    return spiral(lax.scan(step, 0.0 * t, jnp.arange(3))[0])


def three(f):
    """E[f(x)] for three independent x, the parameter moving."""

    def exact(total, t, name="a"):
        return total(
            name,
            t,
            lambda x: total(
                name, t + 0.3, lambda y: total(name, t + 0.6, lambda z: f(jnp.stack([x, y, z])))
            ),
        )

    return exact


def bundle(xs):
    return jnp.sin(xs[0] - 2.0 * xs[1]) * xs[2] + jnp.sum(xs * jnp.arange(3.0)) ** 2 / 4.0


@form(three(bundle))
def in_scan_feeding_outputs_only(draw, t):
    def step(_, shift):
        return None, draw("a", t + shift)

    return bundle(lax.scan(step, None, 0.3 * jnp.arange(3))[1])


@form(three(bundle))
def in_reversed_scan(draw, t):
    def step(count, shift):
        return count + 1, draw("a", t + shift)

    return bundle(lax.scan(step, 0, 0.3 * jnp.arange(3), reverse=True)[1])


@form(partial(three(bundle), name="b"))
def in_map(draw, t):
    return bundle(lax.map(lambda shift: draw("b", t + shift), 0.3 * jnp.arange(3)))


@form(chain("a", 3, turn, spiral))
def in_fori_loop(draw, t):
    def body(i, state):
        return turn(state, draw("a", t + 0.4 * state), i)

    return spiral(lax.fori_loop(0, 3, body, jnp.float32(0.0)))


@form(
    lambda total, t: total(
        "a",
        t,
        lambda x: total("a", t + x, lambda y: total("b", t - y, lambda z: jnp.sin(x + y) * z + y)),
    )
)
def loop_then_site(draw, t):
    """What follows the loop depends on its sites, and its own weights do too."""

    def step(x, _):
        x = draw("a", t + x)
        return x, x

    last, xs = lax.scan(step, jnp.float32(0.0), None, length=2)
    return jnp.sin(xs[0] + xs[1]) * draw("b", t - last) + last


# --- branches -------------------------------------------------------------------------------------


def split(cost):
    def exact(total, t):
        return total(
            "p",
            t,
            lambda p: jnp.where(
                p > 0.5,
                total("a", t + 0.5, cost),
                total("b", t - 0.5, lambda b: cost(b**2 - 0.3)),
            ),
        )

    return exact


@form(split(lambda y: jnp.sin(y) + y**2))
def cond_by_a_random_predicate(draw, t):
    """The result is used nonlinearly: the continuation of the branches is shared."""
    p = draw("p", t)
    y = lax.cond(p > 0.5, lambda: draw("a", t + 0.5), lambda: draw("b", t - 0.5) ** 2 - 0.3)
    return jnp.sin(y) + y**2


@form(lambda total, t: total("a", t + 0.5, lambda y: jnp.sin(y) + y**2))
def cond_by_a_parameter(draw, t):
    y = lax.cond(t > 0.0, lambda: draw("a", t + 0.5), lambda: draw("b", t - 0.5) ** 2 - 0.3)
    return jnp.sin(y) + y**2


@form(
    lambda total, t: total(
        "p", t, lambda p: total("a", t - p, lambda a: jnp.exp(0.4 * jnp.where(p > 0.5, a, 2 * a)))
    )
)
def cond_without_sites(draw, t):
    p = draw("p", t)
    a = draw("a", t - p)
    return jnp.exp(0.4 * lax.cond(p > 0.5, lambda a: a, lambda a: 2.0 * a, a))


def three_way(total, t):
    def cost(y):
        return jnp.cos(y) * (1.0 + y)

    def result(p, q):
        branches = [
            total("a", t, cost),
            total("b", -t, lambda b: total("c", t + b, lambda c: cost(b - c))),
            cost(3.0 * t),
        ]
        return jnp.stack(branches)[(p + q).astype(int)]

    return total("p", t, lambda p: total("p2", t - p, lambda q: result(p, q)))


@form(three_way)
def switch_three_ways(draw, t):
    p = draw("p", t)
    index = (p + draw("p2", t - p)).astype(int)

    def second():
        b = draw("b", -t)
        return b - draw("c", t + b)

    y = lax.switch(index, [lambda: draw("a", t), second, lambda: 3.0 * t])
    return jnp.cos(y) * (1.0 + y)


def walk_with_branches(total, t, state=0.0, step=0):
    if step == 2:
        return spiral(state)

    def after(x):
        return walk_with_branches(total, t, jnp.sin(state + x), step + 1)

    return total(
        "p",
        t + state,
        lambda p: jnp.where(
            p > 0.5,
            total("a", t - state, after),
            total("c", 0.5 * t, lambda c: after(-0.5 * c)),
        ),
    )


@form(walk_with_branches)
def scan_of_cond(draw, t):
    def step(state, _):
        p = draw("p", t + state)
        x = lax.cond(p > 0.5, lambda: draw("a", t - state), lambda: -0.5 * draw("c", 0.5 * t))
        return jnp.sin(state + x), None

    return spiral(lax.scan(step, jnp.float32(0.0), None, length=2)[0])


@form(lambda total, t: split(lambda y: 2.0 * y)(total, t))
def jit_of_cond_of_jit(draw, t):
    @jax.jit
    def inner(t):
        p = draw("p", t)
        second = jax.jit(lambda t: draw("b", t - 0.5) ** 2 - 0.3)
        return lax.cond(p > 0.5, jax.jit(lambda t: draw("a", t + 0.5)), second, t)

    return 2.0 * inner(t)


# --- vmap -----------------------------------------------------------------------------------------


def two(name, f, shift=0.0):
    return lambda total, t: total(name, t, lambda x: total(name, t + shift, lambda y: f(x, y)))


def twist(x, y):
    return jnp.sin(x + 2.0 * y) + x * (1.0 - y)


@form(two("a", twist, 0.7))
def vmap_mapped(draw, t):
    return twist(*jax.vmap(lambda shift: draw("a", t + shift))(jnp.array([0.0, 0.7])))


@form(two("b", twist))
def vmap_unmapped(draw, t):
    return twist(*jax.vmap(lambda _: draw("b", t), axis_size=2, in_axes=None)(0.0))


@form(two("c", twist, 0.7))
def vmap_over_jit(draw, t):
    return twist(*jax.vmap(jax.jit(lambda shift: draw("c", t + shift)))(jnp.array([0.0, 0.7])))


def grid(total, t):
    table = [
        total("a", t + 0.3 * i - 0.5 * j, lambda x, i=i, j=j: jnp.sin((i + 1) * x + j))
        for i, j in itertools.product(range(2), range(3))
    ]
    ends = total("a", t - 1.0, lambda x: total("a", t + 0.3, lambda y: jnp.cos(x - 2.0 * y)))
    return sum(table) + ends


@form(grid)
def nested_vmap(draw, t):
    """Lanes of sizes 2 and 3, not swapped."""
    x = jax.vmap(lambda i: jax.vmap(lambda j: draw("a", t + 0.3 * i - 0.5 * j))(jnp.arange(3.0)))(
        jnp.arange(2.0)
    )
    rows, columns = jnp.arange(2.0)[:, None], jnp.arange(3.0)
    return jnp.sum(jnp.sin((rows + 1) * x + columns)) + jnp.cos(x[0, 2] - 2.0 * x[1, 0])


@form(
    lambda total, t: sum(
        total("a", t + 0.5 * i, lambda a, i=i: 3.0 * total("b", a, lambda b: jnp.sin(a + b + i)))
        for i in range(2)
    )
)
def nested_vmap_with_an_unmapped_inner_lane(draw, t):
    def row(i):
        a = draw("a", t + 0.5 * i)
        return jnp.sum(jax.vmap(lambda _: jnp.sin(a + draw("b", a) + i))(jnp.arange(3)))

    return jnp.sum(jax.vmap(row)(jnp.arange(2.0)))


def branch_lanes(total, t):
    def lane(shift, f):
        return total(
            "p",
            t + shift,
            lambda p: jnp.where(
                p > 0.5, total("a", t - shift, f), total("b", shift - t, lambda b: f(2.0 * b + 0.5))
            ),
        )

    return lane(0.0, lambda x: lane(0.8, lambda y: twist(x, y)))


@form(branch_lanes)
def vmap_of_cond(draw, t):
    def lane(shift):
        p = draw("p", t + shift)
        return lax.cond(
            p > 0.5, lambda: draw("a", t - shift), lambda: 2.0 * draw("b", shift - t) + 0.5
        )

    return twist(*jax.vmap(lane)(jnp.array([0.0, 0.8])))


@form(lambda total, t: sum(chain("a", 2, turn, spiral)(total, t + s) for s in (0.0, 0.7)))
def vmap_of_scan(draw, t):
    def lane(shift):
        def step(state, i):
            return turn(state, draw("a", t + shift + 0.4 * state), i), None

        return spiral(lax.scan(step, jnp.float32(0.0), jnp.arange(2))[0])

    return jnp.sum(jax.vmap(lane)(jnp.array([0.0, 0.7])))


@form(
    lambda total, t: total(
        "a",
        t,
        lambda x: total(
            "a",
            t,
            lambda y: total(
                "a",
                t + 0.5 * x,
                lambda z: total("a", t + 0.5 * y, lambda w: twist(x + z, y - w)),
            ),
        ),
    )
)
def scan_of_vmap(draw, t):
    def step(state, _):
        xs = jax.vmap(lambda s: draw("a", t + 0.5 * s))(state)
        return xs, xs

    _, xs = lax.scan(step, jnp.zeros(2), None, length=2)
    return twist(xs[0, 0] + xs[1, 0], xs[0, 1] - xs[1, 1])


# --- densities inside -----------------------------------------------------------------------------


def normal_log(y, mean):
    return -0.5 * (y - mean) ** 2 - 0.5 * jnp.log(2.0 * jnp.pi)


@form(pair(lambda a, b: a * b + jnp.sin(a) * normal_log(0.3, a + b)))
def observed_inside(draw, t):
    def inner():
        a = draw("a", t)
        b = draw("b", t * a + 0.2)
        sample("y", dist.Normal(a + b, 1.0), obs=0.3)
        return a * b

    trace = ppl.simulate(inner)
    return trace.value + jnp.sin(trace.choices["a"]) * trace.log_likelihood


@form(pair(lambda a, b: normal_log(a, 0.1) + normal_log(0.7, a * b) + normal_log(b, a)))
def conditioned_inside(draw, t):
    def model():
        a = sample("a", dist.Normal(0.1, 1.0))
        b = sample("b", dist.Normal(a, 1.0))
        sample("y", dist.Normal(a * b, 1.0))

    a = draw("a", t)
    choices = {"a": a, "b": draw("b", t * a + 0.2)}
    return ppl.log_density(ppl.condition(model, {"y": 0.7}), choices)


@form(lambda total, t: total("b", t + 0.2, lambda b: mixed_cost(1.0, b)))
def intervened_inside(draw, t):
    def inner():
        a = draw("a", t)
        return mixed_cost(a, draw("b", t * a + 0.2))

    return ppl.intervene(inner, {"a": 1})()


OF_ONE_SITE = [
    *("in_a_cached_jit_used_twice", "in_scan", "in_scan_from_an_array", "in_reversed_scan"),
    *("in_scan_feeding_outputs_only", "in_map", "in_fori_loop", "vmap_mapped", "vmap_unmapped"),
    *("vmap_over_jit", "nested_vmap", "vmap_of_scan", "scan_of_vmap"),
]


def quick(name, kind):
    """Whether `make test` has a form, too: that of several sites with estimators of each kind."""
    return kind in ("score", "enumerate") if name in OF_ONE_SITE else kind == "mixed"


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        pytest.param(
            name, kind, marks=pytest.mark.mechanism if quick(name, kind) else pytest.mark.law
        )
        for name, kind in itertools.product(FORMS, KINDS)
    ],
)
def test_form(name, kind):
    program, exact = FORMS[name]
    assert_unbiased(
        partial(program, drawing(kind)),
        THETA,
        exact=partial(exact, totalling(kind)),
        key=jax.random.key(len(name)),
        num_samples=4 if kind == "enumerate" else 50_000,
    )


# --- arguments ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_integer_arguments(kind):
    def program(count, theta, index, flag):
        a = drawing(kind)("a", theta[index[0]])
        b = drawing(kind)("b", theta[index[1]] * a)
        return jnp.where(flag, count * jnp.sin(a + b), 0.0) + index[1] * b

    def exact(count, theta, index, flag):
        def cost(a, b):
            return count * jnp.sin(a + b) + index[1] * b

        total = totalling(kind)
        return total(
            "a", theta[index[0]], lambda a: total("b", theta[index[1]] * a, lambda b: cost(a, b))
        )

    args = 3, jnp.array([0.5, 0.1, -0.4]), jnp.array([2, 0]), jnp.asarray(True)
    count = 4 if kind == "enumerate" else 50_000
    assert_unbiased(
        program, *args, exact=exact, key=jax.random.key(7), argnums=1, num_samples=count
    )


def test_a_while_loop_in_forward_mode():
    """Sites in a while_loop: the derivative by `jax.jvp`."""

    def objective(t):
        def body(state):
            i, x = state
            return i + 1, x + sample("x", dist.Bernoulli(logits=t - 0.2 * x))

        return jnp.sin(lax.while_loop(lambda s: s[0] < 2, body, (0, jnp.float32(0.0)))[1])

    def exact(t):
        total = totalling("score")
        return total("b", t, lambda x: total("b", t - 0.2 * x, lambda y: jnp.sin(x + y)))

    estimate = ppl.expectation(objective)
    keys = jax.random.split(jax.random.key(3), 50_000)
    both = jax.jit(jax.vmap(lambda key: jax.jvp(partial(estimate, key), (THETA,), (1.0,))))
    for draws, answer in zip(both(keys), jax.jvp(exact, (THETA,), (1.0,)), strict=True):
        z = (draws.mean() - answer) / (draws.std() / len(keys) ** 0.5)
        assert abs(z) < 5.0, f"z {z}, mean {draws.mean()}, exact {answer}, seed 3"


@pytest.mark.parametrize("order", ["RSE", "SER", "ERS", "ESR"])
def test_every_estimator_before_and_after_every_other(order):
    names = dict(
        zip("abc", ({"R": KINDS[0], "S": KINDS[1], "E": KINDS[2]}[x] for x in order), strict=True)
    )

    def program(t):
        x, cost = 0.0, 0.0
        for name, kind in names.items():
            x = drawing(kind)(name, t + jnp.sin(x))
            cost = cost + jnp.cos(x + cost)
        return cost

    def exact(t, x=0.0, cost=0.0, left="abc"):
        if not left:
            return cost
        return totalling(names[left[0]])(
            left[0], t + jnp.sin(x), lambda y: exact(t, y, cost + jnp.cos(y + cost), left[1:])
        )

    assert_unbiased(program, THETA, exact=exact, key=jax.random.key(11))
