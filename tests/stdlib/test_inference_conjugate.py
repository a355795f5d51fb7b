"""Exact inference over conjugate choices: against compound distributions, quadrature and sums."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from jax import lax
from jax.scipy.special import betaln, gammaln, logsumexp, xlogy

import ppl
from ppl import errors, sample
from stdlib.inference import Exact, Importance
from stdlib.objectives import elbo
from stdlib.testing import assert_unbiased
from tests.stdlib.evidence import assert_evidence, exactly

KEY = jax.random.key(23)
COUNTS = jnp.array([1, 0, 3, 2])
TIMES = jnp.array([0.3, 1.2, 0.8])


def log_gamma_mass(a, b):
    return gammaln(a) - a * jnp.log(b)


# --- models, and their evidence by hand ----------------------------------------------------------


def coins(t):
    sample("x", dist.Bernoulli(sample("u", dist.Beta(t, 2.0)) * jnp.ones(4)))


def by_hand_coins(t, x):
    heads = jnp.sum(x)
    return betaln(t + heads, 2.0 + x.size - heads) - betaln(t, 2.0)


def failures(t):
    """A batch of choices, each of a read of its own."""
    u = sample("u", dist.Beta(jnp.array([t, 1.5]), 2.0))
    sample("x", dist.Geometric(u[jnp.array([1, 0, 0, 1])]))


def by_hand_failures(t, x):
    first, second = x[1] + x[2], x[0] + x[3]
    found = betaln(t + 2.0, 2.0 + first) - betaln(t, 2.0)
    return found + betaln(3.5, 2.0 + second) - betaln(1.5, 2.0)


def uniform(t):
    """A prior that is a Beta under another name; what is read is one minus it, and its square."""
    u = sample("u", dist.Uniform(0.0, 1.0))
    sample("x", dist.Binomial(7, 1.0 - u))
    ppl.scale(lambda: sample("y", dist.Bernoulli(u**2), obs=1), t)()


def by_hand_uniform(t, x):
    choices = gammaln(8.0) - gammaln(x + 1.0) - gammaln(8.0 - x)
    return choices + betaln(8.0 - x + 2.0 * t, x + 1.0)


def waits(t):
    """A rate read by two families, in lanes."""
    u = sample("u", dist.Gamma(t, 0.7))

    def one(_):
        first = sample("x", dist.Exponential(t * u))
        sample("y", dist.Gamma(2.5, u / 3.0), obs=1.4)
        return first

    jax.vmap(one)(TIMES)


def by_hand_waits(t, x):
    after = log_gamma_mass(t + 3.0 + 7.5, 0.7 + t * jnp.sum(x) + 1.4)
    constant = 3.0 * jnp.log(t) + 7.5 * jnp.log(1 / 3.0)
    constant += 3.0 * (1.5 * jnp.log(1.4) - gammaln(2.5))
    return constant + after - log_gamma_mass(t, 0.7)


def precision(t):
    u = sample("u", dist.Gamma(t, 1.3))
    sample("x", dist.Normal(t, 1.0 / jnp.sqrt(u)).expand([3]).to_event(1))


def by_hand_precision(t, x):
    return dist.MultivariateStudentT(
        2.0 * t, t * jnp.ones(3), jnp.sqrt(1.3 / t) * jnp.eye(3)
    ).log_prob(x)


def variance(t):
    """Scales of two sites, one read by hand."""
    u = sample("u", dist.InverseGamma(t, 1.3))
    scale = u**0.5
    sample("x", dist.Normal(t, scale).expand([3]))
    ppl.scale(lambda: sample("y", dist.Laplace(0.0, u), obs=0.6), 0.5)()


def by_hand_variance(t, x):
    after = log_gamma_mass(t + 1.5 + 0.5, 1.3 + 0.5 * jnp.sum((x - t) ** 2) + 0.3)
    return after - log_gamma_mass(t, 1.3) - 1.5 * jnp.log(2.0 * jnp.pi) - 0.5 * jnp.log(2.0)


def shares(t):
    """Rows of shares, read by an index and by counts."""
    u = sample("u", dist.Dirichlet(jnp.array([[t, 1.0, 2.0], [1.0, t, t]])))
    sample("x", dist.Multinomial(4, u))
    sample("z", dist.Categorical(u[0]), obs=2)


def by_hand_shares(t, x):
    first, second = jnp.stack([t, 1.0, 2.0]), jnp.stack([1.0, t, t])
    after = dist.DirichletMultinomial(first + jnp.array([0.0, 0.0, 1.0]), 4).log_prob(x[0])
    return after + dist.DirichletMultinomial(second, 4).log_prob(x[1]) + jnp.log(2.0 / (t + 3.0))


def groups(t):
    """A rate in each lane, of which some data are masked."""

    def group(seen):
        u = sample("u", dist.Gamma(t, 2.0))
        ppl.mask(lambda: sample("x", dist.Poisson(u)), seen)()

    jax.vmap(group)(jnp.array([True, False, True, True]))


def by_hand_groups(t, x):
    return jnp.sum(dist.GammaPoisson(t, 2.0).log_prob(x)[jnp.array([0, 2, 3])])


def steps_alone(t):
    u = sample("u", dist.Gamma(t, 2.0))

    def step(carry, exposure):
        own = sample("own", dist.Gamma(1.5, t))
        sample("x", dist.Poisson(u * exposure))
        sample("y", dist.Exponential(lax.cond(exposure > 1.0, lambda: 2.0, lambda: 1.0) * own))
        return carry + 1, None

    lax.scan(step, 0, jnp.array([1.0, 2.0, 0.5, 1.5]))


def sticks(t):
    """Stick-breaking: shares are products of breaks."""
    v = sample("v", dist.Beta(jnp.ones(3), t))
    shares = jnp.append(v, 1.0) * jnp.append(1.0, jnp.cumprod(1.0 - v))
    sample("x", dist.Categorical(shares))


def by_hand_sticks(t, x):
    means = 1.0 / (1.0 + t)
    return jnp.log(means) + x * jnp.log(1.0 - means)


def switching(t):
    """A chain whose chance of staying is hidden: its transitions are read by the state before."""
    stay = sample("stay", dist.Beta(t, 2.0))

    def step(z, x):
        z = sample("x", dist.Bernoulli(jnp.where(z == 1, stay, 1.0 - stay)))
        return z, None

    lax.scan(step, 1, length=4)


def by_hand_switching(t, x):
    before = jnp.concatenate([jnp.array([1]), x[:-1]])
    stays = jnp.sum(before == x)
    return betaln(t + stays, 2.0 + 4.0 - stays) - betaln(t, 2.0)


def nested(t):
    """A part that integrates a choice of its own out."""

    def part():
        rate = sample("rate", dist.Gamma(t, 2.0))
        sample("x", dist.Poisson(rate))

    ppl.marginal(part, "x", Exact())()
    sample("y", dist.Bernoulli(sample("u", dist.Beta(t, 1.0))), obs=1)


def topics(t):
    """Finite choices, and the shares of their values, given which other shares are read."""
    weights = sample("weights", dist.Dirichlet(jnp.array([t, 1.0])))
    words = sample("words", dist.Dirichlet(t * jnp.ones((2, 3))))
    z = sample("z", dist.Categorical(jnp.broadcast_to(weights, (3, 2))))
    sample("x", dist.Categorical(words[z]))


def by_hand_topics(t, x):
    def mass(a, counts):
        return jnp.sum(gammaln(a + counts) - gammaln(a)) + (
            gammaln(jnp.sum(a)) - gammaln(jnp.sum(a + counts))
        )

    logs = []
    for z in itertools.product(range(2), repeat=3):
        counts = np.zeros((2, 3))
        np.add.at(counts, (np.array(z), np.asarray(x)), 1.0)
        logs.append(mass(jnp.stack([t, 1.0]), counts.sum(1)) + mass(t * jnp.ones(3), counts[0]))
        logs[-1] += mass(t * jnp.ones(3), counts[1])
    return logsumexp(jnp.stack(logs))


MODELS = {
    "Bernoulli": (coins, by_hand_coins, jnp.array([1, 0, 1, 1])),
    "geometric": (failures, by_hand_failures, COUNTS),
    "uniform prior": (uniform, by_hand_uniform, jnp.array(5)),
    "rates": (waits, by_hand_waits, TIMES),
    "precision": (precision, by_hand_precision, TIMES),
    "variance": (variance, by_hand_variance, TIMES),
    "shares": (shares, by_hand_shares, jnp.array([[1, 0, 3], [2, 2, 0]])),
    "lanes": (groups, by_hand_groups, COUNTS),
    "sticks": (sticks, by_hand_sticks, jnp.array(2)),
    "chain": (switching, by_hand_switching, jnp.array([1, 1, 0, 0])),
    "nested": (
        nested,
        lambda t, x: dist.GammaPoisson(t, 2.0).log_prob(x) + jnp.log(t / (t + 1.0)),
        jnp.array(2),
    ),
    "topics": (topics, by_hand_topics, jnp.array([0, 1, 1])),
}


@pytest.mark.parametrize("name", MODELS)
def test_evidence_and_its_gradient(name):
    assert_evidence(*MODELS[name], atol=1e-5)


def test_loops_with_hidden_choices_outside_and_in_each_step():
    y, exposure = jnp.array([0.5, 0.1, 2.0, 0.3]), jnp.array([1.0, 2.0, 0.5, 1.5])

    def evidence(t):
        return Exact().log_evidence(
            ppl.extend.Target(lambda: steps_alone(t), {"x": COUNTS, "y": y})
        )

    def by_hand(t):
        common = log_gamma_mass(t + 6.0, 2.0 + 5.0) - log_gamma_mass(t, 2.0)
        common += jnp.sum(xlogy(COUNTS, exposure) - gammaln(COUNTS + 1.0))
        rates = jnp.where(exposure > 1.0, 2.0, 1.0)
        own = log_gamma_mass(2.5, t + rates * y) - log_gamma_mass(1.5, t) + jnp.log(rates)
        return common + jnp.sum(own)

    found, exact = (jax.jit(jax.value_and_grad(f))(0.8) for f in (evidence, by_hand))
    np.testing.assert_allclose(found, exact, rtol=1e-4)


# --- draws ---------------------------------------------------------------------------------------


def four(t):
    """A choice of each family."""
    a = ppl.scope(lambda: sample("a", dist.Beta(t, jnp.array([2.0, 1.0]))), "in")()
    sample("heads", dist.Binomial(4, a), obs=jnp.array([3, 0]))
    sample("x", dist.Poisson(sample("b", dist.Gamma(t, 2.0))))
    sample("y", dist.Normal(t, jnp.sqrt(sample("c", dist.InverseGamma(4.0, t)))), obs=0.5)
    sample("z", dist.Categorical(sample("d", dist.Dirichlet(jnp.array([t, 1.0, 2.0])))), obs=1)


def posteriors(t):
    """At x = 3."""
    return {
        "a": dist.Beta(t + jnp.array([3.0, 0.0]), jnp.array([3.0, 5.0])),
        "b": dist.Gamma(t + 3.0, 3.0),
        "c": dist.InverseGamma(4.5, t + 0.5 * (0.5 - t) ** 2),
        "d": dist.Dirichlet(jnp.stack([t, 2.0, 2.0])),
    }


def unscoped(choices):
    rest = {name: value for name, value in choices.items() if name != "in"}
    return {**rest, **choices["in"]}


def test_draws_are_of_the_posterior():
    """Means and variances by z-scores, and the density of each draw, with and without the draw."""
    program = ppl.normalize(four, {"x": 3}, Exact())
    draw = ppl.seed(lambda: ppl.simulate(program, 0.8))
    traces = jax.jit(jax.vmap(draw))(jax.random.split(KEY, 4_000))
    drawn = unscoped(traces.choices)

    @jax.jit
    def by_hand(drawn):
        exact = posteriors(0.8)
        assert exact.keys() == drawn.keys()
        moments = {name: (posterior.mean, posterior.variance) for name, posterior in exact.items()}
        logs = (exact[name].log_prob(drawn[name][:50]).reshape(50, -1) for name in exact)
        return moments, sum(log.sum(1) for log in logs)

    moments, total = by_hand(drawn)
    for name, (mean, variance) in moments.items():
        centred = np.asarray(drawn[name], float) - np.asarray(mean)
        for moment, at in ((centred, 0.0), (centred**2, np.asarray(variance))):
            error = moment.std(0) / np.sqrt(len(moment))
            assert np.all(np.abs(moment.mean(0) - at) < 5 * error), name
    np.testing.assert_allclose(traces.log_density[:50], total, atol=2e-3)
    first = jax.tree.map(lambda leaf: leaf[0], traces)
    scored = jax.jit(lambda choices: ppl.log_density(program, choices, 0.8))(first.choices)
    np.testing.assert_allclose(scored, first.log_density, atol=1e-4)


def test_sites_of_a_draw():
    def model():
        ppl.scope(lambda: sample("u", dist.Beta(2.0, 1.0)), "in")()
        sample("x", dist.Poisson(sample("v", dist.Gamma(2.0, 1.0))))

    sites = ppl.sites(ppl.simulate, ppl.normalize(model, {"x": 3}, Exact()))
    assert {site.address for site in sites} == {"exact/in/u", "exact/v"}


def test_gradients_pass_draws_by_their_path():
    """Of second moments: every draw depends on t."""

    def pair(t):
        sample("y", dist.Normal(t, jnp.sqrt(sample("c", dist.InverseGamma(4.0, t)))), obs=0.5)
        sample("z", dist.Categorical(sample("d", dist.Dirichlet(jnp.array([t, 1.0, 2.0])))), obs=1)

    def objective(t):
        drawn = ppl.normalize(pair, {}, Exact())(t)
        return sum(jnp.sum(value**2) for value in drawn.values())

    def exact(t):
        both = [posteriors(t)[name] for name in ("c", "d")]
        return sum(jnp.sum(p.variance + p.mean**2) for p in both)

    assert_unbiased(objective, 0.8, exact=exact, key=KEY, num_samples=4_000)
    slope = jax.jit(jax.grad(ppl.expectation(objective), 1))
    assert slope(KEY, 0.8) != slope(jax.random.key(1), 0.8) != 0.0


def hidden_coin(t):
    """A finite choice beside those given which it is conjugate."""
    fair = sample("fair", dist.Bernoulli(0.4))
    u = sample("u", dist.Beta(t, 2.0))
    sample("x", dist.Binomial(6, jnp.where(fair == 1, 0.5, u)))


def test_mixed_draws_obey_the_law():
    """E over draws of both choices, by gradient too; and their density."""

    def objective(t):
        program = ppl.normalize(hidden_coin, {"x": 5}, Exact())
        trace = ppl.simulate(program, t)
        fair, u = trace.choices["fair"], trace.choices["u"]
        again = ppl.log_density(program, trace.choices, t)
        return fair * u + 0.3 * u**2 + again - trace.log_density

    def exact(t):
        """By hand: u has its prior where the coin is fair."""
        log_odds = dist.Binomial(6, 0.5).log_prob(5) - dist.BetaBinomial(t, 2.0, 6).log_prob(5)
        chance = jax.nn.sigmoid(log_odds + jnp.log(0.4 / 0.6))
        prior, after = dist.Beta(t, 2.0), dist.Beta(t + 5.0, 3.0)
        squares = [p.variance + p.mean**2 for p in (prior, after)]
        return chance * (prior.mean + 0.3 * squares[0]) + (1.0 - chance) * 0.3 * squares[1]

    assert_unbiased(objective, 0.8, exact=exact, key=KEY, num_samples=4_000)


# --- in objectives -------------------------------------------------------------------------------


def test_bound_of_the_posterior_as_a_guide_is_the_evidence():
    """Whatever is drawn."""

    def bound(t):
        guide = ppl.normalize(variance, {"x": TIMES}, Exact())
        return elbo(lambda: variance(t), lambda: guide(t), {"x": TIMES})

    estimates = jax.jit(jax.vmap(ppl.expectation(bound), (0, None)))
    found = estimates(jax.random.split(KEY, 20), 0.8)
    np.testing.assert_allclose(found, by_hand_variance(0.8, TIMES), atol=1e-4)


def test_marginals_inside_an_expectation():
    """A shape drawn outside, read by a density with the rate integrated out."""

    def counts(shape):
        sample("x", dist.Poisson(sample("rate", dist.Gamma(shape, 2.0))))

    def objective(t):
        shape = jnp.exp(sample("s", dist.Normal(t, 0.5)))
        return ppl.log_density(ppl.marginal(counts, "x", Exact()), {"x": 2}, shape)

    nodes, weights = np.polynomial.hermite_e.hermegauss(40)

    def exact(t):
        shapes = jnp.exp(t + 0.5 * jnp.asarray(nodes))
        values = dist.GammaPoisson(shapes, 2.0).log_prob(2)
        return jnp.asarray(weights) @ values / jnp.sum(weights)

    assert_unbiased(objective, 0.3, exact=exact, key=KEY, num_samples=4_000)


def test_evidence_in_lanes():
    """Under `vmap`, outside and as lanes of a program."""
    program, at = ppl.marginal(coins, "x", Exact()), jnp.array([0.5, 1.1])
    x = jnp.array([[1, 0, 1, 1], [0, 0, 1, 0]])
    exact = jax.jit(lambda: jnp.stack([by_hand_coins(*pair) for pair in zip(at, x, strict=True)]))()
    lanes = jax.jit(lambda at: ppl.log_density(jax.vmap(program), {"x": x}, at))(at)
    np.testing.assert_allclose(lanes, jnp.sum(exact), rtol=1e-4)
    each = jax.jit(jax.vmap(lambda t, row: ppl.log_density(program, {"x": row}, t)))(at, x)
    np.testing.assert_allclose(each, exact, rtol=1e-4)


def test_second_derivatives_of_evidence():
    found = jax.jit(jax.hessian(exactly(waits, TIMES)))(0.8)
    exact = jax.jit(jax.hessian(lambda t: by_hand_waits(t, TIMES)))(0.8)
    np.testing.assert_allclose(found, exact, rtol=1e-3)


def test_improper_posteriors_are_not_a_number():
    """Where the prior is left out, and the data leave the density without an integral."""

    def flat():
        u = ppl.mask(lambda: sample("u", dist.Gamma(2.0 * jnp.ones(2), 1.0)), False)()
        sample("x", dist.Poisson(u[0]))

    assert jnp.isnan(Exact().log_evidence(ppl.extend.Target(flat, {"x": 1})))
    one = lambda: sample("x", dist.Poisson(ppl.mask(lambda: sample("u", dist.Gamma(2.0)), False)()))
    found = Exact().log_evidence(ppl.extend.Target(one, {"x": 1}))  # ∫ u exp(-u) du
    np.testing.assert_allclose(found, 0.0, atol=1e-6)


# --- what is proved ------------------------------------------------------------------------------


@jax.custom_jvp
def clipped(x):
    return x


clipped.defjvp(lambda primals, tangents: (primals[0], jnp.clip(tangents[0], -1.0, 1.0)))

POWERS = {
    "root of square": lambda u: jnp.sqrt(u * u * 4.0),
    "power of power": lambda u: (u**0.25) ** 4 / 3.0,
    "ratio": lambda u: u**3 / jnp.square(2.0 * u),
    "inverse of inverse": lambda u: 1.0 / (0.5 / u),
    "reciprocal root": lambda u: lax.rsqrt(u**-2.0),
    "size": lambda u: jnp.abs(-2.0 * u),
    "always": lambda u: jnp.where((u > 0.0) & (u >= -1.0) & (u == u), u, jnp.exp(u)),
    "never": lambda u: jnp.where((u < 0.0) | (u != u), jnp.sin(u), 2.0 * u),
    "guarded": lambda u: jnp.maximum(u, jnp.finfo(float).tiny),
    "negative": lambda u: -jnp.minimum(-u, 0.0),
    "own rule": clipped,
    "remat": jax.checkpoint(lambda u: jnp.sqrt(u) * jnp.sqrt(u)),
    "places": lambda u: jnp.stack([u, 2.0 * u])[::-1].reshape(2, 1).T[0, 1],
    "branch": lambda u: lax.switch(1, [jnp.exp, lambda u: 2.0 * u], u),
}
"""Of a positive number, each a multiple of it."""

SUMS = {
    "sum": lambda u: jnp.sum(jnp.stack([u, 2.0 * u])[None]) / 3.0,
    "matrix": lambda u: jnp.ones(2) @ (jnp.array([[1.0, 2.0], [0.5, 1.0]]) @ jnp.stack([u, u])),
    "loop": lambda u: lax.fori_loop(0, 3, lambda i, c: c / 2.0 + u, u),
    "no steps": lambda u: lax.scan(lambda c, _: (jnp.ones_like(c), None), u, length=0)[0],
    "branch": lambda u: lax.cond(jnp.sum(TIMES) > 2.0, lambda u: 2.0 * u, lambda u: u, u),
    "logs": lambda u: jnp.log(jnp.sqrt(u) * jnp.exp(TIMES[0])) + u,
    "product": lambda u: jnp.log(jnp.prod(jnp.stack([u, 0.5, 3.0]))) + u,
}
"""Of which the logs are not known."""

SPOILT = {
    "power": (lambda u: u**2, "integer_pow"),
    "root": (jnp.sqrt, "sqrt"),
    "shift": (lambda u: u + 1.0, "log"),
    "exponential": (jnp.exp, "exp"),
    "jump": (lambda u: jnp.where(u > 1.0, u, 2.0 * u), "gt"),
    "guard inside": (lambda u: jnp.maximum(u, 0.01), "max"),
    "round": (lambda u: u + jnp.round(u), "round"),
    "integer": (lambda u: u * u.astype(int), "convert_element_type"),
    "stopped": (lax.stop_gradient, "stop_gradient"),
    "sum of powers": (lambda u: u + jnp.sqrt(u), "sqrt"),
    "while": (lambda u: lax.while_loop(lambda c: c < 1.0, lambda c: 2.0 * c, u), "while"),
    "logarithm": (lambda u: jnp.log(1.0 + u), "log"),
    "loop": (lambda u: lax.fori_loop(0, 2, lambda i, c: c * c, u), "mul"),
    "branch": (lambda u: lax.cond(u > 1.0, lambda u: u, lambda u: 2.0 * u, u), "gt"),
}


def through(h):
    def model():
        sample("x", dist.Exponential(h(sample("u", dist.Gamma(2.0, 1.5)))))

    return model


def linearly(h):
    """A likelihood of exp(-h(u))."""

    def model():
        sample("x", dist.Unit(-h(sample("u", dist.Gamma(2.0, 1.5)))), obs=jnp.zeros(0))

    return model


@pytest.mark.parametrize("name", POWERS)
def test_multiples_are_found_so(name):
    ratio = POWERS[name](1.0)
    exact = log_gamma_mass(3.0, 1.5 + 0.7 * ratio) - log_gamma_mass(2.0, 1.5) + jnp.log(ratio)
    found = Exact().log_evidence(ppl.extend.Target(through(POWERS[name]), {"x": 0.7}))
    np.testing.assert_allclose(found, exact, rtol=1e-4)


@pytest.mark.parametrize("name", SUMS)
def test_affine_functions_of_statistics_are_found_so(name):
    h = SUMS[name]
    prior = dist.Gamma(2.0, 1.5)
    s = jnp.linspace(-16.0, 5.0, 4001)

    @jax.jit
    def both():
        logs = jax.vmap(lambda u: prior.log_prob(u) - h(u) + jnp.log(u))(jnp.exp(s))
        exact = logsumexp(logs) + jnp.log(s[1] - s[0])
        return Exact().log_evidence(ppl.extend.Target(linearly(h), {})), exact

    np.testing.assert_allclose(*both(), rtol=1e-4)


@pytest.mark.parametrize("name", SPOILT)
def test_what_is_not_affine_is_refused(name):
    h, primitive = SPOILT[name]
    words = rf"(?s)'u' \(Gamma at .*not affine in log u and u, because of `{primitive}`"
    with pytest.raises(errors.UnsuitableEstimator, match=words):
        jax.eval_shape(lambda: Exact().log_evidence(ppl.extend.Target(through(h), {"x": 0.7})))


def test_derivatives_are_of_the_function_and_not_of_a_rule_of_its_own():
    """In parameters, through what is read with a rule."""

    def evidence(t):
        return Exact().log_evidence(
            ppl.extend.Target(through(lambda u: clipped(t * u)), {"x": 0.7})
        )

    def exact(t):
        return jnp.log(t) + log_gamma_mass(3.0, 1.5 + 0.7 * t)

    np.testing.assert_allclose(jax.grad(evidence)(0.1), jax.jit(jax.grad(exact))(0.1), rtol=1e-4)


def both_ways():
    u = sample("u", dist.Gamma(2.0, 1.0))
    sample("x", dist.Normal(0.0, jnp.sqrt(u)))


def product():
    a, b = sample("a", dist.Gamma(2.0, 1.0)), sample("b", dist.Gamma(1.0, 1.0))
    sample("x", dist.Exponential(a * b))


def of_elements():
    u = sample("u", dist.Gamma(2.0, jnp.ones(2)))
    sample("x", dist.Exponential(u[0] * u[1]))


def hierarchical():
    sample("x", dist.Exponential(sample("a", dist.Gamma(2.0, sample("b", dist.Gamma(1.0, 1.0))))))


def moving():
    """The conjugate prior of the end of an interval is not one of these."""
    sample("x", dist.Uniform(0.0, sample("u", dist.Gamma(2.0, 1.0))))


def with_gaussian():
    u = sample("u", dist.Gamma(2.0, 1.0))
    sample("x", dist.Normal(sample("v", dist.Normal(0.0, 1.0)), 1.0 / jnp.sqrt(u)))


def mean_of_normal():
    sample("x", dist.Normal(sample("u", dist.Beta(2.0, 1.0)), 1.0))


def clipped_to(low, high):
    return lambda: sample(
        "x", dist.Bernoulli(jnp.clip(sample("u", dist.Beta(2.0, 1.0)), low, high))
    )


def estimated():
    def part():
        sample("x", dist.Poisson(sample("v", dist.Gamma(2.0, 1.0))))

    ppl.marginal(part, "x", Importance(2))()
    sample("y", dist.Poisson(sample("u", dist.Gamma(2.0, 1.0))), obs=1)


def hidden(distribution):
    return lambda: sample("x", dist.Exponential(sample("u", distribution)))


MAPPED = dist.TransformedDistribution(dist.HalfNormal(1.0), dist.transforms.ExpTransform())
REFUSED = {
    "shape": (
        lambda: sample("x", dist.Gamma(sample("u", dist.Gamma(2.0, 1.0)), 1.0)),
        r"'u' \(Gamma at .*test_inference_conjugate.py:.*not affine.*`mul`",
    ),
    "HalfNormal": (hidden(dist.HalfNormal(1.0)), r"'u' \(HalfNormal at .*`integer_pow`"),
    "LogNormal": (hidden(dist.LogNormal(0.0, 1.0)), r"'u' \(LogNormal at .*`integer_pow`"),
    "from one": (hidden(MAPPED), r"'u' \(Transformed.*none of these"),
    "interval": (hidden(dist.Uniform(0.0, 2.0)), r"'u' \(Uniform at .*none of these"),
    "Pareto": (hidden(dist.Pareto(1.0, 2.0)), r"'u' \(Pareto at .*none of these"),
    "u and 1/u": (both_ways, r"'u' .* log u and u, because of .*nor in log u and 1/u"),
    "product": (product, r"'a' \(Gamma .* and 'b' \(Gamma .*them together, because of `mul`"),
    "elements": (of_elements, r"'u' \(Gamma .*`mul`"),
    "hierarchy": (hierarchical, r"'a' \(Gamma .* and 'b' \(Gamma .*together, because of `mul`"),
    "moving support": (moving, r"'u' \(Gamma at .*support of an observed choice moves"),
    "Gaussian too": (with_gaussian, r"'u' \(Gamma at .*'v' \(Normal .*no such number scales"),
    "mean": (mean_of_normal, r"'u' \(Beta .*log u and log\(1 - u\), because of `sub`"),
    "from below": (clipped_to(0.1, 1.0), r"'u' \(Beta at .*`max`"),
    "from above": (clipped_to(0.0, 0.999), r"'u' \(Beta at .*`min`"),
    "estimate": (estimated, "densities without error.*'v'"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_other_choices_are_refused_by_name(name):
    """While the program is traced, with a remedy."""
    program, words = REFUSED[name]
    evidence = lambda x: Exact().log_evidence(ppl.extend.Target(program, {"x": x}))
    x = jax.ShapeDtypeStruct((), int if name in ("from below", "from above", "estimate") else float)
    with pytest.raises(errors.UnsuitableEstimator, match=f"(?s){words}.*Importance"):
        jax.eval_shape(evidence, x)
