"""Checks of unbiasedness: of an objective's estimate, and of an estimator by the estimator law."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import ppl

__all__ = ["assert_estimator_law", "assert_unbiased", "exact_measure"]

CHUNK = 10_000
"""The most samples that are run at once."""
NODES = 8_001
"""Points of the quadrature over a continuous support."""
TERMS = 512
"""Terms of the sum over a countable support."""
TABLE = 61
"""Entries of a random table, the test function of discrete values."""
QUICK = {"xla_backend_optimization_level": 0}
"""What is run once is not worth optimising: compilation dominates."""


def assert_unbiased(
    objective: Callable,
    *args: Any,
    exact: Any,
    key: jax.Array,
    num_samples: int = 50_000,
    max_z: float = 5.0,
    argnums: int | Sequence[int] = 0,
    tolerance: float = 1e-5,
    allow_biased: bool = False,
    second: bool = False,
) -> None:
    """Asserts that an estimate and its gradient have the right means.

    Averages the value and the gradient of `ppl.expectation(objective)(key, *args)` over
    `num_samples` keys and compares each coordinate with the exact answer: it must lie within
    `max_z` standard errors, give or take `tolerance` (for estimators without variance).

    **Arguments**

    - `objective`, `*args`: the program, and where to evaluate it.
    - `exact`: a deterministic function of `*args` (a sum or a quadrature), which JAX
      differentiates; or the pair of the value and of the gradient, as of `jax.value_and_grad`.
    - `argnums`: the arguments (of the objective) to differentiate with respect to.
    - `tolerance`: relative to the exact coordinate where that exceeds one.
    - `num_samples`: a few are enough where nothing is random, as with `Enumerate` at every site.
    - `second`: whether to compare second derivatives too (`exact` must be a function).

    **Raises** `AssertionError` with the key, and each wrong coordinate's path, mean, exact value,
    standard error and z-score.

    ```python
    >>> import jax, ppl, numpyro.distributions as dist
    >>> from stdlib.testing import assert_unbiased
    >>> def cost(p):
    ...     return (ppl.sample("x", dist.Bernoulli(p)) - 0.45) ** 2
    >>> def exact(p):
    ...     return (1 - p) * 0.45**2 + p * 0.55**2
    >>> assert_unbiased(cost, 0.3, exact=exact, key=jax.random.key(0))

    ```
    """
    args = jax.tree.map(lambda x: jnp.asarray(x) if isinstance(x, float) else x, args)
    single = isinstance(argnums, int)
    shifted = argnums + 1 if single else tuple(n + 1 for n in argnums)
    estimate = ppl.expectation(objective, allow_biased=allow_biased)
    derivatives = _two_derivatives if second else jax.value_and_grad
    if callable(exact):
        exact = jax.jit(derivatives(exact, argnums=argnums), compiler_options=QUICK)(*args)
    names = ("value", "gradient", "second derivative")[: len(exact)]

    def run(key):
        return dict(zip(names, derivatives(estimate, argnums=shifted)(key, *args), strict=True))

    reference = dict(zip(names, exact, strict=True))
    wrong = _compared(run, key, num_samples, reference, max_z, tolerance)
    name = getattr(objective, "__name__", type(objective).__name__)
    _report(f"The estimate of objective {name!r} is not unbiased", wrong, key, num_samples)


def assert_estimator_law(
    estimator: ppl.extend.Estimator,
    distribution_fn: Callable[[Any], Any],
    theta: Any,
    *,
    key: jax.Array,
    measure: Callable[[Any], tuple[jax.Array, jax.Array]] | None = None,
    num_functions: int = 3,
    num_samples: int = 50_000,
    max_z: float = 5.0,
    tolerance: float = 1e-4,
    second: bool = False,
) -> None:
    """Asserts the estimator law for one estimator and one family of distributions.

    With (v_j, w_j) the particles of `estimator` for p_θ = `distribution_fn(theta)`, checks that

        E[Σ_j w_j f(v_j)] = E_{p_θ}[f]   and   E[∂θ Σ_j w_j f(v_j)] = ∂θ E_{p_θ}[f]

    for `num_functions` random functions f (sines of random frequency; random tables where the
    values are integers) and for f = 1: the weights sum to one in expectation. The particles'
    `control` is added to each sum. Where the particles say that they are `normalized`, the weights
    must sum to one for every key, derivative included.
    Each element of a distribution's batch is checked by itself.

    **Arguments**

    - `distribution_fn`, `theta`: the distribution as a function of a pytree of floats.
    - `measure`: where exact expectations come from; by default `exact_measure`.
    - `max_z`, `tolerance`: as for `assert_unbiased`.
    - `second`: whether to check second derivatives too, as smooth estimators promise.

    **Raises** `AssertionError`, as `assert_unbiased` does.

    ```python
    >>> import jax, ppl, numpyro.distributions as dist
    >>> from stdlib.testing import assert_estimator_law
    >>> assert_estimator_law(ppl.ScoreFunction(), dist.Poisson, 1.7, key=jax.random.key(0))

    ```
    """
    theta = jax.tree.map(lambda x: jnp.asarray(x, jnp.result_type(float)), theta)
    distribution = distribution_fn(theta)
    what = f"{type(estimator).__name__}() for {type(distribution).__name__}"
    reason = estimator.unsuitable(distribution)
    assert reason is None, f"{what} is unsuitable: {reason}."
    functions = _random_functions(key, distribution, num_functions)
    normalized = []

    def sums(values, weights):
        results = jax.vmap(functions)(values)
        return jnp.concatenate([jnp.sum(weights, 0)[None], jnp.sum(weights[:, None] * results, 0)])

    def estimated(key, theta):
        particles = estimator.particles(key, distribution_fn(theta))
        values, weights = particles.values, particles.weights
        normalized[:] = [particles.normalized]
        ones = jnp.ones(values.shape[: 1 + len(distribution.batch_shape)])
        control = 0.0 if particles.control is None else particles.control
        return sums(values, ones if weights is None else weights) + control

    def exact(theta):
        return sums(*(measure or exact_measure)(distribution_fn(theta)))

    def run(key):
        return _with_derivatives(lambda theta: estimated(key, theta), theta, second)

    reference = jax.jit(lambda: _with_derivatives(exact, theta, second), compiler_options=QUICK)()
    wrong = _compared(run, key, num_samples, reference, max_z, tolerance)
    claim = f"The estimator law does not hold for {what} (element 0: the sum of the weights)"
    _report(claim, wrong, key, num_samples)
    if normalized[0]:
        _assert_normalized(run, key, what, tolerance)


def exact_measure(distribution: Any) -> tuple[jax.Array, jax.Array]:
    """Points `(M, *batch, *event)` and weights `(M, *batch)` that stand for a distribution.

    E[f] = Σ_m weight_m f(point_m), differentiable in the distribution's parameters: the support
    where it is finite, its first `TERMS` elements where it is countable, otherwise a
    double-exponential quadrature with `NODES` points (Takahasi & Mori 1974) over the line, a half
    line or an interval. The distribution must be univariate.

    ```python
    >>> import numpyro.distributions as dist
    >>> from stdlib.testing import exact_measure
    >>> points, weights = exact_measure(dist.Gamma(3.0, 2.0))
    >>> round(float((weights * points).sum()), 4)
    1.5

    ```
    """
    if getattr(distribution, "has_enumerate_support", False):
        points = distribution.enumerate_support(expand=True)
        return points, jnp.exp(distribution.log_prob(points))
    support = distribution.support
    low: Any = getattr(support, "lower_bound", None)
    high = getattr(support, "upper_bound", None)
    if getattr(support, "is_discrete", False):
        points, slopes = low + _column(np.arange(TERMS), distribution), 1.0
    else:
        points, slopes = _double_exponential(low, high, distribution)
    points = jnp.broadcast_to(points, (points.shape[0], *distribution.batch_shape))
    log_prob = jax.lax.stop_gradient(distribution.log_prob(points))
    likely = log_prob > -80.0
    points = jnp.where(likely, points, _mode(points, log_prob))
    return points, jnp.where(likely, jnp.exp(distribution.log_prob(points)) * slopes, 0.0)


def _mode(points: jax.Array, log_prob: jax.Array) -> jax.Array:
    """The likeliest point: where others have no density, neither may its derivative be NaN."""
    best = jnp.nanargmax(log_prob, axis=0, keepdims=True)
    return jax.lax.stop_gradient(jnp.take_along_axis(points, best, axis=0))


def _column(numbers: np.ndarray, distribution: Any) -> jax.Array:
    return jnp.asarray(numbers.reshape(-1, *(1 for _ in distribution.batch_shape)))


def _double_exponential(low: Any, high: Any, distribution: Any) -> tuple[jax.Array, jax.Array]:
    """Points of a support with these bounds (None: unbounded), and their spacing."""
    t = np.linspace(-1.0, 1.0, NODES) * (2.1 if high is not None else 3.0)
    inner, slope = np.pi / 2 * np.sinh(t), np.pi / 2 * np.cosh(t) * (t[1] - t[0])
    if low is None:
        points, slope = np.sinh(inner), slope * np.cosh(inner)
    elif high is None:
        points, slope = np.exp(inner), slope * np.exp(inner)
    else:
        points = 1 / (1 + np.exp(-2 * inner))
        slope = slope * 2 * points * (1 - points)
    points, slope = (_column(x.astype(np.float32), distribution) for x in (points, slope))
    width = 1.0 if high is None else high - low
    return (0.0 if low is None else low) + width * points, width * slope


def _random_functions(key: jax.Array, distribution: Any, count: int) -> Callable:
    """Test functions at once: `(*batch, *event)` to `(count, *batch)`."""
    batch, size = distribution.batch_shape, int(np.prod(distribution.event_shape))
    draw = np.random.default_rng(_key_data(key))
    if jnp.issubdtype(jax.eval_shape(distribution.sample, key).dtype, jnp.integer):
        table = jnp.asarray(draw.normal(size=(count, TABLE)), jnp.result_type(float))

        def entries(value):
            digits = jnp.round(value).astype(int).reshape(*batch, size)
            return table[:, digits @ 7 ** np.arange(size) % TABLE]

        return entries
    frequencies = 1.5 * draw.normal(size=(count, 2, size))
    phases, heights = draw.uniform(0, 2 * np.pi, (count, 2)), draw.normal(size=(count, 2))

    def sines(value):
        angles = jnp.einsum("fse,...e->...fs", frequencies, value.reshape(*batch, size)) + phases
        return jnp.moveaxis(jnp.sum(heights * jnp.sin(angles), -1), -1, 0)

    return sines


def _two_derivatives(fn: Callable, argnums: int | Sequence[int]) -> Callable:
    """Value, gradient and second derivatives."""

    def gradient(*args):
        value, gradient = jax.value_and_grad(fn, argnums)(*args)
        return gradient, (value, gradient)

    def all_three(*args):
        hessian, (value, slope) = jax.jacfwd(gradient, argnums, has_aux=True)(*args)
        return value, slope, hessian

    return all_three


def _with_derivatives(fn: Callable, theta: Any, second: bool) -> dict[str, Any]:
    derivative, value = jax.jacfwd(lambda theta: (fn(theta),) * 2, has_aux=True)(theta)
    means = {"expectation": value, "derivative": derivative}
    return means | ({"second derivative": jax.jacfwd(jax.jacfwd(fn))(theta)} if second else {})


def _assert_normalized(run: Callable, key: jax.Array, what: str, tolerance: float) -> None:
    draws = jax.jit(jax.vmap(run))(jax.random.split(key, 16))
    sums = draws["expectation"][:, 0]
    slopes = [leaf[:, 0] for leaf in jax.tree.leaves(draws["derivative"])]
    worst = max(float(jnp.max(jnp.abs(x))) for x in [sums - 1.0, *slopes])
    assert worst <= tolerance, (
        f"The weights of {what} are said to be normalized, but their sum is not identically one: "
        f"it, or its derivative, is off by up to {worst:.3g}. Return Particles(..., "
        "normalized=False), or correct the weights."
    )


def _compared(
    run: Callable, key: jax.Array, num_samples: int, exact: Any, max_z: float, tolerance: float
) -> list[str]:
    """A line for each coordinate of the mean of `run(key)` that differs from the exact one."""
    chunk = min(num_samples, CHUNK)
    rounds = -(-num_samples // chunk)
    exact = jax.tree.map(jnp.asarray, exact)

    def moments(keys):
        errors = jax.tree.map(lambda x, e: x - e, jax.vmap(run)(keys), exact)
        squares = jax.tree.map(jnp.square, errors)
        return jax.tree.map(lambda x: jnp.mean(x, 0), (errors, squares))

    def run_all(key):
        return jax.lax.map(moments, jax.random.split(key, (rounds, chunk)))

    first, second = jax.jit(run_all, compiler_options=QUICK)(key)
    lines = []
    answers = jax.tree_util.tree_leaves_with_path(exact)
    columns = answers, jax.tree.leaves(first), jax.tree.leaves(second)
    for (path, answer), *pair in zip(*columns, strict=True):
        error, square = (np.mean(np.asarray(x, np.float64), axis=0) for x in pair)
        spread = np.sqrt(np.maximum(square - error**2, 0.0) / (rounds * chunk))
        answer = np.asarray(answer, np.float64)
        allowed = max_z * spread + tolerance * np.maximum(1.0, np.abs(answer))
        for at in zip(*np.nonzero(np.atleast_1d(~(np.abs(error) <= allowed))), strict=True):
            at = at if answer.ndim else ()
            name = jax.tree_util.keystr(path) + (str(list(map(int, at))) if at else "")
            z = error[at] / spread[at] if spread[at] > 0 else np.inf
            lines.append(
                f"{name}: mean {answer[at] + error[at]:.6g}, exact {answer[at]:.6g}, "
                f"s.e. {spread[at]:.2g}, z {z:.1f}"
            )
    return lines


def _report(claim: str, wrong: list[str], key: jax.Array, num_samples: int) -> None:
    if wrong:
        more = [f"and {len(wrong) - 10} more"] if len(wrong) > 10 else []
        heading = f"{claim}; {num_samples} samples from key data {_key_data(key).tolist()}:"
        raise AssertionError("\n  ".join([heading, *wrong[:10], *more]))


def _key_data(key: jax.Array) -> np.ndarray:
    typed = jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
    return np.asarray(jax.random.key_data(key) if typed else key)
