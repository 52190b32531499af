"""The command `zsharp-bench`: trains the paper's methods side by side and tells how they
compare."""
