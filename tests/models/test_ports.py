"""Every port gives the original's numbers: logits, loss, gradients, statistics."""

import numpy as np
import pytest
import resnet_port
import vgg_port
import vit_port
from ports import assert_close, expected_statistics, training_pass

PORTS = {"resnet": resnet_port.PORT, "vgg": vgg_port.PORT, "vit": vit_port.PORT}


@pytest.fixture(scope="module", params=PORTS.values(), ids=PORTS)
def port(request):
    return request.param


@pytest.fixture(scope="module")
def trained(port):
    return training_pass(port)


def test_evaluation_logits(port):
    logits = port.model.apply(port.variables("state"), port.numbers["input"], train=False)
    assert_close(logits, port.numbers["logits_eval"])


def test_training_logits_loss_and_gradients(port, trained):
    (loss, (logits, _)), gradients = trained
    assert_close(logits, port.numbers["logits_train"])
    np.testing.assert_allclose(loss, port.numbers["loss_train"], rtol=1e-4)

    expected = port.variables("grad")["params"]
    for path in port.unseen:
        found_layer, layer = gradients, expected
        for key in path:
            found_layer, layer = found_layer[key], layer[key]
        most = 1e-4 * np.max(np.abs(layer["kernel"]))
        assert max(np.max(np.abs(each.pop("bias"))) for each in (found_layer, layer)) < most
    assert_close(gradients, expected)


def test_batch_statistics_after_a_pass(port, trained):
    (_, (_, found)), _ = trained
    if port.pixels is None:
        assert found == {}
    else:
        assert_close(found, expected_statistics(port))
