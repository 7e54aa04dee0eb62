"""Ray itself, on this machine: two actors and two replicas. `noxfile.py ray` installs it and runs this."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import tempfile
import urllib.error
import urllib.request
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from charrnn_runtime import CharRNN
from charrnn_runtime.ray import GenerateTexts, ScoreTexts, deployment
from make_models import FOLDER

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    ray: Any = pytest.importorskip("ray", reason="needs the extra ray")
    data: Any = pytest.importorskip("ray.data", reason="needs the extra ray")
    serve: Any = pytest.importorskip("ray.serve", reason="needs the extra ray")

pytestmark = pytest.mark.filterwarnings("default")  # Ray's warnings are not this project's

MODEL = FOLDER / "lstm-2x12-fp32.onnx"
WORDS = ["to", "be", "or", "not", "that", "is", "the", "question", "good", "morrow", "my", "lord", "king"]
LINES = [" ".join(WORDS[(7 * i + j) % len(WORDS)] for j in range(i % 9)) for i in range(600)]
HALF: dict[str, Any] = {"num_cpus": 0.5, "batch_size": 40}
"""The share of two cores for each of two actors: tasks that read data need the rest to make progress."""

SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "disabled",  # it would keep a token in the home folder
    "RAY_raylet_start_wait_time_s": "300",  # on a busy machine
    "RAY_worker_register_timeout_seconds": "300",
}


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    """A cluster on this machine only, which leaves no files."""
    folder = tempfile.mkdtemp(prefix="ray-")  # a short path, since it contains sockets
    os.environ.update(SETTINGS)
    here = Path(__file__).resolve().parent
    path = os.pathsep.join(map(str, (here, here.parent)))  # where workers find this module
    try:
        ray.init(
            num_cpus=4,  # the replicas keep theirs while datasets are processed
            include_dashboard=False,
            object_store_memory=100_000_000,
            log_to_driver=False,
            runtime_env={"env_vars": {"PYTHONPATH": path}},
            _temp_dir=folder,
        )
        data.DataContext.get_current().enable_progress_bars = False
        yield
    finally:
        ray.shutdown()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def model() -> CharRNN:
    return CharRNN.load(MODEL, device="cpu", threads=1)


def lines() -> Any:
    """The lines as a dataset of twelve blocks."""
    rows = [{"id": index, "text": text} for index, text in enumerate(LINES)]
    return data.from_items(rows, override_num_blocks=12)


class Watched(ScoreTexts):
    """Reports which process scored a text."""

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        scored = super().__call__(batch)
        return {**scored, "process": np.full(len(scored["nats"]), os.getpid())}


class DiesOnce(Watched):
    """Is killed once, after scoring a batch and before returning it."""

    def __init__(self, model: str, *, marker: str) -> None:
        super().__init__(model)
        self._marker = marker

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        scored = super().__call__(batch)
        if 300 in batch["id"].tolist():
            try:
                Path(self._marker).touch(exist_ok=False)
            except FileExistsError:
                return scored
            os.kill(os.getpid(), signal.SIGKILL)
        return scored


def assert_scored(rows: list[dict[str, Any]], model: CharRNN) -> None:
    """Check that every line occurs once, with a score bit-identical to that of one process."""
    assert Counter(row["id"] for row in rows) == Counter(range(len(LINES)))
    expected = [score.nats for score in model.score_each(LINES)]
    assert all(row["nats"] == expected[row["id"]] for row in rows)
    assert all(row["text"] == LINES[row["id"]] for row in rows)


def test_two_actors_give_the_same_scores_as_one_process(model: CharRNN) -> None:
    scored = lines().map_batches(
        Watched,
        fn_constructor_kwargs={"model": str(MODEL)},
        compute=data.ActorPoolStrategy(size=2),
        **HALF,
    )
    rows = scored.take_all()
    assert_scored(rows, model)
    assert len({row["process"] for row in rows}) == 2


def test_no_row_is_lost_or_duplicated_when_an_actor_dies(model: CharRNN, tmp_path: Path) -> None:
    marker = tmp_path / "died"
    scored = lines().map_batches(
        DiesOnce,
        fn_constructor_kwargs={"model": str(MODEL), "marker": str(marker)},
        compute=data.ActorPoolStrategy(size=2),
        **HALF,
    )
    rows = scored.take_all()
    assert marker.is_file()
    assert_scored(rows, model)


def test_a_loaded_model_is_sent_to_the_actors(model: CharRNN) -> None:
    scored = lines().map_batches(
        ScoreTexts, fn_constructor_kwargs={"model": model}, compute=data.ActorPoolStrategy(size=2), **HALF
    )
    assert_scored(scored.take_all(), model)


def test_prompts_of_a_dataset_get_the_same_texts_as_in_one_process(model: CharRNN, tmp_path: Path) -> None:
    prompts = [line[:20] for line in LINES[:100]]
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps({"n": n, "prompt": each}) + "\n" for n, each in enumerate(prompts)))
    written = data.read_json(str(path)).map_batches(
        GenerateTexts,
        fn_constructor_kwargs={"model": str(MODEL), "seed": 3, "length": 30, "number_column": "n"},
        compute=data.ActorPoolStrategy(size=2),
        num_cpus=0.5,
        batch_size=16,
    )
    written.write_parquet(str(tmp_path / "written"))
    rows = data.read_parquet(str(tmp_path / "written")).take_all()
    expected = model.generate(prompts, 30, seed=3, echo=False)
    assert sorted((row["n"], row["text"]) for row in rows) == list(enumerate(expected))


@pytest.fixture(scope="module")
def address(cluster: None) -> Iterator[str]:
    """The address of two replicas."""
    port = 18_000 + os.getpid() % 1_000
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    try:
        application = deployment(
            str(MODEL),
            max_length=5_000,
            num_replicas=2,
            ray_actor_options={"num_cpus": 0.5},
            max_ongoing_requests=16,
        )
        serve.run(application, route_prefix="/")
        yield f"http://127.0.0.1:{port}/"
    finally:
        serve.shutdown()


def post(address: str, **fields: Any) -> Any:
    request = urllib.request.Request(address, json.dumps(fields).encode())
    return urllib.request.urlopen(request, timeout=60)


def test_two_replicas_stream_text(address: str, model: CharRNN) -> None:
    with post(address, prompt="LORD ", length=4_000, seed=2, echo=True) as answer:
        assert answer.headers["x-charrnn-seed"] == "2"
        pieces = [answer.read1(1 << 20)]
        while pieces[-1]:
            pieces.append(answer.read1(1 << 20))
    assert b"".join(pieces).decode() == model.generate("LORD ", 4_000, seed=2)
    assert len(pieces) > 2
    with pytest.raises(urllib.error.HTTPError) as refused:
        post(address, length=5_001)
    assert refused.value.code == 400
    assert json.loads(refused.value.read())["error"].startswith("length must be between 0 and 5000")


def test_concurrent_requests_get_the_same_as_alone(address: str, model: CharRNN) -> None:
    handle = serve.get_app_handle("default").options(method_name="generate", stream=True)
    asked = [handle.remote(line, 60, seed=seed, echo=True) for seed, line in enumerate(LINES[:40])]
    texts = ["".join(each) for each in asked]
    assert texts == [model.generate(line, 60, seed=seed) for seed, line in enumerate(LINES[:40])]
    replicas = serve.status().applications["default"].deployments["charrnn"].replica_states
    assert sum(replicas.values()) == 2


def test_the_fields_of_autoscaling_are_passed_through() -> None:
    scale = {"min_replicas": 1, "max_replicas": 3, "target_ongoing_requests": 20}
    application = deployment(str(MODEL), name="texts", autoscaling_config=scale)
    made = application._bound_deployment
    assert made.name == "texts"
    config = made._deployment_config.autoscaling_config
    assert {name: getattr(config, name) for name in scale} == scale
    assert made.ray_actor_options == {"num_cpus": 1}
    assert made.max_ongoing_requests == 64


def test_the_examples_of_the_datasets_page_run(tmp_path: Path) -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "ray.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    examples = [block for block in blocks if "serve" not in block]
    assert len(examples) == 2
    (tmp_path / "logs.jsonl").write_text("".join(json.dumps({"text": line}) + "\n" for line in LINES))
    shutil.copy(MODEL, tmp_path / "lstm.onnx")
    for example in examples:
        code = example
        for name in ("models/lstm.onnx", "logs.jsonl", "scored", "written"):  # workers run in another folder
            code = code.replace(f'("{name}"', f"({str(tmp_path / Path(name).name)!r}")
        names: dict[str, Any] = {}
        exec(compile(code, "docs/ray.md", "exec"), names)
        if "odd" in names:
            bits = [row["bits_per_character"] for row in names["odd"]]
            assert len(bits) == 10
            assert bits == sorted(bits, reverse=True)
    assert data.read_parquet(str(tmp_path / "scored")).count() == len(LINES)
    assert data.read_json(str(tmp_path / "written")).count() == 100
