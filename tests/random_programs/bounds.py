"""Drawing bounds of a model's evidence: a model, and a guide of the same sites."""

from typing import Any

from .blocks import Blocks
from .families import EXACT
from .families import TABLE as FAMILIES
from .statements import Scope
from .syntax import Body, Draw, Type

BOUNDS = [
    ("elbo({0})", 1, 0.0),
    ("iwelbo({0}, 2)", 2, 1.0),
    ("renyi({0}, 0.5, 2)", 2, 0.5),
    ("renyi({0}, 2.0, 2)", 2, -1.0),
]
"""Each with its number of particles, and the order of the mean of their weights."""
VIMCO = ('iwelbo({0}, 2, gradient="vimco")', 2, 1.0)
SAMPLED = ["ScoreFunction()", "LeaveOneOut(2)", "DisArm()", "MeasureValued()"]
SCORE = ["ScoreFunction()"]


def bound(draw: Blocks, statements: list, scope: Scope) -> None:
    """A bound, as a statement."""
    static, estimators = draw.pick(BOUNDS), [EXACT[0]] if draw.estimators else SAMPLED
    if not draw.estimators and draw.coin(0.3):
        static, estimators = VIMCO, SCORE
    if draw.looping:
        estimators = SCORE
    shapes = [
        (draw.address(), draw.pick(["coin", "coin, logits"]), draw.pick([0, 0, 2]))
        for _ in range(draw.count(1, 2))
    ]
    bodies = [_joint(draw, scope, shapes, estimators, model) for model in (True, False)]
    draw.put(statements, scope, "bound", [Type()], bodies, (), static)


def _joint(draw: Blocks, scope: Scope, shapes: list, estimators: list[str], model: bool) -> Body:
    """A program of these sites, each of which reads the one before; a model has a datum at last."""
    inside, statements = list(scope), []
    reals = [name for name, t in scope if t == Type()]
    read = draw.pick(reals)
    for address, family, lanes in shapes:
        site = (address, family, "" if model else draw.pick(estimators))
        if lanes:
            drawn = _lanes(draw, statements, inside, read, site, lanes)
        else:
            drawn = _tied(draw, statements, inside, read, site)
        total = draw.scalar(statements, inside, drawn)
        read = draw.let(statements, inside, "add", [total, draw.pick(reals)])
    if model:
        address = draw.address()
        statements.append(Draw(draw.name(), Type(), address, "normal", (read,), obs=0.4))
    return Body((), tuple(statements), ())


def _tied(draw: Blocks, statements: list, scope: Scope, read: str, site: Any) -> str:
    """A site that reads a value."""
    address, family, estimator = site
    row = FAMILIES[family]
    x = draw.let(statements, scope, "affine", [read], (draw.number(), 0.1))
    x = draw.let(statements, scope, row.parameter, [x]) if row.parameter else x
    return draw.site(statements, scope, family, x, address, estimator)


def _lanes(draw: Blocks, statements: list, scope: Scope, read: str, site: Any, length: int) -> str:
    inside, own = list(scope), []
    drawn = _tied(draw, own, inside, read, site)
    body = Body((draw.name(),), tuple(own), (drawn,))
    types = [Type((length,), dict(inside)[drawn].size)]
    return draw.put(statements, scope, "vmap", types, [body], (), (length,))
