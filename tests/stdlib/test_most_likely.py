"""The likeliest choices: finite ones against all joint states, Gaussian ones against a solve."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from jax import lax

import ppl
from ppl import sample
from ppl.errors import ProgramError, UnsuitableEstimator
from ppl.extend import log_maximum
from stdlib.estimators import Enumerate
from stdlib.inference import Exact, most_likely
from tests.random_programs import oracle
from tests.random_programs.generate import program
from tests.random_programs.judge import compiled
from tests.random_programs.text import text

TABLE = jnp.array([[0.7, 0.2, 0.1], [0.05, 0.6, 0.35], [0.5, 0.0, 0.5]])
MEANS = jnp.array([-1.0, 0.4, 1.3])


def path(length=4):
    """A hidden chain, one of whose transitions is impossible."""

    def step(z, _):
        z = sample("z", dist.Categorical(probs=TABLE[z]))
        sample("x", dist.Normal(MEANS[z], 0.8))
        return z, None

    lax.scan(step, 0, length=length)


def pair_of_paths():
    """Chains side by side, below a choice that they share."""
    start = sample("start", dist.Categorical(probs=jnp.array([0.5, 0.3, 0.2])))

    def chain(shift):
        def step(z, _):
            z = sample("z", dist.Categorical(probs=TABLE[z]))
            sample("x", dist.Normal(MEANS[z] + shift, 0.8))
            return z, None

        return lax.scan(step, start, length=2)

    jax.vmap(chain)(jnp.array([0.0, 0.5]))


def branches():
    up = sample("up", dist.Bernoulli(0.4))
    one = lambda: 1.0 * sample("a", dist.Binomial(3, 0.3))
    other = lambda: -1.0 * sample("b", dist.Categorical(probs=TABLE[2]))
    sample("x", dist.Normal(lax.cond(up == 1, one, other), 0.7))


def weighed():
    """Scaled and masked, with a choice that nothing else reads."""
    sample("alone", dist.Categorical(probs=TABLE[1]))
    z = ppl.scale(lambda: sample("z", dist.Bernoulli(jnp.array([0.3, 0.8]))), 0.5)()
    seen = jnp.array([True, False])
    ppl.mask(lambda: sample("x", dist.Normal(2.0 * z, 1.0)), seen)()


def halves():
    """Finite choices that are no integers."""
    half = dist.TransformedDistribution(
        dist.Binomial(2, 0.4), dist.transforms.AffineTransform(0.0, 0.4)
    )
    sample("x", dist.Normal(sample("z", half), 0.3))


PROGRAMS = {
    "chain": (path, {"x": jnp.array([0.3, 1.2, -0.5, 0.9])}),
    "chains": (pair_of_paths, {"x": jnp.array([[0.3, 1.4], [-0.5, 0.9]])}),
    "branches": (branches, {"x": -1.4}),
    "weighed": (weighed, {"x": jnp.array([0.8, jnp.nan])}),
    "halves": (halves, {"x": 0.45}),
}
SUPPORTS = {
    "alone": range(3), "start": range(3), "up": range(2), "a": range(4), "b": range(3),
}  # fmt: skip


def states(name, hidden):
    """All joint states of the hidden choices."""
    sizes = {"weighed": range(2), "halves": [0.0, 0.4, 0.8]}
    flat, rebuild = jax.flatten_util.ravel_pytree(hidden)
    addresses = [
        address for address, x in ppl.flatten_choices(hidden).items() for _ in range(x.size)
    ]
    each = [SUPPORTS.get(address, sizes.get(name, range(3))) for address in addresses]
    return [rebuild(np.asarray(state, flat.dtype)) for state in itertools.product(*each)]


@pytest.mark.parametrize("name", PROGRAMS)
def test_the_likeliest_of_all_joint_states(name):
    model, observed = PROGRAMS[name]
    found = jax.jit(lambda: most_likely(model, observed))()
    target = ppl.extend.Target(model, observed)
    every = jax.tree.map(lambda *xs: jnp.stack(xs), *states(name, found))
    logs = jax.jit(jax.vmap(target.log_density))(every)
    np.testing.assert_allclose(target.log_density(found), logs.max(), rtol=1e-5)


def test_one_of_several_that_are_the_likeliest():
    def model():
        z = jax.vmap(lambda _: sample("z", dist.Bernoulli(0.5)))(jnp.arange(3))
        sample("x", dist.Normal(1.0 * jnp.sum(z), 1.0))

    assert int(most_likely(model, {"x": 1.0})["z"].sum()) == 1


def test_lanes_cost_one_each_and_chains_go_along_their_steps():
    def coins(count):
        z = jax.vmap(lambda p: sample("z", dist.Bernoulli(p)))(jnp.linspace(0.1, 0.9, count))
        sample("x", dist.Normal(1.0 * z, 1.0))

    found = most_likely(lambda: coins(40), {"x": jnp.full(40, 0.5)})["z"]
    np.testing.assert_array_equal(found, jnp.linspace(0.1, 0.9, 40) > 0.5)

    def flops(length):
        run = jax.jit(lambda x: most_likely(lambda: path(length), {"x": x}))
        return run.lower(jnp.zeros(length)).compile().cost_analysis()["flops"]

    assert flops(400) < 2.1 * flops(200)


SEEDS = [*range(4), *(pytest.param(i, marks=pytest.mark.law) for i in range(4, 20))]


@pytest.mark.parametrize("seed", SEEDS)
def test_random_programs(seed):
    """Ten programs a seed."""
    right = 0
    for found in map(program, range(1000 + 10 * seed, 1010 + 10 * seed)):
        objective, theta = compiled(found)
        enumerated = ppl.with_estimators(objective, {"*": Enumerate()})
        try:
            wanted = oracle.largest(found)
            value = jax.jit(log_maximum(enumerated))(theta)
        except (oracle.TooManyStates, ProgramError):
            continue
        np.testing.assert_allclose(value, wanted, rtol=1e-4, atol=1e-4, err_msg=text(found))
        right += 1
    assert right >= 4


def test_gaussian_choices_are_at_the_mean_of_their_posterior():
    design = jnp.array([[1.0, 0.5], [0.3, -1.0], [2.0, 0.1]])

    def regression(scale):
        w = sample("w", dist.Normal(0.0, scale).expand([2]).to_event(1))
        sample("y", dist.Normal(design @ w, 0.5))

    y = jnp.array([1.0, -0.4, 2.2])
    found = lambda scale: most_likely(lambda: regression(scale), {"y": y})["w"]
    exact = lambda scale: jnp.linalg.solve(
        4.0 * design.T @ design + jnp.eye(2) / scale**2, 4.0 * design.T @ y
    )
    np.testing.assert_allclose(found(1.3), exact(1.3), rtol=1e-4)
    np.testing.assert_allclose(jax.jacfwd(found)(1.3), jax.jit(jax.jacfwd(exact))(1.3), rtol=1e-3)


def mixed():
    sample("x", dist.Normal(sample("u", dist.Normal(sample("z", dist.Bernoulli(0.3)), 1.0)), 1.0))


def squared():
    sample("x", dist.Normal(sample("u", dist.Normal(0.0, 1.0)) ** 2, 1.0))


def positive():
    sample("x", dist.Normal(sample("u", dist.HalfNormal(1.0)), 1.0))


@pytest.mark.parametrize("model", [mixed, squared, positive])
def test_others_are_refused(model):
    with pytest.raises(UnsuitableEstimator, match=r"most_likely\(\) takes .*'u' \(.*are not"):
        most_likely(model, {"x": 1.0})


def test_draws_of_choices_that_are_no_integers():
    posterior = ppl.normalize(*PROGRAMS["halves"], Exact())
    keys = jax.random.split(jax.random.key(3), 20_000)
    drawn = np.asarray(jax.jit(jax.vmap(ppl.seed(posterior)))(keys)["z"])
    values = np.array([0.0, 0.4, 0.8], np.float32)
    logs = dist.Binomial(2, 0.4).log_prob(jnp.arange(3)) + dist.Normal(values, 0.3).log_prob(0.45)
    assert set(np.unique(drawn)) == set(values)
    for value, chance in zip(values, np.asarray(jax.nn.softmax(logs)), strict=True):
        gap = np.mean(drawn == value) - chance
        assert abs(gap) < 5 * (chance * (1 - chance) / len(drawn)) ** 0.5
