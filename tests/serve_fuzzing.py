"""Sends valid and invalid requests, derived from the server's schema, to each endpoint.

`python3 noxfile.py serve_fuzz` runs it, with schemathesis; `--examples` follow the two dashes.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from charrnn_runtime import CharRNN
from charrnn_runtime.serve.settings import ServeSettings
from make_models import FOLDER
from served import Served

CHECKS = (
    *("not_a_server_error", "status_code_conformance", "content_type_conformance"),
    *("response_schema_conformance", "response_headers_conformance", "negative_data_rejection"),
)

CONFIGURATION = """\
[checks.negative_data_rejection]
expected-statuses = [400, 401, 403, 404, 405, 406, 409, 413, 415, 422, 428, 429, "5xx"]
"""
"""The default statuses, and 413: an invalid body may be too large, too."""


def main() -> None:
    """Start a server and run schemathesis against it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--examples", type=int, default=200, help="number of requests per endpoint")
    arguments = parser.parse_args()
    models = {
        name: CharRNN.load(FOLDER / f"{name}.onnx") for name in ("lstm-2x12-fp32", "lstm-1x12-fp32-byte")
    }
    limits = ServeSettings(max_length=30, max_choices=4, max_prompt=200, max_body=20_000)
    command = [str(Path(sys.executable).parent / "schemathesis"), "run", "--suppress-health-check", "all"]
    command += ["--checks", ",".join(CHECKS), "--max-examples", str(arguments.examples)]
    with tempfile.TemporaryDirectory() as folder, Served(models, limits) as server:
        (Path(folder) / "schemathesis.toml").write_text(CONFIGURATION, encoding="utf-8")
        done = subprocess.run([*command, f"{server.url}/openapi.json"], check=False, cwd=folder)
        assert not server.service.busy
        assert server.complete(max_tokens=3).status == 200
    sys.exit(done.returncode)


if __name__ == "__main__":
    main()
