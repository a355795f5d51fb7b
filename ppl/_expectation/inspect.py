"""Looking into an evaluation: for examples, and to see what a program becomes."""

from collections.abc import Callable
from typing import Any

import jax

from .._ir.stage import stage
from .._walk.restaged import separated
from .expectation import evaluated
from .interpret.evaluation import Evaluation
from .interpret.scope import Scope
from .terms.terms import Operand, Terms

__all__ = ["look_into"]


def look_into(program: Callable, *args: Any) -> tuple[list[Operand], Evaluation]:
    """The values that a program returns, over the particles they depend on; and the evaluation.

    The first of them is kept apart in terms, as an objective is. One key is used throughout.

    ```python
    >>> import ppl, numpyro.distributions as dist
    >>> from ppl._expectation.inspect import look_into
    >>> from stdlib.estimators import Enumerate
    >>> coin = lambda: ppl.sample("a", dist.Bernoulli(0.25), Enumerate())
    >>> ((term,), evaluation) = look_into(lambda: 2.0 * coin())
    >>> [t.val.array.tolist() for t in term], evaluation[0].weight.array.tolist()
    ([[0.0, 2.0]], [0.75, 0.25])

    ```
    """
    jaxpr, consts, _, _ = separated(stage(program, *args))
    (terms,), rest, evaluation = evaluated(jaxpr, consts, jax.random.key(0), Scope())
    return [Terms(terms), *rest], evaluation
