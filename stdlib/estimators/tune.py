"""Choosing each site's estimator by measurement."""

import contextlib
import warnings
from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from typing import Any

import equinox as eqx
import jax

import ppl
from ppl import Reparameterized, ScoreFunction
from ppl.errors import (
    BiasedEstimator,
    DiscontinuousObjective,
    InvalidSetting,
    TooManyJointStates,
    UnmatchedPattern,
    UnsuitableEstimator,
    UnsupportedControlFlow,
)
from ppl.extend import Estimator

from .. import _gradient_noise as noise
from ._search import Bench, Search
from ._tuned import Measurement, Tuned
from .disarm import Arm, DisArm
from .enumerate import Enumerate
from .implicit import ImplicitReparameterized
from .leave_one_out import LeaveOneOut
from .measure_valued import MeasureValued
from .rebar import Rebar
from .rejection import RejectionReparam
from .stochastic_triple import StochasticTriple
from .without_replacement import WithoutReplacement

CANDIDATES = (
    Reparameterized(),
    ScoreFunction(),
    Enumerate(),
    LeaveOneOut(),
    WithoutReplacement(),
    MeasureValued(),
    StochasticTriple(),
    Arm(),
    DisArm(),
    Rebar(),
    ImplicitReparameterized(),
    RejectionReparam(),
)
OF_THE_ESTIMATORS = (
    BiasedEstimator,
    DiscontinuousObjective,
    TooManyJointStates,
    UnsuitableEstimator,
    UnsupportedControlFlow,
)
"""Failures of a program that other estimators may not have."""


def tune(
    objective: Callable[[Any], Any],
    params: Any,
    key: Any,
    candidates: Any = None,
    *,
    method: str = "greedy",
    num_samples: int = 1024,
    measure: str = "flops",
) -> Tuned:
    """Chooses each site's estimator, for the least work-normalised variance of the gradient.

    That is the trace of the covariance of one estimate's gradient at `params`, times the cost of
    the estimate: the computation that a given accuracy of the mean takes is proportional to it
    (Glynn & Whitt 1992). Where it is zero, up to rounding, that of the value decides, then the
    cost. Every combination has the same keys. At other parameters another choice may be better.

    **Arguments**

    - `objective`, `params`: a program of one pytree. The gradient is taken in its floating-point
      arrays, and in Python floats outside of an `equinox.Module`.
    - `candidates`: a list of estimators for all sites, or a dict from addresses or globs to lists
      (where several match, the last one holds; sites that none matches are left alone). By default,
      those of `stdlib.estimators` that suit a site's distribution, are unbiased and need no
      settings. What the program says is always a candidate as well.
    - `method`: `"greedy"` goes from site to site, changing one at a time, starting from the program
      as it is, until no change is an improvement; `"exhaustive"` tries all combinations, at most
      256.
    - `num_samples`: gradients drawn for each combination.
    - `measure`: of the cost. `"flops"`, by XLA's `cost_analysis` of the compiled estimate and
      gradient, does not depend on the machine's load, but counts the body of a `scan` once;
      `"time"` is the median of the seconds taken.

    Combinations that raise an error of `ppl.errors` are kept in the evidence with the reason.
    Biased estimators are not chosen, nor pathwise ones where the objective is seen to jump: by
    `ppl.expectation`, or as the mean gradient is far from that of a combination without them.

    **Raises** `InvalidSetting`, `UnmatchedPattern`, `NotTrainable`; what `ppl.expectation` raises
    whatever the estimators; `UnsuitableEstimator` where no combination could be measured.

    ```python
    >>> import jax, ppl, numpyro.distributions as dist
    >>> from stdlib.estimators import tune
    >>> def cost(p):
    ...     return (ppl.sample("x", dist.Bernoulli(p)) - 0.45) ** 2
    >>> tuned = tune(cost, 0.3, jax.random.key(0))
    >>> tuned.estimators
    {'x': Enumerate()}
    >>> round(float(jax.grad(ppl.expectation(tuned.program), argnums=1)(jax.random.key(1), 0.3)), 4)
    0.1

    ```
    """
    noise.check_samples(num_samples)
    noise.check_choice("method", method, ("greedy", "exhaustive"))
    noise.check_choice("measure", measure, ("flops", "time"))
    trained, rest = noise.split(params)
    _check_objective(noise.value_and_gradient(objective, rest), key, trained)
    written = noise.sites(objective, params)
    wanted = _candidates_of(candidates, [*written], objective)
    options, refused = {}, []
    for address, own in written.items():
        options[address] = [None]
        for estimator in wanted.get(address, ()):
            reason = _why_not(objective, params, address, estimator)
            if reason is None and not _same(estimator, own.estimator):
                options[address].append(estimator)
            elif reason is not None and candidates is not None:
                refused.append(Measurement({address: estimator}, reason=reason))
    pathwise = {address for address, own in written.items() if own.pathwise}
    search = Search(Bench(objective, trained, rest, key, num_samples, measure), options, pathwise)
    (search.exhaustive if method == "exhaustive" else search.greedy)()
    evidence = search.ranked()
    known = {a: own.estimator for a, own in written.items() if own.estimator is not None}
    best = known | evidence[0].estimators
    return Tuned(noise.chosen(objective, best), best, (*evidence, *refused), measure)


def _why_not(objective: Callable, params: Any, address: str, estimator: Estimator) -> str | None:
    """Why an estimator is no option at a site, whatever the others."""
    if not estimator.unbiased:
        return "it is biased"
    try:
        ppl.sites(noise.chosen(objective, {address: estimator}), params)
    except UnsuitableEstimator as error:
        return f"UnsuitableEstimator: {error}"
    return None


def _same(estimator: Estimator, own: Estimator | None) -> bool:
    return own is not None and bool(eqx.tree_equal(estimator, own))


def _check_objective(run: Callable, key: Any, trained: Any) -> None:
    """Raises what is wrong with the program whatever its estimators, or with the key."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DiscontinuousObjective)
        with contextlib.suppress(*OF_THE_ESTIMATORS):
            jax.eval_shape(lambda trained: run(key, trained), trained)


def _candidates_of(
    candidates: Any, addresses: list[str], objective: Callable
) -> dict[str, tuple[Estimator, ...]]:
    """The candidates for each site that is to be tuned, checked."""
    if candidates is None:
        return dict.fromkeys(addresses, CANDIDATES)
    if not isinstance(candidates, Mapping):
        return dict.fromkeys(addresses, _checked(candidates))
    wanted = {}
    for pattern, listed in candidates.items():
        matched = [address for address in addresses if fnmatchcase(address, pattern)]
        if not matched:
            name = getattr(objective, "__name__", type(objective).__name__)
            raise UnmatchedPattern(
                f"The pattern {pattern!r} of candidates matches no unobserved site of objective "
                f"{name!r}, which has {', '.join(map(repr, addresses)) or 'none'}."
            )
        wanted |= dict.fromkeys(matched, _checked(listed))
    return wanted


def _checked(listed: Any) -> tuple[Estimator, ...]:
    if not isinstance(listed, list | tuple) or not listed:
        raise InvalidSetting(
            "candidates must be a list of estimators, or a dict from addresses or globs to such "
            f"lists, got {listed!r}. Write, for example, candidates={{'*': [ScoreFunction()]}}."
        )
    for estimator in listed:
        if not isinstance(estimator, Estimator):
            made = estimator.__name__ if isinstance(estimator, type) else "ScoreFunction"
            raise InvalidSetting(
                f"Each of the candidates must be an instance of ppl.extend.Estimator, got "
                f"{estimator!r}. Write, for example, {made}()."
            )
    return tuple(listed)
