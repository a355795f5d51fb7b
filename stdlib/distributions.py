"""Distributions that NumPyro lacks: densities that are only scored, relaxable discrete ones."""

from collections.abc import Callable
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.scipy.special import logit
from numpyro.distributions import BernoulliLogits, Distribution, constraints

from ppl.extend import entries, filled, split_event, within_events

__all__ = ["Density", "FloatBernoulli", "OneHotCategorical", "missing_part", "observed_part"]


def observed_part(distribution: Distribution, mask: Any) -> Any:
    """The distribution of the entries where a mask is true, the others integrated out.

    For data with gaps which nothing else reads: unlike `ppl.sample(..., obs_mask=mask)` it leaves
    no choice of what is missing. Values have the whole shape, and may be anything (NaN) where the
    mask is false. The density of the rest is exact.

    **Arguments**

    - `distribution`: of NumPyro.
    - `mask`: booleans, perhaps traced: one for all, one for each element of the batch, or of the
      value's shape, for entries of events: of `to_event`, or of Gaussian vectors
      (`MultivariateNormal`, `LowRankMultivariateNormal`, `GaussianRandomWalk`).

    **Raises** `InvalidMask` where the mask has another shape; `TypeError` where the marginals of
    events are not known.

    ```python
    >>> import jax, jax.numpy as jnp, numpyro.distributions as dist, ppl
    >>> from stdlib.distributions import observed_part
    >>> def series(scale):
    ...     x = jnp.array([0.3, jnp.nan, 1.1])
    ...     walk = dist.GaussianRandomWalk(scale, 3)
    ...     ppl.sample("x", observed_part(walk, ~jnp.isnan(x)), obs=x)
    >>> round(float(ppl.log_density(series, {}, 1.0)), 4)
    -2.3895

    ```
    """
    inner, mask = _entries(distribution, mask)
    if mask.shape == inner.batch_shape:
        return within_events(distribution, inner.mask(mask))
    return within_events(distribution, _parted(inner, mask)[0])


def missing_part(distribution: Distribution, mask: Any) -> Any:
    """The distribution of the entries where a mask is false, for a guide of what is missing.

    A guide that draws at `"y_unobserved"`, the choice that `ppl.sample("y", ..., obs_mask=mask)`
    leaves, draws the whole shape, fillers included. Drawn from this, the fillers of NumPyro's usual
    families are what they are in the model, and no parameter of the guide is spent on them: so an
    amortised guide is trained by what is missing alone. Arguments and errors as of `observed_part`.

    ```python
    >>> import jax.numpy as jnp, numpyro.distributions as dist
    >>> from stdlib.distributions import missing_part
    >>> guess = dist.Normal(jnp.array([4.0, 5.0]), 0.1)
    >>> missing_part(guess, jnp.array([False, True])).mean.tolist()
    [4.0, 0.0]

    ```
    """
    inner, mask = _entries(distribution, mask)
    if mask.shape != inner.batch_shape:
        _parted(inner, mask)
    return within_events(distribution, filled(inner, mask))


def _entries(distribution: Distribution, mask: Any) -> tuple[Any, Any]:
    value = jax.eval_shape(distribution.sample, jax.random.key(0))
    return entries(distribution, jnp.asarray(mask), value)


def _parted(distribution: Distribution, mask: Any) -> tuple[Any, Any]:
    parts = split_event(distribution, mask)
    if parts is None:
        raise TypeError(
            f"The marginals of {type(distribution).__name__} are not known. Mask whole events, or "
            "write the distribution of the entries that are there."
        )
    return parts


class Density(Distribution):
    """An unnormalised density as a site: a target given by its logarithm, scored and never drawn.

    For energies, densities of other libraries, and factors of a model. The site is observed,
    conditioned, scored (`ppl.log_density`, `ppl.replay`) or moved by a kernel (`stdlib.inference`);
    a guide or a proposal draws at its address. Evidences and bounds are then those of the
    unnormalised target: E[w] is its mass, ∫ exp(log_prob(x)) dx.

    **Arguments**

    - `log_prob`: a function of one value, of this shape and dtype, that returns a real scalar. It
      may close over parameters and other choices: derivatives pass to them.
    - `shape`: the shape of a value.
    - `support`: a constraint of NumPyro, for a value or for each of its elements; it says which
      transformation kernels and guides use. By default, all reals.
    - `dtype`: of a value; by default that of floats, or of integers where the support is discrete.

    **Raises** `UndrawableSite` where it is to be drawn; `TypeError` where `log_prob` returns
    anything but a real scalar.

    ```python
    >>> import jax, jax.numpy as jnp, ppl
    >>> from stdlib.distributions import Density
    >>> from stdlib.inference import HMC, chain
    >>> def ring(radius):
    ...     near = lambda x: -8.0 * (jnp.linalg.norm(x) - radius) ** 2
    ...     ppl.sample("x", Density(near, shape=(2,)))
    >>> float(ppl.log_density(ring, {"x": jnp.array([0.0, 3.0])}, 2.0))
    -8.0
    >>> target = ppl.extend.Target(lambda: ring(2.0), {})
    >>> moves = ppl.seed(chain)(jax.random.key(0), HMC(0.2, 5), target, {"x": jnp.ones(2)}, 100)
    >>> moves["x"].shape
    (100, 2)

    ```
    """

    pytree_data_fields = ("_log_prob",)
    pytree_aux_fields = ("support", "dtype")
    support: Any = constraints.real

    def __init__(
        self,
        log_prob: Callable[[Any], Any],
        *,
        shape: tuple[int, ...] = (),
        support: Any = constraints.real,
        dtype: Any = None,
    ):
        missing = len(shape) - support.event_dim
        self.support = constraints.independent(support, missing) if missing > 0 else support
        self.dtype = jnp.dtype(dtype or jnp.result_type(int if support.is_discrete else float))
        value = jax.ShapeDtypeStruct(shape, self.dtype)
        log = jax.eval_shape(log_prob, value)
        if getattr(log, "shape", None) != () or not jnp.issubdtype(log.dtype, jnp.floating):
            raise TypeError(f"A log density must be one real scalar; `log_prob` returns {log}.")
        self._log_prob = eqx.filter_closure_convert(log_prob, value)  # its arrays are leaves
        super().__init__((), tuple(shape))

    def log_prob(self, value: Any, intermediates: Any = None) -> jax.Array:
        """The logarithm of the density, of one value or of each in a batch."""
        value = jnp.asarray(value, self.dtype)
        fn = self._log_prob
        for _ in range(value.ndim - len(self.event_shape)):
            fn = jax.vmap(fn)
        return fn(value)


def _exactly_one(probs: Any, logits: Any) -> None:
    if (probs is None) == (logits is None):
        raise ValueError("Give either `probs`, the first argument, or `logits=`.")


def _inside(probs: Any) -> jax.Array:
    """Probabilities kept off zero and one, so that logarithms are finite."""
    probs = jnp.asarray(probs, jnp.result_type(float, probs))
    return jnp.clip(probs, jnp.finfo(probs.dtype).tiny, 1 - jnp.finfo(probs.dtype).epsneg)


def _normalized(probs: Any) -> jax.Array:
    probs = jnp.asarray(probs, jnp.result_type(float, probs))
    return probs / jnp.sum(probs, -1, keepdims=True)


class FloatBernoulli(BernoulliLogits):
    """A Bernoulli distribution whose draws are the floats 0.0 and 1.0.

    Its log density x·log p + (1 - x)·log(1 - p) is a smooth function of every real x. Estimators
    that relax a draw to a value in between (`Rebar`, `GumbelSoftmax`) need both.

    ```python
    >>> import jax
    >>> from stdlib.distributions import FloatBernoulli
    >>> FloatBernoulli(0.3).sample(jax.random.key(0)).dtype
    dtype('float32')

    ```
    """

    pytree_data_fields = ("_given",)

    def __init__(self, probs: Any = None, *, logits: Any = None, validate_args: bool | None = None):
        _exactly_one(probs, logits)
        self._given = None if probs is None else jnp.asarray(probs, jnp.result_type(float, probs))
        logits = logit(_inside(probs)) if logits is None else logits
        super().__init__(logits, validate_args=validate_args)

    @property
    def probs(self) -> jax.Array:
        """The probability of 1.0."""
        return jax.nn.sigmoid(jnp.asarray(self.logits)) if self._given is None else self._given

    def enumerate_probs(self) -> jax.Array:
        """The probabilities of zero and one; their derivatives where one of them is zero."""
        if self._given is not None:
            return jnp.stack([1.0 - self._given, self._given])
        logits = jnp.asarray(self.logits)
        return jax.nn.sigmoid(jnp.stack([-logits, logits]))

    def log_prob(self, value: Any, intermediates: Any = None) -> jax.Array:
        """x·log p + (1 - x)·log(1 - p)."""
        # NumPyro's has a wrong derivative at logits = 0
        logits, log_sigmoid = jnp.asarray(self.logits), jax.nn.log_sigmoid
        return value * log_sigmoid(logits) + (1 - value) * log_sigmoid(-logits)

    def sample(self, key: jax.Array | None, sample_shape: tuple[int, ...] = ()) -> jax.Array:
        """Zeros and ones."""
        return super().sample(key, sample_shape).astype(jnp.result_type(float))

    def enumerate_support(self, expand: bool = True) -> jax.Array:
        """Zero and one."""
        return super().enumerate_support(expand).astype(jnp.result_type(float))


class OneHotCategorical(Distribution):
    """A categorical distribution over K classes whose draws are one-hot vectors of floats.

    Its log density Σ_k x_k log p_k is a smooth function of every vector x.

    ```python
    >>> import jax, jax.numpy as jnp
    >>> from stdlib.distributions import OneHotCategorical
    >>> OneHotCategorical(jnp.array([0.0, 1.0, 0.0])).sample(jax.random.key(0)).tolist()
    [0.0, 1.0, 0.0]

    ```
    """

    arg_constraints: ClassVar = {"logits": constraints.real_vector}
    pytree_data_fields = ("logits", "_given")
    support: Any = constraints.multinomial(1)
    has_enumerate_support = True

    def __init__(self, probs: Any = None, *, logits: Any = None, validate_args: bool | None = None):
        _exactly_one(probs, logits)
        self._given = None if probs is None else _normalized(probs)
        self.logits = logits if probs is None else jnp.log(_inside(self._given))
        *batch_shape, size = jnp.shape(self.logits)
        super().__init__(tuple(batch_shape), (size,), validate_args=validate_args)

    @property
    def probs(self) -> jax.Array:
        """The probabilities of the classes."""
        return jax.nn.softmax(self.logits, -1) if self._given is None else self._given

    @property
    def mean(self) -> jax.Array:
        """The probabilities of the classes."""
        return self.probs

    def sample(self, key: jax.Array | None, sample_shape: tuple[int, ...] = ()) -> jax.Array:
        """One-hot vectors."""
        assert key is not None
        shape = sample_shape + self.batch_shape
        chosen = jax.random.categorical(key, self.logits, shape=shape, mode="high")
        return jax.nn.one_hot(chosen, self.event_shape[0], dtype=jnp.result_type(float))

    def log_prob(self, value: Any, intermediates: Any = None) -> jax.Array:
        """Σ_k x_k log p_k."""
        return jnp.sum(value * jax.nn.log_softmax(self.logits, -1), -1)

    def enumerate_probs(self) -> jax.Array:
        """The probabilities of the classes; their derivatives where one of them is zero."""
        return jnp.moveaxis(self.probs, -1, 0)

    def enumerate_support(self, expand: bool = True) -> jax.Array:
        """The rows of the identity matrix."""
        size = self.event_shape[0]
        rows = jnp.eye(size).reshape(size, *(1 for _ in self.batch_shape), size)
        return jnp.broadcast_to(rows, (size, *self.batch_shape, size)) if expand else rows
