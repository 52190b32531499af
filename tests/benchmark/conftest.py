"""Under the name resnet8 the tests of the benchmark train a network that compiles in no time."""

import pytest
from tiny import SMALL_RESNET

from zsharp_jax.models import MODELS


@pytest.fixture(autouse=True, scope="module")
def _small_resnet():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(MODELS, "resnet8", SMALL_RESNET)
        yield
