"""Wake-sleep: the model learns from data, the guide from the model's dreams."""

from collections.abc import Callable, Mapping
from typing import Any

import jax

import ppl
from ppl import frozen, simulate
from ppl.errors import InvalidSetting

from .._scoring import at_draws_of, check_unobserved
from ._gradients import derivative_of
from .iwelbo import iwelbo


def wake_phase(
    model: Callable, guide: Callable, observed: Mapping[str, Any], num_particles: int = 1
) -> jax.Array:
    """The importance-weighted bound as an objective of the model alone.

    Value and gradient in the model's parameters are unbiased for the bound of `iwelbo` (K = 1: the
    ELBO), a lower bound of log p(x), to be maximised. In what the guide reads the derivative is
    zero: nothing is differentiated through its draws, so they may be discrete. With K > 1 it is the
    wake phase for the model of reweighted wake-sleep, Σ_k w_k ∂log p(x, z_k), w the normalised
    weights.

    The arguments are those of `iwelbo`. Scalar; to be called inside an objective.

    **Raises** `ppl.errors.InvalidSetting` where `num_particles` is not a positive integer.

    Sources: Hinton et al. 1995; Bornschein & Bengio 2015.

    ```python
    >>> import jax, ppl, numpyro.distributions as dist
    >>> from stdlib.objectives import wake_phase
    >>> def objective(theta, phi):
    ...     model = lambda: ppl.sample("x", dist.Normal(theta + ppl.sample("z", prior), 1.0))
    ...     prior, guide = dist.Bernoulli(0.5), lambda: ppl.sample("z", dist.Bernoulli(phi))
    ...     return wake_phase(model, guide, {"x": 2.0})
    >>> slopes = jax.grad(ppl.expectation(objective), (1, 2))(jax.random.key(0), 0.0, 0.5)
    >>> float(slopes[0]) in (1.0, 2.0), float(slopes[1])
    (True, 0.0)

    ```
    """
    return iwelbo(model, frozen(guide), observed, num_particles)


def sleep_phase(
    model: Callable, guide: Callable[[Any], Any], observed: Mapping[str, Any]
) -> jax.Array:
    """log q(z | x) for a dream (z, x) from the model.

    Estimand: E_p(z, x)[log q(z | x)], which is -E_p(x)[KL(p(z | x) ‖ q(z | x))] and a constant: to
    be maximised over the guide's parameters, in which value and gradient are unbiased. In what the
    model reads the derivative is zero. The data are not used.

    - `guide`: a program of one argument, the observed choices: it is run on dreamt ones.
    - `observed`: says at which addresses the model has data; the values play no part.
    - `model`: as in `elbo`, without data of its own (`obs=`), which it could not dream.

    Scalar; to be called inside an objective.

    **Raises** `ppl.errors.InvalidSetting` where `observed` is empty or names no address of the
    model, or where the model has data.

    Source: Hinton et al. 1995, 'The wake-sleep algorithm for unsupervised neural networks'.

    ```python
    >>> import jax, ppl, numpyro.distributions as dist
    >>> from stdlib.objectives import sleep_phase
    >>> def model():
    ...     ppl.sample("x", dist.Normal(ppl.sample("z", dist.Normal(0.0, 1.0)), 1.0))
    >>> def objective(slope):
    ...     guide = lambda given: ppl.sample("z", dist.Normal(slope * given["x"], 0.5**0.5))
    ...     return sleep_phase(model, guide, {"x": 2.0})
    >>> estimate = jax.vmap(jax.grad(ppl.expectation(objective), 1), (0, None))
    >>> slopes = estimate(jax.random.split(jax.random.key(0), 10_000), 0.5)
    >>> bool(abs(slopes.mean()) < 0.1)  # the posterior
    True

    ```
    """
    data = [site for site in ppl.sites(model) if site.observed]
    if data or not observed:
        fault = f"has its data at {data[0].where}" if data else "was given no address of its data"
        raise InvalidSetting(
            f"The sleep phase runs the model forward, data included, but it {fault}. Leave `obs` "
            'out of the model, and write sleep_phase(model, guide, {"x": x}).'
        )
    dream = ppl.flatten_choices(simulate(frozen(model)).choices)
    seen = _taken(observed, dream)
    informed = lambda: guide(seen)  # noqa: E731
    check_unobserved(informed)
    scored = at_draws_of(model, informed, what="model", by="guide")
    return ppl.log_density(scored, dream)


def _taken(observed: Mapping[str, Any], dream: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """The dreamt choices at the observed addresses, nested as these are; taken out of the dream."""
    seen = {}
    for name, value in observed.items():
        if isinstance(value, Mapping):
            seen[name] = _taken(value, dream, f"{prefix}{name}/")
        elif (address := prefix + name) in dream:
            seen[name] = dream.pop(address)
        else:
            known = ", ".join(map(repr, dream))
            raise InvalidSetting(
                f"observed names {address!r}, where the model draws nothing. It draws {known}."
            )
    return seen


def wake_sleep(
    model: Callable, guide: Callable[[Any], Any], observed: Mapping[str, Any]
) -> jax.Array:
    """The ELBO for the model, and the sleep phase for the guide: `wake_phase` and `sleep_phase`.

    Not the gradient of one function. To be maximised:

    - the value is unbiased for the ELBO, and so is the gradient, in the parameters of the model;
    - in the parameters of the guide the gradient is unbiased for that of E_p(z, x)[log q(z | x)].

    (Of a parameter that both read, the two are added.) The guide is a program of one argument, the
    observed choices; otherwise the arguments, and what is raised, are those of `sleep_phase`.
    Scalar; to be called inside an objective.

    Source: Hinton et al. 1995, 'The wake-sleep algorithm for unsupervised neural networks'.

    ```python
    >>> import jax, ppl, numpyro.distributions as dist
    >>> from stdlib.objectives import wake_sleep
    >>> def objective(theta, phi):
    ...     def model():
    ...         ppl.sample("x", dist.Normal(ppl.sample("z", dist.Normal(theta, 1.0)), 1.0))
    ...     guide = lambda given: ppl.sample("z", dist.Normal(phi * given["x"], 1.0))
    ...     return wake_sleep(model, guide, {"x": 2.0})
    >>> estimate = ppl.expectation(objective)
    >>> slopes = jax.grad(estimate, (1, 2))(jax.random.key(0), 0.0, 0.0)
    >>> bool(slopes[0] != 0), bool(slopes[1] != 0)
    (True, True)

    ```
    """
    awake = wake_phase(model, lambda: guide(observed), observed)
    return awake + derivative_of(sleep_phase(model, guide, observed))
