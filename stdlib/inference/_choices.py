"""Nested choices, in parts."""

from collections.abc import Mapping
from typing import Any, TypeAlias

Choices: TypeAlias = Mapping[str, Any]


def within(choices: Choices, addresses: set[str], inside: bool, prefix: str = "") -> Choices:
    """The choices at some addresses, or at all others."""
    found = {}
    for name, value in choices.items():
        if isinstance(value, Mapping):
            deeper = within(value, addresses, inside, f"{prefix}{name}/")
            found.update({name: deeper} if deeper else {})
        elif (prefix + name in addresses) == inside:
            found[name] = value
    return found


def merged(first: Choices, second: Choices) -> dict[str, Any]:
    """The choices of two programs, scope by scope."""
    both = first.keys() & second.keys()
    return {**first, **second, **{name: merged(first[name], second[name]) for name in both}}
