"""Which law the estimate of a density keeps, and who may read it."""

from functools import partial

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
import pytest
from jax import lax

import ppl
from ppl import fresh_key, sample
from ppl.errors import EstimatedDensity
from ppl.extend import Algorithm, Target, check_laws
from stdlib.inference import AIS, HMC, SMC, Exact, Importance, RandomWalk, chain
from stdlib.objectives import cubo, elbo, iwelbo, renyi, sumo, tvo, wake_phase
from stdlib.testing import assert_unbiased

KEY = jax.random.key(2)


class Noisy(Algorithm):
    """Exact, but for noise on the logarithm, of mean zero."""

    law = "log"

    def simulate(self, target):
        choices, log_q = Exact().simulate(target)
        return choices, log_q + noise()

    def log_density(self, target, choices):
        return Exact().log_density(target, choices) + noise()

    def log_evidence(self, target):
        return Exact().log_evidence(target) + noise()

    def log_evidence_given(self, target, choices):
        return self.log_evidence(target)


class Lawless(Noisy):
    law = None


def noise():
    return 0.5 * jax.random.normal(fresh_key())


def pair(t=0.0):
    u = sample("u", dist.Normal(t, 1.0))
    return sample("x", dist.Normal(u, 1.0))


def only_x(algorithm):
    return ppl.marginal(pair, "x", algorithm)


def model():
    x = sample("x", dist.Normal(0.5, 1.0))
    sample("y", dist.Normal(x, 1.0), obs=1.0)


def bound(t):
    return elbo(model, lambda: only_x(Noisy())(t), {})


def test_a_bound_of_log_laws_has_its_mean():
    """An ELBO with the marginal Normal(t, √2) as guide, its density known up to noise."""

    def exact(t):
        log_p = -jnp.log(2 * jnp.pi) - 0.5 * (2 + (t - 0.5) ** 2) - 0.5 * (2 + (t - 1) ** 2)
        return log_p + dist.Normal(0.0, 2.0**0.5).entropy()

    assert_unbiased(bound, 0.3, exact=exact, key=KEY, num_samples=100_000)


def nested():
    """A program one of whose densities is a noisy one, and one hidden choice."""
    x = only_x(Noisy())()["x"]
    sample("z", dist.Normal(x, 1.0))


def stepping():
    def step(z, _):
        z = sample("z", dist.Normal(z, 1.0))
        ppl.scope(only_x(Noisy()), "inner")(z)
        return z, None

    lax.scan(step, 0.0, length=3)


def guess(_):
    sample("x", dist.Normal(0.0, 1.0))


GUIDED = Importance(2, guess)


READERS = {
    "marginal": lambda: ppl.log_density(ppl.marginal(nested, "z", GUIDED), {"z": 0.0}),
    "normalize": ppl.normalize(nested, {"z": 0.0}, GUIDED),
    "importance": lambda: GUIDED.log_evidence(Target(nested, {"z": 0.0})),
    "data": lambda: Importance(2).log_evidence(Target(nested, {"x": 0.0})),
    "annealed": lambda: AIS(2, 2, RandomWalk(0.5)).log_evidence(Target(nested, {"z": 0.0})),
    "in a loop": lambda: SMC(2).log_evidence(Target(stepping, {"inner": {"x": jnp.zeros(3)}})),
    "a kernel": lambda: ppl.seed(chain)(
        KEY, HMC(0.1, 2), Target(nested, {"z": 0.0}), {"x": 0.0}, 2
    ),
    "scored": lambda: Target(nested, {"z": 0.0}).log_density({"x": 0.0}),
}


@pytest.mark.parametrize("reader", READERS.values(), ids=READERS)
def test_algorithms_refuse_targets_of_another_law(reader):
    with pytest.raises(EstimatedDensity, match=r"target '(nested|stepping)'.*'\S*x', .*log p"):
        ppl.seed(reader)(KEY)


def test_a_law_is_kept_by_what_keeps_all_choices():
    """And read through `scale`, `mask`, `scope`, `vmap` and `scan`."""
    kept = ppl.marginal(only_x(Noisy()), "x", Importance(1))
    for change in (lambda f: f, lambda f: ppl.scale(f, 2.0), lambda f: ppl.mask(f, True), jax.vmap):
        args = (jnp.zeros(2),) if change is jax.vmap else ()
        program = lambda change=change, args=args: change(kept)(*args)
        with pytest.raises(EstimatedDensity, match="at 'x'"):
            ppl.seed(lambda program=program: Target(program, {}).log_density({"x": 0.0}))(KEY)


def test_a_prior_that_is_only_drawn_is_no_weight():
    """Its density cancels: the weight is that of the data alone."""
    evidence = lambda: jnp.exp(Importance(3).log_evidence(Target(nested, {"z": 0.4})))
    values = jax.jit(jax.vmap(ppl.seed(evidence)))(jax.random.split(KEY, 20_000))
    exact = jnp.exp(dist.Normal(0.0, 3.0**0.5).log_prob(0.4))
    assert abs(values.mean() - exact) < 5 * values.std() / 20_000**0.5


def test_those_of_the_law_are_read():
    for algorithm in (Exact(), Importance(2)):
        program = only_x(algorithm)
        evidence = ppl.seed(lambda program=program: Importance(2).log_evidence(Target(program, {})))
        assert abs(evidence(KEY)) < 5.0


WEIGHING = {
    "iwelbo": partial(iwelbo, num_particles=2),
    "doubly reparameterised": partial(iwelbo, num_particles=2, gradient="doubly-reparameterized"),
    "renyi": partial(renyi, alpha=0.5, num_particles=2),
    "cubo": partial(cubo, order=2.0, log_evidence=0.0),
    "tvo": partial(tvo, num_particles=2, betas=(0.0, 0.5)),
    "sumo": partial(sumo, max_particles=4),
    "wake": partial(wake_phase, num_particles=2),
}


@pytest.mark.parametrize("objective", WEIGHING.values(), ids=WEIGHING)
@pytest.mark.parametrize("noisy", ["guide", "model"])
def test_bounds_of_weights_refuse_log_laws(objective, noisy):
    programs = {"guide": lambda: sample("x", dist.Normal(0.0, 1.0)), "model": model}
    programs[noisy] = lambda: only_x(Noisy())()
    with pytest.raises(EstimatedDensity, match=rf"the density of the {noisy} .*'x'.*log p"):
        ppl.expectation(lambda: objective(programs["model"], programs["guide"], {}))(KEY)


# --- what needs the density itself ----------------------------------------------------------------


def within(algorithm):
    """A choice whose density is an estimate, and one that reads it."""

    def program():
        x = only_x(algorithm)()["x"]
        sample("z", dist.Normal(x, 1.0))

    return program


def with_key():
    sample("x", dist.Normal(jax.random.normal(fresh_key()), 0.5))


GIVEN = {"z": jnp.asarray(0.0)}
WALK, FILTER = RandomWalk(0.5), SMC(2, schedule=2)
TWICE = {
    "simulated": lambda: ppl.simulate(ppl.marginal(within(Importance(2)), "z", GUIDED)),
    "moved": lambda: chain(HMC(0.1, 2), Target(within(Importance(2)), GIVEN), {"x": 0.0}, 2),
    "walked": lambda: chain(WALK, Target(within(FILTER), GIVEN), {"x": 0.0}, 2),
    "tempered": lambda: AIS(2, 2, WALK).log_evidence(Target(within(FILTER), GIVEN)),
    "kept whole": lambda: ppl.simulate(ppl.marginal(only_x(Importance(2)), "x", Exact())),
}
KEYED = {
    "simulated": lambda: ppl.simulate(ppl.marginal(with_key, "x", Exact())),
    "moved": lambda: chain(HMC(0.1, 2), Target(with_key, {}), {"x": 0.0}, 2),
}


@pytest.mark.parametrize("reader", TWICE.values(), ids=TWICE)
def test_what_reads_a_density_twice_needs_it_exact(reader):
    with pytest.raises(EstimatedDensity, match=r"needs w = p .* 'x', .* has E\[w\] = p.*Exact"):
        ppl.seed(reader)(KEY)


@pytest.mark.parametrize("reader", KEYED.values(), ids=KEYED)
def test_and_not_another_one_in_each_run(reader):
    with pytest.raises(EstimatedDensity, match=r"with_key'.*fresh_key\(\) at .*test_estimated"):
        ppl.seed(reader)(KEY)


def test_exact_ones_go_through():
    """E[1/w | z] p(z) = 1, with an exact inner marginal; moves leave its posterior as it is."""
    only_z = ppl.marginal(within(Exact()), "z", GUIDED)
    log_p = lambda z: dist.Normal(0.0, 3.0**0.5).log_prob(z)

    def ratio():
        trace = ppl.simulate(only_z)
        z = trace.choices["z"]
        return jnp.sin(z + 1.0) * jnp.exp(log_p(z) - trace.log_density)

    values = jax.jit(jax.vmap(ppl.seed(ratio)))(jax.random.split(KEY, 100_000))
    exact = jnp.sin(1.0) * jnp.exp(-1.5)
    assert abs(values.mean() - exact) < 5 * values.std() / 100_000**0.5
    target = Target(within(Exact()), {"z": 1.0})
    start = lambda key: {"x": 2 / 3 + (2 / 3) ** 0.5 * jax.random.normal(key)}
    moved = lambda key: ppl.seed(chain)(key, HMC(0.4, 3), target, start(key), 2)["x"][-1]
    x = jax.jit(jax.vmap(moved))(jax.random.split(KEY, 20_000))
    assert abs(x.mean() - 2 / 3) < 5 * (2 / 3 / 20_000) ** 0.5
    assert abs(((x - 2 / 3) ** 2).mean() - 2 / 3) < 5 * (2 / 3) * (2 / 20_000) ** 0.5


def test_neither_law():
    program = only_x(Lawless())
    sites = ppl.sites(program)
    with pytest.raises(EstimatedDensity, match=r"An ELBO needs .* neither E\[w\] = p nor"):
        check_laws(sites, "An ELBO", ("exact", "weight", "log"))
