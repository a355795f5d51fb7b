"""The numbers that kernels move: the choices' own, or, of a simplex and the like, free ones."""

from collections.abc import Callable, Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jax.tree_util import keystr, tree_map_with_path
from numpyro.distributions import biject_to

import ppl
from ppl.errors import InvalidSetting

from .._supports import set_of_equations

Choices = Mapping[str, Any]


class Density(eqx.Module):
    """A target as a density of one vector."""

    log: Callable
    supports: Callable

    def judged(
        self, old: jax.Array, new: jax.Array, log_ratio: Callable, inside: Any = True
    ) -> tuple[jax.Array, jax.Array]:
        """A new vector, and log p(new) - log p(old) + `log_ratio(new)`; -inf out of the support."""
        inside = inside & self.supports(new) & jnp.all(jnp.isfinite(new))
        safe = jnp.where(inside, new, old)
        log_rate = self.log(safe) - self.log(old) + log_ratio(safe)
        return new, jnp.where(inside, log_rate, -jnp.inf)


def real_vector(target: Any, choices: Choices) -> tuple[Density, jax.Array, Callable]:
    """A target as a density of one vector, its choices as one, and the way back to choices."""
    target = getattr(target, "exactly", target)
    tree_map_with_path(_check_real, getattr(target, "hidden", choices))
    maps = _bijections(target)
    free = tree_map_with_path(lambda path, x: _freed(_address(path), x, maps), choices)
    vector, unravel = ravel_pytree(free)

    def rebuild(u: jax.Array) -> Choices:
        return tree_map_with_path(lambda path, x: _mapped(maps, path, x), unravel(u))

    def log(u: jax.Array) -> jax.Array:
        volumes = tree_map_with_path(lambda path, x: _log_volume(maps, path, x), unravel(u))
        return jax.tree.reduce(jnp.add, volumes, target.log_density(rebuild(u)))

    return Density(log, lambda u: target.supports(rebuild(u))), vector, rebuild


def _bijections(target: Any) -> dict[str, Any]:
    """Where the elements of a choice obey equations, such as a sum of one: maps from free numbers.

    A step in the choices' own scale would leave such a support always.
    """
    if not hasattr(target, "prior"):
        return {}
    found = {}
    plain = [one for site in ppl.sites(target.prior) if not site.observed for one in site.plain]
    for site in plain:
        (support,) = site.look(set_of_equations)
        if support is None:
            continue
        try:
            found[site.address] = biject_to(support)
        except NotImplementedError:
            raise InvalidSetting(
                f"The kernels of stdlib.inference cannot move site {site.address!r} at "
                f"{site.where} within its support, {support}: NumPyro has no map to it "
                "from free real numbers. Draw such numbers and compute it from them, or write a "
                "Kernel of your own."
            ) from None
    return found


def _address(path: Any) -> str:
    return keystr(path, simple=True, separator="/")


def _check_real(path: Any, x: Any) -> None:
    dtype = jnp.result_type(x)
    if not jnp.issubdtype(dtype, jnp.floating):
        raise InvalidSetting(
            "The kernels of stdlib.inference move real choices, and the target has one at "
            f"{_address(path)!r} of dtype {dtype}. Sum it out (ppl.marginal with Exact()), or "
            "write a Kernel of your own."
        )


def _freed(address: str, x: Any, maps: Mapping[str, Any]) -> jax.Array:
    return maps[address].inv(x) if address in maps else x


def _mapped(maps: Mapping[str, Any], path: Any, x: jax.Array) -> jax.Array:
    return maps[_address(path)](x) if _address(path) in maps else x


def _log_volume(maps: Mapping[str, Any], path: Any, x: jax.Array) -> Any:
    if _address(path) not in maps:
        return 0.0
    bijection = maps[_address(path)]
    return jnp.sum(bijection.log_abs_det_jacobian(x, bijection(x)))
