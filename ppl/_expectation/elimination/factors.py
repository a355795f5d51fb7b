"""Terms as factors: where totals are not linear, all that depend on a site are one."""

from collections.abc import Sequence

import jax.numpy as jnp

from ..interpret.evaluation import Evaluation
from ..terms.terms import Term, Terms, add_up, collapse
from ..values.value import Value
from .semiring import Semiring
from .weigh import identity


def unit(number: int, evaluation: Evaluation, ring: Semiring) -> Term:
    """The factor one, `(*lanes,)`, as a term of each lane of a site."""
    sizes = evaluation[number].lane_sizes
    relations = {number: identity(len(sizes))} if sizes else {}
    return Term(Value(jnp.full(sizes, ring.one), (), 1 << number, relations), len(sizes))


def join_factors(terms: Sequence[Term], number: int, evaluation: Evaluation) -> Term:
    """All the terms as one: lane by lane where they keep the same lanes of a site apart."""
    first = terms[0]
    relation = first.val.relations.get(number)
    whole = relation is not None and len([a for a in relation if a]) == first.lanes_to_sum
    same = (first.lanes_to_sum, relation)
    if whole and all((t.lanes_to_sum, t.val.relations.get(number)) == same for t in terms):
        return Term(add_up([term.val for term in terms], evaluation), first.lanes_to_sum)
    return Term(sum_up(terms, evaluation))


def sum_up(terms: Sequence[Term], evaluation: Evaluation) -> Value:
    """The sum of the terms, over their lanes as well."""
    return add_up([collapse(Terms([term]), evaluation) for term in terms], evaluation)
