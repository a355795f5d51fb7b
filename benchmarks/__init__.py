"""Comparisons with hand-written JAX and with peers; see `results.md`."""
