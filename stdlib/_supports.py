"""Supports of distributions, compared while tracing: does one contain another?"""

from typing import Any, NamedTuple

from numpyro.distributions import biject_to, constraints

from ppl.extend import same_support

REAL, INTEGER = "real", "integer"


class Support(NamedTuple):
    """What is known of a support while tracing.

    - `family`: the name of its distribution.
    - `kind`: `"real"` or `"integer"` for what is given element by element, the name of a set of
      vectors or matrices, or None where it is unknown.
    - `low`, `high`: the bounds of the elements, None where they are not known.
    - `filled`: whether draws may be everywhere in it, as far as is known.
    - `written`: how one writes it; `event` how many dimensions a vector of it has.
    """

    family: str
    kind: str | None = None
    low: float | None = None
    high: float | None = None
    filled: bool = False
    written: str = "unknown"
    bijection: bool = False
    event: int = 0


def support_of(distribution: Any) -> Support:
    """The support of a distribution."""
    family = type(_unwrapped(distribution)).__name__
    whole = getattr(distribution, "support", None)
    support = _elementwise(whole)
    if not isinstance(support, constraints.Constraint):
        return Support(family)
    kind, low, high = _described(support)
    return Support(
        family,
        kind,
        low,
        high,
        _filled(distribution),
        _written(support),
        _has_bijection(support),
        getattr(whole, "event_dim", 0),
    )


def contains(outer: Support, inner: Support) -> bool | None:
    """Whether a support contains another, but for single points; None where that is not known."""
    known = _contains(outer, inner)
    if known is None or (known and outer.filled) or (not known and inner.filled):
        return known
    return None


def _contains(outer: Support, inner: Support) -> bool | None:
    if inner.kind is None and (outer.kind, outer.low, outer.high) == (REAL, *INFINITE):
        return True
    if outer.kind is None or inner.kind is None:
        return None
    if outer.kind == inner.kind and outer.kind not in (REAL, INTEGER):
        return True
    if outer.kind != inner.kind and outer.kind in WITHIN.get(inner.kind, ()):
        return True
    if outer.kind not in (REAL, INTEGER) or inner.kind not in (outer.kind, *OPEN):
        return False
    if inner.kind in OPEN and outer.kind == INTEGER:
        return False
    below, above = _at_least(inner.low, outer.low), _at_least(outer.high, inner.high)
    return False if False in (below, above) else None if None in (below, above) else True


def set_of_equations(distribution: Any) -> Any:
    """The support of one vector or matrix whose elements obey equations; None of any other."""
    support = _elementwise(getattr(distribution, "support", None))
    if not isinstance(support, constraints.Constraint):
        return None
    kind = _described(support)[0]
    return None if kind in (None, REAL, INTEGER, *OPEN) else support


def _at_least(one: float | None, other: float | None) -> bool | None:
    if other == -float("inf") or one == float("inf"):
        return True
    return None if one is None or other is None else one >= other


OPEN = ("ordered_vector", "positive_ordered_vector", "l1_ball")
"""Sets of vectors that have a volume: some real vectors, with no equation between the elements."""
WITHIN = {
    "positive_ordered_vector": ("ordered_vector",),
    "positive_definite": ("positive_semidefinite",),
}
"""Sets of vectors and matrices that contain others, of as many dimensions."""
SAME = {
    "softplus_lower_cholesky": "lower_cholesky",
    "scaled_unit_lower_cholesky": "lower_cholesky",
    "one_hot": "simplex",
}
"""Other names of one set; densities of one-hot vectors are formulas over the simplex."""
BOXES = {"positive_ordered_vector": (0.0, float("inf")), "l1_ball": (-1.0, 1.0)}
INFINITE = (-float("inf"), float("inf"))


def _described(support: Any) -> tuple[str | None, float | None, float | None]:
    """The kind of a support of one element, and its bounds."""
    if isinstance(support, constraints.multinomial):
        one = _number(support.upper_bound, None) == 1.0
        return ("simplex" if one else None), None, None
    if support is constraints.boolean:
        return INTEGER, 0.0, 1.0
    if support is constraints.real:
        return REAL, *INFINITE
    if hasattr(support, "lower_bound") or hasattr(support, "upper_bound"):
        low = _number(getattr(support, "lower_bound", -float("inf")), None)
        high = _number(getattr(support, "upper_bound", float("inf")), None)
        return (INTEGER if support.is_discrete else REAL), low, high
    name = _name(support)
    if name is None or name == "complex":
        return None, None, None
    return SAME.get(name, name), *BOXES.get(name, INFINITE)


def _number(x: Any, default: Any) -> float | None:
    return float(x) if isinstance(x, int | float) else default


def _name(support: Any) -> str | None:
    """The name of a constraint without parameters."""
    return next((n for n in constraints.__all__ if getattr(constraints, n) is support), None)


def _written(support: Any) -> str:
    if (name := _name(support)) is not None:
        return name
    maker = next((n for n in constraints.__all__ if getattr(constraints, n) is type(support)), None)
    bounds = [getattr(support, n) for n in ("lower_bound", "upper_bound") if hasattr(support, n)]
    shown = [str(x) if isinstance(x, int | float) else "..." for x in bounds]
    return f"{maker}({', '.join(shown)})" if maker and bounds else type(support).__name__


def _has_bijection(support: Any) -> bool:
    try:
        biject_to(support)
    except NotImplementedError:
        return False
    return True


def _elementwise(support: Any) -> Any:
    """The support of one element, or of one vector, of a batch."""
    while hasattr(support, "base_constraint"):
        support = support.base_constraint
    return support


def _unwrapped(distribution: Any) -> Any:
    """The distribution without what repeats, masks or joins it: that has the support of its base.

    FlowJAX's transformed distributions state none.
    """
    while hasattr(distribution, "base_dist") and not hasattr(distribution, "transforms"):
        parts = distribution, distribution.base_dist
        own, inner = (_elementwise(getattr(part, "support", None)) for part in parts)
        if own is None or own is not inner:
            break
        distribution = distribution.base_dist
    return distribution


def _filled(distribution: Any) -> bool:
    """Whether draws may be anywhere in the support.

    A point mass is at one place of it. A transform says where it maps all of its domain to, of
    which the values that it maps may be a part.
    """
    if hasattr(distribution, "transforms"):
        base = distribution.base_dist
        return same_support(base.support, distribution.transforms[0].domain) and _filled(base)
    base = getattr(distribution, "base_dist", None)
    pointed = hasattr(distribution, "log_density") and hasattr(distribution, "v")  # dist.Delta
    return not pointed and (base is None or _filled(base))
