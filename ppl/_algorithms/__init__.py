"""Densities by estimate: algorithms, and the programs whose densities they give."""
