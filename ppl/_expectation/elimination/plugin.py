"""What estimators add to elimination, apart from weights."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from ..interpret.evaluation import Evaluation
from ..sites import baseline
from ..terms.terms import Term
from ..values.value import union_sites


def _as_they_are(terms: Sequence[Term], evaluation: Evaluation) -> Sequence[Term]:
    return terms


def _by_weights(term: Term, number: int, evaluation: Evaluation) -> Term | None:
    return None


def _no_more(here: Sequence[Term], number: int, evaluation: Evaluation) -> Sequence[Term]:
    return ()


class Plugin(NamedTuple):
    """What some sites do otherwise, or besides, when they are summed out.

    - `start(terms, evaluation)`: the terms to begin with.
    - `meet(term, number, evaluation)`: a term with a site summed out; None where the site is summed
      out as others are, by its weights.
    - `more(here, number, evaluation)`: terms to be added, made of those that meet a site's weights.
    """

    start: Callable[[Sequence[Term], Evaluation], Sequence[Term]] = _as_they_are
    meet: Callable[[Term, int, Evaluation], Term | None] = _by_weights
    more: Callable[[Sequence[Term], int, Evaluation], Sequence[Term]] = _no_more


def baselines(minimized: bool) -> Plugin:
    """Baselines that the objective gives, and those that are learnt from what they are taken off.

    An objective takes off those of the sites that it depends on, each learnt from its own costs, as
    the estimate is maximised, or `minimized`.
    """

    def start(terms, evaluation):
        opened, read = enumerate(evaluation.opened), union_sites(term.val for term in terms)
        given = [
            baseline.give(site.given, number, evaluation)
            for number, site in opened
            if site.given is not None and read >> number & 1
        ]
        return [*terms, *given]

    def more(here, number, evaluation):
        if evaluation[number].baseline is None:
            return ()
        return (baseline.learn(here, number, evaluation, minimized),)

    return Plugin(start=start, more=more)
