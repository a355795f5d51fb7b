"""Gradient estimation: objective programs become unbiased, differentiable estimators.

`values` has arrays over named particle axes; `sites`, what a site becomes; `terms`, the additive
terms of an objective; `interpret`, the evaluation of a jaxpr; `elimination`, the sum over all
particles; `expectation` the transformation users call.
"""

from .expectation import estimator, expectation, log_expectation

__all__ = ["estimator", "expectation", "log_expectation"]
