"""Ascents: transformations from the gradient at w to the perturbation that is *added* to w.

Each is a chain of small pieces. `sam` brings a gradient to length rho; `zsharp` filters it first;
`friendly_sam` subtracts its running mean first; `asam` measures the length in units of the weights.

    sam(rho)          = scale_to_norm(rho)
    zsharp(rho)       = chain(zscore_filter(quantile), scale_to_norm(rho))
    friendly_sam(rho) = chain(subtract the running mean, scale_to_norm(rho))
    asam(rho)         = chain(times T, scale_to_norm(rho), times T)

(If the filter keeps nothing, `zsharp` takes the whole gradient: eq. 4.) `zsharp_reference` is no
such chain: the authors' code scales some tensors by their own norms and some by that of the whole
gradient.

A gradient of zero gives a perturbation of zero, and a negative value of a rho schedule counts as 0.
"""

from zsharp_jax._ascents._asam import asam as asam
from zsharp_jax._ascents._masked import masked_ascent as masked_ascent
from zsharp_jax._ascents._momentum import friendly_sam as friendly_sam
from zsharp_jax._ascents._momentum import vasso as vasso
from zsharp_jax._ascents._periodic import periodic_rho as periodic_rho
from zsharp_jax._ascents._sam import sam as sam
from zsharp_jax._ascents._sam import unified_sam as unified_sam
from zsharp_jax._ascents._scale import scale_to_norm as scale_to_norm
from zsharp_jax._ascents._zsharp import zsharp as zsharp
from zsharp_jax._ascents._zsharp import zsharp_reference as zsharp_reference
