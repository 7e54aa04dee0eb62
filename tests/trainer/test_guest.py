"""The trainer in other programs: importing it changes nothing in the process."""

from __future__ import annotations

from pathlib import Path

from guests import LOOK
from limited import run_limited
from tiny_runs import ROOT

PATHS = f"import sys\nsys.path[:0] = [{str(ROOT / 'trainer')!r}, {str(ROOT / 'runtime')!r}]\n"


def test_importing_changes_no_process_wide_state(tmp_path: Path) -> None:
    run_limited(
        PATHS
        + LOOK
        + """
# What others do when they are imported is theirs.
import numpy, onnx, onnxruntime, safetensors.torch, torch
import importlib.util
if importlib.util.find_spec("matplotlib"):
    import matplotlib.pyplot
import torch.distributed, torch.utils.data
before = look()
import_all("charrnn_trainer")
compare(before, look())
""",
        tmp_path,
        ORT_DISABLE_TELEMETRY="1",
        GOMP_SPINCOUNT=None,
        OMP_WAIT_POLICY=None,
    )


def test_only_the_command_configures_thread_spinning(tmp_path: Path) -> None:
    program = PATHS + (
        "import os\n"
        "import charrnn_trainer\n"
        "charrnn_trainer.train, charrnn_trainer.CharNetwork\n"
        "import charrnn_trainer.training.spinning\n"
        "assert 'GOMP_SPINCOUNT' not in os.environ\n"
        "from charrnn_trainer.cli.train import main\n"
        "assert 'GOMP_SPINCOUNT' not in os.environ\n"
        "sys.argv = ['charrnn-train', '--version']\n"
        "try:\n"
        "    main()\n"
        "finally:\n"
        "    assert 'GOMP_SPINCOUNT' in os.environ\n"
    )
    run_limited(program, tmp_path, GOMP_SPINCOUNT=None, OMP_WAIT_POLICY=None)
