"""lm-evaluation-harness' local-completions, on tasks defined by our own files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from charrnn_runtime import CharRNN

pytest.importorskip("lm_eval", reason="lm-eval is not installed")

import lm_eval

from served import Served

ENDINGS: list[dict[str, Any]] = [
    {"context": "Good morrow, my ", "endings": ["lord.", "qqzqx"], "right": 0},
    {"context": "What say ", "endings": ["xkcd?", "you?"], "right": 1},
    {"context": "KING RI", "endings": ["!!!!", "CHARD"], "right": 1},
    {"context": "To be, or ", "endings": ["not to be", "zzz zz zz"], "right": 0},
]
TEXTS = ["Good morrow, my lord.\n", "To be, or not to be: that is the question.\n" * 60]


@pytest.fixture(autouse=True)
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Allow no downloads and leave no files."""
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.setenv(name, "1")
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def _evaluate(server: Served, folder: Path, rows: list[Any], task: dict[str, Any], **model: Any) -> Any:
    """Evaluate a task over some rows: the results and each sample."""
    file = folder / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    config = {
        "task": "ours",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(file)}},
        "test_split": "test",
        **task,
    }
    arguments = {"model": "lstm", "base_url": f"{server.url}/v1/completions", **model}
    found = lm_eval.simple_evaluate(
        model="local-completions", model_args=arguments, tasks=[config], log_samples=True, bootstrap_iters=0
    )
    return found["results"]["ours"], sorted(found["samples"]["ours"], key=lambda each: each["doc_id"])


def _logprob(model: CharRNN, context: str, ending: str) -> float:
    """The log-probability of an ending, step by step."""
    state, total = model.prime(context), 0.0
    for character in ending:
        step = model.step(state)
        logs = step.logits[0] - np.log(np.exp(step.logits[0].astype(np.float64)).sum())
        total += float(logs[model.vocabulary.symbols.index(character)])
        state = model.prime(character, state)
    return total


@pytest.mark.parametrize("concurrent", [1, 4])
def test_which_of_two_endings_is_more_likely(
    server: Served, lstm: CharRNN, tmp_path: Path, concurrent: int
) -> None:
    task = {
        "output_type": "multiple_choice",
        "doc_to_text": "{{context}}",
        "doc_to_choice": "{{endings}}",
        "doc_to_target": "{{right}}",
        "target_delimiter": "",
        "metric_list": [{"metric": "acc"}],
    }
    model = {"tokenizer_backend": "remote", "num_concurrent": concurrent}
    results, samples = _evaluate(server, tmp_path, ENDINGS, task, **model)
    right = 0
    for row, sample in zip(ENDINGS, samples, strict=True):
        found = [float(each[0]) for each in sample["filtered_resps"]]
        context = row["context"].rstrip()
        spaces = row["context"][len(context) :]  # which the harness counts as part of the ending
        wanted = [_logprob(lstm, context, spaces + ending) for ending in row["endings"]]
        assert found == pytest.approx(wanted, abs=1e-4)
        right += int(np.argmax(wanted)) == row["right"]
    assert results["acc,none"] == right / len(ENDINGS)


@pytest.mark.parametrize("backend", ["remote", "auto"])
def test_the_rolling_log_likelihood_matches_score(
    server: Served, lstm: CharRNN, tmp_path: Path, backend: str
) -> None:
    task = {
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "{{text}}",
        "metric_list": [{"metric": "bits_per_byte"}],
    }
    results, samples = _evaluate(
        server,
        tmp_path,
        [{"text": text} for text in TEXTS],
        task,
        tokenizer_backend=backend,
        custom_prefix_token_id=lstm.info.start_token,
        max_length=50_000,
    )
    scores = lstm.score(TEXTS)
    for score, sample in zip(scores, samples, strict=True):
        assert -float(sample["filtered_resps"][0]) == pytest.approx(score.nats, rel=1e-6, abs=1e-4)
    bits = sum(score.nats for score in scores) / np.log(2) / sum(map(len, TEXTS))
    assert results["bits_per_byte,none"] == pytest.approx(bits, abs=1e-6)


@pytest.mark.parametrize("backend", ["none", "remote"])
def test_generation_ends_at_a_stop_text(server: Served, lstm: CharRNN, tmp_path: Path, backend: str) -> None:
    task = {
        "output_type": "generate_until",
        "doc_to_text": "{{context}}",
        "doc_to_target": "{{right}}",
        "generation_kwargs": {"until": ["e"], "max_gen_toks": 30, "do_sample": False},
        "metric_list": [{"metric": "exact_match"}],
    }
    _, samples = _evaluate(server, tmp_path, ENDINGS, task, tokenizer_backend=backend)
    for row, sample in zip(ENDINGS, samples, strict=True):
        wanted = lstm.generate(row["context"], 30, top_k=1, stop="e", echo=False)
        assert sample["resps"][0][0] == wanted
