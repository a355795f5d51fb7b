"""`gradient_report` against closed forms: bias, variance, the part of each site, and errors."""

import re
import sys
from functools import partial
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

import ppl
from ppl import sample
from ppl.errors import BiasedEstimator, InvalidKey, InvalidSetting, MissingDependency, NotTrainable
from stdlib._gradient_noise import QUICK
from stdlib.diagnostics import gradient_report
from stdlib.diagnostics._redrawn import redrawing
from stdlib.distributions import FloatBernoulli
from stdlib.estimators import DisArm, Enumerate, LeaveOneOut, MeasureValued, StraightThrough

KEY = jax.random.key(0)
P = 0.3
UP, DOWN = 0.55**2, 0.45**2
EXACT = UP - DOWN
VARIANCE = UP**2 / P + DOWN**2 / (1 - P) - EXACT**2
"""Of the score estimate of the cost below: UP/p with probability p, else -DOWN/(1-p)."""


def cost(p, kind=dist.Bernoulli, estimator=None):
    return (sample("x", kind(p), estimator) - 0.45) ** 2


def close(found, wanted, error):
    assert np.all(np.abs(found - wanted) < 5 * error + 1e-6), (found, wanted, error)


def test_variance_bias_and_signal_of_a_score_estimate_are_the_closed_forms():
    report = gradient_report(cost, P, KEY, num_samples=20_000)
    close(report.total_variance, VARIANCE, report.variance_error[0])
    assert 0.001 < report.variance_error[0] < 0.02
    close(report.gradient, EXACT, (VARIANCE / report.num_samples) ** 0.5)
    np.testing.assert_allclose(report.exact, EXACT, rtol=1e-5)
    np.testing.assert_allclose(report.signal_to_noise, EXACT / VARIANCE**0.5, rtol=0.05)
    z = (report.gradient - EXACT) / (VARIANCE / report.num_samples) ** 0.5
    np.testing.assert_allclose(report.bias_z, z, rtol=0.05, atol=0.01)
    close(report.value, P * UP + (1 - P) * DOWN, report.value_error)
    assert report.flops > 0 and report.work == report.total_variance * report.flops
    # one site has all of the variance
    close(report.site_variance[0], report.variance, report.site_variance_error[0])


def test_an_exact_estimate_has_no_variance_and_no_bias():
    report = gradient_report(partial(cost, estimator=Enumerate()), P, KEY, num_samples=64)
    assert report.total_variance < 1e-12 and abs(report.bias_z[0]) < 1
    assert report.site_variance.tolist() == [[0.0]]
    assert report.estimators == ("Enumerate",)


class Half(ppl.extend.Estimator):
    """Its derivative is half of the right one, which it does not admit."""

    unbiased: ClassVar[bool] = True

    def particles(self, key, distribution):
        value = jax.lax.stop_gradient(distribution.sample(key))
        weights = ppl.extend.box(distribution.log_prob(value) / 2)
        return ppl.extend.Particles(value[None], weights[None])


@pytest.mark.parametrize(
    ("estimator", "biased"),
    [(None, False), (LeaveOneOut(3), False), (DisArm(), False), (Half(), True)],
    ids=str,
)
def test_bias_is_seen_where_there_is_one(estimator, biased):
    report = gradient_report(partial(cost, estimator=estimator), P, KEY, num_samples=20_000)
    assert (abs(report.bias_z[0]) > 8) == biased and (abs(report.bias_z[0]) > 5) == biased


def test_estimators_that_say_they_are_biased_are_measured_where_allowed():
    straight = partial(cost, kind=FloatBernoulli, estimator=StraightThrough())
    report = gradient_report(straight, P, KEY, num_samples=2000, allow_biased=True)
    # E[2 (b - 0.45)] = 2 (p - 0.45), with variance 4 p (1 - p)
    close(report.total_variance, 4 * P * (1 - P), report.variance_error[0])
    wanted = (2 * (P - 0.45) - EXACT) / (4 * P * (1 - P) / report.num_samples) ** 0.5
    assert wanted < -10 and abs(report.bias_z[0] - wanted) < 5
    with pytest.raises(BiasedEstimator):
        gradient_report(straight, P, KEY)


# --- by site -------------------------------------------------------------------------------------


def product(params):
    """The gradient in p is xy/p: its total effects are q(1-q)/p and q(1-p)/p, of q/p - q²."""
    x = sample("a[0]", dist.Bernoulli(params["p"]))
    sample("unused", dist.Normal(0.0, 1.0))
    return (x * sample("y", dist.Bernoulli(0.6)) + params["w"].sum()).astype(float)


@pytest.mark.parametrize("exact_y", [False, True])
def test_the_variance_of_a_site_is_what_is_left_where_other_noise_is_known(exact_y):
    q, params = 0.6, {"p": 0.4, "w": jnp.ones(2)}
    chosen = {"y": Enumerate()} if exact_y else {}
    report = gradient_report(ppl.with_estimators(product, chosen), params, KEY, num_samples=20_000)
    p = params["p"]
    assert report.sites == ("a[0]", "unused", "y") and report.parameters[0] == "params['p']"
    # with y summed out, the gradient is qx/p
    wanted = [q**2 * (1 - p) / p, 0, 0] if exact_y else [q * (1 - p) / p, 0, q * (1 - q) / p]
    total = q**2 * (1 - p) / p if exact_y else q / p - q**2
    close(report.site_variance[:, 0], np.array(wanted), report.site_variance_error[:, 0])
    close(report.variance[0], total, report.variance_error[0])
    assert report.site_variance[:, 1].tolist() == [0, 0, 0] and report.variance[1] == 0


def looped(params):
    """Every kind of measure and loop: the estimate is not changed by what draws noise anew."""

    def step(state, _):
        state = state + sample("step", dist.Normal(params["m"], 1.0))
        return state, sample("count", dist.Poisson(jnp.exp(state / 9)), MeasureValued())

    end, counts = jax.lax.scan(step, 0.0, None, length=2)
    lanes = jax.vmap(lambda i: sample("lane", dist.Bernoulli(params["p"]), LeaveOneOut()))
    pair = sample("pair", dist.Bernoulli(jnp.full(2, params["p"])), DisArm())
    scored = sample("score", dist.Normal(params["m"], 1.0), ppl.ScoreFunction(params["m"]))
    return end * scored * (1 + jnp.sum(lanes(jnp.arange(3)))) + counts.sum() * jnp.sum(pair)


def test_noise_is_drawn_anew_at_the_flagged_sites_alone():
    params = {"m": jnp.array(0.3), "p": jnp.array(0.4)}
    sites = ["step", "count", "lane", "pair", "score"]
    keys = jax.random.split(KEY, 20)  # a discrete draw may be the same once more, by chance
    program = jax.value_and_grad(ppl.expectation(redrawing(looped, sites)), 1)
    draws = jax.vmap(jax.vmap(program, (None, None, 0)), (0, None, None))
    values, slopes = jax.jit(draws, compiler_options=QUICK)(keys, params, np.eye(6, 5, dtype=bool))
    plain = jax.vmap(jax.value_and_grad(ppl.expectation(looped), 1), (0, None))
    none = jax.tree.map(lambda x: x[:, 5], (values, slopes))
    wanted = jax.jit(plain, compiler_options=QUICK)(keys, params)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-4), none, wanted)
    assert np.all(np.any(values[:, :5] != values[:, 5:], axis=0))


# --- references, parameters, sizes ---------------------------------------------------------------


def square(mean):
    return jnp.sum(sample("x", dist.Normal(mean, 1.0)) ** 2)


def test_no_bias_is_reported_where_no_exact_gradient_is_known():
    report = gradient_report(square, jnp.array(1.0), KEY, num_samples=64)
    assert report.exact is None and report.bias_z is None and "bias z" not in repr(report)


def test_too_many_joint_states_are_no_reference():
    def mixed(p):
        return jnp.max(sample("x", dist.Bernoulli(jnp.full(20, p)))) * 1.0

    assert gradient_report(mixed, 0.1, KEY, num_samples=64).exact is None


MEANS = {"a": jnp.array([1.0, -2.0]), "b": jnp.array(0.5), "n": 3, "f": jnp.tanh}


def squares(params):
    assert params["n"] == 3
    return square(params["a"]) + params["f"](params["b"])


@pytest.mark.parametrize("given", ["function", "gradient"])
def test_exact_is_a_function_or_its_gradient(given):
    def exact(params):
        return jnp.sum(params["a"] ** 2 + 1) + params["f"](params["b"])

    gradient = eqx.filter_grad(exact)(MEANS)
    exact = exact if given == "function" else gradient
    report = gradient_report(squares, MEANS, KEY, exact=exact, num_samples=4000)
    np.testing.assert_allclose(report.exact["a"], [2.0, -4.0])
    # 2x has variance 4 in each coordinate
    close(report.variance[0], 8.0, report.variance_error[0])
    assert report.parameters == ("params['a']", "params['b']") and report.sizes == (2, 1)
    assert np.all(np.abs(report.bias_z) < 5)
    wrong = gradient_report(
        squares, MEANS, KEY, exact=eqx.apply_updates(gradient, gradient), num_samples=4000
    )
    assert np.all(np.abs(wrong.bias_z) > 20)


def test_bias_of_the_worst_coordinate():
    exact = jnp.array([2.0, -4.0, 3.0])
    report = gradient_report(square, jnp.array([1.0, -2.0, 1.0]), KEY, exact=exact)
    z = (report.gradient - exact) / (4 / report.num_samples) ** 0.5
    np.testing.assert_allclose(report.bias_z, z[2], rtol=0.2)
    assert report.bias_z[0] < -10


def test_a_module_is_a_parameter_and_its_floats_are_settings():
    class Mean(eqx.Module):
        value: jax.Array
        power: float = 2.0

    report = gradient_report(lambda m: square(m.value) ** m.power, Mean(jnp.ones(2)), KEY)
    assert report.parameters == ("params.value",) and report.gradient.value.shape == (2,)


def test_samples_are_rounded_up_to_batches_of_bounded_memory(monkeypatch):
    monkeypatch.setattr("stdlib._gradient_noise.MEMORY", 1)
    few = gradient_report(square, jnp.array(1.0), KEY, num_samples=101)
    assert few.num_samples == 102
    close(few.total_variance, 4.0, few.variance_error[0])


def test_a_program_without_sites_has_no_noise():
    report = gradient_report(lambda x: x**2, 3.0, KEY, num_samples=10)
    assert report.sites == () and report.total_variance == 0 and report.gradient == 6.0
    assert "site" not in repr(report)


# --- errors, and what is printed and drawn -------------------------------------------------------

WRONG = [
    ({"num_samples": 1}, InvalidSetting, r"at least 2, got 1.*num_samples=1024"),
    ({"exact": jnp.zeros(3)}, InvalidSetting, r"params\[\].*got params\[3\].*jax\.grad\("),
    ({"exact": "no"}, InvalidSetting, "a function of params, or a gradient like params"),
    ({"params": 3}, NotTrainable, r"no floating-point array.*jnp\.asarray\(0\.0\)"),
    ({"key": 3}, InvalidKey, "key"),
]


@pytest.mark.parametrize(("change", "error", "text"), WRONG)
def test_errors_say_what_to_write(change, error, text):
    arguments = {"params": P, "key": KEY, **change}
    with pytest.raises(error, match=re.compile(text, re.DOTALL)):
        gradient_report(cost, **arguments)


@pytest.fixture(scope="module")
def report():
    return gradient_report(product, {"p": 0.4, "w": jnp.ones(2)}, KEY, num_samples=64)


def test_it_prints_a_table_of_parameters_and_one_of_sites(report):
    heading, parameters, sites = repr(report).split("\n\n")
    assert heading.startswith("GradientReport of product: ") and "64 estimates" in heading
    assert [line.split()[0] for line in parameters.splitlines()] == [
        "parameter", "params['p']", "params['w']",
    ]  # fmt: skip
    assert [line.split()[:2] for line in sites.splitlines()[1:]] == [
        ["a[0]", "ScoreFunction"], ["unused", "Reparameterized"], ["y", "ScoreFunction"],
    ]  # fmt: skip
    page = report._repr_html_()
    assert page.count("<table>") == 2 and "params[&#x27;p&#x27;]" in page


def test_plot(report):
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    axes = report.plot()
    assert [len(axis.patches) for axis in axes] == [2, 3]
    assert len(report.plot(plt.subplots()[1]).patches) == 2
    plt.close("all")


def test_plot_without_matplotlib_says_what_to_install(report, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    with pytest.raises(MissingDependency, match=r"pip install matplotlib.*signal_to_noise"):
        report.plot()


def test_settings_that_are_arrays():
    def program(p):
        scored = ppl.ScoreFunction(baseline=jnp.asarray(0.1))
        return (sample("x", dist.Bernoulli(p), scored) - 0.45) ** 2

    report = gradient_report(program, 0.3, jax.random.key(0), num_samples=64)
    assert "ScoreFunction" in repr(report)
