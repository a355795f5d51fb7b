"""The meanings of a program: to draw, to score, to rewrite, to list."""
