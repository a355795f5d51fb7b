"""The demonstration's pictures."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

import ppl
from stdlib.demo.cone import Fit
from stdlib.demo.digits import Trained
from stdlib.models import noisy_cone
from stdlib.models.digit_vae import DOTS, LATENTS, VAE, likelihood, model

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# ten colours that stay apart under colour blindness (Paul Tol's 'muted'), one a digit
COLOURS = ["#CC6677", "#332288", "#B8A62F", "#117733", "#55B0DD"]
COLOURS += ["#882255", "#2FA58D", "#777711", "#AA4499", "#555555"]
INK, ACCENT = "#332288", "#CC6677"
STYLE: dict[Any, Any] = {
    "font.size": 11,
    "axes.titlesize": 13,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "figure.dpi": 130,
    "savefig.bbox": "tight",
}


def draw_digits(trained: Trained, output: Path) -> None:
    """Writes loss.png, reconstructions.png, samples.png and latent.png."""
    _save(loss(trained), output / "loss.png")
    _save(reconstructions(trained), output / "reconstructions.png")
    _save(samples(trained.vae), output / "samples.png")
    _save(latent(trained), output / "latent.png")


def draw_cone(fits: dict[str, Fit], output: Path) -> None:
    """Writes noisy_cone.png."""
    _save(cone(fits), output / "noisy_cone.png")


def loss(trained: Trained) -> "Figure":
    """The negative ELBO of each minibatch, its running mean, and the held-out value reached."""
    fig, axes = _canvas(figsize=(7, 4))
    losses = -trained.fitted.history["objective"]
    window = max(1, len(losses) // 50)
    mean = np.convolve(losses, np.ones(window) / window, mode="valid")
    axes.plot(losses, color=INK, alpha=0.3, linewidth=0.6, label="minibatch")
    axes.plot(np.arange(len(mean)) + window / 2, mean, color=INK, linewidth=2, label="running mean")
    reached = -trained.bounds["test ELBO"].value
    axes.axhline(
        reached, color=ACCENT, linestyle="--", label=f"held out, at the end: {reached:.1f}"
    )
    low, high = np.quantile(losses[len(losses) // 50 :], [0.0, 1.0])
    axes.set(
        title="Training the digit VAE",
        xlabel="step",
        ylabel="negative ELBO, nats per image",
        xlim=(0, len(losses)),
        ylim=(low - 2, high + 2),
    )
    axes.legend()
    return fig


def reconstructions(trained: Trained, columns: int = 12) -> "Figure":
    """Held-out images, and what is left of them after the encoder and the decoder."""
    images = trained.test.images[:columns]
    z = jax.vmap(lambda image: trained.vae.encoder(image / DOTS)[:LATENTS])(images)
    fig, axes = _canvas(figsize=(9, 2.3))
    axes.imshow(_tiles(np.concatenate([images, _means(trained.vae, z)]), columns), **_GREY)
    axes.set_title("Held-out digits and their reconstructions")
    _rows(axes, ["image", "reconstruction"])
    return fig


def samples(vae: VAE, columns: int = 14, rows: int = 3, seed: int = 0) -> "Figure":
    """The expected images of points that the model draws from its prior."""
    draw = jax.jit(jax.vmap(ppl.seed(lambda: ppl.simulate(model, vae).choices["z"])))
    z = draw(jax.random.split(jax.random.key(seed), columns * rows))
    fig, axes = _canvas(figsize=(9, 2.6))
    axes.imshow(_tiles(_means(vae, z), columns), **_GREY)
    axes.set_title("New digits, from the prior")
    _rows(axes, [])
    return fig


def latent(trained: Trained) -> "Figure":
    """The encoder's means of the held-out images, in the plane by t-SNE, a numeral each."""
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    means = jax.vmap(lambda image: trained.vae.encoder(image / DOTS)[:LATENTS])(trained.test.images)
    with threadpool_limits(1):  # more threads than free cores slow it down tenfold
        plane = TSNE(perplexity=30, random_state=0).fit_transform(np.asarray(means))
    fig, axes = _canvas(figsize=(7, 7))
    for (x, y), label in zip(plane, trained.test.labels, strict=True):
        style = {"color": COLOURS[label], "fontweight": "bold", "fontsize": 10}
        axes.text(x, y, str(label), ha="center", va="center", **style)
    low, high = plane.min(0) - 2, plane.max(0) + 2
    axes.set(
        title=f"Held-out digits in the {LATENTS}-dimensional latent space",
        xlabel="t-SNE 1",
        ylabel="t-SNE 2",
        xlim=(low[0], high[0]),
        ylim=(low[1], high[1]),
        xticks=[],
        yticks=[],
        aspect="equal",
    )
    return fig


def cone(fits: dict[str, Fit]) -> "Figure":
    """The posterior's ring, and draws of the guide that each objective prefers."""
    grid = jnp.linspace(-3.2, 3.2, 321)
    log_joint = jax.jit(noisy_cone.log_joint)(*jnp.meshgrid(grid, grid))
    density = np.exp(log_joint - noisy_cone.log_evidence())
    levels = np.linspace(0.01, 1.0, 8) * density.max()
    fig, panels = _canvas(1, len(fits), figsize=(4.6 * len(fits), 4.9), sharey=True)
    for axes, (name, found) in zip(panels, fits.items(), strict=True):
        axes.contourf(grid, grid, density, levels, cmap="Greys", vmax=1.6 * density.max())
        _guide(axes, found)
        axes.set(
            title=f"{name} reached: {found.reached.value:.3f}",
            xlabel="x",
            xlim=(-3.2, 3.2),
            ylim=(-3.2, 3.2),
            aspect="equal",
        )
    panels[0].set_ylabel("y")
    legend = "posterior: the grey ring\nguide: draws, and two\nstandard deviations"
    panels[0].text(0, 0, legend, ha="center", va="center", linespacing=1.6)
    return fig


def _guide(axes: "Axes", found: Fit, draws: int = 400) -> None:
    draw = jax.jit(jax.vmap(ppl.seed(lambda: ppl.simulate(noisy_cone.guide, found.phi).choices)))
    points = draw(jax.random.split(jax.random.key(0), draws))
    axes.scatter(points["x"], points["y"], s=7, color=INK, alpha=0.5, linewidths=0)
    mx, my, sx, sy = (float(found.phi[name]) for name in ("mx", "my", "sx", "sy"))
    turn = np.linspace(0, 2 * np.pi, 200)
    x, y = mx + 2 * np.exp(sx) * np.cos(turn), my + 2 * np.exp(sy) * np.sin(turn)
    axes.plot(x, y, color=ACCENT, linewidth=2)


_GREY = {"cmap": "gray_r", "vmin": 0, "vmax": DOTS, "interpolation": "nearest"}


def _means(vae: VAE, z: jax.Array) -> jax.Array:
    return jax.jit(jax.vmap(lambda z: likelihood(vae, z).mean))(z)


def _tiles(images: np.ndarray | jax.Array, columns: int, gap: int = 1) -> np.ndarray:
    """Images (n, 64) side by side, `columns` in a row, with a white gap between them."""
    grid = np.asarray(images, float).reshape(-1, columns, 8, 8)
    grid = np.pad(grid, ((0, 0), (0, 0), (gap, gap), (gap, gap)))
    return grid.transpose(0, 2, 1, 3).reshape(len(grid) * (8 + 2 * gap), -1)


def _rows(axes: "Axes", names: list[str]) -> None:
    axes.set_xticks([])
    axes.set_yticks([10 * i + 4.5 for i in range(len(names))], names)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


def _canvas(rows: int = 1, columns: int = 1, **options) -> tuple["Figure", Any]:
    """A figure without a window, in the demonstration's style, and its axes."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    plt.rcParams.update(STYLE)
    return plt.subplots(rows, columns, layout="constrained", **options)


def _save(fig: "Figure", path: Path) -> None:
    import matplotlib.pyplot as plt

    fig.savefig(path)
    plt.close(fig)
