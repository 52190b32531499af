"""The authors' arrays of a ResNet as the variables of ours."""

from ports import Port, flax_array, golden

from zsharp_jax.models import MODELS

GOLDEN = golden("resnet8")


def golden_variables(prefix):
    """PyTorch's arrays under PREFIX as the port's variables; missing kinds are left out."""
    params, statistics = {}, {}

    def layer(ours, theirs, kinds, into):
        for kind, key in kinds.items():
            if f"{prefix}/{theirs}.{key}" in GOLDEN:
                into.setdefault(ours, {})[kind] = flax_array(GOLDEN[f"{prefix}/{theirs}.{key}"])

    blocks = {"": ""} | {f"BasicBlock_{i}": f"layer{i + 1}.0." for i in range(3)}
    for ours, theirs in blocks.items():
        own_params = params if not ours else params.setdefault(ours, {})
        own_statistics = statistics if not ours else statistics.setdefault(ours, {})
        for i in range(2):
            layer(f"Conv_{i}", f"{theirs}conv{i + 1}", {"kernel": "weight"}, own_params)
            norm = f"BatchNorm_{i}"
            layer(norm, f"{theirs}bn{i + 1}", {"scale": "weight", "bias": "bias"}, own_params)
            kinds = {"mean": "running_mean", "var": "running_var"}
            layer(norm, f"{theirs}bn{i + 1}", kinds, own_statistics)
    layer("Dense_0", "fc", {"kernel": "weight", "bias": "bias"}, params)
    return {"params": params, "batch_stats": statistics}


PORT = Port(
    MODELS["resnet8"](num_classes=10),
    GOLDEN,
    golden_variables,
    pixels=lambda path: 32 >> (int(path[0].key[-1]) if "Block" in path[0].key else 0),
)
