"""The exact evidence of a model, held against that by hand."""

import jax
import numpy as np

import ppl
from stdlib.inference import Exact


def exactly(model, x):
    return lambda t: ppl.log_density(ppl.marginal(model, "x", Exact()), {"x": x}, t)


def assert_evidence(model, by_hand, x, atol):
    """In value and gradient, at 0.8."""
    both = exactly(model, x), lambda t: by_hand(t, x)
    found, exact = (jax.jit(jax.value_and_grad(f))(0.8) for f in both)
    np.testing.assert_allclose(found, exact, rtol=1e-4, atol=atol)
