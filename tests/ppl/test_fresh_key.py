"""`fresh_key`: noise inside a program, and estimates inside objectives."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from jax import lax

import ppl
from ppl import errors, fresh_key, sample
from stdlib.estimators import Enumerate, LeaveOneOut, MeasureValued, StochasticTriple
from stdlib.inference import Importance
from stdlib.objectives import elbo
from stdlib.testing import assert_unbiased

KEY = jax.random.key(4)


def noise(shape=()):
    return jax.random.normal(fresh_key(), shape)


def data_of(keys):
    return np.asarray(jax.random.key_data(keys)).reshape(-1, 2)


def everywhere():
    """Two calls, in lanes, steps and both, in branches, in a loop and a checkpoint."""
    steps = lambda *_: lax.scan(lambda c, _: (c, fresh_key()), 0, length=3)[1]
    reached = lambda i: lax.cond(i < 1, fresh_key, fresh_key)
    going = lambda state: (state[0] + 1, state[1].at[state[0]].set(fresh_key()))
    loop = lax.while_loop(lambda state: state[0] < 2, going, (0, jax.random.split(KEY, 2)))[1]
    return [
        jnp.stack([fresh_key(), jax.jit(fresh_key)(), jax.checkpoint(fresh_key)()]),
        jax.vmap(lambda _: fresh_key())(jnp.arange(4)),
        steps(),
        jax.vmap(steps)(jnp.arange(2)).reshape(-1),
        jax.vmap(reached)(jnp.arange(2)),
        jax.vmap(lambda i: lax.cond(True, fresh_key, fresh_key), axis_size=2)(jnp.arange(2)),
        lax.map(lambda _: fresh_key(), jnp.arange(2)),
        loop,
    ]


@pytest.mark.parametrize("run", [ppl.seed, lambda f: ppl.seed(lambda: ppl.simulate(f).value)])
def test_keys_differ_at_every_call_step_lane_and_run(run):
    first, second = (run(everywhere)(key) for key in jax.random.split(KEY))
    found = data_of(jnp.concatenate([*first, *second]))
    assert len(np.unique(found, axis=0)) == len(found) == 2 * (3 + 4 + 3 + 6 + 2 + 2 + 2 + 2)


def test_the_same_run_has_the_same_keys():
    for one, other in zip(ppl.seed(everywhere)(KEY), ppl.seed(everywhere)(KEY), strict=True):
        np.testing.assert_array_equal(data_of(one), data_of(other))


def test_other_generators():
    with jax.default_prng_impl("rbg"):
        draw = ppl.seed(lambda: jnp.stack([noise(), noise()]))
        values = draw(jax.random.key(0, impl="threefry2x32"))
        again = draw(jax.random.key(1, impl="rbg"))
    assert len(np.unique(jnp.concatenate([values, again]))) == 4


# --- the law: with a key inside, an estimate is a value like any other ----------------------------


def inner(x):
    """E = 2 x² + x + 1 from a discrete, a pathwise and an anonymous draw."""
    z = sample("z", dist.Bernoulli(0.5), ppl.ScoreFunction())
    y = sample("y", dist.Normal(x, 1.0))
    return 2.0 * (1.0 + z) * x**2 * noise() ** 2 - z * x**2 * 2.0 + y * noise() ** 2 + noise() + 1.0


def of_inner(x):
    return 2.0 * x**2 + x + 1.0


def estimated(x):
    return ppl.expectation(inner)(fresh_key(), x)


def nested(x):
    return ppl.expectation(lambda x: 0.5 * estimated(x) + 0.5 * estimated(x))(fresh_key(), x)


def in_lanes(x):
    return jnp.mean(jax.vmap(lambda by: estimated(x) + by)(jnp.array([-1.0, 1.0, 0.0])))


def in_steps(x):
    return lax.scan(lambda c, by: (c + by * estimated(x), None), 0.0, jnp.array([0.25, 0.75]))[0]


def in_branches(x):
    return lax.cond(x > 0.0, estimated, lambda x: x, x)


def kept(x):
    return jax.checkpoint(estimated)(x)


@pytest.mark.parametrize(
    "objective",
    [estimated, nested, in_lanes, in_steps, in_branches, kept],
    ids=lambda f: f.__name__,
)
def test_an_estimate_inside_has_the_mean_and_the_mean_gradient_of_the_inner_one(objective):
    assert_unbiased(objective, 0.7, exact=of_inner, key=KEY, num_samples=100_000)


def test_derivatives_inside_of_the_program():
    """The mean of the gradient is the gradient of the mean, and once more."""

    def objective(x):
        return jax.grad(estimated)(x) * x

    assert_unbiased(
        objective, 0.7, exact=lambda x: (4.0 * x + 1.0) * x, key=KEY, num_samples=100_000
    )


@pytest.mark.parametrize(
    "estimator",
    [Enumerate(), ppl.ScoreFunction(), MeasureValued(), StochasticTriple(), LeaveOneOut(3)],
    ids=lambda e: type(e).__name__,
)
def test_estimates_of_what_a_discrete_choice_decides(estimator):
    """E over b of (E[inner] at b): noise after the site is shared by its particles."""

    def objective(t):
        b = sample("b", dist.Bernoulli(jnp.stack([t, 0.5 * t])), estimator)
        return jnp.sum(jax.vmap(lambda b: estimated(b + t))(b)) * (1.0 + noise() ** 2)

    def exact(t):
        return 2.0 * sum(p * of_inner(1.0 + t) + (1.0 - p) * of_inner(t) for p in (t, 0.5 * t))

    assert_unbiased(objective, 0.4, exact=exact, key=KEY, num_samples=100_000)


# --- in models, guides and algorithms -------------------------------------------------------------


def model():
    z = sample("z", dist.Normal(0.0, 1.0))
    sample("x", dist.Normal(z, 1.0), obs=1.0)


def dropped(mean):
    """A guide whose mean a coin doubles or drops."""
    kept = jax.random.bernoulli(fresh_key()) * 2.0
    sample("z", dist.Normal(kept * mean, 1.0))


def test_a_guide_with_a_stochastic_layer():
    """Its density is that of the run with this key: the mean of the bounds with and without."""

    def exact(mean):
        bound = lambda m: -jnp.log(2 * jnp.pi) + 0.5 - 0.5 * (1 + m**2) - 0.5 * (2 + m**2 - 2 * m)
        both = 0.5 * (bound(0.0) + bound(2.0 * mean))
        return both + 0.5 * jnp.log(2 * jnp.pi)

    objective = lambda mean: elbo(model, partial(dropped, mean), {})
    assert_unbiased(objective, 0.6, exact=exact, key=KEY, num_samples=100_000)


def test_choices_scores_and_data_go_as_without():
    """`simulate`, `condition`, `intervene`, `scale` and `scope` leave keys what they are."""

    def program():
        shift = noise()
        return shift, sample("z", dist.Normal(shift, 1.0))

    changed = {1.0: ppl.scope(program, "s"), 2.0: ppl.scale(program, 2.0)}
    for factor, again in changed.items():
        trace = ppl.seed(lambda again=again: ppl.simulate(again))(KEY)
        shift, z = trace.value
        np.testing.assert_allclose(
            trace.log_density, factor * dist.Normal(shift, 1.0).log_prob(z), rtol=1e-5
        )
    observed = ppl.seed(lambda: ppl.simulate(ppl.condition(program, {"z": 0.3})))(KEY)
    np.testing.assert_allclose(
        observed.log_likelihood, dist.Normal(observed.value[0], 1.0).log_prob(0.3), rtol=1e-5
    )
    replaced = ppl.seed(ppl.intervene(program, {"z": 0.3}))(KEY)
    assert replaced[1] == np.float32(0.3) and replaced[0] == observed.value[0]


def test_an_algorithm_in_a_program_with_keys():
    """E[ŵ] = p(x), over the model's own noise as well."""

    def noisy():
        z = sample("z", dist.Normal(0.0, 1.0))
        sample("x", dist.Normal(z + 0.5 * noise(), 1.0))

    only_x = ppl.marginal(noisy, "x", Importance(3))
    estimate = ppl.seed(lambda: jnp.exp(ppl.log_density(only_x, {"x": 0.7})))
    values = jax.jit(jax.vmap(estimate))(jax.random.split(KEY, 40_000))
    exact = jnp.exp(dist.Normal(0.0, 2.25**0.5).log_prob(0.7))
    assert abs(values.mean() - exact) < 5 * values.std() / 200.0


# --- errors ---------------------------------------------------------------------------------------


def test_outside_of_any_run():
    with pytest.raises(errors.SampleOutsideTransformation, match=r"fresh_key\(\) at .*test_fresh"):
        fresh_key()
    with pytest.raises(errors.SampleOutsideTransformation, match=r"ppl\.seed\(lambda: ppl\.log"):
        ppl.log_density(partial(dropped, 1.0), {"z": 0.0})


def test_nothing_is_drawn_for_an_exact_sum():
    def objective():
        return sample("b", dist.Bernoulli(0.3), Enumerate()) * noise()

    with pytest.raises(errors.UnsuitableEstimator, match=r"fresh_key\(\) at .*test_fresh_key"):
        ppl.log_expectation(objective)()


def test_messages_about_loops_without_sites():
    def endless(t):
        return lax.while_loop(lambda x: x < 1.0, lambda x: x + t * abs(noise()), t)

    with pytest.raises(errors.ReverseModeLoop, match="A fresh key is inside a while_loop"):
        jax.grad(ppl.expectation(endless), argnums=1)(KEY, 0.5)
