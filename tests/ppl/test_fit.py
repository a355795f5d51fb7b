"""`fit`: known optima, minibatches, policies, Ctrl-C, no recompilation, many runs, resuming."""

import builtins
import functools
import inspect
import logging
import signal
import types

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import optax
import pytest

import ppl
from ppl import errors
from ppl._fit import driver, loop
from ppl._fit.ahead import draw_ahead
from ppl._fit.progress import Bar
from ppl._fit.sameness import Same

KEY = jax.random.key(7)
fit = functools.partial(ppl.fit, key=KEY, progress=False)


def quadratic(x):
    """Maximal, 1, at x = 3."""
    return 1.0 - jnp.sum((x - 3.0) ** 2)


def noisy(x):
    """E = -(x - 3)^2 - 1."""
    return -((x - ppl.sample("y", dist.Normal(3.0, 1.0))) ** 2)


def model():
    z = ppl.sample("z", dist.Normal(0.0, 1.0))
    ppl.sample("x", dist.Normal(z, 1.0), obs=2.0)


def guide(phi):
    ppl.sample("z", dist.Normal(phi["mean"], jnp.exp(phi["log_scale"])))


def elbo(phi):
    q = ppl.simulate(guide, phi)
    return ppl.log_density(model, q.choices) - q.log_density


PHI = {"mean": 0.0, "log_scale": 0.0}


def same_bits(a, b):
    a, b = jax.tree.leaves(a), jax.tree.leaves(b)
    assert len(a) == len(b)
    return all(np.array_equal(x, y, equal_nan=True) for x, y in zip(a, b, strict=True))


# --- known optima --------------------------------------------------------------------------------


@pytest.mark.parametrize("num_samples", [1, 16])
def test_stochastic_gradient_reaches_the_stationary_distribution(num_samples):
    """SGD on a noisy quadratic is an AR(1) process of known stationary variance a / (2 - a) / S."""
    rate = 0.05
    result = fit(noisy, 0.0, optax.sgd(rate), steps=4000, num_samples=num_samples)
    step = 2 * rate
    sd = (step / (2 - step) / num_samples) ** 0.5
    assert abs(result.params - 3.0) < 4 * sd
    # the objective's own average, of 2000 estimates with correlated errors: at least 100 of them
    tail = result.history["objective"][2000:]
    expected = -1.0 - step / (2 - step) / num_samples
    assert abs(tail.mean() - expected) < 4 * tail.std() / 2000**0.5 * (1 + 2 / step) ** 0.5
    assert abs(tail.var() * num_samples / 2.0 - 1) < 0.35  # the variance of a chi-squared


def test_elbo_of_a_conjugate_model_reaches_its_posterior():
    schedule = optax.exponential_decay(0.05, 1, 0.998)
    result = fit(elbo, PHI, optax.adam(schedule), steps=2500, num_samples=16)
    assert abs(result.params["mean"] - 1.0) < 0.01
    assert abs(result.params["log_scale"] - np.log(0.5**0.5)) < 0.01
    evidence = float(dist.Normal(0.0, 2**0.5).log_prob(2.0))
    tail = result.history["objective"][-500:]
    assert abs(tail.mean() - evidence) < 4 * tail.std() / 500**0.5 + 1e-4


def test_minimize():
    result = fit(lambda x: -quadratic(x), jnp.zeros(2), optax.sgd(0.1), steps=100, maximize=False)
    np.testing.assert_allclose(result.params, 3.0, rtol=1e-5)
    assert result.history["objective"][0] == 17.0


def test_history_is_measured_before_each_update():
    result = fit(quadratic, 0.0, optax.sgd(0.25), steps=3)
    np.testing.assert_allclose(result.history["objective"], [-8.0, -1.25, 0.4375])
    np.testing.assert_allclose(result.history["grad_norm"], [6.0, 3.0, 1.5])
    assert result.steps == 3 and result.params == 2.625


@pytest.mark.parametrize(
    "optimizer",
    [
        optax.adam(0.1),
        optax.chain(optax.clip_by_global_norm(10.0), optax.sgd(0.1, momentum=0.5)),
        optax.chain(optax.adam(0.1), optax.contrib.reduce_on_plateau(patience=50)),
        optax.lbfgs(),
        optax.inject_hyperparams(optax.adam)(learning_rate=0.1),
        optax.chain(optax.add_noise(0.01, 0.9, jax.random.key(0)), optax.adam(0.1)),
        optax.MultiSteps(optax.adam(0.1), 2).gradient_transformation(),
    ],
    ids=["adam", "chain", "plateau", "lbfgs", "inject", "noise", "multi"],
)
def test_optimizers(optimizer):
    result = fit(lambda p: quadratic(p["a"]), {"a": jnp.zeros(3)}, optimizer, steps=400)
    np.testing.assert_allclose(result.params["a"], 3.0, atol=0.02)


def test_low_precision_gradients_have_a_norm_in_float32():
    result = fit(lambda x: 300.0 * jnp.sum(x), jnp.zeros(4, jnp.float16), optax.sgd(0.0), steps=1)
    assert result.history["grad_norm"][0] == 600.0  # 600^2 is past the largest float16
    assert result.params.dtype == jnp.float16


# --- what is trained -----------------------------------------------------------------------------


class Affine(eqx.Module):
    weight: jax.Array
    count: jax.Array
    rate: float
    act: object

    def __call__(self, x):
        return self.act(self.weight * x) * self.rate + self.count


def test_frozen_leaves_are_the_objects_that_were_given():
    params = {
        "net": Affine(jnp.zeros(2), jnp.arange(2), 0.5, jnp.tanh),
        "free": 1.0,
        "n": 3,
        "flag": True,
        "name": "x",
        "index": np.arange(3),
        "none": None,
    }

    def objective(params):
        assert params["n"] == 3 and params["name"] == "x"
        return -jnp.sum((params["net"](1.0) - 1.3) ** 2) - params["free"] ** 2

    with pytest.warns(ppl.errors.IntegerParameter, match=r"params\['net'\]\.count is int32"):
        result = fit(objective, params, optax.adam(0.05), steps=50)
    for name in ("n", "flag", "name", "index", "none"):
        assert result.params[name] is params[name]
    net = result.params["net"]
    assert net.count is params["net"].count and net.rate == 0.5 and net.act is jnp.tanh
    assert (net.weight != 0).all() and result.params["free"] < 1.0
    assert result.sizes == (3, 2, 2)


@pytest.mark.parametrize(
    "trainable",
    [lambda leaf: leaf.ndim == 1, {"a": True, "b": False}],
    ids=["function", "prefix"],
)
def test_trainable(trainable):
    params = {"a": jnp.zeros(2), "b": {"c": jnp.zeros(()), "d": jnp.zeros(())}}
    result = fit(lambda p: quadratic(p["a"] + p["b"]["c"]), params, optax.sgd(0.1), steps=100,
                 trainable=trainable)  # fmt: skip
    np.testing.assert_allclose(result.params["a"], 3.0, rtol=1e-5)
    assert result.params["b"]["c"] is params["b"]["c"]


def test_bare_float_and_numpy_parameters():
    assert fit(quadratic, 0.0, optax.sgd(0.25), steps=60).params == 3.0
    result = fit(quadratic, np.zeros(2, np.float32), optax.sgd(0.25), steps=60)
    assert isinstance(result.params, jax.Array) and (result.params == 3.0).all()


# --- minibatches ---------------------------------------------------------------------------------


def visits(params, batch):
    """With unit steps of SGD, a parameter counts how often its datum was in a batch."""
    return params[batch["index"]].sum()


@pytest.mark.parametrize(("size", "batch_size"), [(12, 4), (12, 1), (12, 12), (6000, 5)])
def test_an_epoch_sees_every_datum_once(size, batch_size):
    data = {"index": np.arange(size)}
    steps = 2 * size // batch_size
    result = fit(visits, jnp.zeros(size), optax.sgd(1.0), steps=steps, data=data,
                 batch_size=batch_size)  # fmt: skip
    assert (result.params == 2).all()


def test_what_fills_no_batch_sits_one_epoch_out():
    data = {"index": np.arange(10)}
    one = fit(visits, jnp.zeros(10), optax.sgd(1.0), steps=3, data=data, batch_size=3)
    assert sorted(one.params.tolist()) == [0.0] + [1.0] * 9
    many = fit(visits, jnp.zeros(10), optax.sgd(1.0), steps=3000, data=data, batch_size=3)
    # each datum sits out a tenth of 1000 epochs, independently: a binomial of sd 9.5
    assert many.params.sum() == 9000
    assert (abs(many.params - 900) < 4.5 * 9.5).all()


def test_epochs_have_different_orders_and_keys_too():
    def weighted(params, batch):
        return (params * batch).sum()

    def orders(key):
        batches = []
        record = lambda batch: batches.append(np.asarray(batch))

        def objective(params, batch):
            jax.debug.callback(record, batch, ordered=True)
            return weighted(params, batch)

        ppl.fit(objective, jnp.zeros(1), optax.sgd(0.0), key=key, steps=4, data=np.arange(20.0),
                batch_size=10, progress=False)  # fmt: skip
        jax.effects_barrier()
        return [tuple(np.concatenate(batches[i : i + 2])) for i in (0, 2)]

    first, second = orders(KEY), orders(jax.random.key(8))
    assert len({*first, *second}) == 4
    assert all(sorted(order) == list(range(20)) for order in (*first, *second))


def test_whole_data_at_each_step():
    result = fit(lambda x, batch: -((x - batch) ** 2).mean(), 0.0, optax.sgd(0.25), steps=40,
                 data=np.array([1.0, 2.0, 6.0]))  # fmt: skip
    np.testing.assert_allclose(result.params, 3.0, rtol=1e-6)


# --- steps that are not finite -------------------------------------------------------------------


def explosive(params):
    """Goes up in x; its square root has no derivative past x = 1, reached at step 4."""
    return params["a"]["x"] + 0.0 * jnp.sqrt(1.0 - params["a"]["x"]) + 0.0 * params["b"].sum()


EXPLOSIVE = {"a": {"x": 0.0}, "b": jnp.zeros(3)}


def test_nonfinite_raise_names_the_step_and_the_parameter():
    with pytest.raises(errors.NonFiniteUpdate) as info:
        fit(explosive, EXPLOSIVE, optax.sgd(0.3), steps=1000)
    text = str(info.value)
    assert text.startswith("Step 4 of ppl.fit is not finite: the gradient of params['a']['x'] is")
    assert "the objective is nan" in text and "on_nonfinite='stop'" in text


def test_nonfinite_messages():
    def message(objective, params, **settings):
        with pytest.raises(errors.NonFiniteUpdate) as info:
            fit(objective, params, optax.sgd(settings.pop("rate", 0.1)), steps=50, **settings)
        return str(info.value)

    some = {"w": jnp.array([1.0, 0.0, 0.0])}
    root = message(lambda p: jnp.sqrt(p["w"]).sum(), some)
    assert "Step 0 of" in root and "params['w'] is inf in 2 of 3 entries" in root
    infinite = message(lambda x: x + jnp.where(x >= 0.05, jnp.inf, 0.0), 0.0)
    assert "Step 1 of" in infinite
    assert "the objective is inf, though its gradient is finite" in infinite
    norm = message(lambda x: 1e30 * x, 0.0)
    assert "the norm of the gradient overflows" in norm
    lost = message(lambda x: 3e18 * x, 1.0, rate=1e30)
    assert "Step 1 of" in lost and "after the update before it, parameter params is inf" in lost


def test_nonfinite_stop_returns_the_fit_before_the_bad_step():
    result = fit(explosive, EXPLOSIVE, optax.sgd(0.3), steps=1000, on_nonfinite="stop")
    assert result.nonfinite == result.steps == len(result.history["objective"]) == 4
    assert np.isfinite(result.history["objective"]).all()
    before = fit(explosive, EXPLOSIVE, optax.sgd(0.3), steps=4)
    assert same_bits(result.params, before.params)
    assert "STOPPED: step 4 was not finite" in repr(result)


@pytest.mark.parametrize("bad", [0, 1, 2, 8, 9, 63, 64, 65, 600])
def test_nonfinite_at_any_place_of_a_call(bad):
    def objective(x):
        return x + jnp.where(x == bad, jnp.nan, 0.0)

    result = fit(objective, 0.0, optax.sgd(1.0), steps=2000, on_nonfinite="stop")
    assert (result.params, result.steps, len(result.history["grad_norm"])) == (bad, bad, bad)


def test_nonfinite_skip_counts_and_leaves_out():
    def objective(x):
        y = ppl.sample("y", dist.Uniform(0.0, 1.0), ppl.ScoreFunction())
        return x + jnp.where(y < 0.25, jnp.nan, 0.0)

    result = fit(objective, 0.0, optax.sgd(1.0), steps=400, on_nonfinite="skip")
    assert result.steps == len(result.history["objective"]) == 400
    assert result.skipped == np.isnan(result.history["objective"]).sum()
    assert result.params == 400 - result.skipped
    assert abs(result.skipped - 100) < 4 * (400 * 0.25 * 0.75) ** 0.5
    assert f"{result.skipped} skipped as not finite" in repr(result)


# --- Ctrl-C --------------------------------------------------------------------------------------


def test_interrupt_returns_the_fit_so_far(monkeypatch):
    def interrupt(self, objective):
        seen.append(len(objective))
        if len(seen) == 3:
            signal.raise_signal(signal.SIGINT)

    seen: list = []
    heeded = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have it ignored
    monkeypatch.setattr(Bar, "update", interrupt)
    monkeypatch.setattr(driver, "next_size", lambda steps, seconds: 2 * steps)
    try:
        result = fit(noisy, 0.0, optax.sgd(0.1), steps=10**7)
    finally:
        signal.signal(signal.SIGINT, heeded)
    monkeypatch.undo()
    assert result.interrupted and "INTERRUPTED" in repr(result)
    assert result.steps == sum(seen) == len(result.history["objective"])
    assert same_bits(result.params, fit(noisy, 0.0, optax.sgd(0.1), steps=sum(seen)).params)


@pytest.mark.parametrize(("calls", "done"), [(2, 1), (3, 9)])
def test_interrupt_gives_up_the_call_under_way(monkeypatch, calls, done):
    def call(*args):
        counted.append(args)
        moment, rows = original(*args)
        if len(counted) > calls:
            raise KeyboardInterrupt
        return moment, rows

    counted, original = [], driver.call
    monkeypatch.setattr(driver, "call", call)
    monkeypatch.setattr(driver, "next_size", lambda steps, seconds: 8 * steps)
    result = fit(quadratic, 0.0, optax.sgd(0.25), steps=100)
    assert result.interrupted and result.steps == done == len(result.history["grad_norm"])
    monkeypatch.undo()
    assert same_bits(result.params, fit(quadratic, 0.0, optax.sgd(0.25), steps=done).params)


def test_interrupt_before_the_first_step_is_raised(monkeypatch):
    def call(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(driver, "call", call)
    with pytest.raises(KeyboardInterrupt):
        fit(quadratic, 0.0, optax.sgd(0.25), steps=100)


# --- no recompilation ----------------------------------------------------------------------------


def compilations(caplog, run):
    caplog.clear()
    with jax.log_compiles(), caplog.at_level(logging.WARNING):
        run()
    return [r.getMessage() for r in caplog.records if r.getMessage().startswith("Compiling")]


def test_a_second_call_compiles_nothing(caplog):
    traced = []

    def objective(phi, batch):
        traced.append(1)
        return elbo(phi) + 0.0 * batch.sum()

    def run(steps, seed, mean):
        optimizer = optax.chain(optax.clip(1.0), optax.adam(optax.linear_schedule(0.1, 0.01, 50)))
        ppl.fit(objective, {"mean": mean, "log_scale": 0.0}, optimizer, key=jax.random.key(seed),
                steps=steps, data=np.arange(8.0), batch_size=4, progress=False)  # fmt: skip

    run(100, 0, 0.0)
    count = len(traced)
    assert count == 1
    assert compilations(caplog, lambda: run(100, 1, 0.5)) == []
    assert compilations(caplog, lambda: run(777, 2, np.float32(0.1))) == []
    assert len(traced) == count


def test_one_compilation_serves_every_number_of_steps(caplog):
    fit(quadratic, 0.0, optax.sgd(0.1), steps=1)
    for steps in (1, 2, 9, 10, 255, 256, 257, 40_000):
        assert compilations(caplog, lambda: fit(quadratic, 0.0, optax.sgd(0.1), steps=steps)) == []  # noqa: B023


@pytest.mark.parametrize("kind", ["module", "partial", "lambda", "method"])
def test_objectives_of_every_kind_are_compiled_once_and_see_new_values(kind):
    traced = []

    class Target(eqx.Module):
        at: jax.Array

        def __call__(self, x):
            traced.append(1)
            return -((x - self.at) ** 2)

    def objective(at, x):
        traced.append(1)
        return -((x - at) ** 2)

    def make(value):
        at = jnp.asarray(value)
        if kind == "module":
            return Target(at)
        if kind == "partial":
            return functools.partial(objective, at)
        if kind == "method":
            return Target(at).__call__
        return lambda x: objective(value, x)

    for value, count in [(1.0, 1), (1.0, 1), (2.0, 2 if kind == "lambda" else 1)]:
        result = fit(make(value), 0.0, optax.sgd(0.25), steps=60)
        assert result.params == value
        assert len(traced) == count


def test_a_program_defined_anew_is_compiled_anew():
    """As in a notebook: the objective stays, the model that it names is another."""
    space = {"ppl": ppl, "dist": dist}
    exec("def target(): return 1.0\ndef objective(x): return -((x - target()) ** 2)", space)
    assert fit(space["objective"], 0.0, optax.sgd(0.25), steps=60).params == 1.0
    exec("def target(): return 2.0", space)
    assert fit(space["objective"], 0.0, optax.sgd(0.25), steps=60).params == 2.0


def test_a_reloaded_module_is_seen():
    module = types.ModuleType("mine")
    space = {"mine": module}
    exec("def objective(x): return -((x - mine.target()) ** 2)", space)
    for value in (1.0, 2.0):
        exec(f"def target(): return {value}", vars(module))
        assert fit(space["objective"], 0.0, optax.sgd(0.25), steps=60).params == value


def test_sameness():
    def make(value):
        def inner(x):
            return x + value

        return inner

    array = jnp.zeros(2)
    assert Same(make(1)) == Same(make(1)) != Same(make(2))
    assert Same(make(1)) != Same(make(1.0)) and Same(make(0.0)) != Same(make(-0.0))
    assert Same(make(array)) == Same(make(array)) != Same(make(jnp.zeros(2)))
    assert Same(make(({"a": 1},))) != Same(make(({"a": 1},)))  # may be changed apart
    settings = {"a": 1}
    before = Same(make(settings))
    assert before == Same(make(settings))
    settings["a"] = 2
    assert before != Same(make(settings))
    assert Same(optax.adam(0.1)) == Same(optax.adam(0.1)) != Same(optax.adam(0.2))
    assert Same(functools.partial(make, 1)) == Same(functools.partial(make, 1))
    assert not Same(make(1)).holds_tracers

    def recursive(n):
        return recursive(n - 1) if n else 0

    assert Same(recursive) == Same(recursive)


def test_the_last_used_programs_are_kept(monkeypatch):
    monkeypatch.setattr(loop, "_PROGRAMS", {})
    monkeypatch.setattr(loop, "MOST_PROGRAMS", 2)
    for rate in (0.1, 0.2, 0.1, 0.3):
        fit(quadratic, 0.0, optax.sgd(rate), steps=1)
    kept = [key.optimizer for key, _ in loop._PROGRAMS]
    assert kept == [Same(optax.sgd(0.1)), Same(optax.sgd(0.3))]


def test_tracers_are_not_kept():
    def run(c):
        return fit(lambda x: -((x - c) ** 2), 0.0, optax.sgd(0.25), steps=60).params

    with jax.checking_leaks():
        np.testing.assert_array_equal(jax.vmap(run)(jnp.arange(3.0)), [0.0, 1.0, 2.0])


# --- under transformations -----------------------------------------------------------------------


def run_elbo(key, **settings):
    return ppl.fit(elbo, PHI, optax.adam(0.05), key=key, steps=300, progress=False, **settings)


def test_vmap_over_keys_equals_a_loop():
    keys = jax.random.split(KEY, 3)
    many = jax.vmap(run_elbo)(keys)
    one = [run_elbo(key) for key in keys]
    np.testing.assert_allclose(
        many.params["mean"], [r.params["mean"] for r in one], rtol=1e-4, atol=1e-5
    )
    objectives = np.stack([r.history["objective"] for r in one])
    np.testing.assert_allclose(many.history["objective"], objectives, rtol=1e-3, atol=1e-3)
    assert many.steps.tolist() == [300] * 3
    assert "3 runs at once" in repr(many)


def test_vmap_over_keys_with_minibatches_equals_a_loop():
    def run(key):
        return ppl.fit(lambda x, b: -((x - b) ** 2).sum(), 0.0, optax.sgd(0.05), key=key, steps=7,
                       data=np.arange(10.0), batch_size=3, progress=False).params  # fmt: skip

    keys = jax.random.split(KEY, 4)
    np.testing.assert_allclose(jax.vmap(run)(keys), [run(key) for key in keys], rtol=1e-5)


def test_vmap_over_starts_and_jit():
    def run(x):
        return fit(quadratic, x, optax.sgd(0.25), steps=60)

    np.testing.assert_array_equal(jax.vmap(run)(jnp.arange(3.0)).params, 3.0)
    result = jax.jit(run)(0.0)
    assert result.params == 3.0 and result.steps == 60
    assert jax.jit(lambda: fit(quadratic, 0.0, optax.sgd(0.25), steps=60).params)() == 3.0


def test_a_second_vmap_compiles_nothing(caplog):
    keys = jax.random.split(KEY, 3)
    jax.vmap(run_elbo)(keys)
    assert compilations(caplog, lambda: jax.vmap(run_elbo)(keys)) == []


@pytest.mark.parametrize("policy", ["raise", "stop", "skip"])
def test_nonfinite_under_vmap(policy):
    def run(start):
        def objective(x):
            return x + jnp.where(x == 5.0, jnp.nan, 0.0)

        return fit(objective, start, optax.sgd(1.0), steps=8, on_nonfinite=policy)

    result = jax.vmap(run)(jnp.array([2.0, 6.0]))
    np.testing.assert_array_equal(result.params, [5.0, 14.0])
    bad = np.isnan(result.history["objective"])
    np.testing.assert_array_equal(bad.sum(1), [5, 0])
    if policy == "skip":
        assert result.skipped.tolist() == [5, 0] and result.steps.tolist() == [8, 8]
    else:
        assert result.steps.tolist() == [3, 8]


# --- drawing ahead -------------------------------------------------------------------------------


def test_draw_ahead_parts_a_step():
    def step(key, x):
        one, two = jax.random.split(key)
        y = jax.random.normal(one, (3,)) + x
        return y * jax.random.gamma(two, jnp.exp(x)), jax.random.uniform(one)

    ahead = draw_ahead(step, KEY, jnp.zeros(3))
    drawn = ahead.draw(KEY)
    assert {x.dtype for x in drawn} == {jnp.dtype(jnp.float32), KEY.dtype}  # noise and gamma's key
    x = jnp.arange(3.0)
    for ours, exact in zip(ahead.rest(drawn, x), step(KEY, x), strict=True):
        np.testing.assert_array_equal(ours, exact)
    assert [x.shape for x in ahead.out] == [(3,), ()]


def test_large_noise_is_not_drawn_ahead():
    def step(key, x):
        return (jax.random.normal(key, (100_000,)) * x).sum()

    ahead = draw_ahead(step, KEY, 1.0)
    assert [x.dtype for x in ahead.draw(KEY)] == [KEY.dtype]
    medium = draw_ahead(lambda key, x: jax.random.normal(key, (200,)) * x, KEY, 1.0)
    assert 1 < medium.block < ahead.block == 256


# --- resuming ------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [None, 3])
@pytest.mark.parametrize("first", [1, 130, 300])
def test_resuming_equals_one_run_bit_for_bit(first, batch_size):
    def objective(phi, batch):
        return elbo(phi) - 0.01 * ((phi["mean"] - batch) ** 2).sum()

    def run(steps, **settings):
        return fit(objective, PHI, optax.adam(0.01), data=np.arange(10.0), batch_size=batch_size,
                   num_samples=2, steps=steps, **settings)  # fmt: skip

    once = run(400)
    twice = run(400 - first, resume=run(first))
    assert same_bits((once.params, once.opt_state), (twice.params, twice.opt_state))
    assert same_bits(once.history, twice.history)
    assert once.steps == twice.steps == 400


def test_resuming_counts_on_and_needs_the_same_parameters():
    first = fit(quadratic, 0.0, optax.sgd(0.1), steps=5, on_nonfinite="skip")
    second = fit(quadratic, 0.0, optax.sgd(0.1), steps=5, resume=first)
    assert second.steps == 10 and len(second.history["objective"]) == 10
    with pytest.raises(errors.InvalidSetting, match=r"resume= holds other parameters than params"):
        fit(quadratic, jnp.zeros(3), optax.sgd(0.1), steps=5, resume=first)
    with pytest.raises(errors.InvalidSetting, match=r"resume must be a ppl.FitResult, got dict"):
        inspect.unwrap(ppl.fit)(quadratic, 0.0, SGD, key=KEY, steps=5, resume={})


# --- what is shown -------------------------------------------------------------------------------


def test_repr():
    result = fit(quadratic, {"x": 0.0, "n": np.arange(2)}["x"], optax.sgd(0.01), steps=100)
    lines = repr(result).splitlines()
    assert lines[0].startswith("FitResult: 100 steps in ") and lines[0].endswith(" steps/s")
    assert lines[1].startswith("  objective   -7.3") and "(means of 5 steps)" in lines[1]
    assert lines[2].startswith("  grad norm   5.7")
    assert lines[3] == "  params      1 trained in 1 array"
    assert result.steps_per_second > 0


def test_bar_shows_objective_and_speed(capsys):
    ppl.fit(quadratic, 0.0, optax.sgd(0.1), key=KEY, steps=500)
    shown = capsys.readouterr().err
    assert "500/500" in shown and "steps/s" in shown and "objective" in shown


def hide(monkeypatch, name):
    def without(module, *args, **kwargs):
        if module.split(".")[0] == name:
            raise ImportError(name)
        return original(module, *args, **kwargs)

    original = builtins.__import__
    monkeypatch.setattr(builtins, "__import__", without)


def test_works_without_tqdm(monkeypatch, capsys):
    hide(monkeypatch, "tqdm")
    assert ppl.fit(quadratic, 0.0, optax.sgd(0.25), key=KEY, steps=60).params == 3.0
    assert capsys.readouterr().err == ""


def test_plot():
    matplotlib = pytest.importorskip("matplotlib")

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    result = fit(noisy, 0.0, optax.sgd(0.05), steps=1000)
    top, bottom = result.plot()
    assert top.get_ylabel() == "objective" and bottom.get_xlabel() == "step"
    raw, median = top.get_lines()
    np.testing.assert_allclose(raw.get_ydata(), result.history["objective"])
    assert len(median.get_xdata()) == 200 and median.get_linewidth() > raw.get_linewidth()
    top, bottom = fit(lambda x: 1e3 * quadratic(x), 0.0, optax.sgd(1e-5), steps=6000).plot()
    assert len(top.get_lines()) == 1 and len(top.collections) == 1
    assert (top.get_yscale(), bottom.get_yscale()) == ("linear", "log")
    axes = plt.subplots()[1]
    assert result.plot(axes) is axes and axes.get_xlabel() == "step"
    fit(quadratic, 0.0, optax.sgd(0.0), steps=1).plot()
    fit(explosive, EXPLOSIVE, optax.sgd(0.3), steps=9, on_nonfinite="skip").plot()
    plt.close("all")


def test_plot_without_matplotlib(monkeypatch):
    result = fit(quadratic, 0.0, optax.sgd(0.25), steps=2)
    hide(monkeypatch, "matplotlib")
    with pytest.raises(errors.MissingDependency, match="pip install matplotlib"):
        result.plot()


# --- errors --------------------------------------------------------------------------------------


def with_batch(params, batch):
    return params + batch.sum()


SGD = optax.sgd(0.1)
X = jnp.zeros(2)

CASES = {
    "steps": (dict(steps=0), errors.InvalidSetting, "steps must be a positive integer, got 0."),
    "steps float": (dict(steps=10.0), ValueError, "steps must be a positive integer, got 10.0."),
    "samples": (dict(num_samples=0), ValueError, "num_samples must be a positive integer, got 0"),
    "policy": (
        dict(on_nonfinite="ignore"),
        ValueError,
        "on_nonfinite must be one of 'raise', 'skip', 'stop', got 'ignore'",
    ),
    "optimizer uncalled": (
        dict(optimizer=optax.adam),
        errors.InvalidOptimizer,
        "got adam (optax._src.alias). Call it: optax.adam(1e-2).",
    ),
    "optimizer": (
        dict(optimizer=0.1),
        TypeError,
        "must be an optax.GradientTransformation, got float (builtins). Write, for example, optax",
    ),
    "multi steps": (
        dict(optimizer=optax.MultiSteps(optax.sgd(0.1), 2)),
        errors.InvalidOptimizer,
        "Pass its optimizer.gradient_transformation().",
    ),
    "key": (dict(key=0), errors.InvalidKey, "ppl.fit(..., key=) must be one PRNG key, got int"),
    "keys": (
        dict(key=jax.random.split(KEY, 3)),
        errors.InvalidKey,
        "got keys of shape (3,). Map over keys with jax.vmap.",
    ),
    "not a program": (
        dict(objective=3.0),
        errors.InvalidObjective,
        "must be a program, called as objective(params); got float",
    ),
    "no data": (
        dict(objective=with_batch),
        errors.InvalidObjective,
        "Objective 'with_batch' takes (params, batch), but as no data is given, ppl.fit calls "
        "objective(params). Pass data=, or bind the other argument",
    ),
    "no batch argument": (
        dict(objective=quadratic, data=X),
        errors.InvalidObjective,
        "Objective 'quadratic' takes (x), but as data is given, ppl.fit calls "
        "objective(params, batch). Write def quadratic(params, batch), or leave data out",
    ),
    "vector objective": (
        dict(objective=lambda x: 2 * x),
        errors.NonScalarObjective,
        "which is estimated; got float32[2]. Reduce it",
    ),
    "several objectives": (
        dict(objective=lambda x: {"first": x[0], "second": x[1]}),
        errors.NonScalarObjective,
        "returns 2 in a dict. Return their sum, each times its factor",
    ),
    "unequal data": (
        dict(objective=with_batch, data={"x": np.zeros(3), "y": [np.zeros((4, 2))]}),
        errors.InvalidData,
        "one leading axis in common, not empty: data['x'] has 3, data['y'][0] has 4.",
    ),
    "scalar data": (
        dict(objective=with_batch, data=[1.0, 2.0]),
        errors.InvalidData,
        "data[0] is a float, not an array with a leading axis of data.",
    ),
    "iterator": (
        dict(objective=with_batch, data=iter([])),
        errors.InvalidData,
        "data is a list_iterator, not an array",
    ),
    "no arrays": (
        dict(objective=with_batch, data={}),
        errors.InvalidData,
        "not empty: there is no array.",
    ),
    "batch too large": (
        dict(objective=with_batch, data=np.zeros(3), batch_size=4),
        errors.InvalidSetting,
        "batch_size=4 with 3 data: it must lie between 1 and 3. For all data at each step, leave",
    ),
    "batch empty": (
        dict(objective=with_batch, data=np.zeros(3), batch_size=0),
        ValueError,
        "it must lie between 1 and 3",
    ),
    "batch float": (
        dict(objective=with_batch, data=np.zeros(3), batch_size=1.0),
        ValueError,
        "batch_size must be a positive integer, got 1.0.",
    ),
    "batch without data": (
        dict(batch_size=3),
        ValueError,
        "batch_size=3 without data. Pass data=, or leave it.",
    ),
    "integers": (
        dict(params={"n": 3, "k": jnp.arange(2), "f": jnp.tanh, "net": Affine(1, 2, 0.5, None)}),
        errors.NotTrainable,
        "no floating-point array to train: params['f'] is a PjitFunction, "
        "params['k'] is int32[2], params['n'] is a int, params['net'].weight is a int, "
        "params['net'].count is a int, params['net'].rate is a float.",
    ),
    "empty": (dict(params={}), errors.NotTrainable, "array to train: no leaves."),
    "complex": (
        dict(params={"z": jnp.zeros(2, complex)}),
        errors.NotTrainable,
        "params['z'] is complex64. Train its real and its imaginary part as two arrays",
    ),
    "all frozen": (
        dict(trainable=lambda leaf: False),
        errors.NotTrainable,
        "`trainable` freezes every parameter. Make it True for at least one.",
    ),
    "trains integers": (
        dict(params={"a": X, "b": jnp.arange(2)}, trainable={"a": True, "b": True}),
        errors.NotTrainable,
        "`trainable` is True for params['b'], which has no floating-point array: "
        "params['b'] is int32[2].",
    ),
    "trainable text": (
        dict(params={"a": X}, trainable={"a": "yes"}),
        errors.NotTrainable,
        "`trainable` has 'yes' at ['a'], where it must have True or False.",
    ),
    "trainable of other structure": (
        dict(params={"a": X}, trainable={"b": True}),
        errors.NotTrainable,
        "`trainable` must be a function from a leaf to a bool, or a pytree of bools that is params",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_errors(case):
    settings, error, text = CASES[case]
    settings = dict(objective=quadratic, params=X, optimizer=SGD, steps=3) | settings
    unchecked = inspect.unwrap(ppl.fit)  # of wrong types too, without the checks of tests
    with pytest.raises(error) as info:
        unchecked(**dict(key=KEY, progress=False) | settings)
    assert isinstance(info.value, errors.ProgramError)
    assert text in str(info.value)


def regression(seen):
    b = ppl.sample("b", dist.Normal(0.0, 1.0))
    step = lambda c, y: (c, ppl.sample("y", dist.Normal(b, 1.0), obs=y))
    jax.lax.scan(step, 0.0, seen)


@pytest.mark.parametrize("batch_size", [None, 3])
def test_a_nan_among_the_data_is_told_with_its_site(batch_size):
    rows = jnp.array([1.0, jnp.nan, 0.5])

    def objective(p, *batch):
        (seen,) = batch or (rows,)
        q = ppl.simulate(lambda: ppl.sample("b", dist.Normal(p, 1.0)))
        return ppl.log_density(regression, q.choices, seen) - q.log_density

    data = {} if batch_size is None else {"data": rows, "batch_size": batch_size}
    told = r"read in the log density of site 'y' \(test_fit.py:\d+\)"
    with pytest.raises(errors.NonFiniteUpdate, match=told):
        fit(objective, 0.0, optax.sgd(0.1), steps=2, **data)


def test_a_nan_that_is_made_is_told_with_its_line():
    def objective(p):
        return jnp.log(p - 1.0) * ppl.sample("b", dist.Normal(p, 1.0))

    told = r"first NaN arises in 'log' at .*test_fit\.py:\d+"
    with pytest.raises(errors.NonFiniteUpdate, match=told):
        fit(objective, 0.0, optax.sgd(0.1), steps=2)
