"""How sharp a minimum is: curvature, the loss around it, and slices to draw.

Every function but `filter_normalized` takes a loss function, the parameters and its inputs, and
compiles once for each loss function, shape and setting. The parameters may be sharded: no tensor is
gathered. A loss function that is changed in place gives its old values: make a new one. What it
closes over stays in memory until `jax.clear_caches()`: hand arrays over as inputs.

Sharpness is not generalisation. It follows the learning rate at least as closely as it follows the
test error (Andriushchenko et al., 2023), and where the loss does not change when weights are
scaled, as under normalisation layers, eigenvalues of networks with other norms of their weights
cannot be compared.

References:
    Andriushchenko et al., A Modern Look at the Relationship between Sharpness and Generalization,
    ICML 2023.
"""

from zsharp_jax.sharpness._average_loss import average_loss as average_loss
from zsharp_jax.sharpness._estimate import Estimate as Estimate
from zsharp_jax.sharpness._slices import filter_normalized as filter_normalized
from zsharp_jax.sharpness._slices import loss_along as loss_along
from zsharp_jax.sharpness._spectrum import Spectrum as Spectrum
from zsharp_jax.sharpness._spectrum import hessian_spectrum as hessian_spectrum
from zsharp_jax.sharpness._trace import hessian_trace as hessian_trace
from zsharp_jax.sharpness._worst_loss import worst_loss as worst_loss
