"""The small models in tests/models equal the current output of the graph code, byte for byte."""

from __future__ import annotations

import numpy as np
import pytest

import make_models
from make_models import SmallModel
from reference import naive_step
from step_graphs import Stepper, metadata

import onnx  # isort: skip

each_model = pytest.mark.parametrize("small", make_models.MODELS, ids=lambda small: small.path.stem)


@each_model
def test_rebuilding_a_model_gives_the_same_bytes(small: SmallModel) -> None:
    made, kept = make_models.make(small), small.path.read_bytes()
    # Messages first: pytest shows how they differ.
    assert metadata(onnx.load_from_string(made)) == metadata(onnx.load_from_string(kept))
    assert made == kept, "the graph has changed: make the models again with python tests/make_models.py"


def test_the_folder_contains_no_other_model() -> None:
    lying = {path.name for path in make_models.FOLDER.iterdir()}
    assert lying == {small.path.name for small in make_models.MODELS}


@each_model
def test_a_model_matches_a_naive_loop_with_its_weights(small: SmallModel) -> None:
    stepper = Stepper(onnx.load(small.path))
    weights = small.weights()
    state = np.zeros(small.layers * small.hidden_size * (2 if small.cell == "lstm" else 1))
    found_state = state[np.newaxis].astype(np.float32)
    worst = 0.0
    for token in (0, 5, 17, 40, 3, 2, 61):
        expected, state = naive_step(small.cell, small.layers, weights, token, state)
        logits, _, found_state = stepper.step([token], found_state)
        worst = max(worst, float(np.abs(logits[0] - expected).max()))
    assert worst < {"fp32": 1e-5, "fp16": 0.01, "int8": 0.3}[small.precision]
