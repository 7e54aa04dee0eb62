"""Writes what the Python runtime makes of some models, for the tests of the package to compare with.

    python js/tools/expected.py FILE.json [--quick]

--quick: of the small models of the tests alone, and shorter texts.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from charrnn_runtime import CharRNN
from charrnn_runtime.uniforms import stream_keys, uniforms_at

ROOT = Path(__file__).resolve().parents[2]
SMALL = ("lstm-2x12-fp32", "gru-2x12-fp32", "rnn-1x12-fp32", "lstm-1x12-fp32-byte")
SHIPPED = ("lstm", "best", "gru")
IN_BROWSER = ("lstm-2x12-fp32.onnx", "-byte.onnx")
"""Those of the small ones that browsers try, too, in the quick form: loading takes them a second each."""

NAMES = {"topK": "top_k", "topP": "top_p", "minP": "min_p"}

PROMPTS = ["LORD ", "K", "To be, or not to be: that is\n", "A\nB"]
TEXT = "Good morrow, my lord.\nWhat news?"

CASES: tuple[tuple[Any, dict[str, Any]], ...] = (
    ("LORD ", {"length": 1000, "seed": 1}),
    ("LORD ", {"length": 1000, "seed": 1, "topK": 1}),
    ("KING ", {"length": 300, "seed": 2**63 + 5, "temperature": 1.1, "topK": 20, "topP": 0.9, "minP": 0.02}),
    ("", {"length": 100, "seed": 3}),
    ("LORD ", {"length": 0, "seed": 3}),
    ("LORD ", {"length": 1000, "seed": 4, "stop": ["\n\n", "e th", "the"]}),
    ("Zoë ", {"length": 50, "seed": 5, "unknown": "skip"}),
    (PROMPTS, {"length": 200, "seed": 6}),
    (PROMPTS * 20, {"length": 40, "seed": 7, "stop": "\n"}),
)


def cases(model: CharRNN, longest: int) -> list[dict[str, Any]]:
    found = []
    for prompt, asked in CASES:
        options = asked | {"length": min(asked["length"], longest)}
        settings: Any = {NAMES.get(name, name): value for name, value in options.items()}
        prompts = [prompt] if isinstance(prompt, str) else prompt
        each = list(model.generate_each(prompts, settings.pop("length"), **settings))
        found.append(
            {
                "prompt": prompt,
                "options": options | {"seed": str(options["seed"])},
                "texts": model.generate(prompts, options["length"], **settings),
                "data": [one.data.hex() for one in each],
                "positions": [one.state.positions.tolist()[0] for one in each],
                "reasons": [one.finish_reason for one in each],
            }
        )
    return found


def states(model: CharRNN) -> dict[str, Any]:
    """A state that is primed, forked and gone back to."""
    primed = model.prime("ROMEO:\nWhat light")
    forked = primed.fork(3, first_number=5)
    after = next(model.generate_each(primed, 20, seed=8)).state
    return {
        "forked": model.generate(forked, 60, seed=8),
        "again": model.generate(primed, 60, seed=8),
        "later": model.generate(after, 40, seed=8),
        "row": primed.rows[0].tolist(),
        "losses": model.score(TEXT).per_character.tolist(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--quick", action="store_true")
    arguments = parser.parse_args()
    paths = [f"tests/models/{name}.onnx" for name in SMALL]
    if not arguments.quick:
        paths += [f"models/{name}.onnx" for name in SHIPPED]
    models = {}
    for path in paths:
        model = CharRNN.load(ROOT / path, device="cpu", threads=1)
        models[path] = {"cases": cases(model, 80 if arguments.quick else 1000), "states": states(model)}
    positions = [0, 1, 2, 1000, 2**31 - 2, 2**31, 2**32 - 2, 2**32, 2**45 + 3]
    uniforms = [
        {"seed": str(seed), "stream": stream, "position": position, "value": value}
        for seed in (0, 1, 42, 2**32 - 1, 2**53 + 1, 2**64 - 1)
        for stream in (0, 1, 3, 2**31 - 1, 2**32)
        for position, value in zip(
            positions, uniforms_at(stream_keys(seed, [stream]), positions).tolist(), strict=True
        )
    ]
    in_browser = [path for path in paths if not arguments.quick or path.endswith(IN_BROWSER)]
    written = {
        "text": TEXT,
        "models": models,
        "in_browser": in_browser,
        "quick": arguments.quick,
        "uniforms": uniforms,
    }
    arguments.file.parent.mkdir(parents=True, exist_ok=True)
    arguments.file.write_text(json.dumps(written), encoding="utf-8")


if __name__ == "__main__":
    main()
