"""Evaluating a jaxpr: equations, control flow, loops."""
