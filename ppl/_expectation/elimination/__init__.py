"""Summing out particles: semirings, the forward recursion, contraction."""
