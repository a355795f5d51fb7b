"""What a chain starts from: numbers of any dtype, which are the integers at sites of integers."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

import ppl
from ppl import sample
from ppl.errors import ChoiceShapeError, ChoiceTypeError, InvalidSetting, ProposalMismatch
from stdlib.inference import HMC, MALA, NUTS, SMC, ParticleGibbs, RandomWalk, chain

KEY = jax.random.key(0)


def path():
    def step(z, y):
        z = sample("z", dist.Categorical(probs=jnp.array([[0.8, 0.2], [0.3, 0.7]])[z]))
        sample("y", dist.Normal(1.0 * z, 1.0), obs=y)
        return z, None

    jax.lax.scan(step, 0, jnp.array([0.0, 1.0, 1.0]))


def counted():
    n = sample("n", dist.Poisson(3.0))
    sample("x", dist.Normal(1.0 * n, 1.0))


PATH, COUNTED = ppl.extend.Target(path, {}), ppl.extend.Target(counted, {})
run = ppl.seed(chain)


def test_a_path_of_numbers_of_any_dtype():
    kernel = ParticleGibbs(SMC(4))
    moved = lambda start: run(KEY, kernel, PATH, {"z": start}, 5)["z"]
    right = moved(jnp.array([0, 1, 1]))
    for dtype in ("float32", "uint8", "bool", "bfloat16"):
        found = moved(np.array([0, 1, 1]).astype(jnp.dtype(dtype)))
        assert found.dtype == jnp.int32
        np.testing.assert_array_equal(found, right)
    with pytest.raises(ChoiceTypeError, match=r"'z'.*0\.5.*test_initial_choices"):
        moved(jnp.array([0.0, 0.5, 1.0]))
    with pytest.raises(ChoiceTypeError, match=r"'z'.*test_initial_choices.*astype"):
        jax.jit(moved)(jnp.array([0.0, 1.0, 1.0]))
    with pytest.raises(ChoiceShapeError, match="'z'"):
        moved(jnp.zeros(2))


@pytest.mark.parametrize("kernel", [RandomWalk(0.3), MALA(0.2), HMC(0.2, 2), NUTS(0.2)])
@pytest.mark.parametrize("start", [2, 2.0])
def test_kernels_of_reals_refuse_integers_of_any_dtype(kernel, start):
    """As real numbers they would be proposed where there is no density, and never move."""
    choices = {"n": start, "x": 0.5}
    with pytest.raises(InvalidSetting, match="'n' of dtype int32"):
        run(KEY, kernel, COUNTED, choices, 2)
    with pytest.raises(InvalidSetting, match="'n' of dtype int32"):
        ppl.seed(kernel.step)(KEY, COUNTED, choices)


def test_choices_as_arrays():
    arrays = COUNTED.as_arrays({"n": 3.0, "x": 1})
    assert (arrays["n"].dtype, arrays["x"].dtype) == (jnp.int32, jnp.float32)
    with pytest.raises(ProposalMismatch, match="'n'"):
        COUNTED.as_arrays({"x": 1.0})
    kept = ppl.extend.Target(counted, {"n": 2})
    moved = jax.jit(lambda x: run(KEY, RandomWalk(0.5), kept, {"x": x}, 200))(1)["x"]
    assert moved.dtype == jnp.float32 and len(np.unique(moved)) > 50


def test_targets_of_other_classes():
    class Density:
        log_density = staticmethod(lambda u: -0.5 * jnp.sum(u["x"] ** 2))
        supports = staticmethod(lambda u: True)

    moved = partial(run, KEY, RandomWalk(1.0), Density())({"x": 0.3}, 50)["x"]
    assert len(np.unique(moved)) > 10
