"""The estimator law in programs: in loops, and every estimator beside every other.

`make law` has them all, `make test` those that differ in mechanism.
"""

import jax
import pytest

from stdlib.testing import assert_unbiased
from tests.stdlib.contexts import in_one, lanes, steps
from tests.stdlib.pairs import BY_DEFAULT, IN_LOOPS, QUICK, parameters
from tests.stdlib.representatives import (
    OF_EACH_MECHANISM,
    REPRESENTATIVES,
    in_a_row,
    in_branches,
    mixed_lanes,
    mixed_steps,
    scaled,
)


@pytest.mark.parametrize(
    "pair",
    parameters([*BY_DEFAULT, *IN_LOOPS], {*QUICK, "NoneType-bernoulli-expanded"}),
)
def test_law_in_loops(pair):
    """In a `vmap` under `scale` and `mask`, and in a `scan`."""
    theta = pair.family.theta
    objective, exact, args = in_one({"lanes": (lanes(pair), theta), "steps": (steps(pair), theta)})
    count = 100_000 if pair.varies else 16
    key = jax.random.fold_in(pair.key, 1)
    assert_unbiased(objective, args, exact=exact, key=key, num_samples=count, tolerance=1e-4)


def of_two(first, others):
    contexts = {second.name: (in_a_row(first, second), 0.3) for second in others}
    objective, exact, args = in_one(contexts)
    key = first.key
    assert_unbiased(objective, args, exact=exact, key=key, num_samples=100_000, tolerance=1e-4)


@pytest.mark.law
@pytest.mark.parametrize("first", REPRESENTATIVES, ids=lambda site: site.id)
def test_law_upstream_of_every_other(first):
    of_two(first, REPRESENTATIVES)


@pytest.mark.parametrize("place", range(len(OF_EACH_MECHANISM)), ids=OF_EACH_MECHANISM)
def test_law_of_mechanisms_upstream_of_each_other(place):
    """Each upstream of itself and of half of the others."""
    of_each = [site for site in REPRESENTATIVES if site.id in OF_EACH_MECHANISM]
    of_two(of_each[place], (of_each[place:] + of_each[:place])[:4])


@pytest.mark.parametrize("site", parameters(REPRESENTATIVES, OF_EACH_MECHANISM))
def test_law_where_lanes_steps_and_branches_meet(site):
    makers = [mixed_lanes, mixed_steps, scaled, in_branches]
    objective, exact, args = in_one({make.__name__: (make(site), 0.3) for make in makers})
    assert_unbiased(objective, args, exact=exact, key=site.key, num_samples=100_000, tolerance=1e-4)
