"""Drawing single statements: operations on names that fit, and sites."""

from collections.abc import Callable
from typing import Any

import numpy as np

from .families import EXACT, Family
from .families import TABLE as FAMILIES
from .operations import TABLE as OPERATIONS
from .syntax import Control, Draw, Let, Type, every, outs, reads

Scope = list[tuple[str, Type]]
IN_WHILE = ("ScoreFunction()", "ScoreFunction(0.4)", "Signed()")
CERTAIN = {"sigmoid": [[0.0, 1.0], [1.0], [0.0]], "softmax": [[0.0, 0.4, 0.6], [0.0, 1.0]]}
"""Probabilities at their bounds."""


class Statements:
    """Draws statements, and adds them to lists; a scope is the names that may be read.

    - `smooth`: the program may have real sites, and has no jumps; else the other way round.
    - `looping`: it may have `while_loop`s.
    - `edges`: it may have probabilities of zero and one.
    - `estimators`: those that its sites may have, or None for all.
    - `nested`: in how many blocks the next statement stands.
    - `random`: the names that depend on a choice.
    """

    def __init__(self, rng: Any):
        self.rng, self.names, self.addresses = rng, 0, 0
        self.smooth = rng.random() < 0.2
        self.looping = not self.smooth and rng.random() < 0.05
        self.edges = rng.random() < 0.15
        self.estimators = IN_WHILE if self.looping else self.pick([EXACT[:1], EXACT, None, None])
        self.nested = 0
        self.random: set[str] = set()

    def pick(self, options: Any) -> Any:
        """One of them."""
        return options[int(self.rng.integers(len(options)))]

    def coin(self, chance: float) -> bool:
        """Whether."""
        return bool(self.rng.random() < chance)

    def count(self, least: int, most: int) -> int:
        """A number, bounds included."""
        return int(self.rng.integers(least, most + 1))

    def number(self) -> float:
        """A real number."""
        return round(float(self.rng.normal()), 2)

    def name(self) -> str:
        """A new name."""
        self.names += 1
        return f"v{self.names}"

    def address(self) -> str:
        """A new address."""
        self.addresses += 1
        return f"a{self.addresses}"

    def recent(self, scope: Scope) -> tuple[str, Type]:
        """A name, more often one of the last, and one that depends on a choice."""
        random = [(name, t) for name, t in scope if name in self.random]
        names = random if random and self.coin(0.7) else scope
        return self.pick(names[-5:] if self.coin(0.6) else names)

    def of_type(self, scope: Scope, fits: Callable[[Type], Any]) -> str | None:
        """A name whose type fits, if there is one."""
        names = [(name, t) for name, t in scope if fits(t)]
        return self.recent(names)[0] if names else None

    def add(self, statements: list, scope: Scope, statement: Any) -> str:
        """Adds a statement; its first name."""
        statements.append(statement)
        scope.extend(outs(statement))
        inside = [s for body in getattr(statement, "bodies", ()) for s in every(body)]
        drawn = any(isinstance(s, Draw) for s in (statement, *inside))
        if drawn or reads(statement) & self.random:
            self.random.update(name for name, _ in outs(statement))
        return outs(statement)[0][0]

    # operations

    def let(self, statements: list, scope: Scope, op: str, args: Any, static: tuple = ()) -> str:
        """An operation; the name of its result."""
        types = dict(scope)
        result = OPERATIONS[op].result(*(types[name] for name in args), *static)
        assert result is not None, (op, args, static)
        return self.add(statements, scope, Let(self.name(), result, op, tuple(args), static))

    def operate(self, statements: list, scope: Scope) -> None:
        """A random operation on random names, if one is found that fits."""
        for _ in range(30):
            op = self.pick(list(OPERATIONS))
            row = OPERATIONS[op]
            chosen = [self.recent(scope) for _ in range(row.arity)]
            types = [t for _, t in chosen]
            static = row.static(self.rng, *types)
            result = row.result(*types, *static)
            small = result is not None and len(result.shape) <= 2 and np.prod(result.shape) <= 9
            if small and not (row.rough and self.smooth):
                self.let(statements, scope, op, [name for name, _ in chosen], static)
                return

    def constant(self, statements: list, scope: Scope, wanted: Type) -> str:
        """Zeros of an integer type."""
        return self.let(statements, scope, "integer zeros", [], (wanted.shape, wanted.size))

    def fitted(self, statements: list, scope: Scope, own: Scope, wanted: Type) -> str:
        """A value of a type, made of one of `own`, if it can be."""
        found = self.of_type(own, lambda t: t == wanted)
        if found is not None and self.coin(0.8):
            return found
        if not wanted.real:
            return found or self.constant(statements, scope, wanted)
        some = self.of_type(own, lambda t: t.real) or self.of_type(scope, lambda t: t.real)
        if dict(scope)[some].shape:
            some = self.let(statements, scope, "total", [some])
        some = self.let(statements, scope, "tanh", [some])
        if not wanted.shape:
            return some
        return self.let(statements, scope, "spread", [some], (wanted.shape,))

    def scalar(self, statements: list, scope: Scope, name: str) -> str:
        """A real scalar, the sum of what a name holds."""
        if not dict(scope)[name].real:
            name = self.let(statements, scope, "real", [name], (0.7,))
        return self.let(statements, scope, "total", [name]) if dict(scope)[name].shape else name

    # sites

    def draw(self, statements: list, scope: Scope) -> None:
        """A site, with a parameter that is made for it; perhaps a control variate."""
        family = self.pick([name for name in FAMILIES if self.estimators_of(name)])
        before, estimator = list(scope), self.pick(self.estimators_of(family))
        parameter = self.parameter(statements, scope, family)
        address = self.address()
        self.site(statements, scope, family, parameter, address, estimator)
        if not self.nested and estimator == "ScoreFunction()" and self.coin(0.3):
            value = self.of_type(before, lambda t: t == Type())
            statements.extend([Control(address, value)] if value else [])

    def estimators_of(self, family: str) -> list[str]:
        """Those that suit the family, and the program."""
        row = FAMILIES[family]
        if row.smooth and not self.smooth:
            return []
        wanted = row.estimators if self.estimators is None else (*self.estimators, "")
        return [estimator for estimator in row.estimators if estimator in wanted]

    def site(
        self, statements: list, scope: Scope, family: str, x: str, address: str, estimator: str
    ) -> str:
        """A site of a family; the name of its value."""
        row = FAMILIES[family]
        result = Type(row.batch(dict(scope)[x]), None if row.real else row.size)
        site = Draw(self.name(), result, address, family, (x,), estimator)
        return self.add(statements, scope, site)

    def parameter(self, statements: list, scope: Scope, family: str) -> str:
        """The parameter of a site: one for the site, or for each element of a batch."""
        row = FAMILIES[family]
        if self.edges and row.parameter and self.coin(0.5):
            certain = [p for p in CERTAIN[row.parameter] if not row.last or len(p) == row.size]
            return self.let(statements, scope, "numbers", [], (self.pick(certain),))
        name = self.of_type(scope, lambda t: self.suits(t, row))
        if name is None or (row.last and self.coin(0.5)):
            name = self.classes(statements, scope, row.size)
        return self.let(statements, scope, row.parameter, [name]) if row.parameter else name

    def suits(self, t: Type, row: Family) -> bool:
        """Whether a family takes a parameter; NumPyro draws no classes for no lanes."""
        sizes = range(1 if row.last else 0, 7)
        return row.batch(t) is not None and np.prod(t.shape) in sizes

    def classes(self, statements: list, scope: Scope, size: int) -> str:
        """One real for each class."""
        weights = [self.number() for _ in range(size)]
        row = self.let(statements, scope, "numbers", [], (weights,))
        tilt = self.of_type(scope, lambda t: t == Type())
        return self.let(statements, scope, "multiply", [row, tilt]) if tilt else row
