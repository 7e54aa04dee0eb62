"""The settings: allowed values, and round trips through files."""

from __future__ import annotations

import dataclasses
import os
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from charrnn_runtime.cli.terminal import in_options
from charrnn_runtime.errors import CharRNNError, SettingError
from charrnn_trainer.config import DataConfig, NetworkConfig, OptimizationConfig, RunConfig
from charrnn_trainer.runs.run_file import RunFile
from charrnn_trainer.train_config import SECTIONS, TrainConfig

CONFIGS = st.builds(
    TrainConfig,
    network=st.builds(
        NetworkConfig,
        cell=st.sampled_from(["lstm", "gru", "rnn"]),
        layers=st.integers(1, 32),
        hidden_size=st.integers(1, 16_384),
        embedding_size=st.none() | st.integers(0, 16_384),
        dropout=st.floats(0, 1, exclude_max=True),
    )
    | st.builds(NetworkConfig, embedding_size=st.none() | st.integers(1, 16_384), tie_weights=st.just(True)),
    data=st.builds(
        DataConfig,
        level=st.sampled_from(["char", "byte"]),
        val_fraction=st.floats(0, 0.9),
        split=st.sampled_from(["end", "spread"]),
        batch_size=st.integers(1, 1_000_000),
        seq_length=st.integers(1, 1_000_000),
        random_start=st.booleans(),
    )
    | st.builds(DataConfig, lines=st.just(True), val_lines=st.none() | st.integers(0, 9)),
    optimization=st.builds(
        OptimizationConfig,
        steps=st.integers(1, 2**31 - 1),
        learning_rate=st.floats(0, 1_000, exclude_min=True),
        schedule=st.sampled_from(["constant", "cosine", "linear"]),
        clip=st.integers(0, 100) | st.floats(0, 1e9),
    ),
    run=st.builds(
        RunConfig,
        seed=st.integers(0, 2**63 - 1),
        precision=st.sampled_from(["auto", "fp32", "bf16"]),
        onednn=st.none() | st.booleans(),
        threads=st.none() | st.integers(1, 1_024),
    ),
)
PATHS = st.none() | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1)


def test_the_defaults_are_the_course_preset() -> None:
    config = TrainConfig()
    assert config.network == NetworkConfig("lstm", 2, 256, None, 0.0, 0.0, 0.0)
    assert config.data == DataConfig("char", 0.1, 100, 100, False, 0.0)
    assert config.optimization == OptimizationConfig(6_000, 0.0, 0.005, "constant", 0, 0.0, 5.0)
    assert (config.run.save_every, config.run.log_every) == (2_000, 200)


@given(CONFIGS)
def test_settings_round_trip_through_a_dictionary(config: TrainConfig) -> None:
    assert TrainConfig.from_dict(config.to_dict()) == config


@given(CONFIGS, PATHS, PATHS)
def test_settings_and_any_path_round_trip_through_toml(
    config: TrainConfig, text: str | None, start: str | None
) -> None:
    file = RunFile(config, text, start)
    values = tomllib.loads(file.to_toml())
    assert (values.pop("text", None), values.pop("init_from", None)) == (text, start)
    assert TrainConfig.from_dict(values) == config


def test_a_file_of_settings_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    file = RunFile(TrainConfig().replace(cell="gru", clip=1), text='my "text"\x7f.txt')
    (tmp_path / "run.toml").write_text(file.to_toml(), encoding="utf-8")
    assert RunFile.read(tmp_path / "run.toml") == file


def test_a_whole_number_and_its_float_are_the_same_setting() -> None:
    assert repr(OptimizationConfig(clip=5)) == repr(OptimizationConfig(clip=5.0))


@pytest.mark.parametrize(
    ("settings", "flag"),
    [
        ({"cell": "transformer"}, "--cell"),
        ({"cell": None}, "--cell"),
        ({"layers": 0}, "--layers"),
        ({"layers": 33}, "--layers"),
        ({"layers": True}, "--layers"),
        ({"layers": 1.0}, "--layers"),
        ({"hidden_size": -1}, "--hidden-size"),
        ({"hidden_size": 10**9}, "--hidden-size"),
        ({"embedding_size": -1}, "--embedding-size"),
        ({"tie_weights": 1}, "--tie-weights"),
        ({"dropout": 1}, "--dropout"),
        ({"dropout": float("nan")}, "--dropout"),
        ({"learning_rate": 10**400}, "--learning-rate"),
        ({"input_dropout": 1}, "--input-dropout"),
        ({"weight_drop": -0.1}, "--weight-drop"),
        ({"reset_chance": 1.1}, "--reset-chance"),
        ({"minutes": -1}, "--minutes"),
        ({"keep": -1}, "--keep"),
        ({"patience": 1.5}, "--patience"),
        ({"tensorboard": 1}, "--tensorboard"),
        ({"level": "word"}, "--level"),
        ({"val_fraction": 1.0}, "--val-fraction"),
        ({"split": "start"}, "--split"),
        ({"lines": 1}, "--lines"),
        ({"lines": True, "val_lines": -1}, "--val-lines"),
        ({"batch_size": 0}, "--batch-size"),
        ({"seq_length": 0}, "--seq-length"),
        ({"random_start": 1}, "--random-start"),
        ({"steps": 0}, "--steps"),
        ({"learning_rate": 0}, "--learning-rate"),
        ({"learning_rate": float("inf")}, "--learning-rate"),
        ({"schedule": "step"}, "--schedule"),
        ({"warmup_steps": -1}, "--warmup-steps"),
        ({"weight_decay": -0.1}, "--weight-decay"),
        ({"clip": "5"}, "--clip"),
        ({"eval_every": 0}, "--eval-every"),
        ({"save_every": 0}, "--save-every"),
        ({"log_every": 0}, "--log-every"),
        ({"seed": -1}, "--seed"),
        ({"device": "tpu"}, "--device"),
        ({"precision": "fp8"}, "--precision"),
        ({"onednn": "yes"}, "--onednn"),
        ({"threads": 0}, "--threads"),
    ],
)
def test_a_disallowed_value_is_rejected_by_name_and_in_commands_by_its_flag(
    settings: dict[str, Any], flag: str
) -> None:
    *_, name = settings
    with pytest.raises(SettingError, match=f"^{name} must be ") as caught:
        TrainConfig().replace(**settings)
    assert "\n" not in str(caught.value)
    assert in_options(caught.value).startswith(f"{flag} must be ")


def test_no_two_settings_share_a_name() -> None:
    names = [item.name for section in SECTIONS.values() for item in dataclasses.fields(section)]
    assert len(names) == len(set(names))


@pytest.mark.parametrize(
    ("name", "meant"), [("hiden_size", "hidden_size"), ("lr", "learning_rate"), ("seq_len", "seq_length")]
)
def test_an_unknown_setting_is_rejected_with_a_suggestion_and_the_full_list(name: str, meant: str) -> None:
    with pytest.raises(SettingError) as caught:
        TrainConfig().replace(**{name: 3})
    assert str(caught.value).startswith(
        f"unknown setting: {name!r} (did you mean {meant}?); allowed are cell, "
    )
    assert str(caught.value).endswith(", threads")
    with pytest.raises(SettingError, match=r"unknown setting: 'xyz'; allowed are cell, layers, "):
        TrainConfig().replace(xyz=3)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            "[network]\nhiden_size = 3",
            r"'hiden_size' \(did you mean hidden_size\?\); allowed are cell, ",
        ),
        (
            "[optimization]\nlr = 3",
            r"\[optimization\]: 'lr' \(did you mean learning_rate\?",
        ),
        ("[network]\nlr = 3", r"unknown setting in \[network\]: 'lr'; allowed are cell, layers, "),
        ("[model]\n", "unknown section or key: 'model'; allowed are text, init_from, network, "),
        ("network = 3", r"\[network\] must be a section"),
        ("text = 3", "text must be a path"),
        ("[network]\nlayers = 0", r"\[network\] layers must be"),
        ("[network", "is not a TOML file"),
        ("\0", "is not a TOML file"),
        ("a=" + "[" * 10_000, "is not a TOML file"),
    ],
)
def test_an_invalid_settings_file_is_rejected(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "run.toml"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(CharRNNError, match=message) as caught:
        RunFile.read(path)
    assert str(path) in str(caught.value)
    assert "--" not in in_options(caught.value)  # a file has keys, not options
    assert "\n" not in str(caught.value)


def test_binary_and_missing_files_are_not_settings(tmp_path: Path) -> None:
    (tmp_path / "bytes").write_bytes(b"\xff\xfe")
    for name, message in (("bytes", "not a TOML"), ("missing", "cannot read"), (".", "is a folder")):
        with pytest.raises(CharRNNError, match=message):
            RunFile.read(tmp_path / name)


def test_symbols_are_read_one_hot_until_there_are_many() -> None:
    assert NetworkConfig().resolve(256).embedding_size == 0
    assert NetworkConfig().resolve(257).embedding_size == 256
    assert NetworkConfig(embedding_size=7).resolve(65).embedding_size == 7


def test_weights_cannot_be_tied_without_an_embedding() -> None:
    with pytest.raises(SettingError, match=r"tie_weights .* embedding_size=0 means no embedding; omit one"):
        NetworkConfig(embedding_size=0, tie_weights=True)


@pytest.mark.parametrize("vocabulary_size", [65, 6_000])
def test_tied_weights_default_to_the_hidden_size(vocabulary_size: int) -> None:
    tied = NetworkConfig(hidden_size=24, tie_weights=True)
    assert tied.resolve(vocabulary_size).embedding_size == 24
    assert dataclasses.replace(tied, embedding_size=7).resolve(vocabulary_size).embedding_size == 7


@pytest.mark.skipif(os.name != "posix", reason="other systems' paths are Unicode")
@pytest.mark.parametrize("text", ["/my-\udcff.txt", ("/é %41\udcc3.txt", "/b%41.txt", "-")])
def test_paths_that_are_not_unicode_are_read_back(tmp_path: Path, text: str | tuple[str, ...]) -> None:
    path = tmp_path / "config.toml"
    path.write_bytes(RunFile(TrainConfig(), text, init_from="/r\udce9/x").to_toml().encode())
    assert RunFile.read(path) == RunFile(TrainConfig(), text, init_from="/r\udce9/x")
