"""Program transformations that rewrite sites: program in, program out."""

import fnmatch
from collections.abc import Callable, Collection, Mapping
from typing import Any

import jax
from jax import lax

from .._ir.address import nearest, nest, parse, render
from .._ir.compound import Compound
from .._ir.estimator import Estimator, check_estimator, estimator_at
from .._ir.site import Site
from .._ir.stage import P, T, stage, standing_for
from .._jax.run import run
from .._walk.choices import checked_choices
from .._walk.feed import Choices, Feed, Nothing, Prefix
from .._walk.record import Record, check_duplicates
from .._walk.walker import estimable_sites, everywhere, placed_sites, rewritten
from ..errors import ChoiceTypeError, UnmatchedPattern


def _each(program: Callable[P, T], rewrite: Callable[[Any], Any]) -> Callable[P, T]:
    def meaning(call, feed):
        return rewrite(call).bind(), Record()

    return rewritten(program, meaning, lambda jaxpr, name: Nothing())


def _given(
    choices: Mapping[str, Any], check: Callable[[list], None] | None = None
) -> Callable[[Any, str], Feed]:
    def feed(jaxpr, name):
        sites = list(placed_sites(jaxpr))
        check_duplicates(sites, name)
        if check is not None:
            check(sites)
        return Choices(checked_choices(choices, sites, name, complete=False))

    return feed


def condition(program: Callable[P, T], choices: Mapping[str, Any]) -> Callable[P, T]:
    """The program with some sites observed: they return the choices and count as likelihood.

    `choices` is a nested dict from address to value; sites in `vmap` and `scan` take stacked
    values. Not a posterior: the other sites are still drawn from the program's own distributions.

    **Raises** (when the program runs) `UnusedChoice`, `ObservedChoice`, `ChoiceShapeError`,
    `ChoiceTypeError`.

    ```python
    >>> import jax, ppl, numpyro.distributions as dist
    >>> def model():
    ...     return ppl.sample("y", dist.Normal(ppl.sample("x", dist.Normal(0.0, 1.0)), 1.0))
    >>> float(ppl.seed(ppl.condition(model, {"y": 5.0}))(jax.random.key(0)))
    5.0

    ```
    """
    return conditioned(program, choices)


def conditioned(
    program: Callable[P, T],
    choices: Mapping[str, Any],
    check: Callable[[list], None] | None = None,
) -> Callable[P, T]:
    """`condition`, once the program's sites, as `placed_sites` gives them, have passed a check."""

    def meaning(call, feed: Choices):
        if isinstance(call, Compound):
            return _emitted(call.with_data(feed.values)), Record()
        if call.site.path in feed.values:
            call = call.with_operand("obs", feed.values[call.site.path], lanes=True)
        return call.bind(), Record()

    return rewritten(program, meaning, _given(choices, check))


def _emitted(call: Compound) -> list:
    """Emits a compound site; for a posterior that is known in part, the sites of its density."""
    if call.joint is None or not call.is_partly_observed:
        return call.bind()
    pairs = zip(call.paths, call.observed, strict=True)
    known = {path: data for path, data in pairs if data is not None}
    return conditioned(call.joint.sites(), nest(known))()


def uncondition(program: Callable[P, T], addresses: str | Collection[str] = "*") -> Callable[P, T]:
    """The program with observations taken back: the sites that had them are choices again.

    `addresses` is an address or a glob such as `"layer/*"`, or several; by default, all observed
    sites. To put other data in the place of `obs=`, condition what is left:
    `ppl.condition(ppl.uncondition(program, "y"), {"y": new})`; to draw new data along with the
    hidden choices, `ppl.seed(ppl.uncondition(program))`.

    **Law**: `uncondition(condition(program, choices))` is the program.

    **Raises** (when the program runs) `UnmatchedPattern` where no observed site has the address;
    `UndrawableSite` where one is drawn that has no sampler.

    ```python
    >>> import jax, ppl, numpyro.distributions as dist
    >>> def model():
    ...     x = ppl.sample("x", dist.Normal(0.0, 1.0))
    ...     ppl.sample("y", dist.Normal(x, 1.0), obs=2.0)
    >>> sorted(ppl.seed(lambda: ppl.simulate(ppl.uncondition(model)))(jax.random.key(0)).choices)
    ['x', 'y']

    ```
    """
    patterns = [addresses] if isinstance(addresses, str) else list(addresses)

    def feed(jaxpr, name):
        observed = [p.path for p in placed_sites(jaxpr) if p.site.observed and p.path]
        for pattern in patterns:
            if not any(_matches(pattern, render(path)) for path in observed):
                raise UnmatchedPattern(
                    f"{pattern!r} of ppl.uncondition matches no observed site of program {name!r}. "
                    f"{nearest(tuple(pattern.split('/')), observed)}"
                )
        return Nothing()

    def taken_back(path):
        return any(_matches(pattern, render(path)) for pattern in patterns)

    def meaning(call, feed):
        if isinstance(call, Compound):
            return _emitted(call.without_data(filter(taken_back, call.paths))), Record()
        if call.site.observed and taken_back(call.site.path):
            call = call.with_operand("obs", None)
        return call.bind(), Record()

    return rewritten(program, meaning, feed)


def bounded(program: Callable[P, T], addresses: Collection[str]) -> Callable[P, T]:
    """The program with density zero outside the supports of the sites at some addresses.

    Log densities are minus infinity there, with derivatives of zero, and what follows such a site
    sees a value in its support in place of that one. For choices that may have been drawn outside,
    as from a proposal that is wider than the program: NumPyro's formulas give a number there too.
    Addresses of a `marginal` or `normalize` program are left as they are.

    ```python
    >>> import ppl, numpyro.distributions as dist
    >>> def model():
    ...     ppl.sample("rate", dist.Exponential(1.0))
    >>> float(ppl.log_density(ppl.bounded(model, ["rate"]), {"rate": -1.0}))
    -inf

    ```
    """
    chosen = frozenset(addresses)

    def meaning(call, feed):
        if isinstance(call, Compound) or call.site.address not in chosen:
            return call.bind(), Record()
        call = call.bounded(always=True)
        value = call.bind()
        if call.operands.masks:
            return value, Record()
        return call.over_lanes(lambda ops, x: ops.distribution.moved(x), value), Record()

    return rewritten(program, meaning, lambda jaxpr, name: Nothing())


def intervene(program: Callable[P, T], choices: Mapping[str, Any]) -> Callable[P, T]:
    """The program with some sites replaced by constants: the `do` operator.

    The replaced sites are no longer sites: they have no density and no address. What follows them
    sees the given values. Errors as for `condition`.

    ```python
    >>> import jax, ppl, numpyro.distributions as dist
    >>> def model():
    ...     return 2.0 * ppl.sample("x", dist.Normal(0.0, 1.0))
    >>> float(ppl.seed(ppl.intervene(model, {"x": 3.0}))(jax.random.key(0)))
    6.0

    ```
    """

    def meaning(call, feed: Choices):
        if isinstance(call, Compound):
            given = call.with_data(feed.values)
            replaced = not feed.values.keys().isdisjoint(call.paths) and given.is_observed
            return given.data() if replaced else call.bind(), Record()
        if call.site.path in feed.values:
            return constant(call.site, feed.values[call.site.path]), Record()
        return call.bind(), Record()

    return rewritten(program, meaning, _given(choices))


def constant(site: Site, value: Any) -> Any:
    """A value in place of a site, which has to be of the site's dtype."""
    if value.dtype != site.out.dtype:
        raise ChoiceTypeError(
            f"The choice for {site.address!r} has dtype {value.dtype} and is traced or missing, "
            f"but the site at {site.where} has dtype {site.out.dtype}: an intervention has no "
            "density that could be zero where it is no integer. Convert it first: "
            f".astype({site.out.dtype.name!r})."
        )
    return value


def scale(program: Callable[P, T], factor: Any) -> Callable[P, T]:
    """The program with its log density multiplied by `factor` (as for subsampled data).

    `factor` is a scalar, or broadcasts against the sites' batches. How the sites are drawn and how
    gradients pass them does not change.

    ```python
    >>> import ppl, numpyro.distributions as dist
    >>> def model():
    ...     ppl.sample("x", dist.Normal(0.0, 1.0))
    >>> round(float(ppl.log_density(ppl.scale(model, 10.0), {"x": 0.0})), 3)
    -9.189

    ```
    """
    return _each(program, lambda call: call.appended("scales", factor))


def mask(program: Callable[P, T], flag: Any) -> Callable[P, T]:
    """The program with the log density of its sites counted only where `flag` is true.

    `flag` is a boolean, or a boolean array that broadcasts against the sites' batches. Masked
    sites are still drawn.

    ```python
    >>> import ppl, numpyro.distributions as dist
    >>> def model():
    ...     ppl.sample("x", dist.Normal(0.0, 1.0))
    >>> float(ppl.log_density(ppl.mask(model, False), {"x": 0.0}))
    0.0

    ```
    """
    return _each(program, lambda call: call.appended("masks", flag))


def frozen(program: Callable[P, T]) -> Callable[P, T]:
    """The program with everything that it reads cut off from derivatives.

    Its arguments and what it closes over count as constants, choices given to `log_density` do not:
    so a guide's density can be differentiated along its choices alone (sticking the landing, Roeder
    et al. 2017).

    ```python
    >>> import jax, ppl, numpyro.distributions as dist
    >>> def density(mean, x):
    ...     guide = lambda: ppl.sample("x", dist.Normal(mean, 1.0))
    ...     return ppl.log_density(ppl.frozen(guide), {"x": x})
    >>> [float(g) for g in jax.grad(density, (0, 1))(1.0, 3.0)]
    [0.0, -2.0]

    ```
    """

    @standing_for(program)
    def constant(*args: P.args, **kwargs: P.kwargs) -> T:
        jaxpr, consts, rebuild, _ = stage(program, *args, **kwargs)
        consts = [lax.stop_gradient(const) for const in consts]
        return rebuild(run(jaxpr, consts))

    return constant


def scope(program: Callable[P, T], prefix: str) -> Callable[P, T]:
    """The program with its addresses put under `prefix`, so that it can be called twice.

    ```python
    >>> import jax, ppl, numpyro.distributions as dist
    >>> def coin():
    ...     return ppl.sample("heads", dist.Bernoulli(0.5))
    >>> def two():
    ...     return ppl.scope(coin, "a")() + ppl.scope(coin, "b")()
    >>> ppl.seed(lambda: ppl.simulate(two))(jax.random.key(0)).choices.keys()
    dict_keys(['a', 'b'])

    ```
    """
    path = parse(prefix)
    meaning = everywhere(lambda call: call.with_sites(lambda site: site.under(path)))
    return rewritten(program, meaning, lambda jaxpr, name: Prefix(path))


def with_estimators(program: Callable[P, T], estimators: Mapping[str, Any]) -> Callable[P, T]:
    """The same program with other gradient estimators; its text is not touched.

    `estimators` maps addresses, or globs such as `"layer/*"`, to estimators; where several match,
    the last one holds. The program may also be an objective, whose sites are those it simulates.
    The sites inside a `marginal` or `normalize` program count too: hidden ones, and those of its
    algorithm. In place of an estimator there may be a function from the site's own one (the
    default, where it has none) to another, such as one that wraps it.

    **Raises** `UnmatchedPattern`, `UnsuitableEstimator`, when the program runs.

    ```python
    >>> import jax, ppl, numpyro.distributions as dist
    >>> def square(mean):
    ...     return ppl.sample("x", dist.Normal(mean, 1.0)) ** 2
    >>> scored = ppl.with_estimators(square, {"x": ppl.ScoreFunction()})
    >>> value = ppl.expectation(scored)(jax.random.key(0), 3.0)

    ```
    """

    def feed(jaxpr, name):
        sites = list(estimable_sites(jaxpr))
        for pattern in estimators:
            if not any(_matches(pattern, placed.site.address) for placed in sites):
                known = [placed.path for placed in sites]
                raise UnmatchedPattern(
                    f"The pattern {pattern!r} of with_estimators matches no site of program "
                    f"{name!r}. {nearest(tuple(pattern.split('/')), known)}"
                )
        return Nothing()

    def replaced(call):
        if isinstance(call, Compound):
            return call
        for pattern, estimator in estimators.items():
            address = render(call.site.path)
            if _matches(pattern, address) and not call.site.observed:
                if callable(estimator) and not isinstance(estimator, Estimator | type):
                    estimator = estimator(estimator_at(call))
                _check(call, estimator, address)
                call = call.with_operand("estimator", estimator)
        return call

    return rewritten(program, everywhere(replaced), feed)


def _check(call: Any, estimator: Any, address: str) -> None:
    def of_a_lane(operands):
        check_estimator(estimator, operands.distribution, address, call.site.where)
        return ()

    jax.eval_shape(lambda: call.over_lanes(of_a_lane))


def _matches(pattern: str, address: str) -> bool:
    return fnmatch.fnmatchcase(address, pattern)
