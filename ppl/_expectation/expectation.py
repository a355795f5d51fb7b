"""`expectation`: from an objective program to an unbiased, differentiable estimator."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, Concatenate, Literal, TypeVar, overload

import jax
import jax.numpy as jnp

from .._analysis.continuity import warn_jumps
from .._ir.stage import P, Staged, keyed, stage, standing_for
from .._jax import equations
from .._jax.leaves import merge, partition
from .._meanings.seed import checked_key
from .._vectorize.vectorize import vectorized
from .._walk.feed import Keys
from .._walk.restaged import expanded, sample_equations, separated
from .elimination.eliminate import eliminate, eliminate_each
from .elimination.perturbation import PERTURBATIONS
from .elimination.plugin import baselines
from .elimination.semiring import MAX, NUMBERS, Semiring, drawing
from .estimands import count_estimands, with_scalars
from .interpret.evaluate import evaluate
from .interpret.evaluation import Evaluation
from .interpret.scan import too_long
from .interpret.scope import Scope
from .sites.ledger import Ledger
from .terms.terms import Term, collapse, forget, terms_of
from .values.expansion import fix
from .values.value import union_sites
from .values.zeros import without_zeros

Aux = TypeVar("Aux")
Scalars = TypeVar("Scalars")
Scalar = jax.Array | float

MANY_SITES = 10
"""From how many sites on a program takes long to compile, unless they are batched or in a loop."""


@overload
def expectation(
    objective: Callable[P, Scalar], *, has_aux: Literal[False] = False, allow_biased: bool = False
) -> Callable[Concatenate[Any, P], jax.Array]: ...


@overload
def expectation(
    objective: Callable[P, Scalars], *, has_aux: Literal[False] = False, allow_biased: bool = False
) -> Callable[Concatenate[Any, P], Scalars]: ...


@overload
def expectation(
    objective: Callable[P, tuple[Scalar, Aux]],
    *,
    has_aux: Literal[True],
    allow_biased: bool = False,
) -> Callable[Concatenate[Any, P], tuple[jax.Array, Aux]]: ...


@overload
def expectation(
    objective: Callable[P, tuple[Scalars, Aux]],
    *,
    has_aux: Literal[True],
    allow_biased: bool = False,
) -> Callable[Concatenate[Any, P], tuple[Scalars, Aux]]: ...


def expectation(
    objective: Callable, *, has_aux: bool = False, allow_biased: bool = False
) -> Callable:
    """An estimator of an objective's expectation: `(key, *args) -> scalar`, or several.

    Estimand: E[objective(*args)], over all the random choices of the program. The estimate's mean
    is the estimand, and the mean of its derivative (by `jax.grad`, `jax.jvp`,
    `jax.value_and_grad`, `eqx.filter_grad`; in `jit` and `vmap`) is the estimand's derivative.
    Second derivatives are unbiased too where those of every site's estimator are, as its docstring
    says (`Reparameterized`, `ScoreFunction`, `Enumerate`, ...); elsewhere they are
    `BiasedEstimator`. All this holds if each site's
    estimator suits it and the usual exchange of limits does: the objective must not jump at a
    reparameterised value (where it is seen to, a `DiscontinuousObjective` warning says so), nor,
    for second derivatives, may its first derivative.

    The objective's jaxpr is evaluated once. A site's weights multiply only the additive terms
    that depend on it; sites of several particles are summed by variable elimination; with
    one-particle, reparameterised sites the result is what one would write by hand.

    **Several estimands.** A pytree of real scalars (a dict, a tuple) is estimated entry by entry,
    from one run: of each the estimate is the one it has alone, with the same draws (so that sums of
    entries are unbiased, and products are not). Scores meet the entry's own costs. A baseline is
    taken off each entry that depends on its site and is learnt from that entry's costs, so in the
    derivative of Σ λ_e · entry_e it approaches their mean weighted by the λ_e; where these have
    both signs, sum up in the objective instead.

    **Arguments**

    - `objective`: a program that returns one real scalar, or a pytree of them (`(scalars, aux)`
      with `has_aux`).
    - `has_aux`: also return auxiliary output. It carries no derivative; where it depends on
      several particles it is their weighted mean, an unbiased estimate of its expectation.
    - `allow_biased`: allow estimators that say `unbiased = False`.

    **Raises** `InvalidKey`, `NonScalarObjective`, `BiasedEstimator`, `UnsuitableEstimator`,
    `TooManyJointStates`, `UnsupportedControlFlow`; `ReverseModeLoop` under reverse mode.

    Sources: Lew et al. 2023 (ADEV), Becker et al. 2024 (programmable variational inference),
    Foerster et al. 2018 (DiCE); Schulman et al. 2015 for the dropped weights.

    ```python
    >>> import jax, ppl, numpyro.distributions as dist
    >>> def cost(p):
    ...     return (ppl.sample("x", dist.Bernoulli(p)) - 0.45) ** 2
    >>> estimate = ppl.expectation(cost)
    >>> value, grad = jax.value_and_grad(estimate, argnums=1)(jax.random.key(0), 0.3)
    >>> def moments(p):
    ...     x = 1.0 * ppl.sample("x", dist.Binomial(10, p))
    ...     return {"mean": x, "square": x**2}
    >>> gradients = jax.jacrev(ppl.expectation(moments), argnums=1)(jax.random.key(0), 0.3)
    >>> sorted(gradients)
    ['mean', 'square']

    ```
    """
    return estimator(objective, has_aux=has_aux, allow_biased=allow_biased)


def estimator(
    objective: Callable,
    *,
    has_aux: bool = False,
    allow_biased: bool = False,
    minimized: bool = False,
) -> Callable:
    """`expectation`, for an estimate that is to be maximised or `minimized`.

    The two differ in the derivative with respect to what baselines are made of: it has the sign
    that moves them towards the cost as the estimate goes its way.
    """

    @keyed(objective)
    def estimate(key: Any, *args: Any, **kwargs: Any) -> Any:
        key = checked_key(key, "ppl.expectation(objective)")
        program = functools.partial(with_scalars, objective, has_aux)
        staged = _staged(program, *args, **kwargs)
        warn_jumps(staged, *_with_floats(program, args, kwargs))
        plugins = (PERTURBATIONS, baselines(minimized))
        sum_up = functools.partial(eliminate_each, ring=NUMBERS, plugins=plugins)
        totals, aux = _estimated_together(staged, key, Scope(allow_biased), sum_up)
        return (totals, aux) if has_aux else totals

    return estimate


@overload
def log_expectation(
    objective: Callable[P, Scalar], *, draw: Any = None
) -> Callable[P, jax.Array]: ...


@overload
def log_expectation(
    objective: Callable[P, Scalars], *, draw: Any = None
) -> Callable[P, Scalars]: ...


def log_expectation(objective: Callable, *, draw: Any = None) -> Callable:
    """The logarithm of an expectation, exactly: `(*args) -> log E[exp(objective(*args))]`.

    Estimand: log E[exp f] over all the choices of the program, which are summed out: each site must
    be enumerated (`stdlib.estimators.Enumerate()`). No key: nothing is drawn, and value and
    derivatives of every order are exact (in a probability that is zero the first, one-sided). Sites
    are eliminated one by one, in logarithms; a chain of T states in `lax.scan` costs T·K² (the
    forward algorithm).

    With a model's log likelihood as objective, it is the log marginal likelihood. Of a pytree of
    scalars each entry gets its own, log E[exp entry], from one evaluation.

    **Arguments**

    - `draw`: a PRNG key. The value stays exact; the gradient (reverse mode) becomes that of the
      objective at one joint state of all the choices, drawn from their distribution tilted by exp f
      (the posterior, where f is a log likelihood). Its mean is the exact gradient. As the gradient
      in t of f + t·z is z, so one draws from a posterior, backwards from the sums (forward
      filtering and backward sampling, for a chain).

    **Raises** `UnsuitableEstimator` where a site is drawn, `NonScalarObjective`,
    `TooManyJointStates`, `UnsupportedControlFlow`.

    Sources: Rabiner 1989; Obermeyer et al. 2019; for `draw`, Frühwirth-Schnatter 1994.

    ```python
    >>> import jax.numpy as jnp, ppl, numpyro.distributions as dist
    >>> from stdlib.estimators import Enumerate
    >>> def model():
    ...     z = ppl.sample("z", dist.Bernoulli(0.25), Enumerate())
    ...     ppl.sample("x", dist.Normal(4.0 * z, 1.0), obs=4.0)
    >>> evidence = ppl.log_expectation(lambda: ppl.simulate(model).log_likelihood)()
    >>> mixture = 0.75 * jnp.exp(dist.Normal(0, 1).log_prob(4.0))
    >>> mixture = mixture + 0.25 * jnp.exp(dist.Normal(4, 1).log_prob(4.0))
    >>> bool(abs(evidence - jnp.log(mixture)) < 1e-5)
    True

    ```
    """
    key = None if draw is None else checked_key(draw, "ppl.log_expectation(objective, draw=key)")
    return sum_exactly(objective, drawing(key))


def log_maximum(objective: Callable[P, Any]) -> Callable[P, Any]:
    """The largest value over all the choices: `(*args) -> max_z [objective + log p(z)]`.

    Here p(z) is the probability of the choices z of the program, which are finite: each site must
    be enumerated (`stdlib.estimators.Enumerate()`). Exact, without a key; a chain of T states in
    `lax.scan` costs T·K² (Viterbi 1967). The derivative is that of the objective at one largest
    state, so that in t of f + t·z it is this state: `stdlib.inference.most_likely`.

    **Raises** what `log_expectation` does.

    ```python
    >>> import jax, ppl, numpyro.distributions as dist
    >>> from stdlib.estimators import Enumerate
    >>> def objective(slope):
    ...     z = ppl.sample("z", dist.Bernoulli(0.25), Enumerate())
    ...     return 2.0 * z + slope * z
    >>> largest, state = jax.value_and_grad(ppl.extend.log_maximum(objective))(0.0)
    >>> round(float(largest), 4), float(state)
    (0.6137, 1.0)

    ```
    """
    return sum_exactly(objective, MAX)


def sum_exactly(objective: Callable[P, Any], ring: Semiring) -> Callable[P, Any]:
    """The total over all the choices of an objective, in a ring whose weights are logarithms."""

    @standing_for(objective)
    def totals(*args: P.args, **kwargs: P.kwargs) -> Any:
        staged = _staged(functools.partial(with_scalars, objective, False), *args, **kwargs)
        zeros = ring.balanced and ring.key is None
        scope, unread = Scope(all_exact=True, zeros=zeros), jax.random.key(0)
        return _estimated_together(staged, unread, scope, logs)[0]

    def logs(estimands, evaluation):
        return [without_zeros(total) for total in eliminate_each(estimands, evaluation, ring)]

    return totals


def _staged(program: Callable, *args: Any, **kwargs: Any) -> Staged:
    """A program of plain sites, without what nobody reads (such as the records of a trace)."""
    staged = expanded(stage(program, *args, **kwargs))
    return separated(staged._replace(jaxpr=equations.pruned(staged.jaxpr)))


def _estimated_together(staged: Staged, *how: Any) -> tuple[Any, Any]:
    """`_estimated`; where sites are many, with equations that are alike run together."""
    if sum(1 for _ in sample_equations(staged.jaxpr)) < MANY_SITES:
        return _estimated(staged, *how)
    static: list = []

    def estimates():
        leaves, *static[:] = partition(_estimated(staged, *how))
        return leaves

    return merge(vectorized(estimates), *static)


def _estimated(staged: Staged, key: Any, scope: Scope, sum_up: Callable) -> tuple[Any, Any]:
    """The estimates of what a program is to estimate, and its auxiliary output.

    All are made of one evaluation, over whose particles each estimand is summed up by itself.

    Loops whose steps mix in what comes after them have to be written out. One evaluation finds
    them all, and its numbers are thrown away; a second one has them written out.
    """
    jaxpr, consts, rebuild, _ = staged
    estimands, rest, evaluation = evaluated(jaxpr, consts, key, scope, count_estimands(staged))
    if fixed := evaluation.ledger.in_mixed():
        evaluation.ledger.fix(fixed)
        estimands = [[term._replace(val=fix(term.val, fixed)) for term in t] for t in estimands]
        rest = [fix(collapse(out, evaluation), fixed) for out in rest]
    dtypes = [var.aval.dtype for var in jaxpr.outvars]
    found = zip(sum_up(estimands, evaluation), dtypes, strict=False)
    totals = [jnp.asarray(total, dtype) for total, dtype in found]
    auxiliary = [_auxiliary(out, evaluation) for out in rest]
    mixed = evaluation.ledger.mixed
    if not mixed:
        return rebuild([*totals, *auxiliary])
    for loop in mixed.values():
        if id(loop.eqn) in scope.written_out:
            raise too_long(loop.eqn)
    return _estimated(staged, key, scope.writing_out(mixed), sum_up)


def evaluated(
    jaxpr: Any, consts: Any, key: Any, scope: Scope, count: int = 1
) -> tuple[list[list[Term]], list[Any], Evaluation]:
    """The terms of each of a program's first outputs, the other outputs, and the evaluation.

    What sites leave, and elimination sums up.
    """
    evaluation = Evaluation(evaluate, scope, Ledger())
    wanted = [i < count for i in range(len(jaxpr.outvars))]
    outs = evaluate(jaxpr, consts, [], Keys(key), evaluation, wanted)
    estimands = [_with_controls(terms_of(value), evaluation) for value in outs[:count]]
    return estimands, outs[count:], evaluation


def _with_floats(program: Callable, args: tuple, kwargs: dict) -> tuple[Callable, list]:
    """A function that stages a program with other numbers for its real arguments; and these."""
    leaves, treedef = jax.tree.flatten((args, kwargs))
    places = [i for i, x in enumerate(leaves) if _is_real(x)]

    def restage(floats: list) -> Staged:
        new = dict(zip(places, floats, strict=True))
        again, named = treedef.unflatten([new.get(i, x) for i, x in enumerate(leaves)])
        return _staged(program, *again, **named)

    return restage, [leaves[i] for i in places]


def _is_real(leaf: Any) -> bool:
    dtype = getattr(leaf, "dtype", None)
    return isinstance(leaf, float) or (dtype is not None and jnp.issubdtype(dtype, jnp.inexact))


def _with_controls(terms: Sequence[Term], evaluation: Evaluation) -> list[Term]:
    """The terms, and the costs of the estimators' own of the sites that they depend on.

    These do not meet the weight of their own site. In a loop they may depend on its earlier steps,
    whose weights are left out with it: given these, the mean of a control is zero.
    """
    controls, read = [], union_sites(term.val for term in terms)
    for number, site in enumerate(evaluation.opened):
        if site.control is not None and read >> number & 1:
            term = Term(site.control, len(site.lane_sizes))
            controls.append(term if site.axis else forget(term, [number]))
    return [*terms, *controls]


def _auxiliary(out: Any, evaluation: Evaluation) -> jax.Array:
    out = collapse(out, evaluation)._replace(worlds=None)
    if not out.axes:
        return jax.lax.stop_gradient(out.array)
    array = jnp.asarray(out.array, jnp.result_type(out.array, jnp.float32))
    term = Term(out._replace(array=array))
    return jax.lax.stop_gradient(eliminate([term], evaluation, NUMBERS, [PERTURBATIONS]))
