"""Variable elimination: sites are summed out one after the other, the last first."""

import functools
import itertools
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from ..interpret.evaluation import Evaluation
from ..terms.terms import Term, Terms, at_home, forget
from ..values.expansion import MixedSteps, fix
from ..values.lanes import as_exact, deps_of
from ..values.value import Value
from .factors import join_factors, unit
from .fold import fold
from .forward import meeting
from .plugin import Plugin
from .semiring import Semiring
from .weigh import axis_of, total_over, weigh


def eliminate(
    terms: Iterable[Term], evaluation: Evaluation, ring: Semiring, plugins: Sequence[Plugin] = ()
) -> jax.Array:
    """The total over all particles, and worlds, of an objective's terms and its sites' weights.

    In a linear ring it is Σ_terms ⊕_particles term ⊗ Π weights, of the sites and lanes that the
    term depends on; in another, ⊕_particles (Σ_terms term) ⊗ Π weights.

    Sites are summed out in reverse order. Only the terms that depend on a site meet its weights:
    for the others these total one (identically where `normalized`, else in expectation). What is
    left depends on earlier sites alone, and is merged with the terms that do so already, so a chain
    of T sites costs T such steps (the tower property).
    """
    return eliminate_each([terms], evaluation, ring, plugins)[0]


def eliminate_each(
    estimands: Sequence[Iterable[Term]],
    evaluation: Evaluation,
    ring: Semiring,
    plugins: Sequence[Plugin] = (),
) -> list[jax.Array]:
    """The total of the terms of each of several objectives, over the same particles.

    Each is what it is alone. What does not depend on the terms is computed once: in a linear ring,
    the rows of a chain.
    """
    evaluation = evaluation.summing_out()
    run = _Elimination(evaluation, ring, plugins)
    whole = ([at_home(term, evaluation) for term in terms] for terms in estimands)
    remaining, count = [Terms(run.start(terms)) for terms in whole], len(evaluation.opened)
    left_over = count
    while left_over:
        block = run.block(left_over, [term.val for terms in remaining for term in terms])
        left_over = block.start
        here, others = zip(*(terms.split(block) for terms in remaining), strict=True)
        # in a loop, weights depend on later sites of earlier steps, which are gone as well
        gone = range(block.start, count)
        left = ([forget(term, gone) for term in terms] for terms in run.leave(here, block))
        remaining = [Terms([*kept, *new]) for kept, new in zip(others, left, strict=True)]
    return [functools.reduce(jnp.add, (term.val.array for term in terms)) for terms in remaining]


class _Elimination(NamedTuple):
    """What is the same for all sites that are summed out."""

    evaluation: Evaluation
    ring: Semiring
    plugins: Sequence[Plugin]

    def start(self, terms: Iterable[Term]) -> Sequence[Term]:
        """The terms to begin with."""
        terms = list(terms)
        for plugin in self.plugins:
            terms = plugin.start(terms, self.evaluation)
        return terms

    def block(self, count: int, vals: Sequence[Value]) -> range:
        """Of the first sites, the last ones that are summed out together: a chain's, else one."""
        together = self.evaluation.ledger.together(count - 1)
        loop = range(together.start, count)
        return loop if self._is_chain(loop, vals) else range(count - 1, count)

    def _is_chain(self, sites: range, vals: Sequence[Value] = ()) -> bool:
        """Whether particles of a step meet those of another, in their weights or some values."""
        return bool(meeting([*vals, *(self.evaluation[n].weight for n in sites)], sites))

    def leave(self, here: Sequence[Sequence[Term]], block: range) -> Sequence[Sequence[Term]]:
        """What is left of the terms of each objective that depend on some sites.

        Where these turn out to be of a loop that has to be written out, the terms go on at its
        first particles, so that other such loops are found in the same evaluation.
        """
        try:
            return self.sum_out(here, block)
        except MixedSteps as found:
            ledger = self.evaluation.ledger
            ledger.mix(*found.loops)
            fixed = {*block, *ledger.in_mixed()}
            return [
                [term._replace(val=self._apart(fix(term.val, fixed))) for term in terms]
                for terms in here
            ]

    def _apart(self, val: Value) -> Value:
        """A value that is thrown away, as if of the lanes read by its steps each had its own."""
        ledger, is_chain = self.evaluation.ledger, self._is_chain
        kept = {n: r for n, r in val.relations.items() if is_chain(ledger.together(n), [val])}
        return val._replace(relations={**as_exact(deps_of(val)).relations, **kept})

    def sum_out(self, here: Sequence[Sequence[Term]], block: range) -> Sequence[Sequence[Term]]:
        """The terms of each objective that depend on some sites, with these summed out."""
        if not self.ring.balanced:
            one = unit(block.start, self.evaluation, self.ring)
            here = [terms or [one] for terms in here]
        if not self._is_chain(block, [term.val for terms in here for term in terms]):
            return [self._site(terms, block.start) for terms in here]
        if not self.ring.linear:
            return [self._fold(terms, block) for terms in here]
        here = [self._own_steps(terms, block) for terms in here]
        folded = iter(self._fold([term for terms in here for term in terms], block))
        return [list(itertools.islice(folded, len(terms))) for terms in here]

    def _fold(self, here: Sequence[Term], chain: range) -> Sequence[Term]:
        return fold(here, chain, self.evaluation, self.ring) if here else []

    def _own_steps(self, here: Sequence[Term], chain: range) -> Sequence[Term]:
        """Terms over the particles of their own step, summed over these: the rest of a chain."""
        for number in reversed(chain):
            own, others = Terms(here).split([number])
            here = list(Terms([*others, *self._site(own, number, own_step=True)]))
        return here

    def _site(self, here: Sequence[Term], number: int, own_step: bool = False) -> list[Term]:
        """The terms that depend on a site, summed over its particles; and what plug-ins add."""
        if not here:
            return []
        terms = here if self.ring.linear else [join_factors(here, number, self.evaluation)]
        met = [self._meet(term, number, own_step) for term in terms]
        for plugin in self.plugins:
            met.extend(plugin.more(here, number, self.evaluation))
        return met

    def _meet(self, term: Term, number: int, own_step: bool) -> Term:
        """The term times the weights of a site, summed over the particles of it that it has."""
        for plugin in self.plugins:
            if (met := plugin.meet(term, number, self.evaluation)) is not None:
                return met
        axis, ring = axis_of(term.val, number), self.ring.at(number)
        if axis is None and self._neutral(number):
            return term
        val = weigh(term.val, number, self.evaluation, ring, own_step)
        return term._replace(val=val if axis is None else total_over(val, axis, ring))

    def _neutral(self, number: int) -> bool:
        """Whether the weights of a site total one."""
        site = self.evaluation[number]
        if not site.axis:
            return self.evaluation.all_exact  # it has one value
        return site.normalized and self.ring.balanced
