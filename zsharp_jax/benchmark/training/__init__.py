"""Trains runs: the compiled program, the loop, checkpoints, and what is shown meanwhile."""
