"""A disk that fills up ends the run with one line, and the last checkpoint stays whole."""

import contextlib
import shutil
import subprocess

import pytest
from disks import files_of_at_most
from test_cli import COMMAND, exit_code, records_in

from zsharp_jax.benchmark.checkpoints import Checkpoints

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
    assert exit_code(*TRAIN, tmp_path, "--resume") == 0
    assert "damaged" not in capsys.readouterr().err
    assert [record["steps"] for record in records_in(tmp_path)] == [4 * STEPS]


ON_A_SMALL_DISK = """
mount -t tmpfs -o size=300k none "$0" && cd "$0" || exit 9
"$@"; code=$?
ls checkpoints/*
exit $code
"""


def test_a_disk_that_is_full_is_named(tmp_path):
    in_namespace = ["unshare", "--map-root-user", "--mount", "sh", "-c"]
    mount = [*in_namespace, "mount -t tmpfs none /mnt"]
    if not shutil.which("unshare") or subprocess.run(mount, check=False).returncode:
        pytest.skip("no disk can be mounted here")
    command = [*in_namespace, ON_A_SMALL_DISK, str(tmp_path), *COMMAND, *TRAIN, "."]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].endswith(": No space left on device")
    assert "Traceback" not in done.stderr
    assert any(name.isdigit() for name in done.stdout.split())  # a checkpoint that is whole
