"""The additive terms of an objective."""
