"""``python -m charrnn_runtime``: runs the commands if their scripts are not on the path.

``python -m charrnn_runtime gen MODEL.onnx ...`` is ``charrnn-gen MODEL.onnx ...``; without a command, it
lists them.
"""

from __future__ import annotations

import importlib
import sys
from typing import Final

_COMMANDS: Final = {
    "gen": "generate text with a model",
    "score": "measure how well a model predicts a text",
    "quality": "measure the quality of text that models generate",
    "view": "show what a model does at each character of a text",
    "serve": "serve models over HTTP",
    "triton": "write a model repository for NVIDIA's Triton Inference Server",
    "info": "show the contents of a model file",
}


def main() -> None:
    """Run the command named by the first argument."""
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name in _COMMANDS:
        sys.argv[0:2] = [f"charrnn-{name}"]
        importlib.import_module(f"charrnn_runtime.cli.{name}").main()
    if name in ("-h", "--help"):
        lines = ["Usage: python -m charrnn_runtime COMMAND ...", "", "Commands, each with its own --help:"]
        lines += [f"  {each:<8} (charrnn-{each}) {what}" for each, what in _COMMANDS.items()]
        sys.stdout.write("\n".join(lines) + "\n")
        return
    if name == "--version":
        from charrnn_runtime import __version__

        sys.stdout.write(f"charrnn-runtime {__version__}\n")
        return
    known = ", ".join(_COMMANDS)
    sys.stderr.write(f"python -m charrnn_runtime: error: unknown command {name!r}; choose from {known}\n")
    sys.exit(2)


if __name__ == "__main__":
    main()
