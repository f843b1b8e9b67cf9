"""Applications that several servers serve."""
