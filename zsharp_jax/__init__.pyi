"""Sharpness-aware minimisation with z-score gradient filtering, as Optax transformations."""

from zsharp_jax import sharpness as sharpness
from zsharp_jax._ascents import asam as asam
from zsharp_jax._ascents import friendly_sam as friendly_sam
from zsharp_jax._ascents import masked_ascent as masked_ascent
from zsharp_jax._ascents import periodic_rho as periodic_rho
from zsharp_jax._ascents import sam as sam
from zsharp_jax._ascents import scale_to_norm as scale_to_norm
from zsharp_jax._ascents import unified_sam as unified_sam
from zsharp_jax._ascents import vasso as vasso
from zsharp_jax._ascents import zsharp as zsharp
from zsharp_jax._ascents import zsharp_reference as zsharp_reference
from zsharp_jax._info import SamInfo as SamInfo
from zsharp_jax._links import look_back as look_back
from zsharp_jax._links import mix_gradients as mix_gradients
from zsharp_jax._links import surrogate_gap as surrogate_gap
from zsharp_jax._mean_gradient import mean_value_and_grad as mean_value_and_grad
from zsharp_jax._selection import magnitude_filter as magnitude_filter
from zsharp_jax._selection import zscore_filter as zscore_filter
from zsharp_jax._sharp_gradient import sharp_value_and_grad as sharp_value_and_grad
from zsharp_jax._sharpness_aware import sharpness_aware as sharpness_aware
from zsharp_jax._skips import Skips as Skips
from zsharp_jax._step import SamState as SamState
from zsharp_jax._step import init_state as init_state
from zsharp_jax._step import sam_step as sam_step

__version__: str
