"""How sharp the solutions of runs are: numbers for a file, and slices of the loss for pictures."""
