"""Gradient estimation: objective programs become unbiased, differentiable estimators.

Read in this order; each folder has a page of prose and an example, the same in all.

- `values`: arrays over the particles that they read, and how functions are applied to them.
- `sites`: what a site becomes: its measure, and what it leaves for the sum over its particles.
- `terms`: the addends of an objective, kept apart by what they depend on.
- `interpret`: the evaluation of a jaxpr over all these: equations, branches, loops.
- `elimination`: the sum over all particles.

`expectation` has the transformations that users call, `inspect` what an evaluation looks like.
"""

from .expectation import estimator, expectation, log_expectation

__all__ = ["estimator", "expectation", "log_expectation"]
