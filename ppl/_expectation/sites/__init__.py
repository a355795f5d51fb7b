"""What a site becomes: its measure, weights, baselines and controls."""
