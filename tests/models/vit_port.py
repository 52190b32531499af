"""The authors' arrays of a vision transformer as the variables of ours."""

from ports import Port, flax_array, golden

from zsharp_jax.models.vit import ViT

GOLDEN = golden("vit_tiny")
MODEL = ViT(layers=2, width=48, heads=4, mlp_width=96, num_classes=10)


def golden_variables(prefix):
    """PyTorch's arrays under PREFIX as the port's variables."""
    array = lambda key: GOLDEN[f"{prefix}/{key}"]  # noqa: E731

    def dense(key):
        return {"kernel": flax_array(array(f"{key}.weight")), "bias": array(f"{key}.bias")}

    def norm(key):
        return {"scale": array(f"{key}.weight"), "bias": array(f"{key}.bias")}

    params = {"class_token": array("cls_token"), "positions": array("pos_emb")}
    params |= {"Dense_0": dense("emb"), "LayerNorm_0": norm("fc.0"), "Dense_1": dense("fc.1")}
    names = {"query": "q", "key": "k", "value": "v", "out": "o"}
    for i in range(MODEL.layers):
        block = f"enc.{i}"
        params[f"EncoderBlock_{i}"] = {
            "Attention_0": {ours: dense(f"{block}.msa.{key}") for ours, key in names.items()},
            **{f"LayerNorm_{j}": norm(f"{block}.la{j + 1}") for j in range(2)},
            **{f"Dense_{j}": dense(f"{block}.mlp.{3 * j}") for j in range(2)},
        }
    return {"params": params}


PORT = Port(
    MODEL,
    GOLDEN,
    golden_variables,
    # Softmax takes away what is added to all scores alike, as the bias of the keys is.
    unseen=tuple((f"EncoderBlock_{i}", "Attention_0", "key") for i in range(MODEL.layers)),
)
