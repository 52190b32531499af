"""The authors' arrays of a VGG as the variables of ours."""

from ports import Port, flax_array, golden

from zsharp_jax.models.vgg import VGG

GOLDEN = golden("vgg_tiny")
STAGES = ((8,), (16,), (24, 24), (32,), (32,))
PIXELS = [32 >> stage for stage, widths in enumerate(STAGES) for _ in widths]
CONVOLUTIONS = (0, 4, 8, 11, 15, 19)  # where they lie in PyTorch's Sequential; its norms follow


def golden_variables(prefix):
    """PyTorch's arrays under PREFIX as the port's variables."""
    array = lambda key: flax_array(GOLDEN[f"{prefix}/{key}"])  # noqa: E731
    params, statistics = {}, {}
    for i, at in enumerate(CONVOLUTIONS):
        conv, norm = f"features.{at}", f"features.{at + 1}"
        if prefix != "after":
            kernel, bias = array(f"{conv}.weight"), array(f"{conv}.bias")
            params[f"Conv_{i}"] = {"kernel": kernel, "bias": bias}
            scale, bias = array(f"{norm}.weight"), array(f"{norm}.bias")
            params[f"BatchNorm_{i}"] = {"scale": scale, "bias": bias}
        if prefix != "grad":
            mean, var = array(f"{norm}.running_mean"), array(f"{norm}.running_var")
            statistics[f"BatchNorm_{i}"] = {"mean": mean, "var": var}
    if prefix != "after":
        head = {"kernel": array("classifier.weight"), "bias": array("classifier.bias")}
        params["Dense_0"] = head
    return {"params": params, "batch_stats": statistics}


PORT = Port(
    VGG(STAGES, num_classes=10),
    GOLDEN,
    golden_variables,
    pixels=lambda path: PIXELS[int(path[0].key.removeprefix("BatchNorm_"))],
    # BatchNorm takes the mean away, and with it any bias before it.
    unseen=tuple((f"Conv_{i}",) for i in range(len(CONVOLUTIONS))),
)
