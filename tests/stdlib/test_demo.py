"""The demonstration's pieces, at a reduced size."""

import jax
import numpy as np
import pytest

from stdlib.demo import cone, digits, figures
from stdlib.demo.digits import Estimate
from stdlib.models import noisy_cone
from stdlib.models.digit_vae import VAE, data, objective


@pytest.fixture(scope="module")
def trained():
    return digits.train(steps=200)


@pytest.mark.claims
def test_a_few_hundred_steps_improve_the_test_bound(trained, capsys):
    _, test = data()
    start = digits.estimate(objective, jax.random.key(0), VAE(jax.random.key(0)), test.images, 2)
    bounds = trained.bounds
    assert bounds["test ELBO"].value > start.value + 40  # -170 to -103 nats an image
    assert bounds["test ELBO"].value > -110
    assert bounds["test IWELBO(100)"].value > bounds["test ELBO"].value
    assert all(bound.error < 0.5 for bound in bounds.values())
    text = digits.report(trained)
    assert f"test ELBO         {bounds['test ELBO'].value:.3f} ±" in text
    assert "steps/s" in text


def ink(path):
    """How many pixels of a picture are not white."""
    from matplotlib.image import imread

    pixels = imread(path)[..., :3]
    assert pixels.shape[0] > 150 and pixels.shape[1] > 600
    return int((pixels.min(axis=-1) < 0.9).sum())


@pytest.mark.claims
def test_pictures_of_the_digits(trained, tmp_path):
    figures.draw_digits(trained, tmp_path)
    assert ink(tmp_path / "reconstructions.png") > 10_000
    assert ink(tmp_path / "samples.png") > 10_000
    assert ink(tmp_path / "loss.png") > 10_000
    assert ink(tmp_path / "latent.png") > 10_000


@pytest.fixture(scope="module")
def fits():
    return {
        name: cone.fit(objective, steps=1000, num_samples=128, draws=2**18)
        for name, objective in cone.OBJECTIVES.items()
    }


@pytest.mark.claims
def test_cone_training_reaches_the_optima(fits):
    for name, found in fits.items():
        assert found.reached.error < 0.003
        off = abs(found.reached.value - noisy_cone.OPTIMA[name])
        assert off < 0.003 + 4 * found.reached.error, name
        assert found.reached.value < noisy_cone.log_evidence()


@pytest.mark.claims
def test_cone_table(fits):
    lines = cone.table(fits).splitlines()
    assert lines[1].split()[-2:] == ["-8.075", "-8.08"]
    assert lines[2].split()[-2:] == ["-7.534", "-7.79"]
    assert lines[3].endswith("-5.323")


@pytest.mark.claims
def test_picture_of_the_cone(fits, tmp_path):
    figures.draw_cone(fits, tmp_path)
    assert ink(tmp_path / "noisy_cone.png") > 10_000


def test_estimates_show_their_error():
    assert str(Estimate(-1.23456, 0.00123)) == "-1.235 ± 0.001"


def test_tiles_keep_each_image_together():
    images = np.arange(6)[:, None] * np.ones(64)
    tiled = figures._tiles(images, columns=3)
    assert tiled.shape == (20, 30)
    assert (tiled[1:9, 11:19] == 1).all() and (tiled[11:19, 21:29] == 5).all()
