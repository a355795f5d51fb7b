"""How good a gradient estimate is: bias, variance and cost, by parameter and by site."""

from collections.abc import Callable, Iterable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from ppl.errors import InvalidSetting, ProgramError

from .. import _gradient_noise as noise
from ..estimators.enumerate import Enumerate
from ._redrawn import redrawing
from ._report import GradientReport


def gradient_report(
    objective: Callable[[Any], Any],
    params: Any,
    key: Any,
    *,
    exact: Any = None,
    num_samples: int = 1024,
    allow_biased: bool = False,
) -> GradientReport:
    """Measures the gradient estimate of `ppl.expectation(objective)` at `params`.

    With g the gradient of one estimate, a random vector, this estimates for each array of the
    parameters

    - the bias, E[g] - ∂E[objective], in standard errors, where the latter is known;
    - the variance, the trace of Cov(g), and the signal-to-noise ratio |E[g]| / √trace;
    - the work-normalised variance: that trace times the FLOPs of an estimate, which is what the
      computation for a given accuracy is proportional to;

    and for each unobserved site s

    - the trace of E[Cov(g | the noise of all sites but s)], by drawing the noise of s anew (Jansen
      1999: the mean of |g - g'|²/2). It is the variance that goes away where s is summed exactly,
      as by `Enumerate`, and a bound of what a better estimator at s can gain. Relative to the
      whole, it is the total-effect index of Sobol' and Homma & Saltelli (1996): the shares add up
      to one where sites do not interact, otherwise to more.

    A site is an address; all its lanes, steps and elements count as one.

    **Arguments**

    - `objective`, `params`: a program of one pytree. The gradient is taken in its floating-point
      arrays, and in Python floats outside of an `equinox.Module`; all else is static.
    - `exact`: the exact expectation, a function of `params` that JAX differentiates, or its
      gradient, a pytree like `params`. By default, where all sites have finite supports which are
      not too many to sum, the gradient with `Enumerate` at each; otherwise no bias is reported.
    - `num_samples`: is rounded up to whole batches, of a size that bounds memory. Each is one
      gradient, and one more for every site.
    - `allow_biased`: as for `ppl.expectation`.

    FLOPs are those of XLA's `cost_analysis` of the compiled estimate and gradient, which counts the
    body of a `scan` once, however many steps it has.

    **Raises** `InvalidSetting`, `NotTrainable`, and what `ppl.expectation` raises.

    ```python
    >>> import jax, ppl, numpyro.distributions as dist
    >>> from stdlib.diagnostics import gradient_report
    >>> def cost(p):
    ...     return (ppl.sample("x", dist.Bernoulli(p)) - 0.45) ** 2
    >>> report = gradient_report(cost, 0.3, jax.random.key(0), num_samples=4096)
    >>> abs(report.total_variance - (0.55**4 / 0.3 + 0.45**4 / 0.7 - 0.1**2)) < 0.02
    True
    >>> bool(abs(report.bias_z[0]) < 5)
    True

    ```
    """
    noise.check_samples(num_samples)
    trained, rest = noise.split(params)
    run = noise.value_and_gradient(objective, rest, allow_biased)
    jax.eval_shape(lambda trained: run(key, trained), trained)  # errors, the key's among them
    sites = noise.sites(objective, params)
    one = noise.compiled(run, key, trained)
    reference = _reference(objective, sites, exact, trained, rest, key)
    sample = _sampled(objective, [*sites], rest, allow_biased)
    found = noise.moments(sample, key, trained, num_samples, one.memory * (1 + len(sites)))
    return _report(_name(objective), sites, one, found, reference)


def _name(objective: Callable) -> str:
    return getattr(objective, "__name__", type(objective).__name__)


def _sampled(objective: Callable, addresses: list[str], rest: Any, allow_biased: bool) -> Callable:
    """One estimate's value and gradient, and each site's effect on each array of the gradient."""
    program = redrawing(objective, addresses)
    run = noise.value_and_gradient(program, rest, allow_biased)
    count = len(addresses)

    def sample(key: Any, trained: Any) -> tuple[Any, Any, Any]:
        flags = np.concatenate([np.zeros((1, count), bool), np.eye(count, dtype=bool)])
        values, gradients = jax.vmap(lambda anew: run(key, trained, anew))(jnp.asarray(flags))

        def effects(g: jax.Array) -> jax.Array:
            return jnp.sum(jnp.square(g[1:] - g[0]), range(1, g.ndim)) / 2

        first = jax.tree.map(lambda g: g[0], gradients)
        return values[0], first, jax.tree.map(effects, gradients)

    return sample


def _reference(
    objective: Callable, addresses: Iterable[str], exact: Any, trained: Any, rest: Any, key: Any
) -> Any:
    """The exact gradient, like `trained`, or None."""
    if exact is None:
        enumerated = noise.chosen(objective, {address: Enumerate() for address in addresses})
        try:
            return jax.jit(noise.value_and_gradient(enumerated, rest))(key, trained)[1]
        except ProgramError:
            return None
    if _is_like(exact, trained):
        return exact
    if callable(exact):
        return jax.jit(jax.grad(lambda trained: exact(eqx.combine(trained, rest))))(trained)
    raise InvalidSetting(
        "exact must be a function of params, or a gradient like params, of the arrays "
        f"{_shapes(trained)}; got {_shapes(exact)}. Write, for example, "
        "exact=jax.grad(exact_objective)(params)."
    )


def _is_like(exact: Any, trained: Any) -> bool:
    numbers = all(isinstance(x, int | float) or hasattr(x, "dtype") for x in jax.tree.leaves(exact))
    return numbers and _shapes(exact) == _shapes(trained)


def _shapes(tree: Any) -> str:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return ", ".join(f"{_path(path)}{list(np.shape(leaf))}" for path, leaf in leaves)


def _path(path: Any) -> str:
    return "params" + jax.tree_util.keystr(path)


def _report(
    name: str, sites: dict, one: noise.Compiled, found: noise.Moments, reference: Any
) -> GradientReport:
    value, gradient, effects = found.mean
    leaves = jax.tree_util.tree_leaves_with_path(gradient)
    variance, error = (np.asarray(jax.tree.leaves(t[1])) for t in (found.total, found.error))
    exact = jax.tree.map(lambda x: np.asarray(x, np.float64), reference)
    norms = _norms(gradient if exact is None else exact)
    squared = norms**2 - (variance / found.count if exact is None else 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.sqrt(np.maximum(squared, 0.0) / variance)
    spread = jax.tree.map(lambda v: np.sqrt(v / found.count), found.variance[2])
    return GradientReport(
        objective=name,
        parameters=tuple(_path(path) for path, _ in leaves),
        sizes=tuple(leaf.size for _, leaf in leaves),
        gradient=gradient,
        exact=exact,
        variance=variance,
        variance_error=error,
        signal_to_noise=ratio,
        bias_z=None if exact is None else _bias_z(found, exact),
        sites=tuple(sites),
        estimators=tuple(", ".join(written.names) for written in sites.values()),
        site_variance=np.stack(jax.tree.leaves(effects), 1),
        site_variance_error=np.stack(jax.tree.leaves(spread), 1),
        flops=one.flops,
        value=float(value),
        value_error=float(np.sqrt(found.variance[0] / found.count)),
        num_samples=found.count,
    )


def _norms(gradient: Any) -> np.ndarray:
    return np.array([np.sqrt(np.sum(leaf**2)) for leaf in jax.tree.leaves(gradient)])


def _bias_z(found: noise.Moments, exact: Any) -> np.ndarray:
    """Each array's worst coordinate; what rounding may do to it counts as one standard error."""
    value, gradient, _ = found.mean
    answers = jax.tree.leaves(exact)
    size = max([abs(value) / 10, *(np.max(np.abs(answer), initial=0.0) for answer in answers)])
    worst = []
    columns = jax.tree.leaves(gradient), jax.tree.leaves(found.variance[1]), answers
    for mean, variance, answer in zip(*columns, strict=True):
        error = np.sqrt(variance / found.count + (noise.rounding() * size) ** 2)
        z = ((mean - answer) / error).ravel()
        worst.append(z[np.argmax(np.abs(z))] if z.size else 0.0)
    return np.array(worst)
