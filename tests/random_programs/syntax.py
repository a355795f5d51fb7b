"""Random programs as data: types, statements and functions.

A program is a function of a vector `theta`: a list of statements, each of which names one value (or
several, of a block), and the name of its result, a real scalar. Blocks (`jit`, `vmap`, `scan`,
`cond`, ...) have functions of the same form, which read the names around them.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple


class Type(NamedTuple):
    """An array of reals, or, with `size`, of integers from 0 to size - 1."""

    shape: tuple[int, ...] = ()
    size: int | None = None

    @property
    def real(self) -> bool:
        """Whether it is one of reals."""
        return self.size is None


@dataclass(frozen=True)
class Let:
    """An operation (of `operations.TABLE`) on names, and on constants."""

    out: str
    type: Type
    op: str
    args: tuple[str, ...] = ()
    static: tuple = ()


@dataclass(frozen=True)
class Draw:
    """A site: a family (of `families.TABLE`), with the names of its parameters.

    `obs`, a number, is the datum of an observed one.
    """

    out: str
    type: Type
    address: str
    family: str
    args: tuple[str, ...]
    estimator: str = ""
    obs: float | None = None


@dataclass(frozen=True)
class Control:
    """A control variate: it has no part in the expectation."""

    address: str
    value: str


@dataclass(frozen=True)
class Body:
    """A function: the names of its parameters, its statements, the names of its results."""

    params: tuple[str, ...]
    statements: tuple[Any, ...]
    results: tuple[str, ...]


@dataclass(frozen=True)
class Block:
    """Functions, and what calls them (of `blocks.TABLE`), with arguments and constants."""

    kind: str
    outs: tuple[str, ...]
    types: tuple[Type, ...]
    bodies: tuple[Body, ...]
    args: tuple[str, ...] = ()
    static: tuple = ()


@dataclass(frozen=True)
class Program:
    """An objective, and where to evaluate it."""

    body: Body
    theta: tuple[float, ...]


def every(body: Body) -> Iterator[Any]:
    """All the statements, those of blocks too."""
    for statement in body.statements:
        yield statement
        for inner in getattr(statement, "bodies", ()):
            yield from every(inner)


def outs(statement: Any) -> tuple[tuple[str, Type], ...]:
    """The names that a statement gives, and their types."""
    if isinstance(statement, Block):
        return tuple(zip(statement.outs, statement.types, strict=True))
    return () if isinstance(statement, Control) else ((statement.out, statement.type),)


def reads(statement: Any) -> set[str]:
    """The names that a statement reads."""
    if isinstance(statement, Control):
        return {statement.value}
    return set(statement.args).union(*map(free, getattr(statement, "bodies", ())))


def free(body: Body) -> set[str]:
    """The names that a function reads from around it."""
    own = {*body.params, *(name for s in body.statements for name, _ in outs(s))}
    return set(body.results).union(*map(reads, body.statements)) - own
