"""Training for a fixed number of steps, and scoring."""
