"""Exact inference over Gaussian choices: against linear algebra by hand, filters and the laws."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from jax import lax

import ppl
from ppl import errors, sample
from stdlib.inference import Exact, Importance
from stdlib.models import linear_regression
from stdlib.objectives import elbo
from stdlib.testing import assert_unbiased
from tests.stdlib.evidence import assert_evidence, exactly

KEY = jax.random.key(11)
Y = jnp.array([0.3, 1.2, 0.9, -0.1])


def of_normal(mean, covariance, at):
    return dist.MultivariateNormal(mean, covariance).log_prob(at)


# --- models, and their evidence by hand ----------------------------------------------------------


def noisy(t):
    u = sample("u", dist.Normal(0.3, t))
    sample("x", dist.Normal(2.0 * u - 1.0, 0.7))


def by_hand_noisy(t, x):
    return dist.Normal(-0.4, jnp.sqrt(4.0 * t**2 + 0.49)).log_prob(x)


INPUTS, TARGETS = map(jnp.asarray, linear_regression.data())


def regression(t):
    w = sample("w", dist.Normal(jnp.zeros(3), t).to_event(1))
    sample("x", dist.Normal(INPUTS @ w, 0.5))


def by_hand_regression(t, x):
    return of_normal(jnp.zeros(20), t**2 * INPUTS @ INPUTS.T + 0.25 * jnp.eye(20), x)


COVARIANCE = jnp.array([[1.0, 0.4], [0.4, 0.6]])


def correlated(t):
    """Hidden vectors of two kinds, one read through a matrix."""
    u = sample("u", dist.MultivariateNormal(jnp.array([t, -1.0]), COVARIANCE))
    with_precision = dist.MultivariateNormal(u, precision_matrix=jnp.eye(2) / t)
    v = ppl.scope(lambda: sample("v", with_precision), "inner")()
    sample("x", dist.MultivariateNormal(jnp.flip(v), scale_tril=jnp.array([[1.0, 0.0], [t, 0.5]])))


def by_hand_correlated(t, x):
    noise = jnp.array([[1.0, 0.0], [t, 0.5]])
    flipped = (COVARIANCE + t * jnp.eye(2))[::-1, ::-1]
    return of_normal(jnp.array([-1.0, t]), flipped + noise @ noise.T, x)


def hierarchy(t):
    """A mean for each group, in lanes, about a common one."""
    top = sample("top", dist.Normal(0.0, 2.0))

    def group(_):
        mean = sample("mean", dist.Normal(top, t))
        sample("x", dist.Normal(mean * jnp.ones(2), 0.5))

    jax.vmap(group)(jnp.arange(3))


def by_hand_hierarchy(t, x):
    within = jnp.kron(jnp.eye(3), jnp.ones((2, 2)))
    return of_normal(jnp.zeros(6), 4.0 + t**2 * within + 0.25 * jnp.eye(6), x.reshape(-1))


def state_space(t):
    def step(state, _):
        state = sample("state", dist.Normal(t * state, 1.0))
        sample("x", dist.Normal(state, 0.5))
        return state, None

    lax.scan(step, sample("start", dist.Normal(0.5, 0.8)), length=4)


def by_hand_state_space(t, x):
    """The Kalman filter."""
    total, mean, variance = 0.0, 0.5, 0.64
    for value in x:
        mean, variance = t * mean, t**2 * variance + 1.0
        spread = variance + 0.25
        total = total + dist.Normal(mean, jnp.sqrt(spread)).log_prob(value)
        gain = variance / spread
        mean, variance = mean + gain * (value - mean), (1.0 - gain) * variance
    return total


def walk(t):
    """A distribution of NumPyro's that is a path, read by jit and cond."""
    path = sample("path", dist.GaussianRandomWalk(t, 4))
    read = lax.cond(t > 0.0, jax.jit(lambda p: 2.0 * p), jnp.cumsum, path)
    sample("x", dist.Normal(read, 0.5))


def by_hand_walk(t, x):
    steps = jnp.minimum(jnp.arange(1.0, 5.0), jnp.arange(1.0, 5.0)[:, None])
    return of_normal(jnp.zeros(4), 4.0 * t**2 * steps + 0.25 * jnp.eye(4), x)


def nested(t):
    """A part that integrates a choice of its own out."""
    middle = sample("middle", dist.Normal(0.0, t))

    def part():
        inner = sample("inner", dist.Normal(middle, 0.5))
        sample("x", dist.Normal(inner, 0.3))

    ppl.marginal(part, "x", Exact())()


def by_hand_nested(t, x):
    return dist.Normal(0.0, jnp.sqrt(t**2 + 0.34)).log_prob(x)


def part_of(distribution):
    """A hidden choice whose density is a marginal's."""

    def part():
        v = sample("v", dist.Normal(0.0, 1.0))
        sample("w", distribution(v))

    def model(t):
        w = ppl.marginal(part, "w", Exact())()["w"]
        sample("x", dist.Normal(w, t))

    return model


def mixed(t):
    """Two finite choices, of which one has two elements, and Gaussian ones given them."""
    z = sample("z", dist.Categorical(jnp.array([0.2, 0.3, 0.5])))
    b = ppl.scope(lambda: sample("b", dist.Bernoulli(jnp.array([0.3, 0.6]))), "in")()
    u = sample("u", dist.Normal(1.0 * z, t))
    sample("x", dist.Normal(jnp.where(b == 1, u, 0.0), 1.0 + z))


def by_hand_mixed(t, x):
    logs = []
    for z, *b in itertools.product(range(3), range(2), range(2)):
        row = jnp.array(b, float)
        covariance = t**2 * jnp.outer(row, row) + (1.0 + z) ** 2 * jnp.eye(2)
        chance = jnp.array([0.2, 0.3, 0.5])[z] * jnp.prod(jnp.where(row == 1, CHANCES, 1 - CHANCES))
        logs.append(jnp.log(chance) + of_normal(z * row, covariance, x))
    return jax.nn.logsumexp(jnp.stack(logs))


CHANCES = jnp.array([0.3, 0.6])

MODELS = {
    "one number": (noisy, by_hand_noisy, jnp.array(1.5)),
    "regression": (regression, by_hand_regression, TARGETS),
    "vectors": (correlated, by_hand_correlated, jnp.array([0.2, -0.8])),
    "hierarchy": (hierarchy, by_hand_hierarchy, jnp.arange(6.0).reshape(3, 2) / 3),
    "state space": (state_space, by_hand_state_space, Y),
    "random walk": (walk, by_hand_walk, Y),
    "nested": (nested, by_hand_nested, jnp.array(0.4)),
    "hidden marginal": (
        part_of(lambda v: dist.Normal(v, 1.0)),
        lambda t, x: dist.Normal(0.0, jnp.sqrt(2.0 + t**2)).log_prob(x),
        jnp.array(0.4),
    ),
    "mixed": (mixed, by_hand_mixed, jnp.array([0.5, 1.4])),
}


@pytest.mark.parametrize("name", MODELS)
def test_evidence_and_its_gradient(name):
    assert_evidence(*MODELS[name], atol=1e-4)


def test_second_derivatives_of_evidence():
    found = jax.jit(jax.hessian(exactly(state_space, Y)))(0.8)
    exact = jax.jit(jax.hessian(lambda t: by_hand_state_space(t, Y)))(0.8)
    np.testing.assert_allclose(found, exact, rtol=1e-3)


@pytest.mark.parametrize("name", ["regression", "mixed"])
def test_evidence_in_lanes(name):
    """Under `vmap`, outside and as lanes of a program."""
    model, by_hand, x = MODELS[name]
    program, at = ppl.marginal(model, "x", Exact()), jnp.array([0.5, 1.1])
    both = jnp.stack([x, x + 0.1])
    lanes = jax.jit(lambda at: ppl.log_density(jax.vmap(program), {"x": both}, at))(at)
    one = jax.jit(by_hand)
    np.testing.assert_allclose(lanes, one(at[0], x) + one(at[1], x + 0.1), rtol=1e-4)
    each = jax.jit(jax.vmap(lambda t: ppl.log_density(program, {"x": x}, t)))(at)
    np.testing.assert_allclose(each, [one(t, x) for t in at], rtol=1e-4)


# --- draws ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["regression", "state space"])
def test_draws_are_of_the_posterior(name):
    """Mean and covariance by z-scores, and the density of each draw."""
    model, _, x = MODELS[name]

    def log_joint(u):
        choices = {"w": u} if name == "regression" else {"start": u[0], "state": u[1:]}
        return ppl.log_density(model, {**choices, "x": x}, 0.8)

    program = ppl.normalize(model, {"x": x}, Exact())
    draw = ppl.seed(lambda: ppl.simulate(program, 0.8))
    traces = jax.jit(jax.vmap(draw))(jax.random.split(KEY, 20_000))
    leaves = [leaf.reshape(20_000, -1) for leaf in jax.tree.leaves(traces.choices)]
    u = np.concatenate(leaves, axis=1).astype(float)
    size = u.shape[1]
    precision = -np.asarray(jax.jit(jax.hessian(log_joint))(jnp.zeros(size)), float)
    covariance = np.linalg.inv(precision)
    mean = covariance @ np.asarray(jax.jit(jax.grad(log_joint))(jnp.zeros(size)), float)
    variances = np.diag(covariance)
    assert np.all(np.abs(u.mean(0) - mean) < 5 * np.sqrt(variances / 20_000))
    errors_of = np.sqrt((np.outer(variances, variances) + covariance**2) / 20_000)
    assert np.all(np.abs(np.cov(u.T) - covariance) < 5 * errors_of)
    by_hand = of_normal(jnp.asarray(mean), jnp.asarray(covariance), u[:50])
    np.testing.assert_allclose(traces.log_density[:50], by_hand, atol=2e-3)
    first = jax.tree.map(lambda leaf: leaf[0], traces)
    scored = jax.jit(lambda choices: ppl.log_density(program, choices, 0.8))(first.choices)
    np.testing.assert_allclose(scored, first.log_density, atol=1e-4)


def test_gradients_pass_draws_by_their_path():
    """A posterior as a guide's last step: its variance and mean depend on t."""

    def objective(t):
        u = ppl.normalize(noisy, {"x": 1.5}, Exact())(t)["u"]
        return u**2

    def exact(t):
        precision = t**-2 + 4.0 / 0.49
        mean = (0.3 * t**-2 + 2.0 * 2.5 / 0.49) / precision
        return mean**2 + 1.0 / precision

    assert_unbiased(objective, 0.8, exact=exact, key=KEY, num_samples=20_000)
    one = jax.jit(jax.grad(ppl.expectation(objective), 1))(KEY, 0.8)
    assert jnp.isfinite(one) and one != 0.0


def test_mixed_draws_obey_the_law():
    """E over draws of the finite and the Gaussian choices, by gradient too; and their density."""
    x = jnp.array([0.5, 1.4])

    def objective(t):
        trace = ppl.simulate(ppl.normalize(mixed, {"x": x}, Exact()), t)
        z, u = trace.choices["z"], trace.choices["u"]
        again = ppl.log_density(ppl.normalize(mixed, {"x": x}, Exact()), trace.choices, t)
        return jnp.sin(u + z) + 0.3 * trace.choices["in"]["b"][0] * u + again - trace.log_density

    nodes, weights = np.polynomial.hermite_e.hermegauss(60)

    def exact(t):
        """By quadrature over u about its prior, and a sum over the others."""
        logs, values = [], []
        for z, *b in itertools.product(range(3), range(2), range(2)):
            u = z + t * jnp.asarray(nodes)
            point = {"z": z, "in": {"b": jnp.array(b)}, "x": x}
            log_joint = jax.vmap(lambda u, p=point: ppl.log_density(mixed, {**p, "u": u}, t))(u)
            log_prior = dist.Normal(z, t).log_prob(u)
            logs.append(log_joint - log_prior + jnp.log(jnp.asarray(weights)))
            values.append(jnp.sin(u + z) + 0.3 * b[0] * u)
        chances = jax.nn.softmax(jnp.concatenate(logs))
        return jnp.sum(chances * jnp.concatenate(values))

    assert_unbiased(objective, 0.8, exact=exact, key=KEY, num_samples=20_000)


def test_marginal_as_a_guide():
    """The bound of a guide with a hidden choice: minus a divergence of normals, in closed form."""

    def guide(t):
        u = sample("u", dist.Normal(0.3, t))
        sample("x", dist.Normal(2.0 * u - 1.0, 0.7))

    def objective(t):
        hidden = ppl.marginal(guide, "x", Exact())
        return elbo(lambda: sample("x", dist.Normal(0.5, 2.0)), lambda: hidden(t), {})

    def exact(t):
        variance = 4.0 * t**2 + 0.49
        return -0.5 * (variance / 4.0 + 0.9**2 / 4.0 - 1.0 - jnp.log(variance / 4.0))

    assert_unbiased(objective, 0.8, exact=exact, key=KEY, num_samples=20_000)


def test_far_from_zero_and_of_many_scales():
    """Rounding: a mean a thousand deviations away, and precisions apart by 1e6."""

    def model():
        u = sample("u", dist.Normal(jnp.array([500.0, 0.0]), jnp.array([1.0, 30.0])))
        sample("x", dist.Normal(u, jnp.array([0.5, 0.03])))

    found = Exact().log_evidence(ppl.extend.Target(model, {"x": jnp.array([501.0, 3.0])}))
    scales = np.sqrt([1.25, 900.0009])
    exact = np.sum(
        -0.5 * (np.array([1.0, 3.0]) / scales) ** 2 - np.log(scales * (2 * np.pi) ** 0.5)
    )
    np.testing.assert_allclose(found, exact, rtol=1e-4)


def test_improper_posteriors_are_not_a_number():
    def flat():
        u = ppl.mask(lambda: sample("u", dist.Normal(jnp.zeros(2), 1.0)), False)()
        sample("x", dist.Normal(u[0], 1.0))

    assert jnp.isnan(Exact().log_evidence(ppl.extend.Target(flat, {"x": 1.0})))


# --- what is proved ------------------------------------------------------------------------------

MATRIX = jnp.array([[2.0, 0.3], [0.1, 1.0]])


@jax.custom_jvp
def clipped(x):
    return x


clipped.defjvp(lambda primals, tangents: (primals[0], jnp.clip(tangents[0], -1.0, 1.0)))

AFFINE = {
    "solve": lambda u: jnp.linalg.solve(MATRIX, u),
    "triangular": lambda u: jax.scipy.linalg.solve_triangular(MATRIX, u, lower=True),
    "scatter": lambda u: jnp.zeros(4).at[jnp.array([3, 0])].set(u) + jnp.ones(4).at[1].add(u[0]),
    "gather": lambda u: u[jnp.array([1, 0, 1])],
    "convolve": lambda u: jnp.convolve(u, jnp.array([1.0, 2.0, -1.0])),
    "where": lambda u: jnp.where(jnp.array([True, False]), u, 2.0 * u),
    "always": lambda u: jnp.where(jnp.isfinite(MATRIX[0]) & (u == u) & (u != jnp.inf), u, 0.0),
    "remat": jax.checkpoint(lambda u: u / 3.0 - jnp.mean(u)),
    "scan": lambda u: lax.scan(lambda c, x: (0.5 * c + x, c), u[0], u)[1],
    "no steps": lambda u: lax.scan(lambda c, _: (jnp.ones_like(c), None), u, length=0)[0],
    "loop": lambda u: lax.fori_loop(0, 3, lambda i, c: MATRIX @ c + i, u),
    "associative": lambda u: lax.associative_scan(jnp.add, jnp.concatenate([u, u])),
    "stack": lambda u: jnp.tile(jnp.stack([u[1], u[0], u[1]]), 2),
    "constant": lambda u: u + jnp.exp(MATRIX[0]),
}

SPOILT = {
    "power": (lambda u: u**2, "integer_pow"),
    "abs": (jnp.abs, "abs"),
    "relu": (jax.nn.relu, "custom_jvp_call"),
    "jump": (lambda u: u + jnp.where(u > 0.0, 1.0, 0.0), "gt"),
    "round": (lambda u: u + jnp.round(u), "round"),
    "integer": (lambda u: u + u.astype(int), "convert_element_type"),
    "stopped": (lambda u: u + lax.stop_gradient(u), "stop_gradient"),
    "own rule": (clipped, "custom_jvp_call"),
    "ratio": (lambda u: u / (1.0 + u[0]), "div"),
    "exponential": (jnp.exp, "exp"),
    "index": (lambda u: u[jnp.argmax(u)] * jnp.ones(2), "argmax"),
    "product": (lambda u: u * u[::-1], "integer_pow"),
    "scan": (lambda u: lax.scan(lambda c, x: (c * x, x), 1.0, u)[0] * u, "mul"),
    "branch": (lambda u: lax.cond(u[0] > 0.0, lambda u: u, lambda u: 2.0 * u, u), "gt"),
    "two of three": (lambda u: lax.fori_loop(0, 2, lambda i, c: c * u, u), "mul"),
}


def through(h):
    def model():
        u = sample("u", dist.Normal(jnp.array([0.3, -0.2]), 0.7))
        sample("x", dist.Normal(h(u), 0.5))

    return model


@pytest.mark.parametrize("name", AFFINE)
def test_what_is_linear_is_found_so(name):
    """And its evidence is that of the matrix it is."""
    h = AFFINE[name]

    @jax.jit
    def both():
        offset, matrix = h(jnp.zeros(2)), jax.jacobian(h)(jnp.zeros(2))
        x = jnp.linspace(-0.5, 1.0, len(offset))
        mean = offset + matrix @ jnp.array([0.3, -0.2])
        exact = of_normal(mean, 0.49 * matrix @ matrix.T + 0.25 * jnp.eye(len(x)), x)
        return Exact().log_evidence(ppl.extend.Target(through(h), {"x": x})), exact

    np.testing.assert_allclose(*both(), rtol=1e-4)


@pytest.mark.parametrize("name", SPOILT)
def test_what_is_not_quadratic_is_refused(name):
    """Though the second derivative of some is constant, or said to be."""
    h, primitive = SPOILT[name]
    with pytest.raises(errors.UnsuitableEstimator, match=rf"(?s)'u' \(Normal at .*`{primitive}`"):
        Exact().log_evidence(ppl.extend.Target(through(h), {"x": jnp.ones(2)}))


def scaled():
    sample("x", dist.Normal(0.0, jnp.exp(sample("t", dist.Normal(0.0, 1.0)))))


def block():
    """Quadratic in `a` given `t`, and in neither `t` nor both."""
    a = sample("a", dist.Normal(0.0, 1.0))
    sample("x", dist.Normal(a, jnp.exp(sample("t", dist.Normal(0.0, 1.0)))))


def bilinear():
    a, b = sample("a", dist.Normal(0.0, 1.0)), sample("b", dist.Normal(0.0, 1.0))
    sample("x", dist.Normal(sample("c", dist.Normal(a * b, 1.0)), 1.0))


def quartic():
    sample("x", dist.Normal(sample("t", dist.Normal(0.0, 1.0)) ** 2, 1.0))


def shifted():
    moved = dist.transforms.AffineTransform(
        sample("t", dist.Normal(0.0, 1.0)), 1.0, domain=dist.constraints.positive
    )
    sample("x", dist.TransformedDistribution(dist.HalfNormal(1.0), moved))


def estimated():
    def part():
        sample("x", dist.Normal(sample("u", dist.Normal(0.0, 1.0)) + t, 1.0))

    t = sample("t", dist.Normal(0.0, 1.0))
    ppl.marginal(part, "x", Importance(2))()


def of_posterior():
    def part():
        sample("w", dist.Normal(sample("v", dist.Normal(0.0, 1.0)), 1.0))

    sample("x", dist.Normal(ppl.normalize(part, {"w": 1.0}, Exact())()["v"], 1.0))


def hidden(distribution):
    return lambda: sample("x", dist.Normal(1.0 * sample("t", distribution), 1.0))


AFFINE_OF_HALF = dist.TransformedDistribution(
    dist.HalfNormal(1.0), dist.transforms.AffineTransform(1.0, 2.0)
)
REFUSED = {
    "Gamma": (hidden(dist.Gamma(2.0, 1.0)), r"'t' \(Gamma at .*not affine.*`integer_pow`"),
    "HalfNormal": (
        hidden(dist.HalfNormal(1.0)),
        r"'t' \(HalfNormal at .*not affine.*`integer_pow`",
    ),
    "truncated": (hidden(dist.TruncatedNormal(0.0, 1.0, low=-1.0)), r"'t' \(.*none of these"),
    "affine of half": (hidden(AFFINE_OF_HALF), r"'t' \(Transformed.*none of these"),
    "Poisson": (
        lambda: (hidden(dist.Poisson(2.0))(), noisy_too()),
        r"'t' \(Poisson at .*none of these",
    ),
    "Student": (hidden(dist.StudentT(3.0)), r"'t' \(StudentT at .*not quadratic in it"),
    "Delta": (hidden(dist.Delta(1.0)), r"'t' \(Delta at .*not quadratic in it"),
    "scale": (scaled, r"'t' \(.*not quadratic in it.*`exp`"),
    "quartic": (quartic, r"'t' \(.*not quadratic in it.*`integer_pow`"),
    "block": (block, r"integrate 't' \(Normal at .*not quadratic in it"),
    "bilinear": (bilinear, r"'a' \(Normal .* and 'b' \(Normal .*not quadratic in them together"),
    "half of a marginal": (
        lambda: part_of(lambda v: dist.HalfNormal(1.0))(1.0),
        r"'w' \(marginal at .*not affine.*`integer_pow`",
    ),
    "a posterior's": (of_posterior, r"'v' \(posterior at .*none of these"),
    "moving support": (shifted, r"'t' \(Normal at .*support of an observed choice moves"),
    "estimate": (estimated, "densities without error.*'u'"),
}


def noisy_too():
    sample("u", dist.Normal(0.0, 1.0))


@pytest.mark.parametrize("name", REFUSED)
def test_other_choices_are_refused_by_name(name):
    """While the program is traced, with a remedy."""
    program, words = REFUSED[name]
    evidence = lambda x: Exact().log_evidence(ppl.extend.Target(program, {"x": x}))
    with pytest.raises(errors.UnsuitableEstimator, match=f"(?s){words}.*Importance"):
        jax.eval_shape(evidence, 1.0)


def test_too_many_joint_states():
    def switching():
        def step(u, _):
            z = sample("z", dist.Bernoulli(0.5))
            return sample("u", dist.Normal(u + z, 1.0)), None

        sample("x", dist.Normal(lax.scan(step, 0.0, length=11)[0], 1.0))

    with pytest.raises(errors.TooManyJointStates, match="'z': 2048 of them"):
        Exact().log_evidence(ppl.extend.Target(switching, {"x": 1.0}))


def reads_a_coin(z):
    sample("x", dist.Normal(sample("u", dist.Normal(1.0 * z, 1.0)), 1.0))


@pytest.mark.parametrize("factor", [0.0, 1.0, 2.0])
def test_finite_choices_that_are_masked_or_scaled(factor):
    """The factor is the power of their probabilities."""

    def program():
        coin = lambda: sample("z", dist.Bernoulli(0.3))
        reads_a_coin(ppl.scale(coin, factor)() if factor else ppl.mask(coin, False)())

    found = jax.jit(lambda: Exact().log_evidence(ppl.extend.Target(program, {"x": 1.0})))()
    means = jnp.exp(dist.Normal(jnp.arange(2.0), 2**0.5).log_prob(1.0))
    exact = jnp.log(jnp.sum(jnp.array([0.7, 0.3]) ** factor * means))
    np.testing.assert_allclose(found, exact, rtol=1e-5)


def test_finite_choices_that_cannot_be_listed():
    def branched():
        coin = lambda: sample("z", dist.Bernoulli(0.5))
        reads_a_coin(lax.cond(jnp.array(True), coin, lambda: 0))

    with pytest.raises(errors.UnsuitableEstimator, match="list the values of 'z'"):
        Exact().log_evidence(ppl.extend.Target(branched, {"x": 1.0}))
