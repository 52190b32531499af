"""The commands of `zsharp-bench`, a file each."""
