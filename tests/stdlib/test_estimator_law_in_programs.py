"""The estimator law in programs: in loops, and every estimator beside every other.

With `LAW=whole` (`make law`) every pair is in loops, else of each estimator a family of each shape.
"""

import os

import jax
import pytest

from stdlib.testing import assert_unbiased
from tests.stdlib.contexts import in_one, lanes, steps
from tests.stdlib.pairs import BY_DEFAULT, IN_LOOPS, OF_EACH_SHAPE
from tests.stdlib.representatives import (
    REPRESENTATIVES,
    in_a_row,
    in_branches,
    mixed_lanes,
    mixed_steps,
    scaled,
)

LOOPS = BY_DEFAULT + (IN_LOOPS if os.environ.get("LAW") == "whole" else OF_EACH_SHAPE)


@pytest.mark.parametrize("pair", LOOPS, ids=lambda pair: pair.id)
def test_law_in_loops(pair):
    """In a `vmap` under `scale` and `mask`, and in a `scan`."""
    theta = pair.family.theta
    objective, exact, args = in_one({"lanes": (lanes(pair), theta), "steps": (steps(pair), theta)})
    count = 100_000 if pair.varies else 16
    key = jax.random.fold_in(pair.key, 1)
    assert_unbiased(objective, args, exact=exact, key=key, num_samples=count, tolerance=1e-4)


@pytest.mark.parametrize("first", REPRESENTATIVES, ids=lambda site: site.id)
def test_law_upstream_of_every_other(first):
    contexts = {second.name: (in_a_row(first, second), 0.3) for second in REPRESENTATIVES}
    objective, exact, args = in_one(contexts)
    assert_unbiased(
        objective, args, exact=exact, key=first.key, num_samples=100_000, tolerance=1e-4
    )


@pytest.mark.parametrize("site", REPRESENTATIVES, ids=lambda site: site.id)
def test_law_where_lanes_steps_and_branches_meet(site):
    makers = [mixed_lanes, mixed_steps, scaled, in_branches]
    objective, exact, args = in_one({make.__name__: (make(site), 0.3) for make in makers})
    assert_unbiased(objective, args, exact=exact, key=site.key, num_samples=100_000, tolerance=1e-4)
