"""Kills at random moments (for many more: `python3 noxfile.py kills`), and the faults they would detect."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tiny_runs import ROOT, run_program

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and SIGKILL")

KILLS = ROOT / "tests" / "kills.py"


@pytest.mark.nightly
def test_commands_killed_at_random_moments_leave_complete_files_and_keep_saved_ones() -> None:
    done = run_program(KILLS, "--kills", "12", "--seed", "5")
    assert done.returncode == 0, (done.stdout + done.stderr).decode()
    table = done.stdout.decode()
    assert all(f"\n{kind} " in table for kind in ("train", "export", "generate", "prepare"))
    assert table.rstrip().endswith("0 faults")


HALF_WRITTEN = """
import os, sys, time
import kills

def copy_in_halves(source, target):  # as one would write without a temporary file
    data = open(source, "rb").read()
    with open(target, "wb") as file:
        file.write(data[: len(data) // 2])
        file.flush()
        if os.path.basename(os.getcwd()).startswith("try-"):
            time.sleep(60)
        file.write(data[len(data) // 2 :])
    os.unlink(source)

os.replace = copy_in_halves
sys.exit(kills.main(["--only", "0", "--seed", "9", "--folder", sys.argv[1]]))
"""


@pytest.mark.nightly
def test_incomplete_files_are_detected(tmp_path: Path) -> None:
    # With this seed, the try kills a training run late, when its first file is half written.
    done = run_program("-c", HALF_WRITTEN, tmp_path)
    assert done.returncode == 1, (done.stdout + done.stderr).decode()
    assert b"tokens.safetensors has" in done.stdout
    assert b"that nobody wrote whole" in done.stdout
    assert b"again: python tests/kills.py --seed 9 --only 0 " in done.stdout
    assert list(
        tmp_path.glob("charrnn-kills-*/try-0/run/tokens.safetensors")
    )  # the folder of a failed try is kept
