"""Which entries of a gradient stand out."""

from zsharp_jax._selection._filter import magnitude_filter as magnitude_filter
from zsharp_jax._selection._filter import zscore_filter as zscore_filter
from zsharp_jax._selection._threshold import Scope as Scope
