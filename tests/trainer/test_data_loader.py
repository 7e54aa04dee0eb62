"""A model in the workers of PyTorch's DataLoader, for example to generate data."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from limited import run_limited
from make_models import FOLDER
from tiny_runs import ROOT

PROGRAM = f"""
import sys, warnings
sys.path[:0] = [{str(ROOT / "trainer")!r}, {str(ROOT / "runtime")!r}]
warnings.simplefilter("ignore", DeprecationWarning)  # Python's own: threads run while it forks
import torch
from torch.utils.data import DataLoader, Dataset
from charrnn_runtime import CharRNN

class Texts(Dataset):
    def __init__(self, model):
        self.model = model

    def __len__(self):
        return 6

    def __getitem__(self, seed):
        return self.model.generate(["LORD "] * 20, 20, seed=seed)[seed]

if __name__ == "__main__":
    torch.set_num_threads(2)
    texts = Texts(CharRNN.load(sys.argv[1], device="cpu", threads=2))
    expected = [texts[seed] for seed in range(6)]
    loader = DataLoader(texts, batch_size=None, num_workers=2, multiprocessing_context=sys.argv[2])
    for _ in range(2):
        assert list(loader) == expected
"""


@pytest.mark.parametrize(
    "method",
    ["fork", *(pytest.param(method, marks=pytest.mark.nightly) for method in ("forkserver", "spawn"))],
)
def test_workers_of_a_data_loader_use_a_model(tmp_path: Path, method: str) -> None:
    if method == "fork" and not hasattr(os, "fork"):
        pytest.skip("this system does not fork")
    if method == "forkserver" and os.name != "posix":
        pytest.skip("this system has no server of forks")
    run_limited(PROGRAM, tmp_path, FOLDER / "lstm-2x12-fp32.onnx", method)
