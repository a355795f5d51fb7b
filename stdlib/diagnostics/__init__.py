"""Diagnostics: what an estimate is worth, before and while it is used."""

from .elbo_terms import elbo_terms
from .gradient_report import GradientReport, gradient_report

__all__ = ["GradientReport", "elbo_terms", "gradient_report"]
