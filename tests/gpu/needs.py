"""What some tests of this folder need."""

import described_gpu
import pytest

_WHY_NOT = described_gpu.why_not()
# Compiling for a GPU takes a plugin of JAX, 1.4 GB of Linux wheels that the README's test command
# does not install. The gate installs it, and fails if it is missing, so there nothing is skipped.
gpu_programs = pytest.mark.skipif(_WHY_NOT is not None, reason=str(_WHY_NOT))
