"""Traces of a model at each symbol of a text, against PyTorch's recurrent layers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from charrnn_runtime import CharRNN
from make_models import MODELS, SmallModel

EXACT = [model for model in MODELS if model.precision == "fp32"]
TEXT = "LORD of the text, who reads it all!\nAnd then some."
CELLS = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn": nn.RNN}


def _tensors(small: SmallModel) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(weight) for name, weight in small.weights().items()}


def _layers(small: SmallModel) -> nn.RNNBase:
    rnn: nn.RNNBase = CELLS[small.cell](
        small.vocabulary_size, small.hidden_size, small.layers, batch_first=True
    )
    weights = _tensors(small)
    rnn.load_state_dict({name: weights[f"rnn.{name}"] for name, _ in rnn.named_parameters()})
    return rnn


@pytest.mark.parametrize("small", EXACT, ids=lambda small: small.path.stem)
def test_states_log_probabilities_and_output_gates_match_pytorch(small: SmallModel) -> None:
    model = CharRNN.load(small.path, device="cpu", threads=1)
    trace, weights, rnn = model.trace(TEXT), _tensors(small), _layers(small)
    ids = [model.info.start_token, *trace.ids.tolist()]
    inputs = nn.functional.one_hot(torch.tensor(ids), small.vocabulary_size).float()
    state, before = None, None
    for place, x in enumerate(inputs):
        with torch.no_grad():
            out, state = rnn(x[None, None], state)
            logits = out[0, 0] @ weights["output.weight"].T + weights["output.bias"]
        parts = state if isinstance(state, tuple) else (state,)
        if place:
            expected = np.concatenate([part.numpy().ravel() for part in parts])
            np.testing.assert_allclose(trace.states[place - 1], expected, atol=1e-5)
            if small.cell == "lstm":
                _check_gate(trace.unit("o0:3")[place - 1], weights, x, before)
        before = parts[0][0, 0]
        if place < len(trace):
            logprobs = torch.log_softmax(logits, 0).numpy()
            np.testing.assert_allclose(trace.logprobs[place], logprobs, atol=3e-5)
    if small.cell == "lstm":
        assert np.isfinite(trace.unit("o0:3")).mean() > 0.9


def _check_gate(
    gate: np.float32, weights: dict[str, torch.Tensor], x: torch.Tensor, h: torch.Tensor | None
) -> None:
    """The output gate of unit 3 in layer 0, from the weights (PyTorch's order is i, f, g, o)."""
    assert h is not None
    row = 3 * len(h) + 3
    weighted = weights["rnn.weight_ih_l0"][row] @ x + weights["rnn.weight_hh_l0"][row] @ h
    weighted = weighted + weights["rnn.bias_ih_l0"][row] + weights["rnn.bias_hh_l0"][row]
    assert np.isnan(gate) or gate == pytest.approx(float(torch.sigmoid(weighted)), abs=2e-3)
