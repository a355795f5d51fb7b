"""What a mask leaves out of one site, or of a compound one: parameters, data and choices.

Each program is compared with the same one without the elements that are left out.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

import ppl
from ppl import sample
from stdlib.inference import Exact, Importance

KEY = jax.random.key(0)
NAN, INF = jnp.nan, jnp.inf
SEEN = jnp.array([True, False, True])
KEPT = np.array([0, 2])


def close(one, other, rtol=1e-4):
    jax.tree.map(partial(np.testing.assert_allclose, rtol=rtol, atol=1e-5), one, other)


# --- parameters of elements -----------------------------------------------------------------------

# of t, which elements share, and of a parameter of each; what it is where it is bad; two values
ELEMENTS = {
    "normal": (lambda t, s: dist.Normal(t, s), [1.0, 0.0, 2.0], [0.5, 0.1, 1.0]),
    "student": (lambda t, s: dist.StudentT(t + 2.0, 0.0, s), [1.0, -1.0, 2.0], [0.5, 0.1, 1.0]),
    "log-normal": (lambda t, s: dist.LogNormal(t, s), [1.0, NAN, 2.0], [0.5, 0.1, 1.0]),
    "gamma": (lambda t, r: dist.Gamma(t, r), [1.0, -1.0, 2.0], [0.5, 0.1, 1.0]),
    "beta": (lambda t, a: dist.Beta(a, t), [1.0, -1.0, 2.0], [0.5, 0.1, 0.7]),
    "uniform": (lambda t, a: dist.Uniform(a - 2.0, t + 2.0), [0.1, NAN, 0.2], [0.5, 0.1, 0.7]),
    "truncated": (lambda t, m: dist.TruncatedNormal(m, t, low=0.0), [0.1, INF, 0.2],
                  [0.5, 0.1, 0.7]),
    "bernoulli": (lambda t, p: dist.Bernoulli(p + t / 2), [0.1, NAN, 0.2], [0.0, NAN, 1.0]),
    "binomial": (lambda t, p: dist.Binomial(4, p + t / 2), [0.1, NAN, 0.2], [0.0, NAN, 3.0]),
    "negative binomial": (lambda t, m: dist.NegativeBinomial2(m, t), [1.0, -1.0, 2.0],
                          [0.0, 2.0, 3.0]),
    "zero-inflated": (lambda t, r: dist.ZeroInflatedPoisson(t, r), [1.0, 0.0, 2.0],
                      [0.0, NAN, 3.0]),
    "categorical": (lambda t, a: dist.Categorical(logits=a[:, None] + t * jnp.arange(3.0)),
                    [1.0, INF, 2.0], [0, 2, 1]),
    "multivariate": (lambda t, a: dist.MultivariateNormal(
        a[:, None] * jnp.ones(2), jnp.eye(2) + t), [1.0, NAN, 2.0], np.ones((3, 2))),
    "dirichlet": (lambda t, a: dist.Dirichlet(a[:, None] * jnp.stack([t, 1.0])), [1.0, -1.0, 2.0],
                  np.full((3, 2), 0.5)),
    "mixture": (lambda t, s: dist.MixtureSameFamily(
        dist.Categorical(probs=jnp.stack([t, 1 - t])),
        dist.Normal(jnp.zeros(2), s[:, None])), [1.0, 0.0, 2.0], [0.5, 0.1, 1.0]),
    "expanded": (lambda t, s: dist.Normal(t, s).expand([3]), [1.0, 0.0, 2.0], [0.5, 0.1, 1.0]),
}  # fmt: skip


@pytest.mark.parametrize("name", ELEMENTS)
def test_parameters_of_elements(name):
    family, bad, data = ELEMENTS[name]
    bad, data = jnp.array(bad), jnp.array(data)

    def by_mask(t, a):
        masked = ppl.mask(lambda: sample("y", family(t, a), obs=data), SEEN)
        return ppl.log_density(masked, {})

    def by_distribution(t, a):
        event = lambda: sample("y", family(t, a).mask(SEEN).to_event(1), obs=data)
        return ppl.log_density(event, {})

    good = jnp.where(SEEN, bad, bad[0])
    exact = lambda t, a: jnp.sum(
        family(t, a).log_prob(jnp.where(SEEN.reshape(3, *[1] * (data.ndim - 1)), data, data[0])),
        where=SEEN,
    )
    want = jax.jit(jax.value_and_grad(exact, (0, 1)))(0.4, good)
    for program in (by_mask, by_distribution):
        value, (shared, own) = jax.jit(jax.value_and_grad(program, (0, 1)))(0.4, bad)
        close((value, shared), (want[0], want[1][0]), rtol=1e-3)
        close(own[KEPT], want[1][1][KEPT], rtol=1e-3)
        assert own[1] == 0.0
        forward = jax.jit(jax.jacfwd(program))(0.4, bad)
        close(forward, want[1][0], rtol=1e-3)


def test_dimensions_that_a_mask_shares():
    """Scales by row, means by column; a row is left out, and one element besides."""
    scales, means = jnp.array([[1.0], [0.0], [2.0]]), jnp.array([0.3, -0.2])
    seen = jnp.array([[True, True], [False, False], [True, False]])
    data = jnp.array([[0.5, 1.0], [NAN, 1.0], [0.2, NAN]])

    def program(t, scales, means):
        return ppl.log_density(
            ppl.mask(lambda: sample("y", dist.Normal(t + means, scales), obs=data), seen), {}
        )

    def exact(t, scales, means):
        first = dist.Normal(t + means, scales[0]).log_prob(data[0]).sum()
        return first + dist.Normal(t + means[0], scales[2, 0]).log_prob(0.2)

    found = jax.jit(jax.value_and_grad(program, (0, 1, 2)))(0.4, scales, means)
    close(found, jax.jit(jax.value_and_grad(exact, (0, 1, 2)))(0.4, scales, means))


def test_all_elements_left_out():
    nothing = jnp.zeros(3, bool)
    data = jnp.array([NAN, 1.0, INF])

    def program(t, s):
        masked = ppl.mask(lambda: sample("y", dist.Normal(t, s), obs=data), nothing)
        return ppl.log_density(masked, {}) + ppl.log_density(
            lambda: sample("z", dist.Normal(t, s).mask(False).to_event(1), obs=data), {}
        )

    found = jax.jit(jax.value_and_grad(program, (0, 1)))(0.4, jnp.array([0.0, NAN, -1.0]))
    close(found, (0.0, (0.0, jnp.zeros(3))))


NESTED = {
    "to_event": lambda d: d.expand([3]).mask(SEEN).to_event(1),
    "expanded": lambda d: d.expand([3]).mask(SEEN).expand([2, 3]),
    "to_event, expanded": lambda d: d.expand([3]).mask(SEEN).to_event(1).expand((2,)),
    "twice": lambda d: d.expand([3]).mask(SEEN).to_event(1).mask(True),
    "both": lambda d: d.expand([2, 3]).mask(SEEN).to_event(1).mask(jnp.array([True, False])),
}


@pytest.mark.parametrize("name", NESTED)
@pytest.mark.parametrize("family", [lambda t: dist.Normal(t, 1.0), dist.Poisson, dist.Geometric])
def test_missing_data_under_masks_within_a_distribution(name, family):
    full = lambda t: NESTED[name](family(t))
    shape = full(0.4).shape()
    data = jnp.broadcast_to(jnp.array([1.0, NAN, 2.0]), shape)
    if name == "both":
        data = data.at[1].set(NAN)
    copies = {"expanded": 2, "to_event, expanded": 2}.get(name, 1)
    exact = lambda t: copies * jnp.sum(family(t).log_prob(jnp.array([1, 2])))
    program = lambda t, y: ppl.log_density(lambda: sample("y", full(t), obs=y), {})
    close(program(0.4, data), exact(0.4))
    close(jax.jit(jax.value_and_grad(program))(0.4, data), jax.jit(jax.value_and_grad(exact))(0.4))
    given = lambda t, y: ppl.log_density(lambda: sample("y", full(t)), {"y": y})
    close(jax.jit(jax.value_and_grad(given))(0.4, data), jax.jit(jax.value_and_grad(exact))(0.4))
    if family is dist.Poisson:
        assert np.isneginf(jax.jit(program)(0.4, data.at[(0,) * len(shape)].set(0.5)))


def test_a_table_of_the_batch_s_length_is_no_parameter_of_elements():
    """An event's parameter may have the shape of the batch by chance: all of it counts."""
    mean = jnp.array([0.3, 0.1, -0.2])
    data = jnp.array([[0.5, 1.0, 0.1], [NAN] * 3, [0.2, 0.0, 1.0]])

    def program(mean):
        family = dist.MultivariateNormal(
            mean, jnp.eye(3) * jnp.array([1.0, 1.0, 2.0])[:, None, None]
        )
        return ppl.log_density(ppl.mask(lambda: sample("y", family, obs=data), SEEN), {})

    close(jax.jit(jax.grad(program))(mean), (data[0] - mean) + (data[2] - mean) / 2.0)


def test_exact_evidence_beside_constant_parameters():
    """x ~ N(0, t²), y ~ N(x, s²) of known scales."""
    scales = np.array([1.0, 3.0, 2.0], np.float32)
    data = jnp.array([1.0, NAN, 2.0])

    def program(t):
        x = sample("x", dist.Normal(0.0, t))
        ppl.mask(lambda: sample("y", dist.Normal(x * jnp.ones(3), scales), obs=data), SEEN)()

    def exact(t):
        cov = t**2 + jnp.diag(jnp.array([1.0, 4.0]))
        return dist.MultivariateNormal(jnp.zeros(2), cov).log_prob(data[KEPT])

    evidence = lambda t: Exact().log_evidence(ppl.extend.Target(partial(program, t), {}))
    close(*(jax.jit(jax.value_and_grad(f))(1.3) for f in (evidence, exact)), rtol=1e-3)


# --- compound sites -------------------------------------------------------------------------------


def pair(t):
    sample("y", dist.Normal(sample("x", dist.Normal(0.0, t)), 1.0))


def flip(t):
    sample("y", dist.Poisson(1.0 + sample("x", dist.Bernoulli(t))))


def only_y(program, algorithm=None):
    algorithm = algorithm or Exact()
    return lambda t: ppl.marginal(program, ("y",), algorithm)(t)


def exact_pair(t, y):
    return dist.Normal(0.0, jnp.sqrt(1 + t**2)).log_prob(y)


def exact_flip(t, y):
    heads, tails = dist.Poisson(2.0).log_prob(y), dist.Poisson(1.0).log_prob(y)
    return jnp.logaddexp(jnp.log(t) + heads, jnp.log(1 - t) + tails)


@pytest.mark.parametrize(
    "program, exact",
    [(pair, exact_pair), pytest.param(flip, exact_flip, marks=pytest.mark.law)],
)
def test_marginals_of_missing_data(program, exact):
    data = jnp.array([1.0, NAN, 2.0])
    row = lambda t, ok: ppl.mask(lambda: only_y(program)(t), ok)()
    rows = lambda t: jax.vmap(row, (None, 0))(t, SEEN)

    def ways(t, y):
        observed = ppl.condition(rows, {"y": y})
        one = ppl.mask(ppl.condition(partial(only_y(program), t), {"y": y[1]}), False)
        simulated = ppl.seed(lambda: ppl.simulate(observed, t))(KEY).log_likelihood
        return [ppl.log_density(rows, {"y": y}, t), ppl.log_density(observed, {}, t),
                simulated + ppl.log_density(one, {})]  # fmt: skip

    total = lambda t: jnp.sum(exact(t, jnp.array([1, 2])))
    for missing in (NAN, INF):
        y = data.at[1].set(missing)
        values, slopes = jax.jit(lambda y: (ways(0.4, y), jax.jacrev(ways)(0.4, y)))(y)
        close((values, slopes), ([total(0.4)] * 3, [jax.jit(jax.grad(total))(0.4)] * 3), rtol=1e-3)
        close(jax.jit(jax.jacfwd(ways))(0.4, y), [jax.jit(jax.grad(total))(0.4)] * 3, rtol=1e-3)


def test_marginals_in_branches_that_are_not_taken():
    data, scales = jnp.array([1.0, NAN, 2.0]), jnp.array([1.0, -1.0, 4.0])

    def lane(t, s, y):
        def taken():
            ppl.condition(partial(only_y(flip), jnp.sqrt(s) * t), {"y": y})()

        jax.lax.cond(s > 0, taken, lambda: None)

    program = lambda t: jax.vmap(lane, (None, 0, 0))(t, scales, data)
    exact = lambda t: exact_flip(t, 1) + exact_flip(2 * t, 2)
    found = jax.jit(jax.value_and_grad(partial(ppl.log_density, program, {})))(0.3)
    close(found, jax.jit(jax.value_and_grad(exact))(0.3))


def test_posteriors_at_missing_choices():
    data, at = jnp.array([1.0, NAN, 2.0]), jnp.array([0.3, NAN, 0.4])
    posterior = lambda t, y: ppl.normalize(partial(pair, t), {"y": y}, Exact())
    lanes = lambda t: jax.vmap(lambda y, ok: ppl.mask(posterior(t, y), ok)())(data, SEEN)
    score = lambda t: ppl.log_density(lanes, {"x": at}, t)

    def exact(t):
        share = t**2 / (1 + t**2)
        return dist.Normal(share * data[KEPT], jnp.sqrt(share)).log_prob(at[KEPT]).sum()

    close(
        jax.jit(jax.value_and_grad(score))(0.8), jax.jit(jax.value_and_grad(exact))(0.8), rtol=1e-3
    )


def test_estimated_marginals_of_missing_data():
    """E[w] = p(y) where y is seen, and w = 1 where it is not."""
    data = jnp.array([1.0, NAN])
    row = lambda t, y, ok: ppl.mask(
        ppl.condition(partial(only_y(pair, Importance(2)), t), {"y": y}), ok
    )()
    lanes = lambda t: jax.vmap(row, (None, 0, 0))(t, data, SEEN[:2])
    weight = lambda t: jnp.exp(ppl.log_density(lanes, {}, t))
    run = jax.jit(jax.vmap(jax.value_and_grad(ppl.expectation(weight), 1), (0, None)))
    found = run(jax.random.split(KEY, 4000), 0.8)
    exact = jax.value_and_grad(lambda t: jnp.exp(exact_pair(t, 1.0)))(0.8)
    for draws, want in zip(found, exact, strict=True):
        assert abs(draws.mean() - want) < 5 * draws.std() / np.sqrt(4000)
