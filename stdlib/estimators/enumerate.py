"""Exact summation over a finite support."""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.distributions import Independent

from ppl.errors import TooManyJointStates
from ppl.extend import Estimator, Particles

from ._support import probabilities


class Enumerate(Estimator):
    """Sums over the whole support: every value v_j, with weight p(v_j).

    Exact: no variance from this site, in value and in every derivative. What depends on the site
    runs once for each of its K values; sums are eliminated site by site, so a chain of T sites
    costs T·K² (Obermeyer et al. 2019). A batch of n elements costs n·K where the program keeps them
    apart. An operation that mixes them is evaluated for all K^n joint states, up to 16,384.

    Needs a distribution with `enumerate_support`. Beyond those joint states, `ppl.expectation`
    raises `ppl.errors.TooManyJointStates`.

    ```python
    >>> import jax, ppl, numpyro.distributions as dist
    >>> from stdlib.estimators import Enumerate
    >>> def square(p):
    ...     return (ppl.sample("x", dist.Bernoulli(p), Enumerate()) - 0.45) ** 2
    >>> exact = jax.grad(ppl.expectation(square), argnums=1)(jax.random.key(0), 0.3)
    >>> round(float(exact), 4)
    0.1

    ```
    """

    exact: ClassVar[bool] = True
    second_order: ClassVar[bool] = True

    def particles(self, key: jax.Array, distribution: Any) -> Particles:
        """The support and its probabilities; the key is not used."""
        values = _support(distribution)
        weights = probabilities(distribution, values)
        return Particles(values, weights, normalized=True)

    def unsuitable(self, distribution: Any) -> str | None:
        """An infinite or continuous support cannot be summed, nor a product of supports."""
        if not getattr(distribution, "has_enumerate_support", True):
            return "its support is not finite"
        try:
            jax.eval_shape(lambda: jnp.asarray(distribution.enumerate_support(expand=True)))
        except (AttributeError, NotImplementedError):
            if isinstance(distribution, Independent):
                return "the elements of a batch are summed one by one: leave `.to_event` out"
            return "it has no `enumerate_support`"
        except TooManyJointStates as error:
            return str(error)
        except jax.errors.JAXTypeError:
            return "the size of its support depends on traced values"
        return None


def _support(distribution: Any) -> Any:
    """The support; as constants, where it depends on no traced value and no symbolic size."""
    sizes = getattr(distribution, "batch_shape", ())
    try:
        with jax.ensure_compile_time_eval():
            if all(isinstance(size, int) for size in sizes):
                return np.asarray(distribution.enumerate_support(expand=True))
    except (jax.errors.TracerArrayConversionError, jax.errors.ConcretizationTypeError):
        pass
    return distribution.enumerate_support(expand=True)
