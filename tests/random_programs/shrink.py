"""Making a program smaller while something stays true of it."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from .syntax import Block, Body, Control, Draw, Let, Program, Type, every, free, outs, reads


def shrunk(program: Program, holds: Callable[[Program], bool]) -> Program:
    """A smaller program of which it holds, where no single step makes a smaller one."""
    smaller = _step(program, holds)
    while smaller is not None:
        program, smaller = smaller, _step(smaller, holds)
    return program


def _step(program: Program, holds: Callable[[Program], bool]) -> Program | None:
    pruned = replace(program, body=_pruned(program.body))
    if _size(pruned.body) < _size(program.body) and holds(pruned):
        return pruned
    types = {name: t for s in every(program.body) for name, t in outs(s)}
    for body in _smaller(program.body, types):
        tried = replace(program, body=body)
        if _size(tried.body) < _size(program.body) and holds(tried):
            return tried
    return None


def _size(body: Body) -> float:
    """What becomes smaller: statements, their arguments, results, and loops."""
    return 3 * len(body.results) + sum(map(_weight, body.statements))


def _weight(statement: Any) -> float:
    inner = sum(map(_size, getattr(statement, "bodies", ())))
    lengths = sum(s for s in getattr(statement, "static", ()) if isinstance(s, int)) / 10
    return 3 + len(reads(statement)) + inner + lengths + 2 * isinstance(statement, Draw | Block)


def _pruned(body: Body) -> Body:
    """Without the statements that nothing reads."""
    kept, needed = [], set(body.results)
    addresses = {s.address for s in body.statements if isinstance(s, Draw)}
    for statement in reversed(body.statements):
        if isinstance(statement, Control):
            keep = statement.address in addresses
        else:
            keep = any(name in needed for name, _ in outs(statement)) or _observed(statement)
        if keep:
            statement = _pruned_block(statement) if isinstance(statement, Block) else statement
            kept.append(statement)
            needed |= reads(statement)
    statements = tuple(reversed(kept))
    left = {s.address for s in statements if isinstance(s, Draw)}
    lost = addresses - left
    return replace(
        body,
        statements=tuple(
            s for s in statements if not (isinstance(s, Control) and s.address in lost)
        ),
    )


def _observed(statement: Any) -> bool:
    return isinstance(statement, Draw) and statement.obs is not None


def _pruned_block(block: Block) -> Block:
    if block.kind == "bound":
        return block
    return replace(block, bodies=tuple(map(_pruned, block.bodies)))


def _smaller(body: Body, types: Mapping[str, Type]) -> Iterator[Body]:
    """One statement replaced, from the last; `types` are those of the program's names."""
    for i in reversed(range(len(body.statements))):
        statement = body.statements[i]
        before, after = body.statements[:i], body.statements[i + 1 :]
        if not {name for name, _ in outs(statement)} & free(replace(body, statements=after)):
            yield replace(body, statements=(*before, *after))
        for instead in _constants(statement):
            yield replace(body, statements=(*before, *instead, *after))
        if isinstance(statement, Let):
            for name in (n for n in statement.args if types.get(n) == statement.type):
                rest = Body(body.params, after, body.results)
                rest = _renamed(rest, {statement.out: name})
                yield replace(rest, statements=(*before, *rest.statements))
        if isinstance(statement, Block) and statement.kind != "bound":
            for block in _smaller_block(statement, types):
                yield replace(body, statements=(*before, block, *after))


def _constants(statement: Any) -> Iterator[list[Let]]:
    names = outs(statement)
    constants = [_constant(name, t) for name, t in names]
    if names and constants != [statement]:
        yield constants
    if isinstance(statement, Draw) and statement.estimator not in ("", "Enumerate()"):
        yield [replace(statement, estimator="Enumerate()")]


def _constant(name: str, t: Type) -> Let:
    if t.real and not t.shape:
        return Let(name, t, "number", (), (0.5,))
    if t.real:
        return Let(name, t, "constant", (), (t.shape, 0.5))
    return Let(name, t, "integer zeros", (), (t.shape, t.size))


def _smaller_block(block: Block, types: Mapping[str, Type]) -> Iterator[Block]:
    for i, inner in enumerate(block.bodies):
        for body in _smaller(inner, types):
            yield replace(block, bodies=(*block.bodies[:i], body, *block.bodies[i + 1 :]))
    if block.kind in ("jit", "checkpoint", "vmap", "map"):
        for i in (i for i, name in enumerate(block.args) if name in types):
            yield _without_argument(block, i, types[block.args[i]])


def _without_argument(block: Block, i: int, t: Type) -> Block:
    """With a constant for an argument of type `t`."""
    (body,) = block.bodies
    row = t if block.kind in ("jit", "checkpoint") else t._replace(shape=t.shape[1:])
    constant = _constant(body.params[i], row)
    params = (*body.params[:i], *body.params[i + 1 :])
    body = replace(body, params=params, statements=(constant, *body.statements))
    return replace(block, bodies=(body,), args=(*block.args[:i], *block.args[i + 1 :]))


def _renamed(body: Body, names: Mapping[str, str]) -> Body:
    """With other names for what it reads."""
    new = lambda name: names.get(name, name)

    def statement(s: Any) -> Any:
        if isinstance(s, Control):
            return replace(s, value=new(s.value))
        changed = replace(s, args=tuple(map(new, s.args)))
        if isinstance(s, Block):
            return replace(changed, bodies=tuple(_renamed(b, names) for b in s.bodies))
        return changed

    statements = tuple(map(statement, body.statements))
    return replace(body, statements=statements, results=tuple(map(new, body.results)))
