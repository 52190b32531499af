"""What a step tells about itself, whichever way it is taken."""

from typing import Any, NamedTuple

import jax


class SamInfo(NamedTuple):
    """What one step tells about itself; the next step never needs it.

    With `groups`, losses and norms are means over the groups.

    Attributes:
        loss: The clean loss, at w, a scalar. None with `one_pass`, which does not evaluate it.
        sharp_loss: The loss at w + ε on the same inputs, a scalar.
        gradient_norm: ||g||, the L2 norm of the gradient at w over all parameters, a scalar in
            float32 at least. None with `one_pass`.
        perturbation_norm: ||ε||, the L2 norm of the perturbation over all parameters, likewise.
        aux: What the loss function returned beside the loss at w, or at w + ε with `one_pass`;
            None without `has_aux`.
        skips: How many steps have been skipped; None unless `sam_step` has `skip_nonfinite`.
        clean_gradients: g; None unless `sharp_value_and_grad` has `keep_gradients`, and with
            `one_pass`.
        perturbation: ε; None unless `sharp_value_and_grad` has `keep_gradients`.
        sharp_aux: aux at w + ε, of the whole batch; None unless `ascent_share` is below 1.
    """

    loss: Any
    sharp_loss: jax.Array
    gradient_norm: Any
    perturbation_norm: jax.Array
    aux: Any
    skips: Any = None
    clean_gradients: Any = None
    perturbation: Any = None
    sharp_aux: Any = None


def loss_and_aux(value: Any, has_aux: bool) -> tuple[jax.Array, Any]:
    """What a loss function returned, as a pair in any case."""
    return value if has_aux else (value, None)
