"""Checking choices against the sites they are meant for."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax

from .._ir.address import Path, flatten, nearest, render
from .._ir.sample import coerce
from ..errors import (
    InvalidAddress,
    MissingChoice,
    ObservedChoice,
    UnsupportedControlFlow,
    UnusedChoice,
)
from .feed import Placed


def checked_choices(
    choices: Mapping[str, Any], sites: Sequence[Placed], name: str, *, complete: bool
) -> dict[Path, jax.Array]:
    """The choices by path, as arrays of their sites' shapes and dtypes.

    With `complete`, every unobserved site must have one.
    """
    if not isinstance(choices, Mapping):
        raise InvalidAddress(
            f"Choices are a dict from address to value, got {type(choices).__name__}. "
            'Write, for example, {"x": 1.0}.'
        )
    given, places = flatten(choices), {placed.path: placed for placed in sites}
    free = [path for path, placed in places.items() if not _observed(placed)]
    for path in given:
        if path not in places:
            raise UnusedChoice(
                f"Program {name!r} has no site at {render(path)!r}. {nearest(path, places)} "
                "Correct or drop the choice (in an ELBO: each site of the guide needs one of the "
                "same address in the model)."
            )
        if _observed(places[path]):
            raise ObservedChoice(
                f"Site {render(path)!r} of program {name!r} at {places[path].site.where} is "
                "already observed. Drop the choice (in an ELBO: the guide must not sample what is "
                "observed), or drop `obs`."
            )
    if complete:
        _check_complete(free, given, places, name)
    return {
        path: coerce(value, _struct(places[path]), path, places[path].site.where, "The choice")
        for path, value in given.items()
    }


def _check_complete(free, given, places, name) -> None:
    for path in free:
        if places[path].in_while:
            raise UnsupportedControlFlow(
                f"Site {render(path)!r} at {places[path].site.where} is inside a while_loop, which "
                "has no fixed number of steps, so its density cannot be evaluated at given "
                "choices. Use lax.scan or lax.fori_loop with a fixed number of steps."
            )
        if path not in given:
            raise MissingChoice(
                f"Program {name!r} has a site at {render(path)!r} ({places[path].site.where}) "
                f"with no choice. {_given(path, given)} Add it to the choices (in an ELBO: sample "
                "it in the guide, or observe it)."
            )


def _given(path: Path, given: Mapping[Path, Any]) -> str:
    return nearest(path, given) if given else "No choices were given."


def _observed(placed: Placed) -> bool:
    return placed.site.observed


def _struct(placed: Placed) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(placed.shape, placed.site.out.dtype)
