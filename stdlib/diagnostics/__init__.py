"""Diagnostics: what an estimate is worth, before and while it is used."""

from .gradient_report import GradientReport, gradient_report

__all__ = ["GradientReport", "gradient_report"]
