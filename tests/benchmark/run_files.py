"""Run files as `zsharp-bench` writes them, without the training."""

import copy
import dataclasses

from zsharp_jax.benchmark.runs.fields import FORMAT
from zsharp_jax.benchmark.runs.records import write_record
from zsharp_jax.benchmark.runs.settings import Settings

DIGITS = Settings(dataset="digits", model="resnet8", method="sam", seed=0, epochs=3, batch_size=64)
PAPER = Settings(
    dataset="cifar10", model="resnet56", method="sam", seed=0, epochs=200, batch_size=256
)
change = dataclasses.replace
STEPS_PER_EPOCH = {"digits": 22, "cifar10": 195, "cifar100": 195, "tiny_imagenet": 390}


def record(settings, accuracy=0.9, loss=0.1, sharp_loss=0.2, norm=0.05, *, extra=None, **fields):
    """A finished run that ends with these figures; each epoch before it had twice the loss.

    Settings that this version does not have are in `extra`, and fields of the record in `fields`.
    """
    steps_per_epoch = STEPS_PER_EPOCH[settings.dataset]
    steps = settings.steps or settings.epochs * steps_per_epoch
    epochs = -(-steps // steps_per_epoch)
    final = {
        "train_loss": loss, "sharp_loss": sharp_loss, "gradient_norm": 1.0,
        "perturbation_norm": norm, "test_loss": 0.3, "test_accuracy": accuracy,
    }  # fmt: skip
    curves = {
        name: [value * (2 if "loss" in name else 1)] * (epochs - 1) + [value]
        for name, value in {**final, "seconds": 0.5}.items()
    }
    made = {
        "format": FORMAT, "name": settings.run_name("a" * 64), "status": "finished",
        "error": None, "command": ["zsharp-bench", "compare"],
        "settings": {**settings.as_dict(), **(extra or {})}, "data_sha256": "a" * 64,
        "commit": "c" * 40, "steps": steps, "steps_per_epoch": steps_per_epoch,
        "final": {**final, "seconds_per_epoch": 0.5}, "curves": curves, "step_losses": [loss],
        "compile_seconds": 1.0, "device": {"platform": "cpu", "kind": "cpu", "cpu_cores": 2},
        "versions": {"python": "3.11.7", "jax": "0.10.2"},
    }  # fmt: skip
    return {**made, **fields}


def cut_short(whole, epochs, **fields):
    """The same run, stopped after some epochs."""
    short = copy.deepcopy(whole)
    short["curves"] = {name: curve[:epochs] for name, curve in short["curves"].items()}
    short["steps"] = epochs * short["steps_per_epoch"]
    return {**short, **fields}


def write(folder, settings, *figures, name=None, **fields):
    """Writes the file of a finished run and returns its path."""
    made = record(settings, *figures, **fields)
    made["name"] = name or f"{made['name']}{len(list(folder.iterdir()))}"
    write_record(folder, made)
    return folder / f"{made['name']}.json"
