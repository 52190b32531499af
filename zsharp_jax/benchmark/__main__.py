"""`python -m zsharp_jax.benchmark` is `zsharp-bench`."""

from zsharp_jax.benchmark.cli import main

main()
