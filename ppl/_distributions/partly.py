"""A distribution of which part of a value is known: what scores that, and what draws the rest.

Both parts keep the whole value's shape, so that which entries are known may be traced. The rest
has *fillers* where the value is known: entries that nothing reads. They have a density, so that the
rest can be integrated over, and one without parameters, so that nothing is learnt from them: that
of a standard member of the family (`STANDARD`). Of other families they are as all the rest.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from ..errors import InvalidMask
from .cut import stand_in
from .elements import event_dims
from .gaussian import ROOTS, fill_gaussian, split_gaussian
from .law import family_name, is_a, with_attributes

_LOC_SCALE = {"loc": 0.0, "scale": 1.0}
_TWO_SIDED = {"concentration1": 1.0, "concentration0": 1.0}


def _uniform(probs: jax.Array) -> jax.Array:
    return jnp.full_like(probs, 1.0 / probs.shape[-1])


STANDARD: Mapping[str, Mapping[str, float | Callable[[Any], Any] | None]] = {
    "BernoulliLogits": {"logits": 0.0},
    "BernoulliProbs": {"probs": 0.5},
    "Beta": _TWO_SIDED,
    "BinomialLogits": {"logits": 0.0, "total_count": None},
    "BinomialProbs": {"probs": 0.5, "total_count": None},
    "CategoricalLogits": {"logits": 0.0},
    "CategoricalProbs": {"probs": _uniform},
    "Cauchy": _LOC_SCALE,
    "Dirichlet": {"concentration": 1.0},
    "Exponential": {"rate": 1.0},
    "Gamma": {"concentration": 1.0, "rate": 1.0},
    "Gumbel": _LOC_SCALE,
    "HalfCauchy": {"scale": 1.0},
    "HalfNormal": {"scale": 1.0},
    "InverseGamma": {"concentration": 1.0, "rate": 1.0},
    "Laplace": _LOC_SCALE,
    "LogNormal": _LOC_SCALE,
    "Logistic": _LOC_SCALE,
    "Normal": _LOC_SCALE,
    "Poisson": {"rate": 1.0},
    "StudentT": {"df": 4.0, **_LOC_SCALE},
    "Weibull": {"scale": 1.0, "concentration": 1.0},
}
"""NumPyro's families, with the parameters of a standard member; None keeps a parameter."""

SPLIT = tuple(name.rpartition(".")[2] for name in ROOTS)
"""NumPyro's families that can say what the rest of an event is, given a part of it."""

Flags: TypeAlias = np.ndarray | jax.Array


class Parts(NamedTuple):
    """What is known of a value, and what is not.

    Both distributions have the batch of the whole.

    - `known`: the distribution that scores the entries that are known, under `masks`.
    - `rest`: of a value, read where it is known, the distribution of the others, and of fillers.
    - `flags`: which entries are known, of the value's shape.
    - `conditional`: whether `rest` depends on what is known, as of events known in part.
    """

    known: Any
    masks: tuple
    rest: Callable[[jax.Array], Any]
    flags: Flags
    conditional: bool = False


def parts(distribution: Any, flags: Flags, value: jax.ShapeDtypeStruct) -> Parts | None:
    """The parts of a value, by flags of the batch's shape, of the value's, or one for all.

    None where events are known in part whose others have no known law given these.
    """
    inner, flags = entries(distribution, flags, value)
    if flags.shape == batch_of(inner, value):
        rest = within_events(distribution, filled(inner, flags))
        each = flags.reshape(flags.shape + (1,) * (len(value.shape) - flags.ndim))
        each = _broadcast(each, value.shape)
        if inner is distribution:
            return Parts(inner, (flags,), lambda _: rest, each)
        return Parts(within_events(distribution, inner.mask(flags)), (), lambda _: rest, each)
    found = split_event(inner, flags)
    if found is None:
        return None
    marginal, others = found
    rest = lambda known: within_events(distribution, others(known))  # noqa: E731
    return Parts(within_events(distribution, marginal), (), rest, flags, conditional=True)


def within_events(distribution: Any, inner: Any) -> Any:
    """What stands in the place of the `entries` of a distribution, within its `to_event`s.

    So it has the batch of that distribution again, as factors of `ppl.scale` and `ppl.mask` are
    given for.

    ```python
    >>> import jax.numpy as jnp, numpyro.distributions as dist, ppl
    >>> rows = dist.Normal(jnp.zeros((2, 3)), 1.0).to_event(1)
    >>> ppl.extend.within_events(rows, dist.Cauchy(jnp.zeros((2, 3)), 1.0)).batch_shape
    (2,)

    ```
    """
    if not is_a(distribution, "Independent"):
        return inner
    return with_attributes(distribution, base_dist=within_events(distribution.base_dist, inner))


def entries(distribution: Any, flags: Any, value: jax.ShapeDtypeStruct) -> tuple[Any, Any]:
    """A distribution with all that is independent in its batch, and flags for its elements.

    `flags` is one for all, or of the shape of the batch, of that of a part of `to_event`, or of the
    value. Those returned are of the new batch's shape, or of the value's where events that are no
    product of entries are known in part.

    **Raises** `InvalidMask` where they are of another shape.
    """
    inner, shapes = distribution, [(), batch_of(distribution, value)]
    while is_a(inner, "Independent"):
        inner = inner.base_dist
        shapes.append(batch_of(inner, value))
    if flags.shape in shapes:
        missing = len(shapes[-1]) - flags.ndim
        return inner, _broadcast(flags.reshape(flags.shape + (1,) * missing), shapes[-1])
    if flags.shape != value.shape:
        fitting = " or ".join(map(str, dict.fromkeys([*shapes, value.shape])))
        raise InvalidMask(
            f"A mask of shape {flags.shape} does not fit {type(distribution).__name__}, with "
            f"values of shape {value.shape}: give one of shape {fitting}. It is not broadcast."
        )
    return inner, flags


def completed(distribution: Any, data: Any, flags: Flags, value: jax.ShapeDtypeStruct) -> Any:
    """Data with a value of the support where they are missing; concrete where these are."""
    with jax.ensure_compile_time_eval():
        other = stand_in(distribution, jnp.zeros(value.shape, value.dtype))
    if other is None:
        return data
    traced = any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves((data, flags, other)))
    return (jnp if traced else np).where(flags, data, other)


def batch_of(distribution: Any, value: jax.ShapeDtypeStruct) -> tuple[int, ...]:
    """The shape of its batch: that of the log densities of a value; none where it has none."""
    try:
        log_prob = getattr(distribution, "log_prob", None)
        return () if log_prob is None else jax.eval_shape(log_prob, value).shape
    except NotImplementedError:
        return ()


def split_event(distribution: Any, known: Flags) -> tuple[Any, Callable[[Any], Any]] | None:
    """The marginal of some entries of events, and the conditional of the others given these.

    As the distribution's own method `split_event(known)` says, if it has one, or its family:
    `MultivariateNormal`, `LowRankMultivariateNormal` and `GaussianRandomWalk` of NumPyro, also
    expanded. None where neither does.

    **Arguments**

    - `known`: which entries are, booleans of the value's shape; they may be traced.

    **Returns** two laws of values of the whole shape. The first scores the entries that are known,
    and looks at no others. The second is a function of a value, read where it is known: the
    distribution of the others; where the value is known it has entries of fixed density,
    independent of these, to fill the shape.

    ```python
    >>> import jax.numpy as jnp, numpyro.distributions as dist, ppl
    >>> pair = dist.MultivariateNormal(jnp.zeros(2), jnp.array([[1.0, 0.5], [0.5, 1.0]]))
    >>> first, rest = ppl.extend.split_event(pair, jnp.array([True, False]))
    >>> x = jnp.array([2.0, jnp.nan])
    >>> round(float(first.log_prob(x)), 4), rest(x).mean.tolist(), rest(x).variance.tolist()
    (-2.9189, [0.0, 1.0], [1.0, 0.75])

    ```
    """
    own: Any = getattr(distribution, "split_event", None)
    return split_gaussian(distribution, known) if own is None else own(known)


def _broadcast(flags: Flags, shape: tuple[int, ...]) -> Flags:
    return (np if isinstance(flags, np.ndarray) else jnp).broadcast_to(flags, shape)


def filled(distribution: Any, known: Flags) -> Any:
    """The distribution with fillers where flags are true: standard members of its family.

    `known` is of the shape of the batch, or of Gaussian vectors themselves, which lose the entries
    that are known and keep the marginal of the others. Other families are returned as they are.

    ```python
    >>> import jax.numpy as jnp, numpyro.distributions as dist, ppl
    >>> ppl.extend.filled(dist.Normal(3.0, jnp.ones(2)), jnp.array([True, False])).mean.tolist()
    [0.0, 3.0]

    ```
    """
    base = distribution
    while is_a(base, "ExpandedDistribution"):
        base = base.base_dist
    module, _, name = family_name(base).rpartition(".")
    if f"{module}.{name}" in ROOTS:
        return fill_gaussian(distribution, _of_events(distribution, known))
    if not module.startswith("numpyro.distributions.") or name not in STANDARD:
        return distribution
    dims = event_dims(base)
    return type(base)(
        **{
            parameter: _standard(getattr(base, parameter), standard, known, dims[parameter])
            for parameter, standard in STANDARD[name].items()
        }
    )


def _of_events(distribution: Any, known: Flags) -> Flags:
    batch, event = distribution.batch_shape, distribution.event_shape
    known = known[..., None] if np.ndim(known) == len(batch) else known
    return _broadcast(known, (*batch, *event))


def _standard(parameter: Any, standard: Any, known: Flags, event_dim: int) -> Any:
    if standard is None:
        return parameter
    known = known.reshape(known.shape + (1,) * event_dim)
    parameter = jnp.asarray(parameter, jnp.result_type(float, parameter))
    number = isinstance(standard, float)
    filler = jnp.asarray(standard, parameter.dtype) if number else standard(parameter)
    return jnp.where(known, filler, parameter)
