"""`ppl.expectation` as a JAX function: derivatives, variance, cost, compilations."""

import functools
import math
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from jax import lax

import ppl
from ppl import Reparameterized, ScoreFunction, sample
from stdlib.estimators import Enumerate
from stdlib.objectives import elbo
from stdlib.testing import assert_unbiased

KEY = jax.random.key(5)
QUICK = {"xla_backend_optimization_level": 0}
"""For what runs once: compilation dominates."""
THETA = {"mean": jnp.float32(0.3), "logit": jnp.float32(-0.4)}


def smooth(theta):
    """Each estimator once: a normal, a scored coin, an enumerated coin."""
    x = sample("x", dist.Normal(theta["mean"], 0.8), Reparameterized())
    b = sample("b", dist.Bernoulli(logits=theta["logit"] + x), ScoreFunction())
    c = sample("c", dist.Bernoulli(logits=theta["mean"] * theta["logit"] - b), Enumerate())
    return jnp.sin(x + b) * (0.5 + c) + theta["logit"] * c * b


def smooth_exact(theta):
    nodes, mass = np.polynomial.hermite_e.hermegauss(30)
    nodes, mass = jnp.asarray(nodes, jnp.float32), jnp.asarray(mass / mass.sum(), jnp.float32)
    x, total = theta["mean"] + 0.8 * nodes, 0.0
    for b in (0.0, 1.0):
        for c in (0.0, 1.0):
            chance = jax.nn.sigmoid((2 * b - 1) * (theta["logit"] + x))
            other = jax.nn.sigmoid((2 * c - 1) * (theta["mean"] * theta["logit"] - b))
            cost = jnp.sin(x + b) * (0.5 + c) + theta["logit"] * c * b
            total = total + jnp.sum(mass * chance * other * cost)
    return total


estimate = ppl.expectation(smooth)


# --- derivatives ----------------------------------------------------------------------------------


def test_value_and_gradient():
    assert_unbiased(smooth, THETA, exact=smooth_exact, key=KEY)


def test_a_number_of_numpy_is_taken_off():
    """A literal of the jaxpr, which some releases of JAX do not negate."""

    def objective(theta):
        return smooth(theta) - np.float32(2.0)

    shifted = ppl.expectation(objective)(KEY, THETA)
    np.testing.assert_allclose(shifted, estimate(KEY, THETA) - 2.0, rtol=1e-6)


def test_hessian():
    keys = jax.random.split(KEY, 50_000)
    draws = jax.jit(jax.vmap(lambda key: jax.hessian(estimate, argnums=1)(key, THETA)))(keys)
    exact = jax.jit(jax.hessian(smooth_exact))(THETA)
    for row in THETA:
        for column in THETA:
            samples, answer = draws[row][column], exact[row][column]
            z = (samples.mean() - answer) / (samples.std() / len(keys) ** 0.5)
            assert abs(z) < 5.0, f"{row}, {column}: {samples.mean()} against {answer}, z {z}"


def test_hessian_of_an_enumerated_program():
    def coins(t):
        b = sample("b", dist.Bernoulli(logits=t), Enumerate())
        c = sample("c", dist.Bernoulli(logits=t * t + b), Enumerate())
        return jnp.sin(t + b) * (1 + c)

    def exact(t):
        def one(b):
            return jnp.sin(t + b) * (1 + jax.nn.sigmoid(t * t + b))

        return jax.nn.sigmoid(-t) * one(0.0) + jax.nn.sigmoid(t) * one(1.0)

    found = jax.jit(jax.hessian(ppl.expectation(coins), argnums=1))(KEY, 0.4)
    np.testing.assert_allclose(found, jax.jit(jax.hessian(exact))(0.4), rtol=1e-4)


def agree(one, other, rtol=2e-4):
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=1e-5)


def test_all_ways_to_differentiate_agree():
    direction = {"mean": jnp.float32(0.7), "logit": jnp.float32(-1.1)}

    def every_way(theta):
        return {
            "value_and_grad": jax.value_and_grad(estimate, argnums=1)(KEY, theta),
            "filter_grad": eqx.filter_grad(lambda theta, key: estimate(key, theta))(theta, KEY),
            "jit inside": jax.jit(jax.grad(estimate, argnums=1))(KEY, theta),
            "jacfwd": jax.jacfwd(estimate, argnums=1)(KEY, theta),
            "jacrev": jax.jacrev(estimate, argnums=1)(KEY, theta),
            "jvp": jax.jvp(partial(estimate, KEY), (theta,), (direction,)),
            "fwd over rev": jax.jacfwd(jax.jacrev(estimate, argnums=1), argnums=1)(KEY, theta),
            "rev over fwd": jax.jacrev(jax.jacfwd(estimate, argnums=1), argnums=1)(KEY, theta),
        }

    found = jax.jit(every_way, compiler_options=QUICK)(THETA)
    grad = jax.jit(jax.grad(estimate, argnums=1))(KEY, THETA)
    value, also = found["value_and_grad"]
    agree(also, grad)
    for name in ("filter_grad", "jit inside", "jacfwd", "jacrev"):
        agree(found[name], grad)
    agree(found["jvp"], (value, sum(grad[name] * direction[name] for name in THETA)))
    agree(found["fwd over rev"], found["rev over fwd"], rtol=2e-3)
    agree(value, estimate(KEY, THETA))


def test_vmap_equals_a_loop_over_keys():
    keys, grad = jax.random.split(KEY, 5), jax.grad(estimate, argnums=1)
    mapped = jax.jit(jax.vmap(grad, (0, None)))(keys, THETA)
    looped = jax.jit(lambda: lax.map(lambda key: grad(key, THETA), keys))()
    agree(mapped, looped)


def test_typed_and_legacy_keys_agree():
    typed = estimate(jax.random.key(3), THETA)
    np.testing.assert_allclose(estimate(jax.random.PRNGKey(3), THETA), typed, rtol=1e-6)


def test_the_gradient_is_compiled_once():
    traced = []

    def counted(theta):
        traced.append(None)
        return smooth(theta)

    grad = jax.jit(jax.grad(ppl.expectation(counted), argnums=1))
    grad(KEY, THETA)
    before = len(traced)
    grad(jax.random.key(6), jax.tree.map(lambda x: x + 1.0, THETA))
    assert before >= 1 and len(traced) == before


# --- variance -------------------------------------------------------------------------------------

LENGTH = 10


def coin_chain(theta):
    x, cost = 0.0, 0.0
    for t in range(LENGTH):
        x = sample(f"x{t}", dist.Bernoulli(logits=theta[t] + 0.3 * x))
        cost = cost + jnp.cos(1.0 * t) * x
    return cost


def naive_chain(key, theta):
    """The product of all the weights times the whole cost."""
    trace = ppl.seed(lambda: ppl.simulate(coin_chain, theta))(key)
    xs = lax.stop_gradient(jnp.stack([1.0 * trace.choices[f"x{t}"] for t in range(LENGTH)]))
    logits = theta + 0.3 * jnp.concatenate([jnp.zeros(1), xs[:-1]])
    log_prob = jnp.sum(jax.nn.log_sigmoid((2.0 * xs - 1.0) * logits))
    return jnp.exp(log_prob - lax.stop_gradient(log_prob)) * jnp.sum(
        jnp.cos(jnp.arange(1.0 * LENGTH)) * xs
    )


def test_dropped_weights_lower_the_variance():
    theta = jnp.linspace(-0.5, 0.5, LENGTH)
    keys = jax.random.split(KEY, 20_000)

    def moments(estimate):
        gradient = jax.vmap(jax.grad(estimate, argnums=1), (0, None))
        grads = jax.jit(gradient, compiler_options=QUICK)(keys, theta)
        return grads.mean(0), grads.var(0)

    mean, variance = moments(ppl.expectation(coin_chain))
    naive_mean, naive_variance = moments(naive_chain)
    error = jnp.sqrt((variance + naive_variance) / len(keys))
    assert jnp.all(jnp.abs(mean - naive_mean) < 5.0 * error)
    ratio = float(variance.sum() / naive_variance.sum())
    assert ratio < 0.8, f"variance ratio {ratio}"
    assert float(variance[-1] / naive_variance[-1]) < 0.35


def test_a_site_that_no_cost_depends_on_adds_no_variance():
    def objective(theta):
        b = sample("b", dist.Bernoulli(logits=theta))
        sample("idle", dist.Bernoulli(logits=theta * 2.0 + b))
        return 0.7 + theta**2

    gradient = jax.vmap(jax.grad(ppl.expectation(objective), argnums=1), (0, None))
    grads = jax.jit(gradient)(jax.random.split(KEY, 100), 0.4)
    np.testing.assert_allclose(grads, 0.8, rtol=1e-6)


# --- enumeration of a chain -----------------------------------------------------------------------

STATES = 4


def hmm(length, transition, means, ys):
    z = sample("z0", dist.Categorical(logits=transition[0]))
    sample("y0", dist.Normal(means[z], 1.0), obs=ys[0])
    for t in range(1, length):
        z = sample(f"z{t}", dist.Categorical(logits=transition[z]))
        sample(f"y{t}", dist.Normal(means[z], 1.0), obs=ys[t])


def hmm_guide(length, q):
    z = sample("z0", dist.Categorical(logits=q[0, 0]), Enumerate())
    for t in range(1, length):
        z = sample(f"z{t}", dist.Categorical(logits=q[t, z]), Enumerate())


def hmm_bound(transition, q, means, ys):
    """The same ELBO by the forward recursion over pairs of neighbouring states."""
    log_p, log_q = jax.nn.log_softmax(transition), jax.nn.log_softmax(q)
    log_y = -0.5 * (ys[:, None] - means) ** 2 - 0.5 * jnp.log(2 * jnp.pi)
    chance = jnp.exp(log_q[0, 0])
    total = jnp.sum(chance * (log_p[0] + log_y[0] - log_q[0, 0]))

    def step(carry, inputs):
        chance, total = carry
        log_q, log_y = inputs
        joint = chance[:, None] * jnp.exp(log_q)
        return (joint.sum(0), total + jnp.sum(joint * (log_p + log_y - log_q))), None

    return lax.scan(step, (chance, total), (log_q[1:], log_y[1:]))[0][1]


def hmm_problem(length):
    keys = jax.random.split(jax.random.key(1), 3)
    transition = jax.random.normal(keys[0], (STATES, STATES))
    q = jax.random.normal(keys[1], (length, STATES, STATES))
    means, ys = jnp.arange(1.0 * STATES), jax.random.normal(keys[2], (length,))

    def objective(transition, q):
        return elbo(partial(hmm, length, transition, means, ys), partial(hmm_guide, length, q), {})

    gradient = jax.value_and_grad(ppl.expectation(objective), argnums=(1, 2))
    exact = jax.value_and_grad(lambda *a: hmm_bound(*a, means, ys), argnums=(0, 1))
    return gradient, (transition, q), exact


@pytest.mark.parametrize(
    "lengths", [(6, 12), pytest.param((25, 50), marks=pytest.mark.law)], ids=["short", "long"]
)
def test_enumerated_chain_is_exact_and_costs_linearly_in_its_length(lengths):
    flops = []
    for length in lengths:
        gradient, args, exact = hmm_problem(length)
        compiled = jax.jit(gradient).lower(KEY, *args).compile()
        flops.append(compiled.cost_analysis()["flops"])
        value, grads = compiled(KEY, *args)
        answer, answers = jax.jit(exact)(*args)
        np.testing.assert_allclose(value, answer, rtol=1e-4)
        for found, wanted in zip(grads, answers, strict=True):
            scale = float(jnp.abs(wanted).max())
            np.testing.assert_allclose(found / scale, wanted / scale, atol=1e-4)
    assert flops[-1] / flops[0] <= 2.3, f"flops {flops}"


# --- no overhead: a variational autoencoder -------------------------------------------------------

LATENT, HIDDEN, PIXELS, BATCH = 10, 200, 784, 64


def cost_of(fn, *args):
    return jax.jit(fn).lower(*args).compile().cost_analysis()


def autoencoder():
    shapes = {
        "encode": (PIXELS, HIDDEN),
        "mean": (HIDDEN, LATENT),
        "log_sd": (HIDDEN, LATENT),
        "decode": (LATENT, HIDDEN),
        "logits": (HIDDEN, PIXELS),
    }
    keys = jax.random.split(KEY, len(shapes))
    params = {}
    for key, (name, shape) in zip(keys, shapes.items(), strict=True):
        params[name] = jax.random.normal(key, shape) / math.sqrt(shape[0])
        params[name + "_bias"] = jnp.zeros(shape[1])
    return params


def layer(params, name, x):
    return x @ params[name] + params[name + "_bias"]


def encode(params, x):
    h = jax.nn.leaky_relu(layer(params, "encode", x))
    return layer(params, "mean", h), jnp.exp(layer(params, "log_sd", h))


def decode(params, z):
    return layer(params, "logits", jax.nn.leaky_relu(layer(params, "decode", z)))


def by_hand(key, params, x):
    """As one would write it: the densities are the textbook formulas."""
    mean, sd = encode(params, x)
    z = mean + sd * jax.random.normal(key, mean.shape)
    logits = decode(params, z)
    log_x = -(jnp.maximum(logits, 0) - logits * x + jnp.log1p(jnp.exp(-jnp.abs(logits))))
    log_z = -0.5 * z**2 - 0.5 * math.log(2 * math.pi)
    log_q = -0.5 * ((z - mean) / sd) ** 2 - jnp.log(sd) - 0.5 * math.log(2 * math.pi)
    return (log_x.sum() + log_z.sum() - log_q.sum()) / BATCH


def vae_batched(params, x):
    def model():
        z = sample("z", dist.Normal(jnp.zeros((BATCH, LATENT)), 1.0))
        sample("x", dist.Bernoulli(logits=decode(params, z)), obs=x)

    return elbo(model, lambda: sample("z", dist.Normal(*encode(params, x))), {}) / BATCH


def vae_mapped(params, x):
    def one(x):
        def model():
            z = sample("z", dist.Normal(jnp.zeros(LATENT), 1.0).to_event(1))
            sample("x", dist.Bernoulli(logits=decode(params, z)).to_event(1), obs=x)

        def guide():
            sample("z", dist.Normal(*encode(params, x)).to_event(1))

        return elbo(model, guide, {})

    return jnp.mean(jax.vmap(one)(x))


@functools.cache
def hand_written_cost():
    x = jnp.zeros((BATCH, PIXELS), jnp.int32)
    return cost_of(jax.value_and_grad(by_hand, argnums=1), KEY, autoencoder(), x)


def vae_ratios(objective):
    x = jnp.zeros((BATCH, PIXELS), jnp.int32)
    gradient = jax.value_and_grad(ppl.expectation(objective), argnums=1)
    ours, theirs = cost_of(gradient, KEY, autoencoder(), x), hand_written_cost()
    return {name: ours[name] / theirs[name] for name in ("flops", "bytes accessed")}


@pytest.mark.parametrize("objective", [vae_batched, vae_mapped])
def test_autoencoder_costs_what_hand_written_jax_costs(objective):
    ratios = vae_ratios(objective)
    assert ratios["flops"] <= 1.01 and ratios["bytes accessed"] <= 1.02, ratios


def test_autoencoder_agrees_with_hand_written_jax():
    """Same mean: the noise differs, the value and gradient do not, within standard errors."""
    params = jax.tree.map(lambda w: 0.5 * w, autoencoder())
    x = jnp.asarray(np.random.default_rng(0).random((BATCH, PIXELS)) < 0.3, jnp.int32)
    keys = jax.random.split(KEY, 100)
    found = jax.jit(lambda: lax.map(lambda k: ppl.expectation(vae_batched)(k, params, x), keys))()
    hand = jax.jit(lambda: lax.map(lambda k: by_hand(k, params, x), keys))()
    error = math.sqrt((found.var() + hand.var()) / len(keys))
    assert abs(found.mean() - hand.mean()) < 5.0 * error + 1e-3
