"""Drawing blocks: calls, lanes, loops and branches, in each other."""

from typing import Any

from .statements import Scope, Statements
from .syntax import Block, Body, Type

CALLS = ("jit", "checkpoint")
LANES = ("vmap", "map")
LOOPS = ("scan", "scan", "fori")
BRANCHES = ("cond", "switch")


def rows(scope: Scope) -> Scope:
    """What is left of values along their first dimension."""
    return [(name, t._replace(shape=t.shape[1:])) for name, t in scope]


def names(scope: Scope) -> tuple[str, ...]:
    return tuple(name for name, _ in scope)


class Blocks(Statements):
    """Draws statements, also those that have statements inside."""

    simulated = False

    def grow(self, statements: list, scope: Scope, count: int, depth: int) -> None:
        """Adds statements, with blocks of some depth."""
        for _ in range(count):
            kind = self.rng.random()
            if kind < 0.3:
                self.draw(statements, scope)
            elif kind < 0.55 and depth:
                self.block(statements, scope, depth - 1)
            else:
                self.operate(statements, scope)

    def block(self, statements: list, scope: Scope, depth: int) -> None:
        """A block of some kind."""
        kinds = [*CALLS, *LANES, *LOOPS, *BRANCHES, *([] if self.simulated else ["simulate"])]
        kind = self.pick(kinds + ["while"] * 3 * self.looping)
        for group, drawn in (
            (CALLS, self.call),
            (LANES, self.lanes),
            (BRANCHES, self.branch),
        ):
            if kind in group:
                return drawn(kind, statements, scope, depth)
        return getattr(self, kind if kind != "while" else "loop")(statements, scope, depth)

    def put(
        self,
        statements: list,
        scope: Scope,
        kind: str,
        types: list[Type],
        bodies: list[Body],
        args: Any = (),
        static: tuple = (),
    ) -> str:
        """Adds a block; the name of the first value that it returns."""
        new = tuple(self.name() for _ in types)
        block = Block(kind, new, tuple(types), tuple(bodies), tuple(args), static)
        return self.add(statements, scope, block)

    def body(
        self, scope: Scope, params: Scope, depth: int, wanted: list[Type], more: int = 0
    ) -> tuple[Body, list[Type]]:
        """A function that returns values of the types `wanted`, then `more` others; all types."""
        inside, statements = [*scope, *params], []
        self.nested += 1
        self.grow(statements, inside, self.count(1, 3), depth)
        self.nested -= 1
        own = inside[len(scope) :]
        results = [self.fitted(statements, inside, own, t) for t in wanted]
        own = inside[len(scope) :]
        results += [self.recent(own)[0] for _ in range(more)] if own else []
        types = dict(inside)
        body = Body(names(params), tuple(statements), tuple(results))
        return body, [types[name] for name in results]

    def params(self, args: Scope, length: int | None = None) -> Scope:
        """Parameters for these arguments; with `length`, also for a number below it."""
        new = [(self.name(), t) for _, t in args]
        pairs = zip(args, new, strict=True)
        self.random.update(param for (name, _), (param, _) in pairs if name in self.random)
        return new if length is None else [*new, (self.name(), Type((), max(length, 1)))]

    def types(self, most: int) -> list[Type]:
        """What a function is to return."""
        some = [Type(), Type(), Type((2,)), Type((), 2)]
        return [self.pick(some) for _ in range(self.count(1, most))]

    def length(self) -> int:
        """Of a loop, or of lanes."""
        return int(self.rng.choice([0, 1, 2, 3], p=[0.03, 0.12, 0.5, 0.35]))

    def mapped(self, scope: Scope, length: int) -> Scope:
        """Values to be taken apart along their first dimension."""
        fitting = [(name, t) for name, t in scope if t.shape and t.shape[0] == length]
        return [self.pick(fitting) for _ in range(self.count(0, 2))] if fitting else []

    def some(self, scope: Scope, most: int) -> Scope:
        """Values of any type: batches too."""
        return [self.recent(scope) for _ in range(self.count(1, most))]

    def call(self, kind: str, statements: list, scope: Scope, depth: int) -> None:
        """A function of some arguments."""
        args = self.some(scope, 2)
        body, types = self.body(scope, self.params(args), depth, self.types(2), more=1)
        self.put(statements, scope, kind, types, [body], names(args))

    def lanes(self, kind: str, statements: list, scope: Scope, depth: int) -> None:
        """A function of each row of some arguments, and of its number."""
        length = self.length()
        args = self.mapped(scope, length)
        params = self.params(rows(args), length)
        body, types = self.body(scope, params, depth, self.types(1), more=1)
        stacked = [t._replace(shape=(length, *t.shape)) for t in types]
        self.put(statements, scope, kind, stacked, [body], names(args), (length,))

    def scan(self, statements: list, scope: Scope, depth: int) -> None:
        """A loop with stacked outputs; what it carries comes first."""
        length, carry = self.length(), self.some(scope, 3)
        xs, wanted = self.mapped(scope, length), [t for _, t in carry]
        params = self.params([*carry, *rows(xs)], length)
        body, types = self.body(scope, params, depth, wanted, more=self.count(0, 1))
        stacked = [t._replace(shape=(length, *t.shape)) for t in types[len(carry) :]]
        static, args = (length, len(carry)), names([*carry, *xs])
        self.put(statements, scope, "scan", [*wanted, *stacked], [body], args, static)

    def fori(self, statements: list, scope: Scope, depth: int) -> None:
        """A loop over numbers."""
        length, carry = self.length(), self.some(scope, 3)
        body, types = self.body(scope, self.params(carry, length), depth, [t for _, t in carry])
        self.put(statements, scope, "fori", types, [body], names(carry), (length,))

    def loop(self, statements: list, scope: Scope, depth: int) -> None:
        """A `while_loop` that goes on as long as a coin says, three times at most."""
        carry = self.some(scope, 3)
        wanted = [Type((), 2), *(t for _, t in carry)]
        body, types = self.body(scope, self.params(carry), depth, wanted)
        self.put(statements, scope, "while", types[1:], [body], names(carry), (3,))

    def branch(self, kind: str, statements: list, scope: Scope, depth: int) -> None:
        """A function for each value of an integer; a `cond` asks whether it is positive."""
        index = self.of_type(scope, lambda t: t.shape == () and not t.real)
        if index is None:
            index = self.let(statements, scope, "integers", [], (self.count(0, 1), 2))
        wanted = self.types(2)
        count = 2 if kind == "cond" else dict(scope)[index].size
        bodies = [self.body(scope, [], depth, wanted)[0] for _ in range(count)]
        self.put(statements, scope, kind, wanted, bodies, [index])

    def simulate(self, statements: list, scope: Scope, depth: int) -> None:
        """A program's value and its log density, scaled and masked."""
        flag = self.of_type(scope, lambda t: t == Type((), 2)) if self.coin(0.4) else None
        self.simulated = True
        body, types = self.body(scope, [], depth, self.types(1))
        self.simulated = False
        args, static = [flag] if flag else [], (self.pick([None, None, 0.5, -1.0]),)
        self.put(statements, scope, "simulate", [*types, Type()], [body], args, static)
