"""The one statement of the language."""

from typing import Any

import jax
import jax.numpy as jnp

from ._address import Path, parse
from ._estimator import Estimator, check_estimator
from ._failure import told_of_site
from ._families import canonical
from ._foreign import refuse_handlers
from ._site import Operands, make_call, merge, partition, user_location
from .errors import ChoiceShapeError, ChoiceTypeError, InvalidDistribution


def sample(
    address: str, distribution: Any, estimator: Estimator | None = None, *, obs: Any = None
) -> jax.Array:
    """One random choice of a program, or one observation.

    **Arguments**

    - `address`: the site's name, unique in its program; `"a/b"` is `b` in the scope `a`.
    - `distribution`: a pytree with NumPyro's protocol: `sample(key)` and `log_prob(value)`, and
      `has_rsample`, `support` and `enumerate_support` where an estimator asks for them. Every
      NumPyro and FlowJAX distribution is one. `log_prob` may return one value per element of a
      batch; the site's density is their product.
    - `estimator`: how gradients pass this site (`ppl.Reparameterized()`, `ppl.ScoreFunction()`,
      `stdlib.estimators.Enumerate()`, ...). By default `Reparameterized` where the distribution
      says `has_rsample`, else `ScoreFunction`.
    - `obs`: data. The site then returns it and counts as likelihood.

    **Returns** the value drawn (or `obs`), of the distribution's own shape and dtype. Under
    `jax.vmap` each lane draws independently; in `lax.scan` each step draws afresh.

    **Raises** `SampleOutsideTransformation` where nothing gives the program a meaning,
    `InvalidDistribution`, `UnsuitableEstimator`, `ChoiceShapeError`, `ChoiceTypeError`;
    `ForeignStatement` under a handler of NumPyro.

    ```python
    >>> import jax, ppl, numpyro.distributions as dist
    >>> def coin():
    ...     fairness = ppl.sample("fairness", dist.Beta(2.0, 2.0))
    ...     return ppl.sample("heads", dist.Bernoulli(fairness))
    >>> int(ppl.seed(coin)(jax.random.key(0))) in (0, 1)
    True

    ```
    """
    path, where = parse(address), user_location()
    refuse_handlers(f"sample({address!r})")
    with told_of_site(address, where):
        distribution = canonical(distribution)
    out = _draw_struct(distribution, address, where)
    if obs is not None:
        obs = coerce(obs, out, path, where, "The observation")
    if estimator is not None:
        check_estimator(estimator, distribution, address, where)
    return make_call(path, Operands(distribution, estimator, obs), out, where).bind()


def _draw_struct(distribution: Any, address: str, where: str) -> jax.ShapeDtypeStruct:
    protocol = all(callable(getattr(distribution, name, None)) for name in ("sample", "log_prob"))
    if isinstance(distribution, type) or not protocol:
        a_class = isinstance(distribution, type)
        got = f"the class {distribution.__name__}" if a_class else type(distribution).__name__
        raise InvalidDistribution(
            f"sample({address!r}, ...) at {where} needs a distribution with `sample(key)` and "
            f"`log_prob(value)`, got {got}. "
            'Write, for example, sample("x", numpyro.distributions.Normal(0.0, 1.0)).'
        )
    name = type(distribution).__name__
    if jax.tree.structure(distribution) == jax.tree.structure(0):
        raise InvalidDistribution(
            f"The distribution {name} of sample({address!r}, ...) at {where} is not a pytree. "
            "Make it an equinox.Module, or register it with "
            "jax.tree_util.register_pytree_node."
        )
    try:
        jax.tree.map(lambda leaf: leaf, distribution)
    except Exception as failure:
        raise InvalidDistribution(
            f"The distribution {name} of sample({address!r}, ...) at {where} cannot be rebuilt "
            f"from its arrays, as a pytree must be: {failure}. Write it as another distribution "
            "of the same law, or correct its tree_unflatten."
        ) from failure
    with told_of_site(address, where):
        leaves, static, treedef = partition(distribution)
        draw = lambda leaves: merge(leaves, static, treedef).sample(jax.random.key(0))  # noqa: E731
        out = jax.eval_shape(draw, leaves)
    if not isinstance(out, jax.ShapeDtypeStruct):
        raise InvalidDistribution(
            f"The distribution {name} of sample({address!r}, ...) at {where} must return one array "
            f"from `sample(key)`, got {jax.tree.structure(out)}."
        )
    return jax.ShapeDtypeStruct(out.shape, out.dtype)


def coerce(value: Any, like: Any, path: Path, where: str, what: str) -> jax.Array:
    """`value` as an array of the site's dtype, or an error that names the site."""
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
    rank = {"b": 0, "u": 1, "i": 1, "f": 2, "c": 3}
    mine, theirs = (rank.get(jnp.dtype(d).kind, 2) for d in (array.dtype, like.dtype))
    if mine > theirs:
        raise ChoiceTypeError(
            f"{what} for {address!r} has dtype {array.dtype}, but the site at {where} has dtype "
            f"{like.dtype}. Convert it first: .astype({jnp.dtype(like.dtype).name!r})."
        )
    return array.astype(like.dtype)


def _shape_remedy(got: tuple, want: tuple) -> str:
    squeezed = tuple(n for n in got if n != 1)
    if squeezed == tuple(n for n in want if n != 1):
        return f" Reshape it: .reshape({want})."
    if got and not want:
        return " Draw one for each: put the site in jax.vmap, or give its distribution that shape."
    return f" Give a value of shape {want}, or change the distribution's shape."
