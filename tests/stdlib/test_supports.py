"""What is drawn outside a support has density zero there, or is refused by name."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from jax import lax

import ppl
from ppl import sample
from ppl.errors import InvalidSetting, ObservedGuide, SupportMismatch
from stdlib import objectives
from stdlib._scoring import at_draws_of
from stdlib._supports import contains, support_of
from stdlib.inference import AIS, HMC, NUTS, SMC, Importance, RandomWalk, chain
from stdlib.testing import assert_unbiased

KEY = jax.random.key(11)
to, AffineTransform = dist.transforms.biject_to, dist.transforms.AffineTransform
made = dist.TransformedDistribution

# --- supports -------------------------------------------------------------------------------------

NORMAL, HALF = dist.Normal(0.0, 1.0), dist.HalfNormal(1.0)
UNIT, WIDE = dist.Uniform(0.0, 1.0), dist.Uniform(-1.0, 2.0)
BETA, SIMPLEX = dist.Beta(2.0, 3.0), dist.Dirichlet(jnp.ones(3))
ROW = NORMAL.expand([3]).to_event(1)
ORDERED = made(ROW, dist.transforms.OrderedTransform())
PAIRS = [
    (NORMAL, HALF, True), (HALF, NORMAL, False), (HALF, BETA, True), (BETA, HALF, False),
    (UNIT, BETA, True), (BETA, UNIT, True), (WIDE, UNIT, True), (UNIT, WIDE, False),
    (HALF, UNIT, True), (HALF, WIDE, False), (dist.Gamma(2.0), dist.LogNormal(0.0, 1.0), True),
    (dist.TruncatedNormal(low=1.0), dist.TruncatedNormal(low=2.0), True),
    (dist.TruncatedNormal(low=2.0), dist.TruncatedNormal(low=1.0), False),
    (HALF.expand([3]).to_event(1), NORMAL.expand([3]), False), (NORMAL.expand([3]), ROW, True),
    (ROW, ORDERED, True), (ORDERED, ROW, False), (HALF.expand([3]), ORDERED, False),
    (SIMPLEX, made(NORMAL.expand([2]).to_event(1), to(SIMPLEX.support)), True),
    (SIMPLEX, ROW, False), (ROW, SIMPLEX, False), (SIMPLEX, UNIT.expand([3]), False),
    (dist.LKJCholesky(3, 1.0), dist.LKJCholesky(3, 2.0), True),
    (dist.Bernoulli(0.3), dist.Categorical(probs=jnp.ones(3) / 3), False),
    (dist.Categorical(probs=jnp.ones(3) / 3), dist.Bernoulli(0.3), True),
    (dist.Poisson(1.0), dist.Binomial(4, 0.3), True),
    (dist.Binomial(4, 0.3), dist.Poisson(1.0), False),
    (NORMAL, dist.Poisson(1.0), False), (dist.VonMises(0.0, 1.0), NORMAL, False),
    (HALF.mask(False), NORMAL, False),
    # not known while tracing: bounds in arrays, a point mass, a part of what a transform maps to
    (dist.Uniform(0.0, jnp.ones(2)), BETA, None), (HALF, dist.Uniform(0.0, jnp.ones(2)), True),
    (HALF, dist.Uniform(jnp.zeros(2), 1.0), None), (HALF, dist.Delta(1.0), None),
    (UNIT, made(BETA, AffineTransform(0.2, 0.5)), None),
    (NORMAL, dist.Delta(1.0), True),
]  # fmt: skip


@pytest.mark.parametrize(("outer", "inner", "verdict"), PAIRS)
def test_supports_are_compared(outer, inner, verdict):
    assert contains(support_of(outer), support_of(inner)) is verdict


def test_pairs_that_fit_cost_nothing():
    def model():
        sample("a", HALF)
        jax.vmap(lambda m: sample("b", dist.Normal(m, 1.0)))(jnp.ones(3))
        sample("c", SIMPLEX)

    def guide():
        jax.vmap(lambda m: sample("b", dist.Normal(m, 2.0)))(jnp.ones(3))
        sample("a", dist.Gamma(2.0, 1.0))
        sample("c", dist.Dirichlet(2.0 * jnp.ones(3)))

    assert at_draws_of(guide, model) is model


# --- objectives -----------------------------------------------------------------------------------

BIASED = {"num_particles": 3, "allow_biased": True}
OBJECTIVES = {
    "elbo": {}, "beta_elbo": {"beta": 2.0}, "vib": {"beta": 0.5},
    "iwelbo": {"num_particles": 3}, "miwae": {"num_bounds": 2, "num_particles": 2},
    "ciwae": {"num_particles": 3, "beta": 0.5}, "piwae": {"num_bounds": 2, "num_particles": 2},
    "renyi": {"num_particles": 3, "alpha": 2.0}, "cubo": {},
    "f_divergence": {"f": lambda t: (t - 1.0) ** 2, "log_evidence": 0.0},
    "forward_kl": BIASED, "tail_adaptive": BIASED, "reweighted_wake_sleep": BIASED,
    "tvo": {"num_particles": 3, "betas": (0.0, 0.5)}, "sumo": {"max_particles": 4},
    "log_variance": {"num_particles": 3}, "trajectory_balance": {"log_evidence": 0.0},
    "wake_phase": {},
}  # fmt: skip
GRADIENTS = [
    ("elbo", {"gradient": "sticking-the-landing"}),
    ("iwelbo", {"num_particles": 3, "gradient": "doubly-reparameterized"}),
    ("iwelbo", {"num_particles": 3, "gradient": "vimco"}),
    ("tvo", {"betas": (0.0, 0.5), "gradient": "covariance", **BIASED}),
]
EACH = [*OBJECTIVES.items(), *GRADIENTS]


def positive():
    scale = sample("scale", HALF)
    sample("y", dist.Normal(scale, 1.0))


def run(name, options, model, guide, observed=None):
    objective = getattr(objectives, name)
    given = {"y": 0.5} if observed is None else observed
    return lambda: objective(model, guide, given, **options)


@pytest.mark.parametrize(("name", "options"), EACH)
def test_objectives_refuse_guides_that_leave_the_support(name, options):
    guide = lambda: sample("scale", NORMAL)
    with pytest.raises(SupportMismatch) as caught:
        ppl.seed(run(name, options, positive, guide))(KEY)
    message = str(caught.value)
    words = ("'scale'", "Normal, with support real", "HalfNormal, with support positive")
    for word in (*words, "test_supports.py", "biject_to(dist.constraints.positive)"):
        assert word in message, message


@pytest.mark.parametrize(("name", "options"), EACH)
def test_objectives_refuse_guides_that_observe(name, options):
    def guide():
        sample("scale", HALF)
        sample("factor", dist.Unit(3.0), obs=jnp.zeros(0))

    with pytest.raises(ObservedGuide, match=r"observes site 'factor' at .*test_supports"):
        ppl.seed(run(name, options, positive, guide))(KEY)


def test_the_sleep_phase_scores_the_guide():
    narrow, wide = (lambda given: sample("z", HALF)), (lambda given: sample("z", NORMAL))

    def model(prior):
        sample("x", dist.Normal(sample("z", prior), 1.0))

    asleep = objectives.sleep_phase
    assert jnp.isfinite(ppl.seed(lambda: asleep(partial(model, HALF), wide, {"x": 1.0}))(KEY))
    with pytest.raises(SupportMismatch, match=r"the guide scores it .* by HalfNormal"):
        ppl.seed(lambda: asleep(partial(model, NORMAL), narrow, {"x": 1.0}))(KEY)
    with pytest.raises(SupportMismatch, match=r"the model scores it .* by HalfNormal"):
        ppl.seed(lambda: objectives.wake_sleep(partial(model, HALF), wide, {"x": 1.0}))(KEY)


def test_references_draw_within_model_and_guide():
    for name in ("log_variance", "trajectory_balance", "forward_kl"):
        by = "proposal" if name == "forward_kl" else "reference"
        options = {**OBJECTIVES[name], by: lambda: sample("scale", NORMAL)}
        guide = lambda: sample("scale", dist.Gamma(2.0, 1.0))
        with pytest.raises(SupportMismatch, match=f"the {by} draws it"):
            ppl.seed(run(name, options, positive, guide))(KEY)


def test_the_advice_is_a_bound():
    """The guide that the message shows, against the mean of its integrand by quadrature."""
    noise = jnp.linspace(-8.0, 8.0, 4001)

    def guide(m):
        into = to(dist.constraints.positive)
        return sample("scale", made(dist.Normal(m, 0.5), into))

    def exact(m):
        scale = jnp.exp(m + 0.5 * noise)
        log_q = dist.LogNormal(m, 0.5).log_prob(scale)
        log_w = HALF.log_prob(scale) + dist.Normal(scale, 1.0).log_prob(0.5) - log_q
        return jnp.sum(jnp.exp(NORMAL.log_prob(noise)) * log_w) * (noise[1] - noise[0])

    objective = lambda m: objectives.elbo(positive, partial(guide, m), {"y": 0.5})
    assert_unbiased(objective, -0.4, exact=exact, key=KEY, num_samples=20_000)


@pytest.mark.parametrize("around", ["vmap", "scan"])
def test_sites_in_lanes_and_loops_are_compared(around):
    def many(family):
        if around == "vmap":
            jax.vmap(lambda m: sample("z", family(m)))(jnp.ones(3))
        else:
            lax.scan(lambda c, m: (c, sample("z", family(m))), 0.0, jnp.ones(3))

    bound = lambda p, q: lambda: objectives.elbo(partial(many, p), partial(many, q), {})
    normal, half = (lambda m: dist.Normal(m, 1.0)), dist.HalfNormal
    assert jnp.isfinite(ppl.seed(bound(half, dist.Exponential))(KEY))
    with pytest.raises(SupportMismatch, match="'z'"):
        ppl.seed(bound(half, normal))(KEY)


def test_masked_sites_are_looked_at_where_they_count():

    def model(flag):
        masked = ppl.mask(lambda: sample("z", HALF), flag)
        sample("y", dist.Normal(masked(), 1.0), obs=0.3)

    guide = lambda: sample("z", dist.Normal(-3.0, 0.1))
    bound = lambda flag: ppl.seed(lambda: objectives.elbo(partial(model, flag), guide, {}))(KEY)
    assert bound(True) == -jnp.inf and jnp.isfinite(bound(False))
    row = HALF.expand([2]).mask(jnp.array([False, True])).to_event(1)
    around = lambda m: lambda: sample("z", made(NORMAL.expand([2]), AffineTransform(m, 0.1)))
    bound = lambda m: objectives.elbo(lambda: sample("z", row), around(jnp.array(m)), {})
    assert ppl.seed(bound)(KEY, [3.0, -3.0]) == -jnp.inf
    assert jnp.isfinite(ppl.seed(bound)(KEY, [-3.0, 3.0]))


@pytest.mark.parametrize(("name", "options"), [*OBJECTIVES.items()])
def test_outside_a_support_that_moves_the_density_is_zero(name, options):
    """A guide twice as wide as the model: log w is log 2 in one half, and -inf in the other."""
    uniform = lambda t: sample("u", dist.Uniform(0.0, t))
    model = lambda t: lambda: (uniform(t), None)[1]
    objective = lambda t: run(name, options, model(t), lambda: uniform(2.0 * t), {})()
    estimate = jax.jit(
        jax.vmap(jax.value_and_grad(ppl.expectation(objective, allow_biased=True), 1), (0, None))
    )
    values, slopes = estimate(jax.random.split(KEY, 400), 1.5)
    assert jnp.all(jnp.isfinite(slopes)) and not jnp.any(jnp.isnan(values))
    finite = {"cubo": -2.0, "f_divergence": -1.0}
    if name in finite:
        assert abs(values.mean() - finite[name]) < 5 * values.std() / 20.0 + 1e-5
    elif name not in ("forward_kl", "reweighted_wake_sleep", "tail_adaptive"):
        assert jnp.any(values == -jnp.inf)


def test_point_masses_and_parts_of_a_transform_are_looked_at():
    moved = made(BETA, AffineTransform(0.2, 0.5))
    model = lambda: sample("scale", UNIT)
    bound = lambda q: ppl.seed(lambda: objectives.elbo(model, lambda: sample("scale", q), {}))(KEY)
    assert jnp.isfinite(bound(moved)) and jnp.isfinite(bound(dist.Delta(0.4)))
    assert bound(dist.Delta(1.4)) == -jnp.inf
    far = made(BETA, dist.transforms.AffineTransform(1.2, 0.5))
    assert bound(far) == -jnp.inf
    inverse = lambda: sample("scale", moved)
    scored = [ppl.log_density(inverse, {"scale": x}) for x in (0.1, 0.3, 0.8)]
    assert [float(x) == -np.inf for x in scored] == [True, False, True]


# --- densities ------------------------------------------------------------------------------------


def test_bounded_densities_have_no_derivatives_outside():
    def program(rate):
        x = sample("x", dist.Gamma(2.0, rate))
        sample("y", dist.Normal(0.0, x), obs=0.3)
        sample("z", dist.Uniform(0.0, rate))

    density = lambda rate, x: ppl.log_density(ppl.bounded(program, ["x"]), {"x": x, "z": 0.5}, rate)
    value, slopes = jax.value_and_grad(density, (0, 1))(2.0, -1.0)
    assert value == -jnp.inf and jnp.all(jnp.isfinite(jnp.stack(slopes))) and slopes[1] == 0.0
    plain = ppl.log_density(program, {"x": 1.0, "z": 0.5}, 2.0)
    assert jnp.allclose(density(2.0, 1.0), plain)
    moving = jax.value_and_grad(lambda t: ppl.log_density(program, {"x": 1.0, "z": 0.5}, t))(0.4)
    assert moving[0] == -jnp.inf and jnp.isfinite(moving[1])


def tight():
    """Two numbers below a bound: given them, the bound has the density exp(-t), t > 1.2."""
    bound = sample("bound", dist.Gamma(3.0, 1.0))
    sample("y", dist.Uniform(0.0, bound).expand([2]), obs=jnp.array([0.5, 1.2]))


EVIDENCE = np.exp(-1.2) / 2.0


@pytest.mark.parametrize(
    "algorithm",
    [
        Importance(2),
        Importance(2, lambda _: sample("bound", dist.Gamma(2.0, 1.0))),
        AIS(2, 2, RandomWalk(0.5)),
        SMC(2, schedule=2, rejuvenation=HMC(0.3, 2)),
    ],
    ids=["prior", "proposal", "annealed", "sequential"],
)
def test_weights_where_data_bound_a_choice(algorithm):
    scored = lambda: jnp.exp(algorithm.log_evidence(ppl.extend.Target(tight, {})))
    values = jax.jit(jax.vmap(ppl.seed(scored)))(jax.random.split(KEY, 20_000))
    assert abs(values.mean() - EVIDENCE) < 5 * values.std() / 20_000**0.5


def test_what_a_proposal_never_draws_has_posterior_density_zero():
    program = lambda: sample("y", dist.Normal(sample("u", NORMAL), 1.0))
    resampled = Importance(4, lambda _: sample("u", HALF))
    posterior = ppl.normalize(program, {"y": 0.0}, resampled)
    density = ppl.seed(lambda u: ppl.log_density(posterior, {"u": u}))
    assert density(KEY, -1.0) == -jnp.inf and jnp.isfinite(density(KEY, 1.0))


def test_proposals_draw_within_the_target():
    wide = lambda _: sample("bound", dist.Normal(2.0, 1.0))
    with pytest.raises(SupportMismatch, match=r"the proposal draws it .* the target scores it"):
        ppl.seed(lambda: Importance(2, wide).log_evidence(ppl.extend.Target(tight, {})))(KEY)

    def observing(_):
        sample("factor", dist.Unit(3.0), obs=jnp.zeros(0))
        sample("bound", dist.Gamma(2.0, 1.0))

    with pytest.raises(ObservedGuide, match="The proposal observes site 'factor'"):
        ppl.seed(lambda: Importance(2, observing).log_evidence(ppl.extend.Target(tight, {})))(KEY)

    def decay():
        def step(x, _):
            x = sample("x", dist.Exponential(1.0 + x))
            sample("y", dist.Normal(x, 1.0), obs=0.5)
            return x, None

        lax.scan(step, 1.0, length=3)

    filtering = SMC(2, lambda t, before, seen: sample("x", dist.Normal(before["x"], 1.0)))
    with pytest.raises(SupportMismatch, match=r"from Normal, .* by Exponential"):
        ppl.seed(lambda: filtering.log_evidence(ppl.extend.Target(decay, {})))(KEY)


# --- kernels --------------------------------------------------------------------------------------

SHARES = dist.Dirichlet(jnp.array([2.0, 3.0, 1.0]))
BOUNDED = [HALF, dist.Gamma(3.0, 2.0), BETA, WIDE, SHARES, dist.LKJCholesky(2, 1.0)]


@pytest.mark.parametrize(
    "kernel",
    [
        RandomWalk(0.6),
        pytest.param(HMC(0.3, 3), marks=pytest.mark.law),
        pytest.param(NUTS(0.4), marks=pytest.mark.law),
    ],
    ids=lambda kernel: type(kernel).__name__,
)
def test_bounded_families_under_every_kernel(kernel):
    """From exact draws: means and squares after two moves."""

    def program():
        for i, family in enumerate(BOUNDED):
            sample(f"x{i}", family)

    target = ppl.extend.Target(program, {})

    def moved(key):
        start, move = jax.random.split(key)
        exact = ppl.seed(lambda: ppl.simulate(program))(start).choices
        return exact, jax.tree.map(lambda x: x[-1], ppl.seed(chain)(move, kernel, target, exact, 2))

    @jax.jit
    def run(keys, others):
        start, end = jax.vmap(moved)(keys)
        fresh = jax.vmap(lambda k: ppl.seed(lambda: ppl.simulate(program))(k).choices)(others)
        inside = [jnp.all(f.support(x)) for f, x in zip(BOUNDED, end.values(), strict=True)]
        return start, end, fresh, inside

    keys = (jax.random.split(key, 10_000) for key in (KEY, jax.random.key(1)))
    start, end, fresh, inside = jax.tree.map(np.asarray, run(*keys))
    assert all(inside)
    for name in start:
        assert np.mean(np.any((start[name] != end[name]).reshape(10_000, -1), 1)) > 0.2
        for power in (1, 2):
            gap = end[name] ** power - fresh[name] ** power
            error = 5 * gap.std(0) / 10_000**0.5 + 1e-6
            assert np.all(abs(gap.mean(0)) < error), (name, power)


def test_kernels_refuse_supports_without_free_numbers():
    target = ppl.extend.Target(lambda: sample("u", dist.ProjectedNormal(jnp.zeros(3))), {})
    with pytest.raises(InvalidSetting, match=r"cannot move site 'u' at .*Sphere"):
        ppl.seed(chain)(KEY, HMC(), target, {"u": jnp.array([1.0, 0.0, 0.0])}, 2)
