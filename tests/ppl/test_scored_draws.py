"""A draw and its log density come of one pass, where a distribution gives both at once.

The oracle is the same distribution by its `sample` and `log_prob` alone, with the same key.
"""

from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from jax import lax

import ppl
from ppl import Reparameterized, ScoreFunction, sample
from ppl._jax import equations
from ppl._walk.walker import placed_sites
from ppl.errors import (
    DiscontinuousObjective,
    InvalidDistribution,
    InvalidSetting,
    UndrawableSite,
    UnscorableSite,
)
from stdlib.estimators import Enumerate, LeaveOneOut, MeasureValued
from stdlib.inference import Importance
from stdlib.objectives import elbo, iwelbo

KEY = jax.random.key(3)
PATH = Reparameterized()


class Warped(eqx.Module):
    """y = m + sinh(x), of standard normal x: for each element of the batch."""

    mean: jax.Array
    has_rsample = True

    def sample(self, key):
        return self.sample_and_log_prob(key)[0]

    def sample_and_log_prob(self, key):
        x = jax.random.normal(key, jnp.shape(self.mean))
        log = dist.Normal(0.0, 1.0).log_prob(x) - jnp.log(jnp.cosh(x))
        return self.mean + jnp.sinh(x), log

    def log_prob(self, value):
        x = jnp.arcsinh(value - self.mean)
        return dist.Normal(0.0, 1.0).log_prob(x) - jnp.log(jnp.cosh(x))


class Forward(eqx.Module):
    """The same, of a vector, and without its inverse."""

    mean: jax.Array

    def sample(self, key):
        return Warped(self.mean).sample(key)

    def sample_and_log_prob(self, key):
        value, log = Warped(self.mean).sample_and_log_prob(key)
        return value, jnp.sum(log)


class Plain(eqx.Module):
    """A distribution that does not give both at once."""

    distribution: Any
    has_rsample = True

    def sample(self, key):
        return self.distribution.sample(key)

    def log_prob(self, value):
        return self.distribution.log_prob(value)


def close(one, other, rtol=1e-5, atol=1e-5):
    jax.tree.map(partial(np.testing.assert_allclose, rtol=rtol, atol=atol), one, other)


def _flow(name, **options):
    flows = pytest.importorskip("flowjax.flows")
    from flowjax.distributions import Normal

    base = Normal(jnp.zeros(2))
    flow = getattr(flows, name)(KEY, base_dist=base, flow_layers=2, invert=False, **options)
    numbers, static = eqx.partition(flow, eqx.is_inexact_array)
    return lambda t: eqx.combine(jax.tree.map(lambda x: x + 0.3 * t, numbers), static)


AFFINE = dist.transforms.AffineTransform
DISTRIBUTIONS = {
    "one's own": lambda: lambda t: Warped(t * jnp.arange(3.0)),
    "log normal": lambda: lambda t: dist.LogNormal(t, jnp.arange(1.0, 4.0)),
    "of one event": lambda: lambda t: dist.LogNormal(t, jnp.arange(1.0, 4.0)).to_event(1),
    "expanded": lambda: lambda t: dist.LogNormal(t, 1.5).expand([2, 3]).to_event(1),
    "to a simplex": lambda: (
        lambda t: dist.TransformedDistribution(
            dist.Normal(t, jnp.ones((2, 2))).to_event(1), dist.transforms.StickBreakingTransform()
        )
    ),
    "several transforms": lambda: (
        lambda t: dist.TransformedDistribution(
            dist.Normal(t, 1.0).expand([2]),
            [AFFINE(1.0, t), dist.transforms.ExpTransform(), AFFINE(0.0, 2.0)],
        )
    ),
    "inverse gamma": lambda: lambda t: dist.InverseGamma(3.0, t),
    "coupling flow": lambda: _flow("coupling_flow", nn_width=4),
    "autoregressive flow": lambda: _flow("masked_autoregressive_flow", nn_width=4),
}


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_the_draw_is_that_of_sample_and_its_density_that_of_log_prob(name):
    make = DISTRIBUTIONS[name]()

    def run(t):
        trace = ppl.seed(lambda: ppl.simulate(lambda: sample("x", make(t))))(KEY)
        site = trace.sites["x"]
        return trace.log_density, (site.value, site.log_prob)

    def oracle(t):
        value = make(t).sample(KEY)
        log = make(t).log_prob(value)
        return jnp.sum(log), (value, log)

    found, exact = (jax.jit(jax.value_and_grad(f, has_aux=True))(0.7) for f in (run, oracle))
    close(found, exact, atol=2e-6)
    site = _sample_equation(lambda: ppl.simulate(lambda: sample("x", make(0.7))).log_density)
    assert site.scores.shape == exact[0][1][1].shape


def _sample_equation(program):
    eqns = jax.make_jaxpr(program)().jaxpr.eqns
    return next(eqn.params["site"] for eqn in eqns if eqn.primitive.name == "sample")


class Tempered(dist.TransformedDistribution):
    def log_prob(self, value, intermediates=None):
        return 2.0 * super().log_prob(value)


class Flat(Warped):
    def log_prob(self, value):
        return 0.0 * value


class Shifted(Warped):
    def sample(self, key):
        return 1.0 + super().sample(key)


NOT_AT_ONCE = {
    "normal": lambda: dist.Normal(0.0, 1.0),
    "masked": lambda: dist.LogNormal(0.0, 1.0).mask(True).mask(False),
    "discrete": lambda: dist.TransformedDistribution(dist.Poisson(2.0), AFFINE(1.0, 2.0)),
    "folded": lambda: dist.FoldedDistribution(dist.Normal(0.0, 1.0)),
    "another density": lambda: Tempered(dist.Normal(0.0, 1.0), dist.transforms.ExpTransform()),
    "another density of one's own": lambda: Flat(jnp.zeros(2)),
    "another draw": lambda: Shifted(jnp.zeros(2)),
    "no elements": lambda: Warped(jnp.zeros(0)),
}


@pytest.mark.parametrize("name", NOT_AT_ONCE)
def test_what_does_not_draw_as_it_scores_is_scored_after(name):
    program = lambda: sample("x", NOT_AT_ONCE[name]())
    assert _sample_equation(lambda: ppl.simulate(program).log_density).scores is None
    trace = ppl.seed(lambda: ppl.simulate(program))(KEY)
    close(trace.log_density, ppl.log_density(program, trace.choices))


# --- in programs ----------------------------------------------------------------------------------


def density(program, *args):
    """What a run's density is used for: alone, and with its values."""
    trace = ppl.simulate(program, *args)
    values = jax.tree.leaves(trace.choices)
    return trace.log_density + sum(jnp.sum(jnp.cos(x)) for x in values) * (1.0 + trace.log_density)


def one(make, t, how):
    return sample("x", make(t), how)


def lanes(make, t, how):
    draw = lambda s, f: ppl.scale(lambda: sample("x", make(s), how), f)()
    return density(lambda: jax.vmap(draw)(t * jnp.arange(1.0, 3.0), jnp.array([3.0, 0.5])))


def mapped_objectives(make, t, how):
    return jnp.sum(jax.vmap(lambda s: density(one, make, s, how))(t * jnp.arange(1.0, 3.0)) ** 2)


def loop(make, t, how):
    def step(carry, _):
        carry = jnp.sin(sample("x", make(t + 0.1 * carry), how))
        return jnp.mean(carry), carry

    return density(lambda: lax.scan(step, 0.5, None, length=3)[1])


def masked(make, t, how):
    return density(ppl.mask(lambda: one(make, t, how), t > 0.5))


def masked_lanes(make, t, how):
    draw = lambda s, ok: ppl.mask(lambda: sample("x", make(s), how), ok)()
    return density(lambda: jax.vmap(draw)(t * jnp.arange(1.0, 3.0), jnp.array([True, False])))


def branch(make, t, how):
    other = lambda: jnp.zeros_like(make(0.0).sample(KEY)) * t
    return density(lambda: lax.cond(t > 0.5, lambda: one(make, t, how), other))


def branches_of_lanes(make, t, how):
    def lane(s):
        return lax.cond(
            s > 1.0, lambda: sample("x", make(s), how), lambda: 0.0 * make(s).sample(KEY)
        )

    return density(lambda: jax.vmap(lane)(t * jnp.arange(1.0, 4.0)))


def checkpointed(make, t, how):
    return density(jax.checkpoint(partial(one, make)), t, how)


def rewritten(make, t, how):
    guide = ppl.scope(ppl.scale(lambda: one(make, t, None), 2.0), "a")
    return density(ppl.with_estimators(guide, {"a/*": how}))


def nested(make, t, how):
    """A program that simulates another, simulated itself: scaled in between, and read twice."""

    def outer():
        return ppl.simulate(lambda: one(make, t, how)).log_density

    trace = ppl.simulate(ppl.scale(outer, 3.0))
    return trace.value * trace.log_density


def given(make, t, how):
    """Sites of an objective that are given a value are scored at it."""
    objective = lambda: density(lambda: one(make, t, how))
    value = jax.tree.map(jnp.abs, make(1.0).sample(KEY))
    fixed = [f(objective, {"x": value})() for f in (ppl.condition, ppl.intervene)]
    return sum(fixed) + ppl.replay(objective, {"x": value}).value + 0.0 * density(one, make, t, how)


def below_an_enumerated_site(make, t, how):
    def guide():
        z = sample("z", dist.Bernoulli(0.3), Enumerate())
        return sample("x", make(t * (1.0 + z)), how)

    return density(guide)


def below_a_perturbed_site(make, t, how):
    def guide():
        z = sample("z", dist.Bernoulli(0.5 * t), MeasureValued())
        return sample("x", make(1.0 + z), how)

    return density(guide)


def hidden_in_a_marginal(make, t, how):
    def pair():
        x = sample("x", make(t), how)
        sample("y", dist.Normal(jnp.sum(jnp.sin(x)), 0.5))

    proposal = lambda observed: sample("x", make(1.1 * t), how)
    both = ppl.marginal(pair, "y", Importance(2, proposal))
    return ppl.simulate(both).log_density + ppl.log_density(both, {"y": 0.3})


PROGRAMS = [lanes, mapped_objectives, loop, masked, masked_lanes, branch, branches_of_lanes,
            checkpointed, rewritten, nested, given, below_an_enumerated_site,
            below_a_perturbed_site, hidden_in_a_marginal]  # fmt: skip
FAMILIES = {
    "own": lambda t: Warped(t * jnp.ones(2)),
    "log normal": lambda t: dist.LogNormal(t, 1.5),
}
HOWS = {"path": PATH, "score": ScoreFunction(), "several": LeaveOneOut(2)}


@pytest.mark.parametrize(
    "how", ["path", *(pytest.param(how, marks=pytest.mark.law) for how in ("score", "several"))]
)
@pytest.mark.parametrize("program", PROGRAMS)
def test_programs_have_the_value_and_gradient_that_they_have_of_log_prob(program, how):
    family = FAMILIES["own" if program in (nested, loop, branch) else "log normal"]

    def run(make, t):
        return jax.value_and_grad(ppl.expectation(partial(program, make)), 1)(KEY, t, HOWS[how])

    found, exact = jax.jit(lambda t: [run(f, t) for f in (family, lambda s: Plain(family(s)))])(0.7)
    close(found, exact, rtol=3e-5)


def test_what_is_not_reached_has_no_derivative():
    """Its parameters may be bad, and its draws infinite: the lane that is reached counts alone."""

    def objective(t):
        def lane(s):
            bad = lambda: sample("x", dist.LogNormal(0.0, jnp.sqrt(s)), PATH)
            return lax.cond(s > 0.0, bad, lambda: jnp.zeros(()))

        return density(lambda: jax.vmap(lane)(jnp.stack([t, t - 0.7])))

    def alone(t):
        return density(lambda: jax.vmap(lambda s: sample("x", dist.LogNormal(0.0, s), PATH))(
            jnp.sqrt(jnp.stack([t, jnp.ones(())]))
        ))  # fmt: skip

    def of_the_first(trace_of):
        return jax.jit(jax.value_and_grad(ppl.expectation(trace_of), 1))(KEY, 0.7)

    (value, slope), (_, exact) = of_the_first(objective), of_the_first(alone)
    assert np.isfinite(value) and np.isfinite(slope) and np.isfinite(exact)


def test_what_a_mask_leaves_out_has_no_derivative_of_its_density():
    """Also where it is put around an objective that has simulated the site; the draw is fine."""

    class Steep(Warped):
        edge: Any = 0.0

        def sample_and_log_prob(self, key):
            value, log = super().sample_and_log_prob(key)
            return value, log - jnp.sqrt(self.edge)

        def log_prob(self, value):
            return super().log_prob(value) - jnp.sqrt(self.edge)

        def sample(self, key):
            return super().sample_and_log_prob(key)[0]

    guide = lambda t, ok: ppl.mask(lambda: sample("x", Steep(jnp.zeros(()), t), PATH), ok)
    inside = lambda t: ppl.simulate(guide(t, False)).log_density + t
    outer = lambda t: ppl.simulate(guide(t, True)).value
    around = lambda t: ppl.simulate(ppl.mask(lambda: outer(t), False)).log_density + t
    for objective in (inside, around):
        assert jax.grad(ppl.expectation(objective), 1)(KEY, 0.0) == 1.0


class Kinked(eqx.Module):
    """y = 2 x where x > 0, else x, of x ~ N(t, 1): its density jumps at zero."""

    t: jax.Array

    def sample(self, key):
        return self.sample_and_log_prob(key)[0]

    def sample_and_log_prob(self, key):
        noise = jax.random.normal(key)
        x = noise + self.t
        stretched = jnp.where(x > 0, jnp.log(2.0), 0.0)
        return jnp.where(x > 0, 2.0 * x, x), dist.Normal(0.0, 1.0).log_prob(noise) - stretched


class Bent(Kinked):
    """y = 2 x + t where x > 0, else x + t, of standard normal x: the kink does not move."""

    def sample_and_log_prob(self, key):
        noise = jax.random.normal(key)
        slope = jnp.where(noise > 0, 2.0, 1.0)
        return slope * noise + self.t, dist.Normal(0.0, 1.0).log_prob(noise) - jnp.log(slope)


def test_a_density_that_jumps_with_its_parameters_warns():
    """Its mean moves by the density there times log 2, which the gradient does not see."""

    def slope(kind):
        objective = lambda t: ppl.simulate(lambda: sample("x", kind(t), PATH)).log_density
        return jax.grad(ppl.expectation(objective), 1)(KEY, 0.3)

    with pytest.warns(DiscontinuousObjective, match="'x'"):
        slope(Kinked)
    assert slope(Bent) == 0.0  # right, and without a warning


def test_in_a_while_loop():
    """It has no reverse mode."""

    def objective(make, t):
        def body(state):
            n, total = state
            return n + 1, total + jnp.sum(jnp.sin(sample("x", make(t), PATH)))

        trace = ppl.simulate(lambda: lax.while_loop(lambda state: state[0] < 3, body, (0, 0.0))[1])
        return trace.value * trace.log_density

    def run(make):
        return jax.jvp(lambda t: ppl.expectation(partial(objective, make))(KEY, t), (0.7,), (1.0,))

    family = FAMILIES["log normal"]
    found, exact = jax.jit(lambda: [run(family), run(lambda s: Plain(family(s)))])()
    close(found, exact, rtol=3e-5)


def test_in_both_worlds_of_a_counterfactual():
    """Where a change does not reach a site, its draw has the density that it had; else its own."""

    def objective(t):
        trace = ppl.simulate(lambda: (sample("w", dist.Normal(0.0, 1.0)), forward(t)))
        return trace.sites["x"].log_prob

    def below(t):
        guide = lambda: sample("x", dist.LogNormal(t * sample("w", dist.Normal(0.0, 1.0)), 1.0))
        trace = ppl.simulate(guide)
        return trace.sites["x"].log_prob, trace.sites["x"].value

    once, again = ppl.seed(ppl.counterfactual(objective, {"w": 1.0}))(KEY, 0.7)
    assert once == again
    _, (log, x) = ppl.seed(ppl.counterfactual(below, {"w": 1.0}))(KEY, 0.7)
    close(log, dist.LogNormal(0.7, 1.0).log_prob(x))


def test_nested_estimates():
    """An estimate inside of a program draws anew, and has the density of its own draw."""

    def outer(make, t):
        inner = ppl.expectation(lambda s: density(one, make, s, PATH))
        return jax.grad(inner, 1)(ppl.fresh_key(), t) ** 2

    def run(make):
        return jax.value_and_grad(ppl.expectation(partial(outer, make)), 1)(KEY, 0.7)

    family = FAMILIES["log normal"]
    found, exact = jax.jit(lambda: [run(family), run(lambda s: Plain(family(s)))])()
    close(found, exact, rtol=3e-5)


def test_a_density_that_nobody_reads_is_not_drawn():
    """The site is the plain one again, in loops too."""

    def objective():
        step = lambda c, _: (c, one(FAMILIES["own"], 0.7, PATH))
        trace = ppl.simulate(lambda: lax.scan(step, 0.0, None, length=2))
        return jnp.sum(trace.choices["x"])

    jaxpr = jax.make_jaxpr(objective)().jaxpr
    (scored,), (plain,) = (list(placed_sites(j)) for j in (jaxpr, equations.pruned(jaxpr)))
    assert scored.site.scores is not None and plain.site.scores is None


def test_what_reads_a_density_reads_the_site_and_what_is_above_it():
    def objective(make):
        def guide():
            return sample("x", make(sample("w", dist.Normal(0.0, 1.0))))

        sample("y", dist.Normal(ppl.simulate(ppl.scope(guide, "q")).log_density, 1.0))

    family = FAMILIES["own"]
    read = [
        {site.address: site.reads for site in ppl.sites(partial(objective, make))}
        for make in (family, lambda t: Plain(family(t)))
    ]
    assert read[0] == read[1] and read[0]["y"] == ("q/w", "q/x")


# --- without a density at given values ------------------------------------------------------------


def forward(t, how=None):
    return sample("x", Forward(t * jnp.ones(2)), how)


def model():
    x = sample("x", dist.Normal(jnp.zeros(2), 1.0))
    sample("y", dist.Normal(x[1] - x[0] ** 2, 0.3), obs=0.8)


def inverted(t, how=None):
    """The same guide, with an inverse."""
    return sample("x", Plain(Warped(t * jnp.ones(2))), how)


OBJECTIVES = {
    "elbo": lambda guide: elbo(model, guide, {}),
    "iwelbo": lambda guide: iwelbo(model, guide, {}, 3),
    "masked": lambda guide: elbo(ppl.mask(model, True), ppl.mask(guide, True), {}),
    "scaled": lambda guide: elbo(model, ppl.scale(guide, 2.0), {}),
    "lanes": lambda guide: jnp.sum(jax.vmap(lambda _: elbo(model, guide, {}))(jnp.arange(2))),
}


def test_of_a_guide_without_an_inverse_no_divergence_is_known():
    objective = lambda: elbo(model, partial(forward, 0.7), {}, analytic_kl=True)
    with pytest.raises(InvalidSetting, match="Forward"):
        ppl.expectation(objective)(KEY)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_guide_without_an_inverse(name):
    """It goes through what simulates it alone, and has the gradient of one that has an inverse."""

    def run(guide):
        objective = lambda t: OBJECTIVES[name](partial(guide, t, PATH))
        return jax.value_and_grad(ppl.expectation(objective), 1)(KEY, 0.7)

    found, exact = jax.jit(lambda: [run(forward), run(inverted)])()
    close(found, exact, rtol=3e-5)


def test_without_an_inverse_the_default_is_to_move_with_the_parameters():
    objective = lambda t, how: elbo(model, partial(forward, t, how), {})
    run = jax.jit(jax.grad(ppl.expectation(objective), 1), static_argnums=2)
    close(run(KEY, 0.7, None), run(KEY, 0.7, PATH))


LANES = lambda t: jax.vmap(lambda s: forward(s))(t * jnp.ones(2))
SCORED = {
    "log_density": lambda t: ppl.log_density(forward, {"x": jnp.zeros(2)}, t),
    "replay": lambda t: ppl.replay(forward, {"x": jnp.zeros(2)}, t).log_density,
    "condition": lambda t: ppl.simulate(ppl.condition(forward, {"x": jnp.zeros(2)}), t)
    .log_likelihood,
    "lanes": lambda t: ppl.log_density(LANES, {"x": jnp.zeros((2, 2))}, t),
    "score": lambda t: jnp.sum(forward(t, ScoreFunction())),
    "the density of a score's draw": lambda t: ppl.simulate(forward, t, ScoreFunction())
    .log_density,
    "several": lambda t: jnp.sum(forward(t, LeaveOneOut(2))),
    "sticking the landing": lambda t: elbo(
        model, partial(forward, t), {}, gradient="sticking-the-landing"
    ),
    "doubly reparameterised": lambda t: iwelbo(
        model, partial(forward, t), {}, 2, gradient="doubly-reparameterized"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SCORED)
def test_scoring_it_at_a_given_value_names_site_and_line(name):
    said = r"(?s)'x' at .*test_scored_draws.py:\d+ .*Forward.*`log_prob`.*Reparameterized\(\)"
    with pytest.raises(UnscorableSite, match=said):
        jax.grad(ppl.expectation(SCORED[name]), 1)(KEY, 0.7)


def test_numpyro_without_an_inverse():
    """Transforms that cannot be inverted are known by what they were computed from."""

    class Cubed(dist.transforms.ParameterFreeTransform):
        domain = codomain = dist.constraints.real

        def __call__(self, x):
            return x + x**3

        def _inverse(self, y):
            raise NotImplementedError

        def log_abs_det_jacobian(self, x, y, intermediates=None):
            return jnp.log1p(3.0 * x**2)

    made = dist.TransformedDistribution(dist.Normal(0.0, 1.0), Cubed())
    trace = ppl.seed(lambda: ppl.simulate(lambda: sample("x", made)))(KEY)
    x = dist.Normal(0.0, 1.0).sample(KEY)
    close((trace.choices["x"], trace.log_density),
          (x + x**3, dist.Normal(0.0, 1.0).log_prob(x) - jnp.log1p(3.0 * x**2)))  # fmt: skip
    with pytest.raises(UnscorableSite, match="'x'"):
        ppl.log_density(lambda: sample("x", made), {"x": 0.0})


def test_a_flow_costs_what_it_costs_by_hand():
    """FLOPs of the ELBO's value and gradient over those of `sample_and_log_prob` in plain JAX."""
    pytest.importorskip("flowjax")
    from benchmarks import flows

    def flops(f, *args):
        gradient = jax.jit(jax.value_and_grad(f, 1))
        return gradient.lower(KEY, *args).compile().cost_analysis()["flops"]

    for name in flows.FLOWS:
        numbers, rest = flows.flow(name)
        ours = flops(ppl.expectation(partial(flows.objective, rest)), numbers)
        assert ours <= 1.1 * flops(partial(flows.handwritten, rest), numbers), name


class Backward(Warped):
    """It knows the density of a given value alone."""

    @property
    def shape(self):
        return self.mean.shape

    def sample(self, key):
        raise NotImplementedError

    def sample_and_log_prob(self, key):
        raise NotImplementedError


def test_what_can_only_be_scored_is_not_asked_for_both():
    program = lambda: sample("x", Backward(jnp.zeros(2)), ScoreFunction())
    close(ppl.log_density(program, {"x": jnp.zeros(2)}), 2.0 * dist.Normal(0.0, 1.0).log_prob(0.0))
    for meant in (program, lambda: ppl.simulate(ppl.mask(program, True)).log_density):
        with pytest.raises(UndrawableSite, match="'x'"):
            ppl.expectation(lambda meant=meant: jnp.sum(meant()))(KEY)


class Wrong(eqx.Module):
    log: Any
    sample = staticmethod(lambda key: jnp.zeros((2, 3)))

    def sample_and_log_prob(self, key):
        return jnp.zeros((2, 3)), self.log


@pytest.mark.parametrize("log", [jnp.zeros(3), jnp.zeros((), int), jnp.zeros((2, 3, 1))])
def test_a_density_of_another_shape_is_refused(log):
    with pytest.raises(InvalidDistribution, match=r"(?s)Wrong at site 'x'.*test_scored_draws.*"):
        ppl.seed(lambda: ppl.simulate(lambda: sample("x", Wrong(log))))(KEY)
