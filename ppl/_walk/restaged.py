"""Staged programs with their sites put otherwise, as `expectation` needs them."""

from collections.abc import Iterator
from typing import Any

from .._ir.call import call_of
from .._ir.compound import Compound, compounds
from .._ir.estimator import estimator_at, scores_as_it_draws
from .._ir.site import Site
from .._ir.stage import Staged, stage
from .._jax import equations
from .._jax.control_flow import bodies
from .feed import Nothing
from .record import Record
from .walker import Meaning, walk


def expanded(staged: Staged) -> Staged:
    """A staged program in which compound sites are plain ones, those of their own plain runs."""
    if next(compounds(staged.jaxpr), None) is None:
        return staged

    def meaning(call, feed):
        if isinstance(call, Compound):
            if call.is_observed:
                return call.data(), Record()
            body = stage(call.forward)
            return walk(body.jaxpr, body.consts, [], meaning, feed)
        return call.bind(), Record()

    return _restaged(staged, meaning)


def _restaged(staged: Staged, meaning: Meaning) -> Staged:
    """A staged program with its sites as a meaning emits them again."""
    outs = lambda: walk(staged.jaxpr, staged.consts, [], meaning, Nothing())[0]  # noqa: E731
    again = stage(outs)
    return Staged(again.jaxpr, again.consts, staged.rebuild, staged.name)


def separated(staged: Staged) -> Staged:
    """A staged program in which no site scores its draws but those whose particle is a plain draw.

    The others are scored after, as given values are: they may be particles.
    """
    if all(map(_scores_as_it_draws, sample_equations(staged.jaxpr))):
        return staged

    def meaning(call, feed):
        if call.site.scores is not None and not scores_as_it_draws(estimator_at(call)):
            call = call.with_sites(Site.unscored)
        return call.bind(), Record()

    return _restaged(staged, meaning)


def _scores_as_it_draws(eqn: Any) -> bool:
    if eqn.params["site"].scores is None:
        return True
    return scores_as_it_draws(estimator_at(call_of(eqn)))


def sample_equations(jaxpr: Any) -> Iterator[Any]:
    """The `sample` equations of a jaxpr, those of its bodies included."""
    for eqn in filter(equations.has_sites, jaxpr.eqns):
        if equations.kind(eqn) == "sample":
            yield eqn
        else:
            for body in bodies(eqn):
                yield from sample_equations(body)
