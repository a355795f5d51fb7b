"""The one statement of the language."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from .._distributions.families import canonical
from .._distributions.integers import is_integral, representable
from .._distributions.partly import completed
from .._distributions.protocol import value_of
from .._distributions.scored_draw import apart
from .._jax.failure import told_of_site
from ..errors import ChoiceShapeError, ChoiceTypeError, InvalidDistribution, InvalidMask
from .address import Path, parse
from .call import Operands, make_call
from .estimator import Estimator, check_estimator
from .foreign import refuse_handlers
from .obs_mask import parts_of
from .site import user_location


def sample(
    address: str,
    distribution: Any,
    estimator: Estimator | None = None,
    *,
    obs: Any = None,
    obs_mask: Any = None,
) -> jax.Array:
    """One random choice of a program, or one observation.

    **Arguments**

    - `address`: the site's name, unique in its program; `"a/b"` is `b` in the scope `a`.
    - `distribution`: a pytree with NumPyro's protocol: `sample(key)` and `log_prob(value)`, and
      `has_rsample`, `support` and `enumerate_support` where an estimator asks for them. Every
      NumPyro and FlowJAX distribution is one. `log_prob` may return one value per element of a
      batch; the site's density is their product. A site that is only scored (observed,
      conditioned, moved by a kernel) needs no sampler; its values are then of the shape and dtype
      that the distribution states (`batch_shape` and `event_shape`, or `shape`; `dtype` or
      `support`), else those of the data. Where it has `sample_and_log_prob(key)` too, which gives
      a draw as `sample` does and the log density of that (one number, or one an element of the
      batch), `ppl.simulate` takes both at once, and so it does of NumPyro's transformed
      distributions. Such a one needs no `log_prob` where it is simulated alone, as a flow that has
      no inverse is in a guide.
    - `estimator`: how gradients pass this site (`ppl.Reparameterized()`, `ppl.ScoreFunction()`,
      `stdlib.estimators.Enumerate()`, ...). By default `Reparameterized` where the distribution
      says `has_rsample`, else `ScoreFunction`.
    - `obs`: data. The site then returns it and counts as likelihood. Where the site has integers,
      numbers of any dtype stand for the integers that they are; one that is not an integer is an
      error, or, where it is traced (or NaN), has density zero.
    - `obs_mask`: which of the data are there, one boolean, or one for each element of the batch;
      they may be traced. What is missing is a choice, at `address + "_unobserved"`, and `obs` may
      be anything there (NaN). An event is known in part by a mask of the value's shape: entries of
      `to_event`, and of Gaussian vectors (`MultivariateNormal`, `LowRankMultivariateNormal`,
      `GaussianRandomWalk`), whose observed entries count by their marginal density, and the missing
      ones by that given these. (A distribution of your own may have a `split_event(mask)`, which
      returns the two: a distribution, and one as a function of a value.) The choice has the shape
      of the whole value. In the place of data it has *fillers*, which nothing reads: standard
      members of the family (a standard normal) where it is one of NumPyro's usual ones, else drawn
      as the distribution says. So bounds, evidences and posteriors are those of what is missing;
      a guide draws the whole shape, and needs no mask.

    **Returns** the value drawn (or `obs`, completed), of the distribution's own shape and dtype.
    Under `jax.vmap` each lane draws independently; in `lax.scan` each step draws afresh.

    **Raises** `SampleOutsideTransformation` where nothing gives the program a meaning,
    `InvalidDistribution`, `UnsuitableEstimator`, `ChoiceShapeError`, `ChoiceTypeError`,
    `InvalidMask`; `PartialObservation` where nothing can draw what a mask leaves out, or says what
    it is given the rest of an event; `ForeignStatement` under a handler of NumPyro;
    `UndrawableSite` where a site without a sampler is drawn, `UnscorableSite` where one without a
    `log_prob` is scored at a given value.

    ```python
    >>> import jax, ppl, numpyro.distributions as dist
    >>> def coin():
    ...     fairness = ppl.sample("fairness", dist.Beta(2.0, 2.0))
    ...     return ppl.sample("heads", dist.Bernoulli(fairness))
    >>> int(ppl.seed(coin)(jax.random.key(0))) in (0, 1)
    True
    >>> def pair():
    ...     x = jax.numpy.array([1.0, jax.numpy.nan])
    ...     return ppl.sample("x", dist.Normal(0.0, 1.0).expand([2]), obs=x, obs_mask=x == x)
    >>> trace = ppl.seed(lambda: ppl.simulate(pair))(jax.random.key(0))
    >>> trace.choices["x_unobserved"].shape, round(float(trace.log_likelihood), 4)
    ((2,), -1.4189)

    ```
    """
    refuse_handlers(f"sample({address!r})")
    if obs_mask is not None:
        return _sample_rest(address, user_location(), distribution, estimator, obs, obs_mask)
    return _site(address, user_location(), Operands(distribution, estimator, obs))


def _site(address: str, where: str, operands: Operands) -> jax.Array:
    """A site, its operands checked."""
    path = parse(address)
    with told_of_site(address, where):
        distribution = canonical(operands.distribution)
    obs, estimator = operands.obs, operands.estimator
    out, drawable = value_of(distribution, obs, address, where)
    if obs is not None:
        obs = coerce(obs, out, path, where, "The observation")
    if estimator is not None:
        check_estimator(estimator, distribution, address, where)
    operands = operands._replace(distribution=distribution, obs=obs)
    return apart(make_call(path, operands, out, where, drawable).bind())[0]


def _sample_rest(
    address: str, where: str, distribution: Any, estimator: Any, obs: Any, obs_mask: Any
) -> jax.Array:
    """Two sites: what is observed, and the rest given that."""
    if obs is None:
        raise InvalidMask(
            f"sample({address!r}, ...) at {where} has an obs_mask and no data. Give the data too, "
            "sample(address, distribution, obs=data, obs_mask=flags), or leave the mask out, to "
            "draw all of it."
        )
    value = value_of(distribution, obs, address, where)
    _array(obs, value.struct, parse(address), where, "The observation")
    parts = parts_of(distribution, obs_mask, value, address, where)
    with told_of_site(address, where):
        obs = completed(distribution, obs, parts.flags, value.struct)
        known = _site(address, where, Operands(parts.known, None, obs, parts.masks))
        rest = parts.rest(known)
    drawn = _site(f"{address}_unobserved", where, Operands(rest, estimator))
    if drawn.shape != known.shape:
        raise InvalidDistribution(
            f"`split_event` of {type(distribution).__name__}, at {address!r}, {where}, gave a rest "
            f"of shape {drawn.shape}. It has the shape of whole values, {known.shape}: where these "
            "are known, make it standard normal, or whatever has a fixed density."
        )
    return jnp.where(parts.flags, known, drawn)


def coerce(value: Any, like: Any, path: Path, where: str, what: str) -> jax.Array:
    """`value` as an array of the site's dtype, or an error that names the site.

    At a site of integers, numbers of another dtype that are traced or missing stay what they are:
    what scores them finds out which are integers.
    """
    array, address = _array(value, like, path, where, what), "/".join(path)
    complex_there = jnp.issubdtype(like.dtype, jnp.complexfloating)
    if jnp.issubdtype(array.dtype, jnp.complexfloating) and not complex_there:
        raise ChoiceTypeError(
            f"{what} for {address!r} has dtype {array.dtype}, but the site at {where} has dtype "
            f"{like.dtype}. Convert it first: .astype({jnp.dtype(like.dtype).name!r})."
        )
    if is_integral(like.dtype) and not jnp.can_cast(array.dtype, like.dtype):
        return _integers(value, array, like.dtype, f"{what} for {address!r}", where)
    return array.astype(like.dtype)


def _array(value: Any, like: Any, path: Path, where: str, what: str) -> jax.Array:
    """`value` as an array of the site's shape."""
    address = "/".join(path)
    try:
        array = jnp.asarray(value)
    except (TypeError, ValueError) as failure:
        raise ChoiceTypeError(
            f"{what} for {address!r} at {where} is not an array: {value!r}."
        ) from failure
    if array.shape != like.shape:
        raise ChoiceShapeError(
            f"{what} for {address!r} has shape {array.shape}, but the site at {where} has shape "
            f"{like.shape}.{_shape_remedy(array.shape, like.shape)}"
        )
    return array


def _integers(value: Any, array: jax.Array, dtype: Any, what: str, where: str) -> jax.Array:
    """Numbers at a site of integers, as these; unchanged where some are traced, or missing."""
    if any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(value)):
        return array
    numbers = np.asarray(value)
    if jnp.issubdtype(array.dtype, jnp.floating):
        numbers = numbers.astype(np.float64)
    whole = representable(numbers, dtype)
    wrong = ~whole & np.isfinite(numbers)
    if wrong.any():
        raise ChoiceTypeError(
            f"{what} has dtype {array.dtype} and holds {numbers[wrong].flat[0]}, but the site at "
            f"{where} has dtype {jnp.dtype(dtype).name}: numbers there are integers of that type. "
            "Round or rescale the data, or give the site a distribution of real numbers."
        )
    return array.astype(dtype) if whole.all() else array


def _shape_remedy(got: tuple, want: tuple) -> str:
    squeezed = tuple(n for n in got if n != 1)
    if squeezed == tuple(n for n in want if n != 1):
        return f" Reshape it: .reshape({want})."
    if got and not want:
        return " Draw one for each: put the site in jax.vmap, or give its distribution that shape."
    return f" Give a value of shape {want}, or change the distribution's shape."
