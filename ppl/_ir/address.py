"""Addresses: paths of names, written `"a/b"`, and the nested dicts of choices they index."""

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

from ..errors import InvalidAddress

Path = tuple[str, ...]


def parse(address: Any) -> Path:
    """The path an address names: `"a/b"` is `("a", "b")`."""
    if not isinstance(address, str) or not all(address.split("/")):
        raise InvalidAddress(
            f"An address is a non-empty string such as 'x' or 'layer/x', got {address!r}."
        )
    return tuple(address.split("/"))


def render(path: Path) -> str:
    """The address of a path."""
    return "/".join(path)


def flatten(choices: Mapping[str, Any]) -> dict[Path, Any]:
    """A nested dict of choices as one flat dict keyed by path."""
    flat: dict[Path, Any] = {}
    for address, value in choices.items():
        path = parse(address)
        if isinstance(value, Mapping):
            flat.update({path + rest: leaf for rest, leaf in flatten(value).items()})
        else:
            flat[path] = value
    return flat


def nest(flat: Mapping[Path, Any]) -> dict[str, Any]:
    """The nested dict of a flat one."""
    nested: dict[str, Any] = {}
    for path, value in flat.items():
        level = nested
        for name in path[:-1]:
            level = level.setdefault(name, {})
        level[path[-1]] = value
    return nested


def flatten_choices(choices: Mapping[str, Any]) -> dict[str, Any]:
    """Choices as one flat dict from address (`"a/b"`) to value, as `Trace.sites` has them.

    ```python
    >>> import ppl
    >>> ppl.flatten_choices({"x": 1.0, "layer": {"w": 2.0}})
    {'x': 1.0, 'layer/w': 2.0}

    ```
    """
    return {render(path): value for path, value in flatten(choices).items()}


def nest_choices(choices: Mapping[str, Any]) -> dict[str, Any]:
    """Choices as nested dicts, as `Trace.choices` has them.

    ```python
    >>> import ppl
    >>> ppl.nest_choices({"x": 1.0, "layer/w": 2.0})
    {'x': 1.0, 'layer': {'w': 2.0}}

    ```
    """
    return nest(flatten(choices))


def nearest(path: Path, known: Iterable[Path]) -> str:
    """A clause naming the known addresses closest to a path."""
    names = [render(k) for k in known if k]
    if not names:
        return "It has no such sites at all."
    close = difflib.get_close_matches(render(path), names, n=3, cutoff=0.5)
    listed = ", ".join(repr(name) for name in (close or sorted(names)[:8]))
    return f"{'Nearest' if close else 'Known'}: {listed}."
