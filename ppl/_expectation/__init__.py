"""Gradient estimation: objective programs become unbiased, differentiable estimators.

`value` has values over named particle axes; `terms` additive terms and their contraction;
`linear` the linear tail of an objective; `measure` the particles of one site; `context` what an
evaluation carries along; `control_flow` and `evaluate` the interpretation of a jaxpr;
`expectation` the transformation users call.
"""

from .expectation import estimator, expectation, log_expectation

__all__ = ["estimator", "expectation", "log_expectation"]
