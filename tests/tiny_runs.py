"""Very short trainings for the tests of training."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from charrnn_trainer.train_config import TrainConfig
from forked import forked

ROOT = Path(__file__).resolve().parent.parent

TEXT = "to be, or not to be, that is the question:\nwhether 'tis nobler in the mind to suffer\n" * 20
"""1,700 characters: 1,530 for training, 10 batches of 8 x 16 per pass."""

TINY = TrainConfig().replace(
    layers=2,
    hidden_size=8,
    dropout=0.25,
    input_dropout=0.1,
    weight_drop=0.2,
    reset_chance=0.1,
    steps=12,
    batch_size=8,
    seq_length=16,
    random_start=True,
    schedule="cosine",
    warmup_steps=2,
    weight_decay=0.1,
    eval_every=3,
    save_every=6,
    log_every=4,
    precision="fp32",
    onednn=False,
    device="cpu",
    threads=1,
)
"""Everything that can affect a step is enabled, and the second pass starts before the end."""

TINY_FLAGS = (
    *("--layers", "1", "--hidden-size", "8", "--batch-size", "4", "--seq-length", "16"),
    *("--precision", "fp32", "--no-onednn", "--threads", "1", "--device", "cpu"),
)


def environment() -> dict[str, str]:
    """An environment in which programs find both distributions and these tests."""
    paths = os.pathsep.join(str(ROOT / part) for part in ("runtime", "trainer", "tests"))
    return {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}


def run_program(*words: str | Path, **options: Any) -> subprocess.CompletedProcess[bytes]:
    """Run Python with arguments, such as ``-m`` and a module, with a timeout of five minutes.

    ``real_start=True`` starts Python instead of forking (see forked.py); ``package`` also lets a script fork.
    """
    command, real_start = [sys.executable, *words], options.pop("real_start", False)
    package = options.pop("package", None)
    options = {"stdin": subprocess.DEVNULL, "env": environment(), **options}
    command = command if real_start else forked(command, options["env"], package=package)
    return subprocess.run(command, capture_output=True, check=False, timeout=300, **options)
