"""From a real text to generated text, with the installed commands as in the README."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

Shell = Callable[..., subprocess.CompletedProcess[str]]


def test_the_commands_of_the_readme_work_in_sequence(clone: Path, shell: Shell) -> None:
    for model in (clone / "models").iterdir():
        model.unlink()
    trained = shell("charrnn-train --cell lstm", clone)
    assert trained.returncode == 0, trained.stderr
    exported = shell("charrnn-export ckpt models/lstm.onnx", clone)
    assert exported.returncode == 0, exported.stderr
    generated = shell('charrnn-gen models/lstm.onnx --prime "LORD "', clone)
    assert generated.returncode == 0, generated.stderr
    assert generated.stdout.startswith("LORD ")
    assert len(generated.stdout.removesuffix("\n")) in (
        1_004,
        1_005,
    )  # 1,000 and the prompt; possibly a newline at the end


def test_the_output_of_each_command_leads_to_the_next_command(clone: Path, shell: Shell) -> None:
    trained = shell("charrnn-train --cell gru", clone)
    assert trained.returncode == 0, trained.stderr
    for word in ("1,115,394", "65", "First Citizen:", "ckpt/gru"):
        assert word in trained.stderr + trained.stdout
    assert (clone / "ckpt" / "gru").is_dir()
    exported = shell("charrnn-export ckpt model.onnx", clone)
    assert exported.returncode == 0, exported.stderr
    shown = shell("charrnn-info model.onnx --json", clone)
    assert shown.returncode == 0, shown.stderr
    assert '"gru"' in shown.stdout
    assert json.loads(shown.stdout)


def test_a_second_training_never_touches_the_first(used_clone: Path, shell: Shell) -> None:
    first = used_clone / "ckpt" / "lstm"
    before = {path: path.read_bytes() for path in first.rglob("*") if path.is_file()}
    done = shell("charrnn-train --cell lstm", used_clone)
    assert done.returncode == 0, done.stderr
    assert (used_clone / "ckpt" / "lstm-2").is_dir()
    assert before == {path: path.read_bytes() for path in first.rglob("*") if path.is_file()}


def test_texts_in_any_script_work_the_same_way(tmp_path: Path, shell: Shell) -> None:
    (tmp_path / "my.txt").write_text("Здравствуй, мир! 你好世界。\n" * 200, encoding="utf-8")
    for line in (
        "charrnn-train my.txt --cell rnn",
        "charrnn-export ckpt my.onnx",
        "charrnn-gen my.onnx --prime Здравствуй -n 40 --seed 1",
    ):
        done = shell(line, tmp_path)
        assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Здравствуй")
    assert set(done.stdout) <= set("Здравствуй, мир! 你好世界。\n")


def test_a_seed_repeats_the_text_and_a_closed_pipe_ends_it_silently(used_clone: Path, shell: Shell) -> None:
    line = 'charrnn-gen models/lstm.onnx --prime "LORD " -n 300 --seed 4'
    once, again = shell(line, used_clone), shell(line, used_clone)
    assert once.stdout == again.stdout
    piped = shell('charrnn-gen models/lstm.onnx --prime "LORD " -n 100000 --seed 4 | head -c 100', used_clone)
    assert piped.stdout == once.stdout[:100]
    assert piped.stderr == "" or "error" not in piped.stderr


def test_the_model_file_works_without_the_training_files(
    used_clone: Path, tmp_path: Path, shell: Shell
) -> None:
    (used_clone / "models" / "lstm.onnx").rename(tmp_path / "alone.onnx")
    done = shell("charrnn-gen alone.onnx -n 20 --seed 1", tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout) >= 20
