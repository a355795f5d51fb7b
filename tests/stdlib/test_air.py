"""Attend, Infer, Repeat: its parts by other routes, and the agreement of its estimators."""

from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import optax
import pytest
from jax.flatten_util import ravel_pytree

import ppl
from stdlib.estimators import Enumerate, MeasureValued
from stdlib.models import air
from stdlib.models.air.networks import Recurrent
from stdlib.models.air.programs import logits
from stdlib.objectives import elbo, iwelbo

ENUM, MVD = Enumerate(), MeasureValued()
SMALL = air.Sizes(objects=2, image=8, window=4, what=2, hidden=4, recurrent=4)
PRIOR = air.Prior(odds=0.5, scale=2.0, scale_sd=0.3, noise=1.0)


def small_scene(size, seed=0):
    scene = air.scenes(1, seed=seed, size=size, glyph=size // 2, most=1)
    return jnp.asarray(scene.images)


# the transformer


def bilinear(image, row, column):
    """The image at a place between its pixels, zero outside, by the four around it."""
    total = 0.0
    for i in (int(np.floor(row)), int(np.floor(row)) + 1):
        for j in (int(np.floor(column)), int(np.floor(column)) + 1):
            if 0 <= i < image.shape[0] and 0 <= j < image.shape[1]:
                total += image[i, j] * (1 - abs(row - i)) * (1 - abs(column - j))
    return total


def moved(image, scale, x, y, size):
    """Pixel by pixel: the source at scale * target + shift."""
    source = image.shape[0]
    centre = lambda i: (2 * i + 1) / size - 1
    pixel = lambda u: ((u + 1) * source - 1) / 2
    return np.array(
        [
            [
                bilinear(image, pixel(scale * centre(i) + y), pixel(scale * centre(j) + x))
                for j in range(size)
            ]
            for i in range(size)
        ]
    )


@pytest.mark.parametrize("place", [(1.0, 0.0, 0.0), (2.7, 0.4, -1.3), (0.6, -0.2, 0.1)])
def test_write_and_read_are_bilinear_sampling(place):
    image = np.random.default_rng(0).uniform(size=(9, 9))
    scale, x, y = place
    where = air.Where(*map(jnp.asarray, place))
    written = air.write(jnp.asarray(image), where, 14)
    np.testing.assert_allclose(written, moved(image, scale, x, y, 14), atol=1e-5)
    seen = air.read(jnp.asarray(image), where, 5)
    np.testing.assert_allclose(seen, moved(image, 1 / scale, -x / scale, -y / scale, 5), atol=1e-5)


def test_reading_what_was_written_gives_it_back():
    window = jnp.asarray(np.random.default_rng(1).uniform(size=(6, 6)))
    where = air.Where(jnp.array(2.0), jnp.array(1 / 3), jnp.array(-2 / 3))
    # one window pixel is one canvas pixel, and both grids meet
    np.testing.assert_allclose(air.read(air.write(window, where, 12), where, 6), window, atol=1e-5)


# the parts


def test_scenes_show_as_many_digits_as_they_say():
    scenes = air.scenes(40, seed=3)
    again = air.scenes(40, seed=3)
    np.testing.assert_array_equal(scenes.images, again.images)
    assert scenes.images.min() == 0.0 and scenes.images.max() == 1.0
    assert set(scenes.counts) == {0, 1, 2, 3}
    ink = scenes.images.sum((1, 2))
    assert np.all((ink > 0) == (scenes.counts > 0))
    means = [ink[scenes.counts == n].mean() for n in range(1, 4)]
    np.testing.assert_allclose(means, means[0] * np.arange(1, 4), rtol=0.15)


def test_recurrent_is_an_lstm_of_the_concatenated_inputs():
    net = Recurrent(4, 3, 5, key=jax.random.key(0))
    cell = eqx.nn.LSTMCell(7, 5, key=jax.random.key(0))
    weights = lambda c: (c.weight_ih, c.weight_hh, c.bias)
    both = jnp.concatenate([net.image.weight, net.latents.weight], axis=1)
    cell = eqx.tree_at(weights, cell, (both, net.state.weight, net.image.bias))
    image, latents = jnp.arange(4.0).reshape(2, 2), jnp.array([0.3, -1.0, 2.0])
    state = (jnp.linspace(-1, 1, 5), jnp.linspace(2, -2, 5))
    ours = net(net.given(image), latents, state)
    reference = cell(jnp.concatenate([image.reshape(-1), latents]), state)
    for a, b in zip(ours, reference, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5)


def test_prior_of_counts_is_geometric():
    chances = jax.nn.sigmoid(jnp.stack(logits(0.2, 3)))
    stop = jnp.append(1 - chances, 1.0)
    counts = stop * jnp.append(1.0, jnp.cumprod(chances))
    np.testing.assert_allclose(counts, 0.2 ** np.arange(4) / sum(0.2 ** np.arange(4)), rtol=1e-5)
    np.testing.assert_allclose(logits(1e-30, 3), 3 * [np.log(1e-30)], rtol=1e-5)


@pytest.mark.parametrize("count", range(4))
def test_density_counts_the_objects_that_are_there(count):
    networks = air.Networks(jax.random.key(0), SMALL._replace(objects=3))
    rng = np.random.default_rng(count)
    z_where, z_what = rng.normal(size=(3, 3)) * 0.3 + [2.0, 0.0, 0.0], rng.normal(size=(3, 2))
    image = rng.uniform(size=(8, 8))
    choices = {"image": jnp.asarray(image)}
    canvas, expected = np.zeros((8, 8)), np.log(0.5**count / sum(0.5 ** np.arange(4)))
    for t in range(3):
        choices[f"z_pres_{t}"] = jnp.asarray(int(t < count))
        choices[f"z_where_{t}"], choices[f"z_what_{t}"] = map(jnp.asarray, (z_where[t], z_what[t]))
        if t < count:
            glyph = jax.nn.sigmoid(networks.decoder(jnp.asarray(z_what[t])) - 2.0).reshape(4, 4)
            canvas += moved(np.asarray(glyph), *z_where[t], 8)
            expected += (
                dist.Normal(jnp.array([2.0, 0, 0]), jnp.array([0.3, 1, 1]))
                .log_prob(z_where[t])
                .sum()
            )
            expected += dist.Normal().log_prob(z_what[t]).sum()
    expected += dist.Normal(canvas, 1.0).log_prob(image).sum()
    density = jax.jit(partial(ppl.log_density, partial(air.model, networks, PRIOR)))(choices)
    np.testing.assert_allclose(density, expected, rtol=1e-5)


# the estimators

VARIANTS = {
    "ELBO": (
        elbo,
        {"z_pres_*": ENUM},
        [{}, {"z_pres_*": MVD}, {"z_pres_0": MVD, "z_pres_1": ENUM}],
    ),
    "IWELBO": (partial(iwelbo, num_particles=3), {"z_pres_*": MVD}, [{}]),
}


def projected(bound, estimators, networks, image, draws):
    """Of each gradient, 5 random projections and the sum of each parameter array."""
    arrays, static = eqx.partition(networks, eqx.is_array)
    directions = jax.random.normal(jax.random.key(5), (5, ravel_pytree(arrays)[0].size))

    def objective(arrays):
        return air.objective(eqx.combine(arrays, static), image, bound, PRIOR)

    def one(key):
        f = ppl.expectation(ppl.with_estimators(objective, estimators))
        value, gradient = jax.value_and_grad(f, argnums=1)(key, arrays)
        sums = [jnp.sum(x) for x in jax.tree.leaves(gradient)]
        return jnp.stack([value, *sums, *(directions @ ravel_pytree(gradient)[0])])

    keys = jax.random.split(jax.random.key(len(str(estimators))), draws)
    run = jax.jit(lambda keys: jax.lax.map(one, keys, batch_size=500))
    return np.asarray(run(keys), float)


@pytest.mark.law
@pytest.mark.parametrize("name", VARIANTS)
def test_gradients_agree_in_expectation(name):
    bound, reference, others = VARIANTS[name]
    networks = air.Networks(jax.random.key(0), SMALL)
    image = small_scene(8)
    draws = 5_000
    exact = projected(bound, reference, networks, image, draws)
    assert np.abs(exact.mean(0)).max() > 20 * exact.std(0).max() / draws**0.5  # a signal to compare
    for other in others:
        found = projected(bound, other, networks, image, draws)
        error = np.sqrt((exact.var(0) + found.var(0)) / draws)
        z = (found.mean(0) - exact.mean(0)) / error
        assert np.abs(z).max() < 5, (other, z.round(1))


def equations(jaxpr):
    inner = lambda params: jax.tree.leaves(params, is_leaf=lambda x: hasattr(x, "eqns"))
    bodies = [x for eqn in jaxpr.eqns for x in inner(eqn.params) if hasattr(x, "eqns")]
    return len(jaxpr.eqns) + sum(equations(getattr(x, "jaxpr", x)) for x in bodies)


@pytest.mark.parametrize("estimator", [ENUM, MVD])
def test_the_gradient_of_more_objects_is_not_exponentially_longer(estimator):
    def count(objects):
        networks = air.Networks(jax.random.key(0), SMALL._replace(objects=objects))
        arrays, static = eqx.partition(networks, eqx.is_array)
        objective = lambda arrays: air.objective(eqx.combine(arrays, static), small_scene(8))
        estimate = ppl.expectation(ppl.with_estimators(objective, {"z_pres_*": estimator}))
        return equations(jax.make_jaxpr(jax.grad(estimate, 1))(jax.random.key(0), arrays).jaxpr)

    growth = np.diff([count(objects) for objects in range(1, 4)])
    assert np.all(growth < 1_500)
    assert np.all(np.diff(growth) < 100)  # each object adds about as much as the one before


@pytest.mark.claims
def test_training_learns_to_count():
    sizes = air.Sizes(objects=2, image=20, window=8, what=8, hidden=64, recurrent=64)
    train, test = (air.scenes(n, seed=n, size=20, glyph=8, most=2) for n in (4_000, 500))
    prior = air.Prior(scale=2.5)
    objective = partial(air.objective, prior=prior)
    result = ppl.fit(
        ppl.with_estimators(objective, {"z_pres_*": MVD}),
        air.Networks(jax.random.key(0), sizes),
        optax.adam(2e-3),
        key=jax.random.key(1),
        steps=1_000,
        data=jnp.asarray(train.images),
        batch_size=64,
        progress=False,
    )
    counts = air.found(jax.random.key(2), result.params, jnp.asarray(test.images), prior)
    assert np.mean(np.asarray(counts) == test.counts) > 0.9  # by chance: a third
