"""Values over named particle axes, and their provenance."""
