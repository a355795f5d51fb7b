"""The demonstration, `python -m stdlib.demo`: real digits, and a posterior on a ring."""
