"""Sites that are observed in part: `obs_mask`. The oracles are Gaussian algebra and sums."""

from functools import partial
from itertools import product

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
import scipy.stats
from jax import lax

import ppl
from ppl import sample
from ppl._distributions.partly import STANDARD
from ppl.errors import InvalidMask
from ppl.extend import Target, entries, filled, split_event, within_events
from stdlib.distributions import missing_part, observed_part
from stdlib.estimators import Enumerate
from stdlib.inference import Exact

KEY = jax.random.key(0)
NAN = np.nan
MEAN = np.array([0.3, -1.0, 0.5, 0.0])
COVARIANCE = np.array(
    [[2.0, 0.7, 0.2, 0.1], [0.7, 1.5, -0.4, 0.3], [0.2, -0.4, 1.0, 0.5], [0.1, 0.3, 0.5, 1.2]]
)
FACTOR, DIAGONAL = np.array([[1.0], [-0.5], [0.3], [0.8]]), np.array([0.5, 1.0, 0.4, 0.9])
WALK = 0.7 * np.tri(4)
DATA = np.array([[1.0, 0.2, -0.3, 0.4], [NAN] * 4, [NAN, 0.7, NAN, -0.2], [0.1, NAN, 1.2, NAN]])
THERE = np.isfinite(DATA)
REST = np.array([[9.0, 8.0, 7.0, 6.0], [0.1, 0.2, 0.3, 0.4], [1.0, -5.0, 0.5, 4.0], [3, 0, 2, 1.0]])
GAUSSIANS = {
    "dense": (dist.MultivariateNormal(MEAN, COVARIANCE), MEAN, COVARIANCE),
    "low rank": (
        dist.LowRankMultivariateNormal(MEAN, FACTOR, DIAGONAL),
        MEAN,
        FACTOR @ FACTOR.T + np.diag(DIAGONAL),
    ),
    "walk": (dist.GaussianRandomWalk(0.7, 4), np.zeros(4), WALK @ WALK.T),
}


def conditional(mean, covariance, x, there):
    """The mean and the covariance of the missing entries given those that are there."""
    o, u = there, ~there
    gain = np.linalg.solve(covariance[np.ix_(o, o)], covariance[np.ix_(o, u)]).T
    spread = covariance[np.ix_(u, u)] - gain @ covariance[np.ix_(o, u)]
    return mean[u] + gain @ (x[o] - mean[o]), spread


def normal(x, mean, covariance):
    return scipy.stats.multivariate_normal(mean, covariance).logpdf(x) if len(mean) else 0.0


def dense(mean, covariance, x, there, z):
    """The likelihood of what is there; the density of the rest, with standard normal fillers."""
    o, u = there, ~there
    seen = normal(x[o], mean[o], covariance[np.ix_(o, o)])
    rest = normal(z[u], *conditional(mean, covariance, x, there))
    return np.array([seen, rest + scipy.stats.norm.logpdf(z[o]).sum()])


def two_shares(program, z, *args):
    """Compiled as one program, in which the arguments are known as far as they are here."""

    @jax.jit
    def shares():
        trace = ppl.replay(program, {"y_unobserved": z}, *args)
        return jnp.stack([trace.log_likelihood, trace.log_density]), trace.value

    return shares()


def log_density(program, choices):
    """Compiled as one program, in which the choices are known."""
    return jax.jit(lambda: ppl.log_density(program, choices))()


def batch(d, x, there):
    return sample("y", d.expand([4]), obs=x, obs_mask=there)


def independent(d, x, there):
    return sample("y", d.expand([4]).to_event(1), obs=x, obs_mask=there)


def mapped(d, x, there):
    return jax.vmap(lambda x, there: sample("y", d, obs=x, obs_mask=there))(x, there)


def looped(d, x, there):
    step = lambda carry, pair: (carry, sample("y", d, obs=pair[0], obs_mask=pair[1]))
    return lax.scan(step, 0.0, (x, there))[1]


@pytest.mark.parametrize("name", GAUSSIANS)
def test_vectors_of_which_entries_are_missing(name):
    """Marginals and conditionals, with traced masks that differ by lane and by step."""
    d, mean, covariance = GAUSSIANS[name]
    exact = sum(dense(mean, covariance, *row) for row in zip(DATA, THERE, REST, strict=True))

    @jax.jit
    def all_ways(x, there):
        ways = (batch, independent, mapped, looped)
        return [two_shares(partial(way, d), REST, x, there) for way in ways]

    for shares, value in all_ways(DATA, THERE):
        np.testing.assert_allclose(shares, exact, rtol=2e-5)
        np.testing.assert_allclose(value, np.where(THERE, DATA, REST), rtol=1e-6)
    shares, _ = two_shares(partial(batch, d), REST, DATA, THERE)  # a mask that is known
    np.testing.assert_allclose(shares, exact, rtol=2e-5)


def test_draws_of_what_is_missing():
    d, mean, covariance = GAUSSIANS["dense"]
    draws = jax.jit(jax.vmap(ppl.seed(partial(mapped, d)), (0, None, None)))(
        jax.random.split(KEY, 20_000), DATA, THERE
    )
    for row in range(4):
        u = ~THERE[row]
        np.testing.assert_allclose(draws[:, row, ~u], np.tile(DATA[row, ~u], (20_000, 1)))
        if u.any():
            exact, spread = conditional(mean, covariance, DATA[row], THERE[row])
            error = np.sqrt(np.diag(spread) / 20_000)
            assert np.all(np.abs(draws[:, row, u].mean(0) - exact) < 5 * error)
            np.testing.assert_allclose(np.cov(draws[:, row, u].T), spread, atol=0.07)


def test_derivatives_of_marginals_and_conditionals():
    """By finite differences, and zero in what is missing."""
    x, there, z = DATA[2], THERE[2], REST[2]

    def score(mean, root, x):
        d = dist.MultivariateNormal(mean, root @ root.T)
        return ppl.log_density(lambda: sample("y", d, obs=x, obs_mask=there), {"y_unobserved": z})

    root = np.linalg.cholesky(COVARIANCE)
    oracle = lambda mean, root, x: dense(mean, root @ root.T, x, there, z).sum()
    grads = jax.jit(jax.grad(score, (0, 1, 2)))(*map(jnp.array, (MEAN, root, x)))
    at = [MEAN, root, x]
    for i, grad in enumerate(grads):
        assert np.all(np.isfinite(grad))
        direction = np.random.default_rng(i).normal(size=grad.shape)
        ahead, behind = ([*at[:i], at[i] + h * direction, *at[i + 1 :]] for h in (1e-5, -1e-5))
        slope = (oracle(*ahead) - oracle(*behind)) / 2e-5
        np.testing.assert_allclose(np.sum(np.asarray(grad) * direction), slope, rtol=1e-3)
    np.testing.assert_array_equal(grads[2][~there], 0.0)


def test_elements_of_a_batch():
    """Data count by their density, fillers by the standard member's; NaN touches nothing."""
    loc, scale = np.array([0.5, -1.0, 2.0, 0.0]), np.array([1.0, 0.3, 2.0, 0.7])
    x, there, z = DATA[3], THERE[3], REST[3]

    def model(loc, x, there):
        return sample("y", dist.Normal(loc, scale), obs=x, obs_mask=there)

    density = scipy.stats.norm.logpdf
    exact = [
        density(x[there], loc[there], scale[there]).sum(),
        density(z[~there], loc[~there], scale[~there]).sum() + density(z[there]).sum(),
    ]
    for run in (partial(two_shares, model), jax.jit(partial(two_shares, model))):
        shares, value = run(z, loc, x, there)
        np.testing.assert_allclose(shares, exact, rtol=1e-5)
        np.testing.assert_array_equal(value, np.where(there, x, z).astype(np.float32))
    score = lambda loc, x: ppl.log_density(model, {"y_unobserved": z}, loc, x, there)
    by_loc, by_x = jax.grad(score, (0, 1))(jnp.asarray(loc), jnp.asarray(x))
    completed = np.where(there, x, z)
    np.testing.assert_allclose(by_loc, (completed - loc) / scale**2, rtol=1e-4)
    np.testing.assert_allclose(by_x, np.where(there, (loc - completed) / scale**2, 0), rtol=1e-4)
    trace = ppl.replay(model, {"y_unobserved": z}, loc, x, there)
    assert trace.sites["y"].observed and not trace.sites["y_unobserved"].observed
    np.testing.assert_array_equal(trace.sites["y"].factor, there)
    assert [site.address for site in ppl.sites(model, loc, x, there)] == ["y", "y_unobserved"]
    value = jax.ShapeDtypeStruct((4,), float)
    inner, flags = entries(dist.Normal(loc, scale).to_event(1), there, value)
    np.testing.assert_allclose(filled(inner, flags).mean, np.where(there, 0.0, loc), rtol=1e-6)
    whole = within_events(dist.Normal(loc, scale).to_event(1), inner)
    assert (whole.batch_shape, whole.event_shape) == ((), (4,))


def test_whole_events_and_scalar_masks():
    """One flag an event, or one for the site, of any distribution."""
    weights = np.array([2.0, 1.0, 3.0])
    x = np.array([[0.2, 0.3, 0.5], [NAN, NAN, NAN]])
    z = np.array([[0.1, 0.1, 0.8], [0.6, 0.2, 0.2]])
    two = lambda mask: sample("y", dist.Dirichlet(weights).expand([2]), obs=x, obs_mask=mask)
    log = scipy.stats.dirichlet.logpdf
    shares, _ = two_shares(lambda: two(np.array([True, False])), z)
    np.testing.assert_allclose(
        shares, [log(x[0], weights), log(z[1], weights) + log(z[0], np.ones(3))], rtol=1e-5
    )
    shares, value = two_shares(lambda: two(False), z)
    np.testing.assert_allclose(shares, [0.0, sum(log(row, weights) for row in z)], rtol=1e-5)
    np.testing.assert_allclose(value, z, rtol=1e-6)
    d = dist.MultivariateNormal(MEAN, COVARIANCE)
    whole = np.array([True, False, False, True])
    data = np.where(whole[:, None], REST, NAN)
    shares, _ = two_shares(partial(batch, d), REST + 1.0, data, whole)
    of = scipy.stats.multivariate_normal(MEAN, COVARIANCE).logpdf
    fillers = scipy.stats.norm.logpdf(REST[whole] + 1.0).sum()
    exact = [of(REST[whole]).sum(), of(REST[~whole] + 1.0).sum() + fillers]
    np.testing.assert_allclose(shares, exact, rtol=1e-5)
    rows = lambda: sample(
        "y", dist.Normal(0.0, 1.0).expand([4, 4]).to_event(1), obs=data, obs_mask=whole
    )
    assert np.isclose(ppl.replay(rows, {"y_unobserved": REST}).log_likelihood,
                      scipy.stats.norm.logpdf(REST[whole]).sum())  # fmt: skip


def test_scales_masks_and_other_rewritings():
    x, there, z = DATA[2], THERE[2], {"y_unobserved": jnp.asarray(REST[2])}
    vector = lambda: sample("y", GAUSSIANS["dense"][0], obs=x, obs_mask=there)
    elements = lambda: sample("y", dist.Normal(MEAN, 2.0), obs=x, obs_mask=there)
    for program in (vector, elements):
        one = log_density(program, z)
        np.testing.assert_allclose(log_density(ppl.scale(program, 3.0), z), 3 * one, rtol=1e-5)
        assert log_density(ppl.mask(program, False), z) == 0.0
        np.testing.assert_allclose(log_density(ppl.condition(program, z), {}), one, rtol=1e-5)
        scoped = {"a": z}
        np.testing.assert_allclose(log_density(ppl.scope(program, "a"), scoped), one)
        other = np.where(there, 0.5, NAN)
        replaced = ppl.condition(ppl.uncondition(program, "y"), {"y": other})
        written = partial(sample, "y", obs=other, obs_mask=there)
        d = GAUSSIANS["dense"][0] if program is vector else dist.Normal(MEAN, 2.0)
        np.testing.assert_allclose(
            log_density(replaced, z), log_density(lambda d=d, w=written: w(d), z), rtol=1e-5
        )
    first = ppl.mask(elements, jnp.array([True, True, False, False]))
    two = two_shares(lambda: first(), z["y_unobserved"])[0]
    each = ppl.replay(elements, z).sites
    np.testing.assert_allclose(two[0], each["y"].log_prob[1], rtol=1e-5)
    np.testing.assert_allclose(two[1], each["y_unobserved"].log_prob[:2].sum(), rtol=1e-5)
    draws = jax.jit(jax.vmap(ppl.seed(ppl.uncondition(vector, "y"))))(jax.random.split(KEY, 20_000))
    np.testing.assert_allclose(np.cov(draws.T), COVARIANCE, atol=0.1)  # drawn anew, jointly


@pytest.mark.parametrize("part", ["entries", "rows", "vectors"])
def test_factors_are_of_the_batch_that_is_written(part):
    """Those of `scale` and `mask` are one for each row, as where all of it is observed."""
    there = np.tile([[True], [False], [True], [True]], 4) if part == "rows" else THERE
    data, factors = np.where(there, REST - 1.0, NAN), np.array([1.0, 0.0, 3.0, 2.0])
    if part == "vectors":
        d = dist.MultivariateNormal(np.zeros((4, 1, 4)), np.eye(4)).to_event(1)
        there, data, z = (x[:, None] for x in (there, data, REST))
    else:
        d, z = dist.Normal(np.zeros((4, 4)), 1.0).to_event(1), REST
    mask = there[:, 0] if part == "rows" else there
    model = lambda: sample("y", d, obs=data, obs_mask=mask)
    logs = scipy.stats.norm.logpdf(np.where(there, data, z)).reshape(4, 4).sum(1)
    fillers = np.where(there, scipy.stats.norm.logpdf(z), 0.0).reshape(4, 4).sum(1)
    for program, exact in (
        (ppl.scale(model, factors), factors @ (logs + fillers)),
        (ppl.mask(model, factors > 0.0), (factors > 0.0) @ (logs + fillers)),
    ):
        np.testing.assert_allclose(log_density(program, {"y_unobserved": z}), exact, rtol=1e-5)
    alone = lambda: sample("y", observed_part(d, mask), obs=data)
    seen = np.where(there, scipy.stats.norm.logpdf(data), 0.0).reshape(4, 4).sum(1)
    np.testing.assert_allclose(
        log_density(ppl.scale(alone, factors), {}), factors @ seen, rtol=1e-5
    )
    guide = ppl.scale(lambda: sample("y", missing_part(d, mask)), factors)
    exact = factors @ scipy.stats.norm.logpdf(z).reshape(4, 4).sum(1)
    np.testing.assert_allclose(log_density(guide, {"y": z}), exact, rtol=1e-5)


def test_in_one_branch():
    def model(flag, x, there):
        here = lambda: sample("y", dist.Normal(0.0, 2.0).expand([4]), obs=x, obs_mask=there)
        return lax.cond(flag, here, lambda: jnp.zeros(4))

    x, there = DATA[2], THERE[2]
    score = jax.jit(lambda flag: two_shares(jax.vmap(model, (0, None, None)), z, flag, x, there))
    z = np.stack([REST[2], np.full(4, NAN)])
    shares, value = score(np.array([True, False]))
    log = scipy.stats.norm(0.0, 2.0).logpdf
    rest = log(REST[2][~there]).sum() + scipy.stats.norm.logpdf(REST[2][there]).sum()
    np.testing.assert_allclose(shares, [log(x[there]).sum(), rest], rtol=1e-5)
    np.testing.assert_allclose(value, [np.where(there, x, REST[2]), np.zeros(4)], rtol=1e-6)


CHANCES = np.array([0.2, 0.3, 0.9])
CHAIN = np.array([[0.8, 0.2], [0.3, 0.7]])


def test_discrete_entries_are_summed_out():
    """The evidence by a sum over the missing coins, and of a chain by its forward recursion."""

    def coins(x, there):
        b = sample("b", dist.Bernoulli(CHANCES), Enumerate(), obs=x, obs_mask=there)
        sample("t", dist.Normal(1.0 * b.sum(), 1.0), obs=1.5)

    def chain(x, there):
        def step(z, now):
            x, there, count = now
            z = sample("z", dist.Categorical(probs=jnp.asarray(CHAIN)[z]), obs=x, obs_mask=there)
            sample("n", dist.Poisson(jnp.array([1.0, 6.0])[z]), obs=count)
            return z, None

        lax.scan(step, 0, (x, there, np.array([1, 5, 7, 2])))

    def weight(state):
        share = np.prod(np.where(state, CHANCES, 1 - CHANCES))
        return share * scipy.stats.norm(np.sum(state)).pdf(1.5)

    exact = np.log(sum(weight((1, *rest)) for rest in product((0, 1), repeat=2)))
    evidence = lambda model, *args: Exact().log_evidence(Target(partial(model, *args), {}))
    there = np.array([True, False, False])
    for data in ([1.0, NAN, NAN], [1, 7, -3], [1.0, 0.5, np.inf]):
        assert np.isclose(evidence(coins, np.array(data), there), exact, rtol=1e-5)
    traced = jax.jit(partial(evidence, coins))(np.array([1.0, NAN, NAN]), there)
    assert np.isclose(traced, exact, rtol=1e-5)
    alpha = np.array([1.0, 0.0])
    for state, count in zip((0, None, 1, None), (1, 5, 7, 2), strict=True):
        alpha = (alpha @ CHAIN) * scipy.stats.poisson([1.0, 6.0]).pmf(count)
        alpha = alpha if state is None else alpha * np.eye(2)[state]
    there = np.array([True, False, True, False])
    found = jax.jit(partial(evidence, chain))(np.array([0, 9, 1, -3]), there)
    assert np.isclose(found, np.log(alpha.sum()), rtol=1e-5)


def test_a_split_of_ones_own():
    """Of a distribution that is only scored, and states `split_event`."""

    class Pair(eqx.Module):
        """Two normal numbers of which the second has the first as its mean."""

        def log_prob(self, value):
            return dist.Normal(0.0, 1.0).log_prob(value[0]) + dist.Normal(value[0], 1.0).log_prob(
                value[1]
            )

        def split_event(self, mask):
            return split_event(dist.GaussianRandomWalk(1.0, 2), mask)

    x, there, z = np.array([NAN, 2.0]), np.array([False, True]), np.array([0.5, 3.0])
    shares, _ = two_shares(lambda: sample("y", Pair(), obs=x, obs_mask=there), z)
    np.testing.assert_allclose(shares, dense(np.zeros(2), np.tri(2) @ np.tri(2).T, x, there, z))


def test_what_is_missing_may_be_integrated_out():
    """By the marginal alone, and by `marginal` of the program: the same evidence."""
    d, mean, covariance = GAUSSIANS["dense"]
    exact = sum(dense(mean, covariance, *row)[0] for row in zip(DATA, THERE, REST, strict=True))

    def alone(x, there):
        sample("y", observed_part(d.expand([4]), there), obs=x)

    np.testing.assert_allclose(jax.jit(partial(ppl.log_density, alone, {}))(DATA, THERE), exact,
                               rtol=1e-5)  # fmt: skip
    whole = ppl.marginal(partial(mapped, d), [], Exact())
    np.testing.assert_allclose(ppl.log_density(whole, {}, DATA, THERE), exact, rtol=1e-5)
    x, there = DATA[3], THERE[3]
    parts = {"to_event": dist.Normal(MEAN, 2.0).to_event(1), "batch": dist.Normal(MEAN, 2.0)}
    for part in parts.values():
        found = observed_part(part, there)
        np.testing.assert_allclose(
            ppl.log_density(
                lambda found=found: sample("y", found, obs=jnp.where(there, x, 0.0)), {}
            ),
            scipy.stats.norm(MEAN, 2.0).logpdf(x)[there].sum(),
            rtol=1e-5,
        )
    with pytest.raises(InvalidMask, match="does not fit"):
        observed_part(d, np.ones(3, bool))
    with pytest.raises(TypeError, match="Dirichlet"):
        observed_part(dist.Dirichlet(np.ones(3)), np.ones(3, bool))


FAMILIES = {
    "BernoulliLogits": dist.BernoulliLogits(np.array([0.3, -2.0])),
    "BernoulliProbs": dist.BernoulliProbs(np.array([0.3, 0.9])),
    "Beta": dist.Beta(np.array([0.7, 2.0]), 3.0),
    "BinomialLogits": dist.BinomialLogits(np.array([0.3, -2.0]), 5),
    "BinomialProbs": dist.BinomialProbs(0.3, np.array([5, 2])),
    "CategoricalLogits": dist.CategoricalLogits(np.array([0.3, -2.0, 1.0])).expand([2]),
    "CategoricalProbs": dist.CategoricalProbs(np.array([[0.2, 0.8], [0.6, 0.4]])),
    "Cauchy": dist.Cauchy(np.array([0.7, 2.0]), 3.0),
    "Dirichlet": dist.Dirichlet(np.array([[0.7, 2.0], [1.5, 3.0]])),
    "Exponential": dist.Exponential(np.array([0.7, 2.0])),
    "Gamma": dist.Gamma(2.0, np.array([0.7, 2.0])),
    "Gumbel": dist.Gumbel(np.array([0.7, 2.0]), 3.0),
    "HalfCauchy": dist.HalfCauchy(np.array([0.7, 2.0])),
    "HalfNormal": dist.HalfNormal(np.array([0.7, 2.0])),
    "InverseGamma": dist.InverseGamma(2.0, np.array([0.7, 2.0])),
    "Laplace": dist.Laplace(np.array([0.7, 2.0]), 3.0),
    "LogNormal": dist.LogNormal(np.array([0.7, 2.0]), 0.5),
    "Logistic": dist.Logistic(np.array([0.7, 2.0]), 3.0),
    "Normal": dist.Normal(np.array([0.7, 2.0]), 3.0),
    "Poisson": dist.Poisson(np.array([0.7, 2.0])),
    "StudentT": dist.StudentT(np.array([3.0, 5.0]), 1.0, 2.0),
    "Weibull": dist.Weibull(2.0, np.array([0.7, 2.0])),
}


@pytest.mark.law
@pytest.mark.parametrize("name", STANDARD)
def test_fillers_are_standard_members(name):
    """The missing element keeps its law, and the filler has none of the parameters."""
    d = FAMILIES[name]
    there = np.array([True, False])
    given = d.sample(KEY)
    z = d.sample(jax.random.key(1))

    def score(d):
        program = lambda: sample("y", d, obs=given, obs_mask=there)
        return ppl.replay(program, {"y_unobserved": z}).sites["y_unobserved"].log_prob

    found = score(d)
    np.testing.assert_allclose(found[1], d.log_prob(z)[1], rtol=1e-4)
    leaves, treedef = jax.tree.flatten(d)
    slopes = jax.jacobian(lambda real: score(_merged(treedef, leaves, real)))(_real(leaves))
    assert all(np.all(slope[0] == 0.0) for slope in slopes)
    draws = jax.vmap(ppl.seed(lambda: sample("y", d, obs=given, obs_mask=there)))(
        jax.random.split(KEY, 10)
    )
    np.testing.assert_allclose(draws[:, 0], np.tile(given[0], (10,) + (1,) * given[0].ndim))


def _real(leaves):
    return [leaf for leaf in map(jnp.asarray, leaves) if jnp.issubdtype(leaf.dtype, jnp.floating)]


def _merged(treedef, leaves, real):
    rest = iter(real)
    is_real = lambda leaf: jnp.issubdtype(jnp.asarray(leaf).dtype, jnp.floating)
    return treedef.unflatten([next(rest) if is_real(leaf) else leaf for leaf in leaves])
