"""Two small problems, one discrete and one continuous, on which objectives are summed exactly."""

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax.lax import stop_gradient

from ppl import sample
from stdlib.testing import assert_unbiased
from tests.stdlib.bounds import KEY

NODES = 20


class Points(NamedTuple):
    """For each point that stands for the guide's choice: log densities, and the point's log mass.

    With the mass's derivative and that of the point itself, sums over points have the derivative
    of the expectation.
    """

    prior: jax.Array
    likelihood: jax.Array
    guide: jax.Array
    mass: jax.Array

    @property
    def weight(self):
        return self.prior + self.likelihood - self.guide


class Problem(NamedTuple):
    """A model of theta, a guide of phi, data, where to be, and `points(theta, phi, drawn_at)`."""

    model: Callable
    guide: Callable
    observed: dict
    at: dict
    points: Callable[..., Points]

    def expected(self, formula, theta, phi, num_particles=1, drawn_at=None):
        """E[formula(points)] over independent particles, drawn from the guide at `drawn_at`."""
        points = self.points(theta, phi, phi if drawn_at is None else drawn_at)
        indices = list(itertools.product(range(len(points.mass)), repeat=num_particles))
        tuples = Points(*(part[jnp.asarray(indices)] for part in points))
        return jnp.sum(jnp.exp(jnp.sum(tuples.mass, 1)) * jax.vmap(formula)(tuples))

    def log_evidence(self, theta, phi):
        return jnp.log(self.expected(lambda z: jnp.exp(z.weight[0]), theta, phi))


def log_mean_exp(logs):
    return jnp.log(jnp.mean(jnp.exp(logs)))


def only_derivative(value):
    return value - stop_gradient(value)


# --- three states --------------------------------------------------------------------------------


def discrete_model(theta):
    k = sample("k", dist.Categorical(logits=theta["prior"]))
    sample("x", dist.Normal(1.0 * k - theta["shift"], 0.9))


def discrete_guide(phi):
    sample("k", dist.Categorical(logits=phi))


def discrete_points(theta, phi, drawn_at):
    means = jnp.arange(3.0) - theta["shift"]
    likelihood = dist.Normal(means, 0.9).log_prob(1.1)
    prior, guide, mass = map(jax.nn.log_softmax, (theta["prior"], phi, drawn_at))
    return Points(prior, likelihood, guide, mass)


DISCRETE = Problem(
    discrete_model,
    discrete_guide,
    {"x": 1.1},
    {
        "theta": {"prior": jnp.array([0.1, 0.3, -0.2]), "shift": 0.4},
        "phi": jnp.array([0.3, -0.4, 0.1]),
    },
    discrete_points,
)


# --- a normal ------------------------------------------------------------------------------------


def normal_model(theta):
    z = sample("z", dist.Normal(theta["mean"], 1.0))
    sample("x", dist.Normal(theta["slope"] * z, 0.9))


def normal_guide(phi):
    sample("z", dist.Normal(phi["mean"], jnp.exp(phi["log_scale"])))


def normal_points(theta, phi, drawn_at):
    nodes, weights = np.polynomial.hermite_e.hermegauss(NODES)
    z = drawn_at["mean"] + jnp.exp(drawn_at["log_scale"]) * nodes
    likelihood = dist.Normal(theta["slope"] * z, 0.9).log_prob(1.2)
    guide = dist.Normal(phi["mean"], jnp.exp(phi["log_scale"])).log_prob(z)
    mass = jnp.asarray(np.log(weights / weights.sum()), jnp.float32)
    return Points(dist.Normal(theta["mean"], 1.0).log_prob(z), likelihood, guide, mass)


NORMAL = Problem(
    normal_model,
    normal_guide,
    {"x": 1.2},
    {"theta": {"slope": 0.8, "mean": 0.2}, "phi": {"mean": 0.3, "log_scale": -0.1}},
    normal_points,
)

PROBLEMS = {"discrete": DISCRETE, "normal": NORMAL}


# --- many objectives at once ---------------------------------------------------------------------


def assert_all_unbiased(
    problem: Problem,
    cases: dict[str, tuple[Callable, Callable]],
    extra: dict[str, Any] | None = None,
    transform: Callable = lambda program: program,
    num_samples: int = 50_000,
    tolerance: float = 1e-4,
) -> None:
    """Value and gradient of each `(objective, exact)` of `(theta, phi, extra)`, compiled as one.

    Each has parameters of its own and a factor `value`, whose gradient is the objective's value.
    """
    at = {**problem.at, "extra": extra or {}}
    params = {name: {"value": 1.0, **at} for name in cases}
    params = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), params)

    def total(part):
        def summed(params):
            each = (
                p["value"] * cases[name][part](p["theta"], p["phi"], p["extra"])
                for name, p in params.items()
            )
            return sum(each)

        return summed

    assert_unbiased(
        transform(total(0)),
        params,
        exact=total(1),
        key=KEY,
        num_samples=num_samples,
        tolerance=tolerance,
    )
