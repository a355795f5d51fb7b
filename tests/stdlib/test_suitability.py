"""Every estimator with every family: in the registry, or refused by name."""

import jax
import jax.numpy as jnp
import pytest

import ppl
from ppl.errors import UnsuitableEstimator
from stdlib.estimators import GumbelSoftmax, StraightThrough
from stdlib.estimators._elements import elements
from tests.stdlib.families import FAMILIES
from tests.stdlib.pairs import ESTIMATORS, FLOAT_COINS, OF_TRACED_SIZE, PAIRS, RELAXED


def distribution_of(family):
    theta = jax.tree.map(lambda x: jnp.asarray(x, jnp.result_type(float)), family.theta)
    return family.make(theta)


def kind(family):
    """The class of a distribution's elements, and whether several are one event."""
    inside = elements(distribution_of(family))
    return type(inside.base).__name__, inside.event_dims > 0


def registered(estimator):
    """The kinds of distribution that the registry has with an estimator."""
    return {kind(pair.family) for pair in PAIRS if type(pair.estimator) is type(estimator)}


KINDS = {kind(family): (name, family) for name, family in FAMILIES.items()}
BIASED = [GumbelSoftmax(), StraightThrough()]


@pytest.mark.parametrize("estimator", [*ESTIMATORS, *BIASED], ids=lambda e: type(e).__name__)
def test_pairs_are_in_the_registry_or_refused(estimator):
    if estimator.unbiased:
        tested = registered(estimator)
    else:
        tested = {kind(FAMILIES[name]) for name in (*RELAXED, *FLOAT_COINS)}
    for name, family in FAMILIES.items():
        distribution = distribution_of(family)
        reason = estimator.unsuitable(distribution)
        if reason is None:
            assert kind(family) in tested, f"{name} is accepted, and not in the registry"
            continue

        def objective(distribution=distribution):
            return jnp.sum(1.0 * ppl.sample("the/site", distribution, estimator))

        with pytest.raises(UnsuitableEstimator) as failure:
            ppl.expectation(objective, allow_biased=True)(jax.random.key(0))
        for part in ("'the/site'", type(estimator).__name__, type(distribution).__name__, reason):
            assert part in str(failure.value)


@pytest.mark.parametrize("pair", OF_TRACED_SIZE, ids=lambda pair: pair.id)
def test_supports_of_traced_size_are_refused(pair):
    def program(t):
        def step(shift, _):
            x = ppl.sample("x", pair.family.make(t + shift), pair.estimator)
            return shift, jnp.sum(1.0 * x)

        return jnp.sum(jax.lax.scan(step, 0.1, None, length=2)[1])

    with pytest.raises(UnsuitableEstimator, match=r"'x'.*size of its support depends on traced"):
        ppl.expectation(program)(jax.random.key(0), jnp.asarray(pair.family.theta, jnp.float32))
