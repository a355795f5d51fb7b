"""Models whose answers are known, for examples, tests and benchmarks."""

from . import air, digit_vae, eight_schools, hidden_markov, linear_regression, noisy_cone

__all__ = ["air", "digit_vae", "eight_schools", "hidden_markov", "linear_regression", "noisy_cone"]
