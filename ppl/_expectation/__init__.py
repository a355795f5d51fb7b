"""Gradient estimation: objective programs become unbiased, differentiable estimators.

`value` has values over named particle axes; `lanes` and `dimensions` their provenance, dimension by
dimension; `evaluation` what an evaluation carries along; `measure` and `site` the particles of one
site; `terms` and `linear` the additive terms of an objective; `evaluate`, with `control_flow`,
`scan` and `steps`, the interpretation of a jaxpr; `contract` and `log_sum`, with `weigh` and
`chain`, the sum over all particles; `expectation` the transformation users call.
"""

from .expectation import estimator, expectation, log_expectation

__all__ = ["estimator", "expectation", "log_expectation"]
