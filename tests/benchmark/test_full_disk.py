"""A disk that fills up ends the run with one line, and the last checkpoint stays whole."""

import contextlib
import json
import shutil
import subprocess

import kill_often
import pytest
from disks import files_of_at_most
from test_cli import COMMAND, exit_code, records_in

from zsharp_jax.benchmark.training.checkpoints import Checkpoints

TRAIN = ["train", "--method", "adamw", "--epochs", "4", "--checkpoint-every", "1", "--out"]
STEPS = 22  # an epoch


def steps_in(folder):
    return sorted(int(path.name) for path in folder.glob("checkpoints/*/*") if path.name.isdigit())


def test_a_checkpoint_that_cannot_be_written_ends_the_run_which_can_go_on(
    tmp_path, monkeypatch, capsys
):
    save = Checkpoints.save
    with contextlib.ExitStack() as stack, monkeypatch.context() as patch:

        def save_until_full(checkpoints, step, checkpoint):
            if step == 3 * STEPS:
                checkpoints.close()
                stack.enter_context(files_of_at_most(1000))
            save(checkpoints, step, checkpoint)

        patch.setattr(Checkpoints, "save", save_until_full)
        assert exit_code(*TRAIN, tmp_path) == 1
    told = capsys.readouterr().err
    (line,) = [line for line in told.splitlines() if "zsharp-bench" in line]
    assert "error: cannot write a checkpoint to" in line and "Traceback" not in told
    assert not records_in(tmp_path) and steps_in(tmp_path) == [STEPS, 2 * STEPS]
    # In a process of its own, as threads of Orbax may still write what has failed.
    again = [*COMMAND, *TRAIN, tmp_path, "--resume"]
    done = subprocess.run(again, capture_output=True, text=True, check=True)
    assert "damaged" not in done.stderr
    assert [record["steps"] for record in records_in(tmp_path)] == [4 * STEPS]


ON_A_SMALL_DISK = """
mount -t tmpfs -o size=140k none "$0" && cd "$0" || exit 9
roomy="$1"; shift
"$@"; code=$?
cp -r . "$roomy" || exit 9
exit $code
"""


@pytest.mark.slow
def test_a_disk_that_is_full_is_named_and_the_run_goes_on_where_there_is_room(tmp_path, capsys):
    in_namespace = ["unshare", "--map-root-user", "--mount", "sh", "-c"]
    mount = [*in_namespace, "mount -t tmpfs none /mnt"]
    if not shutil.which("unshare") or subprocess.run(mount, check=False).returncode:
        pytest.skip("no disk can be mounted here")
    small, roomy, whole = (tmp_path / name for name in ("small", "roomy", "whole"))
    small.mkdir()
    on_small = [*in_namespace, ON_A_SMALL_DISK, small, roomy, *COMMAND, *TRAIN, "."]
    done = subprocess.run(on_small, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].endswith(": No space left on device")
    assert "Traceback" not in done.stderr and not list(roomy.glob("*.json"))

    newest = steps_in(roomy)[-1]
    assert newest < 4 * STEPS
    (about,) = roomy.glob(f"checkpoints/*/{newest}/about/metadata")
    kept = json.loads(about.read_text())["progress"]["curves"]["seconds"]
    assert exit_code(*TRAIN, roomy, "--resume") == 0
    told = capsys.readouterr().err
    assert "damaged" not in told and "passed over" not in told
    (record,) = records_in(roomy)
    # Had it begun anew, its first epochs would have taken other seconds.
    assert record["curves"]["seconds"][: newest // STEPS] == kept
    assert exit_code(*TRAIN, whole) == 0
    same = [kill_often.numbers(*folder.glob("*.json")) for folder in (roomy, whole)]
    assert same[0] == same[1]
