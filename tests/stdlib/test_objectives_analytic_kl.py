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
from stdlib.objectives import analytic_kl_sites, beta_elbo, elbo, vib
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
    """Lanes and steps are rewritten; scaled sites and branches are not."""

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

    why = analytic_kl_sites(partial(program, 0.5, 1.0), partial(program, 0.3, 0.8), {})
    assert {a for a, reason in why.items() if reason is None} == {"lane", "chain"}
    assert why["scaled"] == why["one"] == "scaled, masked, in a branch, or compound"
    trace = ppl.seed(lambda: ppl.simulate(partial(program, 0.3, 0.8)))(KEY)
    known_ones = {address: trace.choices[address] for address in ("lane", "chain")}
    rest = lambda shift: elbo(
        ppl.intervene(partial(program, 0.5, 1.0), known_ones),
        ppl.intervene(partial(program, shift, 0.8), known_ones),
        {},
    )
    assert known[0][1] == pytest.approx(moments(rest, 0.3)[0][1], rel=0.1)


# --- chains --------------------------------------------------------------------------------------

Q = {"pull": 0.6, "drift": 0.2, "log_scale": -0.2}
YS = jnp.array([0.3, 1.1, -0.4, 0.8])


def walk(y=YS):
    """A hidden walk beside a second one that reads it, at the same step and at the one before."""

    def step(carry, y):
        a, b = carry
        a = sample("a", dist.Normal(0.9 * a + 0.2 * b, 1.0))
        b = sample("b", dist.Normal(0.5 * b + 0.3 * a, 0.8))
        sample("y", dist.Normal(a + b, 3.0), obs=y)
        return (a, b), None

    jax.lax.scan(step, (0.0, 0.0), y)


def follower(p, first="a", reverse=False):
    """A guide of the walk that draws `first` first in each step, and what is left given it."""
    scale = jnp.exp(p["log_scale"])

    def step(carry, y):
        one = sample(first, dist.Normal(p["pull"] * carry + p["drift"] * y, scale))
        other = "b" if first == "a" else "a"
        two = sample(other, dist.Normal(p["drift"] * one + 0.1 * carry, 0.9))
        return 0.5 * (one + two), None

    jax.lax.scan(step, 0.0, YS, reverse=reverse)


def why_not(model, guide):
    return {a: why for a, why in analytic_kl_sites(model, guide, {}).items() if why is not None}


def test_which_steps_of_a_chain_are_rewritten():
    """Those whose model reads nothing that the guide draws given them."""
    assert why_not(walk, partial(follower, Q)) == {}
    backwards = why_not(walk, partial(follower, Q, "b"))  # the model's b reads a, drawn after b
    assert list(backwards) == ["b"] and "reads 'a', which in the guide" in backwards["b"]
    assert set(why_not(walk, partial(follower, Q, reverse=True))) == {"a", "b"}

    def axes(outer):
        lane = lambda m: sample("x", dist.Normal(m, 1.0))
        step = lambda x, _: ((x := sample("x", dist.Normal(x, 1.0))), None)
        lanes = lambda x: jax.lax.scan(step, x, None, length=2)
        across = lambda x, _: ((x := jax.vmap(lane)(x)), None)
        starts = jnp.zeros(2)
        return jax.vmap(lanes)(starts) if outer else jax.lax.scan(across, starts, None, length=2)

    assert why_not(partial(axes, True), partial(axes, True)) == {}
    assert set(why_not(partial(axes, False), partial(axes, True))) == {"x"}  # steps on other axes


@pytest.mark.parametrize("first", ["a", "b"])
def test_chains_have_the_same_mean_and_gradient(first):
    bound = lambda p, **options: elbo(walk, partial(follower, p, first), {}, **options)
    scored = ppl.with_estimators(partial(bound, analytic_kl=True), {"a": ppl.ScoreFunction()})
    sampled = moments(bound, Q)
    for other in (partial(bound, analytic_kl=True), scored):
        known = moments(other, Q)
        assert agree(sampled[0], known[0])
        assert all(agree(sampled[1][name], known[1][name]) for name in Q)
    assert moments(partial(bound, analytic_kl=True), Q)[0][1] < 0.7 * sampled[0][1]


# --- cost ----------------------------------------------------------------------------------------


def test_networks_run_once():
    """FLOPs of value and gradient, beside code by hand with NumPyro's distributions."""
    B, D, H, Z = 16, 64, 32, 8
    shapes = {"in": (D, H), "mean": (H, Z), "scale": (H, Z), "hidden": (Z, H), "out": (H, D)}
    p = {name: jnp.full(shape, 0.01) for name, shape in shapes.items()}
    x = jnp.ones((B, D), int)

    def encoded(p, x):
        h = jax.nn.relu(x @ p["in"])
        return dist.Normal(h @ p["mean"], jnp.exp(h @ p["scale"]))

    def decoded(p, z):
        return dist.BernoulliLogits(jax.nn.relu(z @ p["hidden"]) @ p["out"])

    def model(p, x):
        z = sample("z", dist.Normal(jnp.zeros((B, Z)), 1.0).to_event(1))
        sample("x", decoded(p, z).to_event(1), obs=x)

    def guide(p, x):
        sample("z", encoded(p, x).to_event(1))

    def by_hand(key, p, x):
        q = encoded(p, 1.0 * x)
        likelihood = decoded(p, q.sample(key)).log_prob(x).sum()
        return likelihood - dist.kl_divergence(q, dist.Normal(jnp.zeros((B, Z)), 1.0)).sum()

    def flops(f):
        run = jax.jit(jax.value_and_grad(f, 1))
        return run.lower(KEY, p, x).compile().cost_analysis()["flops"]

    def of(f, *args, **options):
        bound = lambda p, x: f(
            partial(model, p, x), partial(guide, p, 1.0 * x), {}, *args, **options
        )
        return flops(ppl.expectation(bound))

    hand, sampled = flops(by_hand), of(elbo)
    assert of(elbo, analytic_kl=True) <= 1.05 * hand
    assert of(beta_elbo, 2.0, analytic_kl="all") <= 1.05 * hand
    assert of(beta_elbo, 2.0) <= 1.05 * sampled
    assert of(vib, 2.0) <= 1.05 * sampled


# --- errors --------------------------------------------------------------------------------------


def test_nothing_to_rewrite_is_an_error():
    def cauchy(t):
        sample("z", dist.Cauchy(t, 1.0))
        ppl.scale(lambda: sample("w", dist.Normal(t, 1.0)), 2.0)()

    text = r"at no site: 'z' \(of Cauchy and Cauchy no .*\), 'w' \(scaled, masked, .*\)\. Leave "
    for f in (elbo, partial(beta_elbo, beta=2.0)):
        with pytest.raises(InvalidSetting, match=text):
            dry_run(lambda f=f: f(partial(cauchy, 0.0), partial(cauchy, 1.0), {}, analytic_kl=True))


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


@pytest.mark.usefixtures("unchecked_types")
def test_all_refuses_where_one_stays_sampled():
    def program(t):
        sample("z", dist.Normal(t, 1.0))
        sample("w", dist.Cauchy(t, 1.0))

    bound = lambda option: elbo(
        partial(program, 0.0), partial(program, 1.0), {}, analytic_kl=option
    )
    with pytest.raises(InvalidSetting, match=r"'all', but .* at 'w' \(of Cauchy.*analytic_kl=True"):
        dry_run(lambda: bound("all"))
    with pytest.raises(InvalidSetting, match="must be True, False or 'all', got 'some'"):
        dry_run(lambda: bound("some"))
    dry_run(lambda: bound(True))
