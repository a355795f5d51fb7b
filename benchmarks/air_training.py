"""Trains Attend, Infer, Repeat under each estimator, and reports how well it counts.

`python -m benchmarks.air_training [ESTIMATOR ...] [--full] [--steps N]`: by default a reduced
setting (two digits of 8×8 pixels at most on 20×20), a minute for each estimator; with `--full`
three digits of 16×16 at most on 50×50, 10 to 20 minutes on two cores. The curves of the latter,
unless `--steps` is given, are recorded in `air-training.csv` and drawn in `air-training.png`.
Accuracy is that of one draw of the count from the guide for each of 1,000 scenes that are not
trained on.

The prior odds of one more object fall as training goes on, as Eslami et al. (2016) have it: digits
are found first, and then windows that show nothing are given up.
"""

import argparse
import csv
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax

import ppl
from ppl import ScoreFunction
from stdlib.estimators import Enumerate, MeasureValued
from stdlib.models import air
from stdlib.objectives import elbo


class Setting(NamedTuple):
    """What is trained: networks, prior, scenes; and how.

    `odds` are the prior's before the step `annealed[0]` and from the step `annealed[1]` on.
    """

    sizes: air.Sizes
    prior: air.Prior
    glyph: int
    training: int
    rate: float
    steps: int
    odds: tuple[float, float] = (0.01, 0.01)
    annealed: tuple[int, int] = (0, 1)

    def prior_at(self, step: int) -> air.Prior:
        """The prior, at a step of training."""
        first, last = self.annealed
        share = np.clip((step - first) / (last - first), 0.0, 1.0)
        log_odds = (1.0 - share) * np.log(self.odds[0]) + share * np.log(self.odds[1])
        return self.prior._replace(odds=jnp.asarray(np.exp(log_odds), jnp.float32))

    def scenes(self, number: int, seed: int) -> air.Scenes:
        """Scenes that suit the networks."""
        size, most = self.sizes.image, self.sizes.objects
        return air.scenes(number, seed=seed, size=size, glyph=self.glyph, most=most)


REDUCED = Setting(
    air.Sizes(objects=2, image=20, window=8, what=8, hidden=64, recurrent=64),
    air.Prior(scale=2.5),
    glyph=8,
    training=5_000,
    rate=2e-3,
    steps=4_000,
)
FULL = Setting(
    air.Sizes(),
    air.Prior(),
    glyph=16,
    training=60_000,
    rate=1e-3,
    steps=16_000,
    odds=(1e-3, 1e-35),
    annealed=(1_000, 6_000),
)

BATCH, HELD_OUT = 64, 1_000


class Curve(NamedTuple):
    """After some steps: seconds spent in training, the bound of late, accuracy of the count."""

    steps: int
    seconds: float
    bound: float
    accuracy: float


def baselined(baseline: eqx.nn.MLP, model: Callable, guide: Callable, observed: dict) -> jax.Array:
    """The ELBO by scores, less what a network expects of the image for each choice."""
    expected = baseline(observed["image"].reshape(-1))
    choice = {f"z_pres_{t}": ScoreFunction(baseline=b) for t, b in enumerate(expected)}
    return ppl.with_estimators(partial(elbo, model, guide, observed), choice)()


def reinforce_with_baseline(params: Any, images: jax.Array, prior: air.Prior) -> jax.Array:
    """The objective whose parameters are the networks and the baseline's."""
    networks, baseline = params
    return air.objective(networks, images, partial(baselined, baseline), prior)


def plain(params: Any, images: jax.Array, prior: air.Prior) -> jax.Array:
    """The ELBO; the baseline is not used."""
    return air.objective(params[0], images, elbo, prior)


def stopping(images: int, model: Callable, guide: Callable, observed: dict) -> jax.Array:
    """The ELBO by scores, less, for each choice, the image's likelihood without an object from it.

    Nothing of it is learnt. It is one of a number of images, of which a mean is taken.
    """
    q = ppl.simulate(guide)
    likelihood = ppl.condition(model, observed)
    for t in range(sum(address.startswith("z_pres") for address in q.choices)):
        before = {
            address: value if int(address.rpartition("_")[2]) < t else jnp.zeros_like(value)
            for address, value in q.choices.items()
        }
        without = ppl.replay(likelihood, before).log_likelihood
        ppl.control_variate(f"z_pres_{t}", without / images)
    return ppl.log_density(model, {**q.choices, **observed}) - q.log_density


def reinforce_stopping(params: Any, images: jax.Array, prior: air.Prior) -> jax.Array:
    """The objective of the networks alone."""
    return air.objective(params[0], images, partial(stopping, len(images)), prior)


def objectives(objects: int) -> dict[str, Callable]:
    """By the name of the estimator."""
    last = objects - 1
    hybrid = {"z_pres_*": MeasureValued(), f"z_pres_{last}": Enumerate()}
    return {
        "ENUM": ppl.with_estimators(plain, {"z_pres_*": Enumerate()}),
        "MVD": ppl.with_estimators(plain, {"z_pres_*": MeasureValued()}),
        "hybrid": ppl.with_estimators(plain, hybrid),
        "REINFORCE": plain,
        "REINFORCE + baseline": reinforce_with_baseline,
        "REINFORCE + stopping": reinforce_stopping,
    }


NAMES = tuple(objectives(1))


def curve(name: str, setting: Setting, steps: int, every: int, seed: int = 0) -> Iterator[Curve]:
    """Trains, and looks at the accuracy every so many steps."""
    keys = jax.random.split(jax.random.key(seed), 3)
    sizes = setting.sizes
    train, test = (setting.scenes(n, s) for n, s in ((setting.training, 1), (HELD_OUT, 2)))
    networks = air.Networks(keys[0], sizes)
    baseline = eqx.nn.MLP(sizes.image**2, sizes.objects, sizes.hidden, 1, key=keys[1])
    objective = objectives(sizes.objects)[name]
    optimizer = optax.adam(optax.cosine_decay_schedule(setting.rate, steps, 0.1))
    found = eqx.filter_jit(air.found)
    images, unseen = jnp.asarray(train.images), jnp.asarray(test.images)
    result, seconds = None, 0.0
    for done in range(every, steps + 1, every):
        start = time.perf_counter()
        result = ppl.fit(
            partial(objective, prior=setting.prior_at(done - every)),
            (networks, baseline),
            optimizer,
            key=keys[2],
            steps=every,
            data=images,
            batch_size=BATCH,
            progress=False,
            resume=result,
        )
        seconds += time.perf_counter() - start
        counts = np.asarray(found(jax.random.key(done), result.params[0], unseen, setting.prior))
        bound = float(np.mean(result.history["objective"][-every:]))
        yield Curve(done, seconds, bound, float(np.mean(counts == test.counts)))


def trained(name: str, setting: Setting, steps: int, every: int) -> list[Curve]:
    """The curve of an estimator, printed as it goes on."""
    points = []
    for point in curve(name, setting, steps, every):
        print(name, *(f"{k} {v:.4g}" for k, v in point._asdict().items()), flush=True)
        points.append(point)
    return points


RECORD = Path(__file__).with_name("air-training.csv")


def recorded() -> dict[str, list[Curve]]:
    """The curves at full size that were recorded, by estimator."""
    curves: dict[str, list[Curve]] = {}
    if RECORD.exists():
        with RECORD.open(newline="") as file:
            for row in csv.DictReader(file):
                name, steps = row.pop("estimator"), int(row.pop("steps"))
                point = Curve(steps, **{k: float(v) for k, v in row.items()})
                curves.setdefault(name, []).append(point)
    return {name: curves[name] for name in NAMES if name in curves}


def record(name: str, points: list[Curve]) -> None:
    """Keeps a curve in place of the estimator's last, and draws all of them anew."""
    curves = recorded() | {name: points}
    with RECORD.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["estimator", *Curve._fields])
        writer.writerows((k, *(f"{x:.6g}" for x in p)) for k, v in curves.items() for p in v)
    draw(curves, RECORD.with_suffix(".png"))


def draw(curves: dict[str, list[Curve]], path: Path) -> None:
    """Bound and accuracy against steps."""
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for name, points in curves.items():
        steps = [p.steps for p in points]
        axes[0].plot(steps, [p.bound for p in points], label=name)
        axes[1].plot(steps, [p.accuracy for p in points], label=name)
    axes[0].set(xlabel="steps", ylabel="ELBO, nats an image")
    axes[1].set(xlabel="steps", ylabel="count accuracy", ylim=(0, 1.02))
    axes[1].legend()
    figure.savefig(path, dpi=120)


PUBLISHED = {"ENUM": ".984", "MVD": ".984", "hybrid": ".950–.984", "REINFORCE": ".27"}
"""Accuracies of Becker et al. 2024, on multi-MNIST."""


def table(curves: dict[str, list[Curve]], title: str) -> str:
    """Where each estimator's training ends."""
    lines = [
        f"### Attend, Infer, Repeat: counts after training, {title}",
        "",
        "| | steps | seconds | ELBO | accuracy | published, multi-MNIST |",
        "|---|---:|---:|---:|---:|---|",
    ]
    for name, points in curves.items():
        end = points[-1]
        lines.append(
            f"| {name} | {end.steps:,} | {end.seconds:.0f} | {end.bound:.1f} | {end.accuracy:.3f} "
            f"| {PUBLISHED.get(name, '')} |"
        )
    return "\n".join(lines)


def main() -> list[str]:
    """The table of the reduced setting, and that of the curves that were recorded at full size."""
    reduced = {name: trained(name, REDUCED, REDUCED.steps, 1_000) for name in NAMES}
    about = (
        "Recorded by `python -m benchmarks.air_training --full`, each estimator by itself; seconds "
        "are of training, on two cores that did other work too.\n\n"
        f"![Curves of ELBO and accuracy]({RECORD.with_suffix('.png').name})"
    )
    return [table(reduced, "reduced setting"), table(recorded(), "full size"), about]


def command_line() -> None:
    """What to train, and how long."""
    parser = argparse.ArgumentParser(prog="benchmarks.air_training")
    parser.add_argument("names", nargs="*", metavar="ESTIMATOR", help=", ".join(NAMES))
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--every", type=int, default=500)
    given = parser.parse_args()
    if unknown := set(given.names) - set(NAMES):
        parser.error(f"no estimator {', '.join(sorted(unknown))}: choose from {', '.join(NAMES)}")
    setting, title = (FULL, "full size") if given.full else (REDUCED, "reduced setting")
    curves = {}
    for name in given.names or NAMES:
        curves[name] = trained(name, setting, given.steps or setting.steps, given.every)
        if given.full and not given.steps:
            record(name, curves[name])
    print(table(curves, title))


if __name__ == "__main__":
    command_line()
