"""What has other settings is not resumed; what is there beside it is no obstacle."""

import dataclasses
import json

import pytest
from tiny import SETTINGS

from zsharp_jax.benchmark.errors import RequestError
from zsharp_jax.benchmark.runs.resumable import refuse_other_settings

OTHER_RATE = dataclasses.replace(SETTINGS, learning_rate=0.5)
OTHER_SEED = dataclasses.replace(SETTINGS, seed=1)
OTHER_METHOD = dataclasses.replace(SETTINGS, method="sam")


def leave_file(folder, settings, data="data"):
    name = settings.run_name(data)
    (folder / f"{name}.json").write_text(json.dumps({"settings": settings.as_dict()}))
    return name


def leave_checkpoint(folder, settings, data="data"):
    name = settings.run_name(data)
    about = folder / "checkpoints" / name / "3" / "about"
    about.mkdir(parents=True)
    (about / "metadata").write_text(json.dumps({"settings": settings.as_dict()}))
    return name


@pytest.mark.parametrize("leave", [leave_file, leave_checkpoint])
def test_other_settings_are_refused_with_the_difference(tmp_path, leave):
    name = leave(tmp_path, SETTINGS)
    told = f"^cannot resume {name}: learning_rate was 0.001 there and is 0.5 here$"
    for runs in ([OTHER_RATE], [OTHER_METHOD, OTHER_RATE]):
        with pytest.raises(RequestError, match=told):
            refuse_other_settings(tmp_path, runs, "data")
    with pytest.raises(RequestError, match=r"its data were others$"):
        refuse_other_settings(tmp_path, [SETTINGS], "other data")


@pytest.mark.parametrize("leave", [leave_file, leave_checkpoint])
@pytest.mark.parametrize("runs", [[SETTINGS], [OTHER_RATE, SETTINGS], [OTHER_SEED], [OTHER_METHOD]])
def test_what_was_asked_for_and_other_seeds_and_methods_are_no_obstacle(tmp_path, leave, runs):
    leave(tmp_path, SETTINGS)
    refuse_other_settings(tmp_path, runs, "data")


def test_a_damaged_checkpoint_of_other_settings_is_refused_all_the_same(tmp_path):
    name = leave_checkpoint(tmp_path, SETTINGS)
    (tmp_path / "checkpoints" / name / "3" / "about" / "metadata").write_bytes(b"\xff{")
    with pytest.raises(RequestError, match=f"cannot resume {name}: dataset was None there"):
        refuse_other_settings(tmp_path, [OTHER_RATE], "data")
