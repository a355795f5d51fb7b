"""`counterfactual`: what a run would have been, had some sites been others, by the same noise."""

from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
import scipy.stats as stats
from jax import lax

import ppl
from ppl import errors, sample
from stdlib.distributions import OneHotCategorical
from stdlib.estimators import Enumerate
from stdlib.inference import Exact, Importance
from stdlib.objectives import elbo
from stdlib.testing import assert_unbiased

KEY = jax.random.key(3)
NORMAL = dist.Normal(0.0, 1.0)
close = partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5)


def seeded(program, key=KEY):
    return jax.jit(ppl.seed(program))(key)


def choices_of(program, key=KEY):
    return seeded(lambda: ppl.simulate(program).choices, key)


# --- Gaussian mechanisms, in closed form ----------------------------------------------------------


def treatment():
    """A confounder, a treatment, what it does through a mediator and beside it."""
    u = sample("u", NORMAL)
    t = sample("t", dist.Normal(u, 0.5))
    m = sample("m", dist.Normal(1.5 * t, 2.0))
    y = sample("y", dist.Normal(m + 0.7 * t + u, jnp.exp(0.1 * t)))
    return {"u": u, "m": m, "y": y}


def test_a_site_both_observed_and_changed():
    """Abduction, action, prediction, worked out for one unit."""
    seen = ppl.condition(treatment, {"t": 0.3, "y": 2.0})
    once, changed = seeded(ppl.counterfactual(seen, {"t": 1.0}))
    u, m, noise = once["u"], once["m"], once["m"] - 1.5 * 0.3
    shock = (2.0 - (m + 0.7 * 0.3 + u)) / jnp.exp(0.03)
    moved = 1.5 + noise + 0.7 + u + jnp.exp(0.1) * shock
    close(once["y"], 2.0)
    close([changed[name] for name in "umy"], [u, 1.5 + noise, moved])


def test_its_density_is_that_of_the_program():
    twins, choices = ppl.counterfactual(treatment, {"t": 1.0}), choices_of(treatment)
    close(ppl.log_density(twins, choices), ppl.log_density(treatment, choices))
    observed = {"y": 0.5}
    guide = lambda: [sample(name, NORMAL) for name in "utm"]
    bounds = [
        ppl.expectation(lambda p=p: elbo(p, guide, observed))(KEY) for p in (twins, treatment)
    ]
    close(*bounds)


def test_the_posterior_of_an_outcome_is_gaussian():
    """Joint of (t, y, y') of a linear program, conditioned by hand; and by `Exact`."""

    def linear():
        u = sample("u", NORMAL)
        t = sample("t", dist.Normal(0.5 * u, 1.0))
        return sample("y", dist.Normal(2.0 * t + u, 0.5))

    seen = {"t": 1.0, "y": 3.0}
    posterior = ppl.normalize(linear, seen, Exact())

    def query():
        twins = ppl.counterfactual(linear, {"t": -1.0})
        return ppl.condition(twins, {**seen, **posterior()})()[1]

    close(seeded(query), 3.0 + 2.0 * -2.0)  # y - y' does not depend on the noise
    half = {"y": 3.0}
    posterior = ppl.normalize(linear, half, Exact())
    run = ppl.seed(
        lambda: ppl.condition(ppl.counterfactual(linear, {"t": -1.0}), {**half, **posterior()})()[1]
    )
    found = np.asarray(jax.jit(jax.vmap(run))(jax.random.split(KEY, 20_000)))
    # t = u/2 + e: y = 2u + 2e + f/2; y' = -2 + u + f/2
    slope = (2.0 + 0.25) / (4.0 + 4.0 + 0.25)
    variance = 1.0 + 0.25 - slope * (2.0 + 0.25)
    assert abs(found.mean() - (-2.0 + slope * 3.0)) < 5 * (variance / 20_000) ** 0.5
    assert abs(found.var() / variance - 1.0) < 5 * (2 / 20_000) ** 0.5


# --- by common random numbers ---------------------------------------------------------------------
# NumPyro's samplers of these families are loc + scale·noise: by the same key they have the same
# noise, so that a second run by this key is what a counterfactual must be.


def everywhere(changed=None):
    x = sample("x", NORMAL)
    x = x if changed is None else changed

    def step(carry, scale):
        carry = sample("step", dist.Laplace(0.9 * carry + x, scale))
        return carry, sample("seen", dist.Logistic(carry, 0.3))

    def row(loc):
        last, _ = lax.scan(
            lambda c, _: (sample("row", dist.Normal(c * x, 0.5)), None), loc, None, 2
        )
        return sample("lane", dist.Gumbel(last, jnp.exp(0.3 * x)))

    def left():
        return sample("both", dist.Normal(x, 1.0)) + sample("left", dist.HalfNormal(1.0 + x**2))

    last, seen = lax.scan(step, 0.3, jnp.array([1.0, 2.0, 0.5]))
    lanes = jax.vmap(row)(jnp.array([0.1, -0.4]))
    steady = lax.cond(
        sample("coin", NORMAL) > 0.0, left, lambda: sample("both", dist.Normal(-x, 2.0))
    )
    saved = jax.checkpoint(lambda: sample("saved", dist.Cauchy(x, 2.0)))()
    free = sample("free", dist.Normal(jnp.zeros(2), 1.0))
    root = jnp.array([[1.0, 0.0], [0.5, 2.0]]) * jnp.exp(0.2 * x)
    vector = sample("vector", dist.MultivariateNormal(x * jnp.ones(2), scale_tril=root))
    low_rank = dist.LowRankMultivariateNormal(jnp.zeros(2), jnp.ones((2, 1)) * x, jnp.ones(2))
    wrapped = dist.LogNormal(x * jnp.ones((3, 1)), 0.5).expand([2, 3, 1]).to_event(1).mask(x > 0)
    return {
        "scan": (last, seen), "lanes": lanes, "cond": steady, "saved": saved, "free": free,
        "vector": vector, "wrapped": sample("wrapped", wrapped), "low": sample("low", low_rank),
    }  # fmt: skip


@pytest.mark.parametrize("transform", [lambda p: p, lambda p: ppl.scale(ppl.mask(p, False), 3.0)])
def test_the_same_noise_in_all_control_flow(transform):
    factual = transform(everywhere)
    trace = seeded(lambda: ppl.simulate(factual))
    twins = ppl.condition(ppl.counterfactual(factual, {"x": 0.7}), trace.choices)
    once, changed = seeded(twins)
    jax.tree.map(np.testing.assert_array_equal, once, trace.value)
    np.testing.assert_array_equal(changed["free"], once["free"])
    other = seeded(lambda: everywhere(0.7))
    other.pop("low"), changed.pop("low")  # drawn by another factor of its covariance
    jax.tree.map(partial(np.testing.assert_allclose, rtol=2e-4, atol=2e-4), changed, other)


def test_under_vmap_and_in_a_scan_and_twice():
    """The transformation in lanes and in steps; observed steps; and of a twin itself."""

    def chain(start, ys):
        def step(x, y):
            x = sample("x", dist.Normal(x + start, 1.0))
            return x, sample("y", dist.Normal(2.0 * x, 0.5), obs=y)

        return lax.scan(step, 0.0, ys)[1]

    ys, start = jnp.array([[1.0, 2.0, 0.5], [0.0, -1.0, 3.0]]), jnp.array([0.1, 0.2])
    change = jnp.array([0.3, 0.6, -0.9])
    twins = ppl.counterfactual(chain, {"x": change})
    trace = seeded(lambda: ppl.simulate(lambda: jax.vmap(twins)(start, ys)))
    once, changed = trace.value
    close(once, ys)
    close(changed, 2.0 * change + ys - 2.0 * trace.choices["x"])
    outer = ppl.counterfactual(lambda: jax.vmap(chain)(start, ys), {"x": jnp.stack([change] * 2)})
    close(seeded(ppl.condition(outer, trace.choices))[1], changed)
    moved = {"x": jnp.stack([change] * 2)}
    (a, b), (c, d) = seeded(ppl.counterfactual(outer, moved))
    close(a, ys), close(b, d), close(c, d)  # the second change reaches the first world alone


def test_branches_that_one_world_alone_takes():
    """What only the changed world reaches is drawn there; what both reach is coupled."""

    def program():
        x = sample("x", NORMAL)
        near = lambda: (
            sample("both", dist.Normal(x, 1.0)) + 0.0 * sample("near", dist.Gamma(2.0, 1.0))
        )
        far = lambda: sample("both", dist.Normal(-x, 3.0)) + sample("far", dist.Normal(5.0, 0.1))
        return lax.cond(x < 1.0, near, far)

    lanes = lambda: jax.vmap(lambda _: program())(jnp.arange(1))[0]
    for each, at in ((program, lambda x: x), (lanes, lambda x: jnp.ones(1) * x)):
        seen = ppl.condition(each, {"x": at(0.5), "both": at(2.0)})
        twins = ppl.counterfactual(seen, {"x": at(2.0)})
        trace = seeded(partial(ppl.simulate, twins))
        fresh = trace.choices["counterfactual"]["far"]
        close(trace.value[0], 2.0)
        close(trace.value[1], -2.0 + 3.0 * (2.0 - 0.5) + jnp.sum(fresh))
        scores = dist.Gamma(2.0, 1.0).log_prob(trace.choices["near"]).sum()
        close(trace.log_density, scores + dist.Normal(5.0, 0.1).log_prob(fresh).sum())
        valid = trace.valid["counterfactual"]
        assert bool(valid["far"]) and not valid["near"] and not valid.get("both", False)
    slope = jax.grad(lambda x: seeded(ppl.counterfactual(seen, {"x": jnp.ones(1) * x}))[1])(2.0)
    close(slope, -1.0)  # nothing of the branch that is not reached


def test_one_line_of_code_in_two_branches():
    """A helper that JAX has traced once draws from what each branch gives it."""
    helper = jax.jit(lambda loc: sample("y", dist.Normal(loc, 1.0)))

    def program():
        return lax.cond(sample("x", NORMAL) > 0, lambda: helper(1.0), lambda: helper(5.0))

    seen = ppl.condition(program, {"x": -1.0, "y": 5.5})
    close(seeded(ppl.counterfactual(seen, {"x": 1.0})), [5.5, 1.5])


def test_keys_of_the_program_are_the_same():
    def program():
        noise = lambda *_: jax.random.normal(ppl.fresh_key())
        x = sample("x", NORMAL)
        steps = lax.scan(lambda c, _: (c + noise(), None), 0.0, None, 3)[0]
        loop = lax.while_loop(lambda s: s[0] < 2, lambda s: (s[0] + 1, s[1] + noise()), (0, 0.0))[1]
        return x, jnp.stack([noise(), steps, loop, *jax.vmap(noise)(jnp.arange(2))])

    (_, once), (x, changed) = seeded(ppl.counterfactual(program, {"x": 4.0}))
    np.testing.assert_array_equal(once, changed)
    assert x == 4.0 and len(np.unique(once)) == 5


# --- other families, by their quantiles -----------------------------------------------------------

mixture = lambda w: dist.MixtureSameFamily(
    dist.Categorical(probs=jnp.stack([w, 1.0 - w], -1)), dist.Normal(jnp.array([-1.0, 2.0]), 1.0)
)
FAMILIES = {
    "exponential": (lambda a: dist.Exponential(a), lambda a: stats.expon(scale=1 / a)),
    "gamma": (lambda a: dist.Gamma(a, 2.0), lambda a: stats.gamma(a, scale=0.5)),
    "gamma rate": (lambda a: dist.Gamma(2.0, a), lambda a: stats.gamma(2.0, scale=1 / a)),
    "beta": (lambda a: dist.Beta(a, 1.5), lambda a: stats.beta(a, 1.5)),
    "student": (lambda a: dist.StudentT(3.0, a, a), lambda a: stats.t(3.0, a, a)),
    "student df": (lambda a: dist.StudentT(2 * a), lambda a: stats.t(2 * a)),
    "weibull": (lambda a: dist.Weibull(a, a), lambda a: stats.weibull_min(a, scale=a)),
    "inverse gamma": (lambda a: dist.InverseGamma(a, 1.0), lambda a: stats.invgamma(a)),
    "pareto": (lambda a: dist.Pareto(1.0, a), lambda a: stats.pareto(a)),
    "kumaraswamy": (lambda a: dist.Kumaraswamy(1.0, a), lambda a: stats.beta(1.0, a)),
    "uniform": (lambda a: dist.Uniform(-a, a), lambda a: stats.uniform(-a, 2 * a)),
    "truncated": (
        lambda a: dist.TruncatedNormal(0.0, a, low=-1.0, high=2.0),
        lambda a: stats.truncnorm(-1 / a, 2 / a, scale=a),
    ),
    "folded scale": (lambda a: dist.HalfCauchy(a), lambda a: stats.halfcauchy(scale=a)),
}


@pytest.mark.parametrize("name", [*FAMILIES, "mixture"])
def test_values_keep_their_quantiles(name):
    """x' = F'⁻¹(F(x)), with derivatives in what is changed by finite differences."""
    make, law = FAMILIES.get(name, (mixture, None))
    if name == "truncated" and "cdf" not in vars(dist.TwoSidedTruncatedDistribution):
        pytest.skip("this NumPyro has no distribution function of it")
    at = jnp.array([0.05, 0.2, 0.4, 0.9])

    def program(x):
        return sample("x", make(sample("a", dist.HalfNormal(1.0)) * jnp.ones(4)), obs=x)

    def moved(a):
        xs = at if law is None else jnp.asarray(law(0.8).ppf(np.asarray(at)), jnp.float32)
        twins = ppl.counterfactual(partial(program, xs), {"a": a})
        return ppl.seed(ppl.condition(twins, {"a": 0.8}))(KEY)[1]

    if law is None:
        make_at = lambda a: make(a * jnp.ones(4))
        close(make_at(0.3).cdf(jax.jit(moved)(0.3)), make_at(0.8).cdf(at))
        return
    close(jax.jit(moved)(1.3), law(1.3).ppf(np.asarray(at)), rtol=2e-4)
    if name not in ("beta", "student df"):  # JAX has no derivative of these distribution functions
        exact = (law(1.3 + 1e-4).ppf(at) - law(1.3 - 1e-4).ppf(at)) / 2e-4
        np.testing.assert_allclose(jax.jit(jax.jacobian(moved))(1.3), exact, rtol=2e-3, atol=1e-3)


@pytest.mark.parametrize(
    "family, at, before, after",
    [
        (lambda a: dist.Gamma(a, 1.0), 60.0, 2.0, 3.0),
        (lambda a: dist.Gamma(a, 1.0), 0.1, 20.0, 25.0),
        (lambda a: dist.Beta(2.0, a), 0.999, 5.0, 6.0),
    ],
)
def test_no_number_where_the_digits_are_lost(family, at, before, after):
    """Near an end of the support too, and not at the end itself."""
    program = lambda x: sample("x", family(sample("a", NORMAL)), obs=x)
    twins = lambda x: ppl.condition(ppl.counterfactual(partial(program, x), {"a": after}),
                                    {"a": before})  # fmt: skip
    assert jnp.isnan(seeded(twins(at))[1])
    assert seeded(twins(0.0))[1] == 0.0


def test_no_digits_are_lost_near_zero():
    """Where the chance of what is less, about 2x³, is far below the digits of one less it."""
    program = lambda: sample("x", dist.Kumaraswamy(sample("a", NORMAL), 2.0), obs=0.001)
    twins = ppl.condition(ppl.counterfactual(program, {"a": 10.0}), {"a": 3.0})
    close(seeded(twins)[1], 0.001**0.3)


# --- finite families: the sum over the intervals of their noise -----------------------------------

ROWS = np.array([[0.2, 0.3, 0.5], [0.5, 0.4, 0.1]])
LAST = np.array([0.9, 0.5, 0.15])


def switches():
    a = sample("a", dist.Bernoulli(0.4))
    b = sample("b", dist.Categorical(probs=jnp.asarray(ROWS, jnp.float32)[a]))
    return sample("c", dist.Bernoulli(jnp.asarray(LAST, jnp.float32)[b]))


def of_quantiles(rows, u):
    return np.searchsorted(np.cumsum(rows), u)


def enumerated(a, seen_c):
    """P(c' | c) with a changed, by the product of intervals of the three quantiles."""
    grids = [[0.6], np.cumsum(ROWS), np.cumsum(ROWS[0]), np.cumsum(ROWS[1]), 1 - LAST]
    cuts = [[0.0, 0.6, 1.0]]
    cuts.append(np.unique(np.clip(np.concatenate([[0.0], *grids[2:4]]), 0, 1)))
    cuts.append(np.unique(np.concatenate([[0.0, 1.0], grids[4]])))
    weights = np.zeros(2)
    for i, p in enumerate(np.diff(cuts[0])):
        for j, q in enumerate(np.diff(cuts[1])):
            for k, r in enumerate(np.diff(cuts[2])):
                ub, uc = (cuts[1][j] + q / 2, cuts[2][k] + r / 2)
                b, changed = of_quantiles(ROWS[i], ub), of_quantiles(ROWS[a], ub)
                c, other = (int(uc > 1 - LAST[x]) for x in (b, changed))
                weights[other] += p * q * r * (c == seen_c)
    return weights / weights.sum()


def test_finite_sites_by_enumeration():
    """P(c' | c = 1, do a): by `Exact` given the evidence, and as a value without variance."""

    def posterior(twins):
        only = ppl.marginal(twins, ["c", "counterfactual/c"], Exact())
        score = lambda x: ppl.log_density(only, {"c": 1, "counterfactual": {"c": x}})
        return jax.nn.softmax(jax.vmap(score)(jnp.arange(2)))

    def joint(twins):
        summed = ppl.with_estimators(twins, {"*": Enumerate()})
        return ppl.expectation(lambda: (lambda c, d: 1.0 * c * d)(*summed()))(KEY)

    twins = partial(ppl.counterfactual, switches)
    evidence = (0.6 * ROWS[0] + 0.4 * ROWS[1]) @ LAST
    close(jax.jit(lambda: posterior(twins({"a": 1})))(), enumerated(1, 1))
    close(jax.jit(lambda: joint(twins({"a": 0})))() / evidence, enumerated(0, 1)[1])


def test_finite_sites_have_unbiased_gradients():
    """In what both worlds' distributions are made of, by scores and by enumeration."""

    def cost(p, twins):
        b, changed = twins(p)
        return 1.0 * b * (1.0 + changed) + jnp.cos(1.0 * changed)

    def program(p):
        a = sample("a", dist.Bernoulli(p))
        return sample("b", dist.Binomial(2, jnp.stack([p, 1.0 - 0.5 * p])[a]))

    def exact(p):
        chances = lambda q: jnp.stack([(1 - q) ** 2, 2 * q * (1 - q), q**2])
        tops = lambda q: jnp.cumsum(chances(q))
        total = 0.0
        for a, weight in ((0, 1.0 - p), (1, p)):
            mine, theirs = tops(jnp.stack([p, 1.0 - 0.5 * p])[a]), tops(1.0 - 0.5 * p)
            low = lambda tops, i: tops[i - 1] if i else 0.0
            for i in range(3):
                for j in range(3):
                    top = jnp.minimum(mine[i], theirs[j])
                    share = jnp.maximum(top - jnp.maximum(low(mine, i), low(theirs, j)), 0.0)
                    total += weight * share * (i * (1.0 + j) + jnp.cos(1.0 * j))
        return total

    twins = ppl.counterfactual(program, {"a": 1})
    assert_unbiased(partial(cost, twins=twins), 0.3, exact=exact, key=KEY)
    summed = ppl.with_estimators(twins, {"*": Enumerate()})
    assert_unbiased(partial(cost, twins=summed), 0.3, exact=exact, key=KEY, num_samples=4)


@pytest.mark.parametrize("lanes", [False, True])
def test_gradients_of_what_one_world_alone_reaches(lanes):
    """b is drawn there where it was not before: E[b' (1 + a)] = (1 + p)², in lanes as well."""

    def program(p):
        a = sample("a", dist.Bernoulli(p))
        b = lambda: sample("b", dist.Bernoulli(p)) + sample("c", dist.Gamma(1.0, 1.0))
        return jnp.stack([1.0 * a, lax.cond(a == 1, b, lambda: 0.0)])

    def cost(p):
        change = {"a": jnp.ones((1,) * lanes, int)}
        run = lambda p: jax.vmap(program)(jnp.ones(1) * p)[0] if lanes else program(p)
        (a, _), (_, b) = ppl.counterfactual(run, change)(p)
        return b * (1.0 + a)

    assert_unbiased(cost, 0.3, exact=lambda p: (1.0 + p) * (1.0 + p), key=KEY)


def test_finite_sites_in_batches_branches_and_lanes():
    """Elements, one-hot vectors, moved values; unchanged chances; values of no chance."""

    def program():
        x = sample("x", NORMAL)
        odds = sample("odds", dist.Bernoulli(logits=x + jnp.zeros((2, 3))).to_event(1))
        hot = jax.vmap(lambda s: sample("hot", OneHotCategorical(logits=s * x * jnp.arange(3.0))))(
            jnp.array([0.0, 1.0])
        )
        twice = dist.transforms.AffineTransform(1.0, 2.0)
        count = sample(
            "n", dist.TransformedDistribution(dist.Binomial(3, jax.nn.sigmoid(x)), twice)
        )
        pick = lax.cond(x > 0, lambda: sample("k", dist.Bernoulli(0.7)), lambda: 0)
        return odds, hot, count, pick

    twins = ppl.counterfactual(program, {"x": 8.0})
    run = lambda key: ppl.seed(ppl.condition(twins, {"x": -0.5}))(key)
    once, changed = jax.jit(jax.vmap(run))(jax.random.split(KEY, 4000))
    assert bool(jnp.all(changed[0] >= once[0]))  # monotone
    np.testing.assert_array_equal(once[1][:, 0], changed[1][:, 0])  # of logits zero in both worlds
    rank = lambda hot: jnp.argmax(hot[:, 1], -1)
    assert bool(jnp.all(rank(changed[1]) >= rank(once[1])))
    assert bool(jnp.all(changed[2] >= once[2])) and np.isin(changed[2], [1.0, 3.0, 5.0, 7.0]).all()
    assert not once[3].any() and abs(changed[3].mean() - 0.7) < 5 * (0.21 / 4000) ** 0.5
    same = ppl.counterfactual(switches, {"a": 0})
    first, second = jax.jit(jax.vmap(lambda key: ppl.seed(ppl.condition(same, {"a": 0}))(key)))(
        jax.random.split(KEY, 100)
    )
    np.testing.assert_array_equal(first, second)
    never = lambda: sample(
        "k", dist.Categorical(probs=jnp.array([0.5, 0.0, 0.5]) + 0.0 * sample("a", NORMAL)), obs=1
    )
    assert int(seeded(ppl.counterfactual(never, {"a": 1.0}))[1]) in (0, 1, 2)


def test_a_finite_site_of_numbers_beyond_the_digits_of_floats():
    class Identifiers(eqx.Module):
        """One of two numbers that are the same in single precision."""

        chance: jax.Array
        batch_shape = event_shape = ()

        def sample(self, key):
            return self.enumerate_support()[jax.random.bernoulli(key, self.chance).astype(int)]

        def log_prob(self, value):
            return jnp.log(jnp.where(value == 2**24 + 1, self.chance, 1.0 - self.chance))

        def enumerate_support(self, expand=True):
            return jnp.array([2**24, 2**24 + 1])

    program = lambda: sample("y", Identifiers(jax.nn.sigmoid(sample("x", NORMAL))), obs=2**24 + 1)
    twins = ppl.condition(ppl.counterfactual(program, {"x": 1.0}), {"x": 0.0})
    assert int(seeded(twins)[1]) == 2**24 + 1  # the greater one is likelier there


# --- Pearl's three steps, with the noise written out ----------------------------------------------


def test_three_steps_by_importance_sampling():
    """A program of named noise, weighted by hand, and the coupling of its sites."""

    def sites():
        u = sample("u", NORMAL)
        t = sample("t", dist.Bernoulli(logits=u))
        return sample("y", dist.Gamma(2.0, jnp.exp(-0.5 * t - 0.3 * u)))

    keys = jax.random.split(KEY, 2)
    u, t = jax.random.normal(keys[0], (200_000,)), jax.random.uniform(keys[1], (200_000,))
    treated = t > jax.nn.sigmoid(-u)
    rate = jnp.exp(-0.5 * treated - 0.3 * u)
    weights = np.asarray(stats.gamma(2.0, scale=1 / np.asarray(rate)).pdf(3.0))
    other = np.asarray(3.0 * rate / jnp.exp(-0.3 * u))
    exact = np.sum(weights * other) / weights.sum()
    posterior = ppl.normalize(sites, {"y": 3.0}, Importance(200))

    def query():
        twins = ppl.counterfactual(sites, {"t": 0})
        return ppl.condition(twins, {"y": 3.0, **posterior()})()[1]

    found = np.asarray(jax.jit(jax.vmap(ppl.seed(query)))(jax.random.split(KEY, 4000)))
    assert abs(found.mean() - exact) < 5 * found.std() / 4000**0.5 + 0.01


def test_the_second_value_alone_has_the_law_of_an_intervention():
    program = lambda: (lambda v: v["y"] * v["m"] + v["u"])(treatment())
    runs = [
        lambda: ppl.counterfactual(program, {"t": 0.4})()[1],
        ppl.intervene(program, {"t": 0.4}),
    ]
    found = [
        np.asarray(jax.jit(jax.vmap(ppl.seed(run)))(jax.random.split(key, 20_000)))
        for run, key in zip(runs, jax.random.split(KEY), strict=True)
    ]
    for power in (1, 2):
        a, b = (x**power for x in found)
        assert abs(a.mean() - b.mean()) < 5 * ((a.var() + b.var()) / 20_000) ** 0.5


# --- compound sites, and what is refused ----------------------------------------------------------


def test_compound_sites():
    pair = lambda x=0.0: sample("b", dist.Normal(sample("a", dist.Normal(x, 1.0)), 1.0))

    def program():
        x = sample("x", NORMAL)
        both = ppl.marginal(pair, "b", Exact())()
        return sample("y", dist.Normal(x + both["b"], 1.0)) - both["b"]

    once, changed = seeded(ppl.counterfactual(program, {"x": 1.0}))
    choices = choices_of(ppl.counterfactual(program, {"x": 1.0}))
    close(changed - once, 1.0 - choices["x"])
    once, changed = seeded(ppl.counterfactual(program, {"b": 1.0}))
    close(changed, once)  # x + b + noise - b

    def reached():
        return ppl.marginal(pair, "b", Exact())(sample("x", NORMAL))["b"]

    with pytest.raises(errors.UncoupledSite, match=r"'b' at .*noise is not known"):
        seeded(ppl.counterfactual(reached, {"x": 1.0}))
    assert seeded(ppl.counterfactual(reached, {"x": 1.0, "b": 2.0}))[1] == 2.0


def test_factors_and_points():
    def program():
        x = sample("x", NORMAL)
        sample("f", dist.Unit(x), obs=jnp.zeros(0))
        return sample("d", dist.Delta(2.0 * x))

    close(seeded(ppl.counterfactual(program, {"x": 3.0}))[1], 6.0)


@pytest.mark.parametrize(
    "site",
    [
        lambda x: sample("y", dist.Poisson(jnp.exp(x))),
        lambda x: sample("y", dist.Dirichlet(jnp.exp(x) * jnp.ones(3))),
        lambda x: sample("y", dist.FoldedDistribution(dist.Normal(x, 1.0))),
        lambda x: sample("y", dist.VonMises(x, 1.0)),
    ],
)
def test_unknown_noise_is_refused(site):
    program = lambda: site(sample("x", NORMAL))
    with pytest.raises(
        errors.UncoupledSite, match=r"'y' at .*test_counterfactual.*ppl\.counterfact"
    ):
        seeded(ppl.counterfactual(program, {"x": 1.0}))


@pytest.mark.skipif(
    not hasattr(dist, "RightCensoredDistribution"), reason="this release has no such distribution"
)
def test_censored_data_are_refused():
    """Their noise lies anywhere beyond them."""
    censored = lambda x: dist.RightCensoredDistribution(dist.Normal(x, 1.0), jnp.array(True))
    program = lambda: sample("y", censored(sample("x", NORMAL)), obs=2.0)
    with pytest.raises(errors.UncoupledSite, match=r"'y' at .*censored"):
        seeded(ppl.counterfactual(program, {"x": 1.0}))


def test_own_distributions_are_known_by_what_they_state():
    class Own(dist.Normal):
        """Twice as wide as it would be."""

        def sample(self, key, sample_shape=()):
            return self.loc + 2.0 * self.scale * jax.random.normal(key, sample_shape)

        def log_prob(self, value):
            return dist.Normal(self.loc, 2.0 * self.scale).log_prob(value)

    class Stated(Own):
        def cdf(self, value):
            return dist.Normal(self.loc, 2.0 * self.scale).cdf(value)

    program = lambda kind: sample("y", kind(0.0, jnp.exp(sample("x", NORMAL))), obs=1.0)
    with pytest.raises(errors.UncoupledSite):
        seeded(ppl.counterfactual(partial(program, Own), {"x": 1.0}))
    twins = ppl.condition(ppl.counterfactual(partial(program, Stated), {"x": 1.0}), {"x": 0.0})
    close(seeded(twins)[1], jnp.exp(1.0), rtol=1e-4)


def test_changes_are_checked():
    with pytest.raises(errors.UnusedChoice, match="'z'"):
        seeded(ppl.counterfactual(treatment, {"z": 1.0}))
    with pytest.raises(errors.ChoiceShapeError, match="'t'"):
        seeded(ppl.counterfactual(treatment, {"t": jnp.zeros(2)}))

    def loop():
        x = sample("x", NORMAL)
        return lax.while_loop(lambda s: s < 3.0, lambda s: s + sample("y", dist.HalfNormal(1.0)), x)

    with pytest.raises(errors.UnsupportedControlFlow, match=r"'y' .*noise of one run"):
        seeded(ppl.counterfactual(loop, {"x": 1.0}))
