"""Every ascent, by its name, as a function of rho: what all laws of ascents go through."""

from zsharp_jax import asam, friendly_sam, sam, unified_sam, vasso, zsharp, zsharp_reference

ASCENTS = {
    "sam": sam,
    "asam": asam,
    "friendly_sam": friendly_sam,
    "unified_sam": unified_sam,
    "vasso": vasso,
    "zsharp": zsharp,
    "zsharp_reference": zsharp_reference,
}
