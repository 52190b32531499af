"""What the paper reports: its settings, and the figures of its tables 1 and 2.

Yun, Sharpness-Aware Minimization with Z-Score Gradient Filtering: section 4, "Experimental
Settings", and both tables. Networks, methods and datasets go by our names.
"""

from collections.abc import Mapping
from typing import NamedTuple

from zsharp_jax.benchmark.runs.fields import Value
from zsharp_jax.benchmark.runs.methods import METHODS as OUR_METHODS
from zsharp_jax.benchmark.runs.methods import filters, perturbs


class Measure(NamedTuple):
    """A mean over seeds and the standard deviation; None where one seed has none."""

    mean: float
    std: float | None


class Published(NamedTuple):
    """A cell of the paper's tables, over three seeds."""

    accuracy: Measure
    train_loss: Measure


# Training images by dataset, in the order of the columns of table 1.
IMAGES = {"cifar10": 50_000, "cifar100": 50_000, "tiny_imagenet": 100_000}
BATCH_SIZE = 256
QUANTILES = (0.95, 0.9, 0.85, 0.8, 0.75)
SETTINGS: Mapping[str, Value] = {
    "epochs": 200,
    "batch_size": BATCH_SIZE,
    "rho": 0.05,
    "quantile": 0.95,
    "learning_rate": 1e-3,
    "weight_decay": 5e-5,
    "decay_rate": 0.75,
    "decay_epochs": 10,
    "recipe": "paper",
    "optimizer": "adamw",
}
# Run files have these only where they were asked for.
_LEFT_OUT: Mapping[str, Value] = {"crop_padding": 4, "flip": True, "eta": 0.01}
# The paper does not say; data has no digest there, and what there is of it shows in the steps.
_SILENT_ON = {"dtype", "data_sha256", "steps_per_epoch"}

# Network, method; then for each dataset accuracy and its std, train loss and its std, all in
# ten-thousandths, which is what the paper rounds to.
_TABLE_1 = """
resnet56       adamw        9108   45   57   13  6420   31  452  629  4747   31  121  105
resnet56       sam          9160   21  221   51  6527   25 1097  584  4938   26  453  127
resnet56       asam         9228   34  366   93  6646   17 1952  419  5072   12  564   91
resnet56       friendly_sam 9179   25  219   76  6549   24 1051  417  4948   23  444  102
resnet56       zsharp       9264   32  630   64  6679   15 2510  438  5073   14  828  129
resnet110      adamw        9140   31   56   23  6650   25  149   59  4878   45  556  114
resnet110      sam          9233   25  188   37  6815   19  531  121  5005   45 1417  216
resnet110      asam         9261   23  288   56  6796   36  915  123  5105   45 2894  241
resnet110      friendly_sam 9193   13  190   36  6762   21  524  113  5027   45 1402   91
resnet110      zsharp       9293   17  618   97  6844   23 1656  213  5207   45 4137  311
vgg16_bn       adamw        9247   13   58   31  6999  102   92   51  5507   93   43   71
vgg16_bn       sam          9337   18  171   93  7092   93  139   73  5587  103  363  183
vgg16_bn       asam         9355   12  237   47  7170  121  375  118  5647  191  644  237
vgg16_bn       friendly_sam 9290   17  163   93  7099   83  495  125  5544  204  349  153
vgg16_bn       zsharp       9327   20  351  144  7207   71  375  137  5673  231 1248  351
vit_7_8_8_384  adamw        8398   28   87   92  5479   11   42   31  2843   12   56   14
vit_7_8_8_384  sam          8432   32  273  101  5557   13  255  141  2897    9  363   98
vit_7_8_8_384  asam         8302   34  367  138  5566   31  349  193  2522   32  644  137
vit_7_8_8_384  friendly_sam 8476   44  273   93  5608   23  228  138  3000   12  349   83
vit_7_8_8_384  zsharp       8543   29  647  216  5748   51  730  212  3057   21 1248  413
vit_7_8_12_768 adamw        8438   21   87   31  5615   13   40   45  2991   10   65   32
vit_7_8_12_768 sam          8486   18  293   98  5691   14  234   76  3014   15  297   98
vit_7_8_12_768 asam         8395   20  371  101  5649   27  347  116  3023    8  512  161
vit_7_8_12_768 friendly_sam 8525   21  283   84  5655   21  246  122  3034   13  441  141
vit_7_8_12_768 zsharp       8586   23  635  196  5777   31  709  178  3104   19 1341  211
"""

# The rows of table 2 that table 1 does not have: ZSharp on CIFAR-10 at other quantiles.
_TABLE_2 = """
resnet56       0.90 9212   15  710   61
resnet56       0.85 9189   23  679   67
resnet56       0.80 9153   27  731   53
resnet56       0.75 9132   17  789   79
vit_7_8_8_384  0.90 8482   31  748   81
vit_7_8_8_384  0.85 8424   43  825   86
vit_7_8_8_384  0.80 8421   38  863  119
vit_7_8_8_384  0.75 8378   27  999  102
"""


def _published(words: list[str]) -> Published:
    accuracy, accuracy_std, loss, loss_std = (int(word) / 10_000 for word in words)
    return Published(Measure(accuracy, accuracy_std), Measure(loss, loss_std))


# By dataset, network and method; and by network and quantile.
TABLE_1 = {
    (dataset, *words[:2]): _published(words[2 + 4 * column : 6 + 4 * column])
    for words in map(str.split, _TABLE_1.strip().splitlines())
    for column, dataset in enumerate(IMAGES)
}
TABLE_2 = {
    (words[0], float(words[1])): _published(words[2:])
    for words in map(str.split, _TABLE_2.strip().splitlines())
}
NETWORKS = tuple(dict.fromkeys(network for _, network, _ in TABLE_1))
METHODS = tuple(dict.fromkeys(method for *_, method in TABLE_1))
TABLE_2_NETWORKS = tuple(dict.fromkeys(network for network, _ in TABLE_2))


def published(
    dataset: str, network: str, method: str, quantile: Value = SETTINGS["quantile"]
) -> Published | None:
    """What the paper reports, or None where it reports nothing.

    Its ZSharp stands beside both of ours, `zsharp` and `zsharp_reference`: the text describes the
    one, the code is the other.

    Args:
        dataset: A dataset.
        network: A network.
        method: A method.
        quantile: Q_p, for ZSharp.
    """
    if method in OUR_METHODS and OUR_METHODS[method].reported_as:
        method = str(OUR_METHODS[method].reported_as)
    if method == "zsharp" and quantile != SETTINGS["quantile"]:
        if dataset != "cifar10" or not isinstance(quantile, float):
            return None
        return TABLE_2.get((network, quantile))
    return TABLE_1.get((dataset, network, method))


def departures(dataset: str, method: str, settings: Mapping[str, Value]) -> list[str]:
    """Names the settings in which a run of ours departs from the paper's.

    A setting that the paper does not have must be off: None, False or 0. `steps_per_epoch`, where
    it is given, must be that of all training images.

    Args:
        dataset: What was trained on.
        method: What was trained.
        settings: How, without its seed.
    """
    expected = dict(SETTINGS) | {name: _LEFT_OUT[name] for name in _LEFT_OUT.keys() & settings}
    if not perturbs(method):
        del expected["rho"]
    if not filters(method):
        del expected["quantile"]
    if method != "asam":
        expected.pop("eta", None)
    idle = (SETTINGS.keys() | {"eta"}) - expected.keys()
    departing = {
        name
        for name in (settings.keys() | expected.keys()) - _SILENT_ON - idle
        if _off(settings.get(name)) != _off(expected.get(name))
    }
    if "recipe" not in settings:  # of a time when there was one
        departing.discard("recipe")
    steps = IMAGES.get(dataset, 0) // BATCH_SIZE
    if settings.get("steps_per_epoch", steps) != steps:
        departing.add("steps_per_epoch")
    return sorted(departing)


def _off(value: Value) -> Value:
    return value or None
