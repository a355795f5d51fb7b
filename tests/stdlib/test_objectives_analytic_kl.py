"""Divergences in closed form: the same mean, less variance; which sites are rewritten; errors."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

import ppl
from ppl import sample
from ppl.errors import InvalidSetting
from stdlib.objectives import beta_elbo, elbo
from stdlib.testing import QUICK, assert_unbiased, exact_measure
from tests.stdlib.bounds import KEY, dry_run

P = {"slope": 0.7, "mean": 0.4, "log_scale": -0.3, "tie": 0.3}


# --- one tree of normals, below which a site follows another -------------------------------------


def model(p, noise=0.9):
    a = sample("a", dist.Normal(0.0, 1.0))
    b = ppl.scope(lambda: sample("b", dist.Normal(p["slope"] * a, 1.0)), "inner")()
    sample("x", dist.Normal(a + b, noise), obs=1.2)


def guide(p, first=None):
    a = sample("a", dist.Normal(p["mean"], jnp.exp(p["log_scale"])), first)
    ppl.scope(lambda: sample("b", dist.Normal(p["tie"] * a + p["mean"], 0.7)), "inner")()


def backward_guide(p):
    b = ppl.scope(lambda: sample("b", dist.Normal(p["mean"], 0.7)), "inner")()
    sample("a", dist.Normal(p["tie"] * b, jnp.exp(p["log_scale"])))


def expected_square(mean, scale):
    return mean**2 + scale**2


def exact(p):
    """Of `guide`, in closed form: second moments of normals."""
    scale, offset = jnp.exp(p["log_scale"]), p["mean"]
    half_log = lambda s: -0.5 * jnp.log(2 * jnp.pi) - jnp.log(s)
    # b = tie * a + mean + 0.7 noise
    gap = p["tie"] - p["slope"]
    prior = half_log(1.0) - expected_square(offset, scale) / 2
    deviation = jnp.sqrt((gap * scale) ** 2 + 0.49)
    prior += half_log(1.0) - expected_square(gap * offset + offset, deviation) / 2
    entropies = 1.0 - half_log(scale) - half_log(0.7)
    total = (1 + p["tie"]) * offset + offset
    spread = jnp.sqrt(((1 + p["tie"]) * scale) ** 2 + 0.49)
    return prior + entropies + half_log(0.9) - expected_square(1.2 - total, spread) / (2 * 0.81)


def objective(p, guide=guide, f=elbo, noise=0.9, **options):
    return f(partial(model, p, noise), partial(guide, p), {}, **options)


@pytest.mark.parametrize("first", [None, ppl.ScoreFunction()], ids=["pathwise", "score"])
def test_the_mean_and_its_gradient_do_not_change(first):
    """That of the β-ELBO at β = 1 too."""

    def both(p):
        own = partial(guide, first=first)
        one = objective(p, own, analytic_kl=True)
        return one + 2.0 * objective(p, own, partial(beta_elbo, beta=1.0), analytic_kl=True)

    assert_unbiased(both, P, exact=lambda p: 3.0 * exact(p), key=KEY, tolerance=1e-4)


def moments(program, *args, count=20_000):
    estimate = jax.value_and_grad(ppl.expectation(program), argnums=1)
    run = jax.jit(jax.vmap(estimate, (0, *(None for _ in args))), compiler_options=QUICK)
    draws = run(jax.random.split(KEY, count), *args)
    return jax.tree.map(lambda x: (np.float64(x.mean()), np.float64(x.var())), draws)


def agree(first, second, count=20_000):
    """Two independent means, within five standard errors."""
    (mean, variance), (other, spread) = first, second
    return abs(mean - other) < 5 * np.sqrt((variance + spread) / count) + 1e-4


@pytest.mark.parametrize("first", [None, ppl.ScoreFunction()], ids=["pathwise", "score"])
def test_the_variance_is_lower_where_the_prior_has_most_of_it(first):
    """Of the value, and of every gradient."""
    bound = partial(objective, guide=partial(guide, first=first), noise=6.0)
    sampled, known = (moments(partial(bound, analytic_kl=flag), P) for flag in (False, True))
    assert known[0][1] < 0.2 * sampled[0][1]
    assert all(known[1][name][1] < 0.7 * sampled[1][name][1] for name in P if name != "slope")
    assert known[1]["slope"][1] <= sampled[1]["slope"][1]


def test_the_variance_is_higher_near_the_posterior():
    """There the sampled terms cancel the likelihood's."""

    def conjugate(mean, **options):
        model = lambda: sample("x", dist.Normal(sample("z", dist.Normal(0.0, 1.0)), 1.0), obs=2.0)
        return elbo(model, lambda: sample("z", dist.Normal(mean, 0.5**0.5)), {}, **options)

    sampled, known = (moments(partial(conjugate, analytic_kl=f), 1.0) for f in (False, True))
    assert sampled[0][1] < 1e-8 < 0.1 < known[0][1]


def test_a_divergence_has_no_variance():
    """Without data, what remains is exact."""
    known, _ = moments(
        lambda p: elbo(
            lambda: sample("a", dist.Gamma(2.0, jnp.ones(3)).to_event(1)),
            lambda: sample("a", dist.Gamma(jnp.exp(p), 1.5 * jnp.ones(3))),
            {},
            analytic_kl=True,
        ),
        0.3,
        count=100,
    )
    points, weights = exact_measure(dist.Gamma(jnp.exp(0.3), 1.5))
    log_ratio = dist.Gamma(2.0, 1.0).log_prob(points) - dist.Gamma(jnp.exp(0.3), 1.5).log_prob(
        points
    )
    assert known == (pytest.approx(3 * float(weights @ log_ratio), abs=1e-4), pytest.approx(0.0))


FAMILIES = {
    "normal": (lambda t: dist.Normal(t, 0.7), dist.Normal(0.0, 1.0)),
    "gamma": (lambda t: dist.Gamma(jnp.exp(t), 1.5), dist.Gamma(2.0, 1.0)),
    "beta": (lambda t: dist.Beta(jnp.exp(t), 1.5), dist.Beta(2.0, 1.3)),
    "categorical": (
        lambda t: dist.CategoricalProbs(jax.nn.softmax(jnp.stack([t, 0.0 * t, -t]))),
        dist.CategoricalProbs(jnp.array([0.2, 0.5, 0.3])),
    ),
    "weibull, gamma": (lambda t: dist.Weibull(jnp.exp(t), 1.5), dist.Gamma(2.0, 1.0)),
}


def test_families_against_quadrature():
    """Value and derivative of each, with nothing drawn left in the estimate."""

    def estimate(t, family):
        q, p = FAMILIES[family]
        bound = elbo(lambda: sample("z", p), lambda: sample("z", q(t)), {}, analytic_kl=True)
        return bound

    def quadrature(t, family):
        q, p = FAMILIES[family]
        points, weights = exact_measure(q(t))
        return jnp.sum(weights * (p.log_prob(points) - q(t).log_prob(points)))

    def both(t):
        pairs = {
            family: (
                jax.value_and_grad(ppl.expectation(partial(estimate, family=family)), 1)(KEY, t),
                jax.value_and_grad(partial(quadrature, family=family))(t),
            )
            for family in FAMILIES
        }
        return pairs

    for found, wanted in jax.jit(both)(0.4).values():
        np.testing.assert_allclose(found, wanted, rtol=2e-4, atol=2e-4)


# --- which sites ---------------------------------------------------------------------------------


def test_a_site_that_reads_what_comes_after_it_stays_sampled():
    """The model's b reads a, which the guide draws after b: its divergence is not known given a."""
    bound = partial(objective, guide=backward_guide, noise=6.0)
    sampled, known = (moments(partial(bound, analytic_kl=flag), P) for flag in (False, True))
    assert agree(sampled[0], known[0])
    assert all(agree(sampled[1][name], known[1][name]) for name in P)
    assert abs(known[0][1] - sampled[0][1]) > 0.05  # a is rewritten


def test_lanes_steps_and_branches():
    """Lanes are rewritten; steps that read themselves, scaled sites and branches are not."""

    def program(shift, scale):
        lane = lambda m: sample("lane", dist.Normal(m + shift, scale))
        pair = lambda m: jax.vmap(lane)(jnp.array([m, 1.0]))

        def step(before, _):
            each = jax.vmap(pair)(jnp.arange(3.0))
            return sample("chain", dist.Normal(before, scale)), each.sum()

        jax.lax.scan(step, shift, None, length=2)
        ppl.scale(lambda: sample("scaled", dist.Normal(shift, scale)), 2.0)()
        jax.lax.cond(shift > 0, lambda: sample("one", dist.Normal(shift, scale)), lambda: shift)

    def bound(shift, **options):
        return elbo(partial(program, 0.5, 1.0), partial(program, shift, 0.8), {}, **options)

    sampled = moments(bound, 0.3)
    known = moments(partial(bound, analytic_kl=True), 0.3)
    assert all(map(agree, sampled, known))
    assert known[0][1] < 0.5 * sampled[0][1]

    others = ["chain", "scaled", "one"]
    trace = ppl.seed(lambda: ppl.simulate(partial(program, 0.3, 0.8)))(KEY)
    lanes = {"lane": trace.choices["lane"]}
    rest = lambda shift: elbo(
        ppl.intervene(partial(program, 0.5, 1.0), lanes),
        ppl.intervene(partial(program, shift, 0.8), lanes),
        {},
    )
    assert sorted(trace.choices) == sorted(["lane", *others])
    assert known[0][1] == pytest.approx(moments(rest, 0.3)[0][1], rel=0.1)


# --- errors --------------------------------------------------------------------------------------


def test_nothing_to_rewrite_is_an_error():
    def laplace(t):
        sample("z", dist.Laplace(t, 1.0))
        ppl.scale(lambda: sample("w", dist.Normal(t, 1.0)), 2.0)()

    text = r"at no site: 'z' \(Laplace and Laplace, .*none\), 'w' \(scaled, masked, .*\)\. Leave "
    for f in (elbo, partial(beta_elbo, beta=2.0)):
        with pytest.raises(InvalidSetting, match=text):
            dry_run(
                lambda f=f: f(partial(laplace, 0.0), partial(laplace, 1.0), {}, analytic_kl=True)
            )


def test_truncated_series_and_masks_stay_sampled():
    """NumPyro's divergence of a Kumaraswamy is a truncated series; masks may differ."""
    cases = [
        (dist.Kumaraswamy(2.0, 3.0), dist.Beta(2.0, 2.0)),
        (dist.Normal(0.0, 1.0).mask(True), dist.Normal(1.0, 1.0).mask(False)),
    ]
    for q, p in cases:
        with pytest.raises(InvalidSetting, match="at no site: 'z'"):
            dry_run(
                lambda q=q, p=p: elbo(
                    lambda: sample("z", p), lambda: sample("z", q), {}, analytic_kl=True
                )
            )


def test_it_does_not_go_with_sticking_the_landing():
    options = {"gradient": "sticking-the-landing", "analytic_kl": True}
    with pytest.raises(InvalidSetting, match=r"Write gradient='total', or leave analytic_kl out"):
        dry_run(partial(objective, **options), P)
