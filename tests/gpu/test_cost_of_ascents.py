"""What the ascent of ZSharp may cost on a GPU above SAM's, on one device and on eight."""

import functools
import math

import launches
import needs
import networks
import pytest

from zsharp_jax._selection._rows import Rows

pytestmark = needs.gpu_programs

TRANSFORMER, VGG = "vit_7_8_8_384", "vgg16_bn"
CASES = [(TRANSFORMER, "one"), (TRANSFORMER, "replicated"), (VGG, "one")]
LAUNCHES = 100
FOR_STATISTICS = 3  # all-reduces: for means, and for whether anything is kept


@functools.cache
def ascent(network, name, layout):
    training = networks.training_shapes(network)
    return launches.ascent_costs(training, name, layout, quick=True)


@pytest.mark.parametrize("network, layout", CASES)
def test_it_launches_little_more(network, layout):
    sam, zsharp = (ascent(network, name, layout) for name in ("sam", "zsharp"))
    assert zsharp.launches - sam.launches <= LAUNCHES, (sam, zsharp)


def test_sharded_parameters_are_not_gathered_and_a_pass_makes_one_all_reduce():
    sam, zsharp = (ascent(TRANSFORMER, name, "fsdp") for name in ("sam", "zsharp"))
    filtered = [leaf.size for leaf in networks.filtered_shapes(TRANSFORMER)]
    assert zsharp.largest_gathered < min(filtered), zsharp
    passes = math.ceil(31 / Rows.bits_a_pass)
    assert zsharp.all_reduces - sam.all_reduces <= passes + FOR_STATISTICS, (sam, zsharp)
    # A quarter of what SAM's whole step launches, 1,996, is far more.
    assert zsharp.launches - sam.launches <= 2 * LAUNCHES, (sam, zsharp)
