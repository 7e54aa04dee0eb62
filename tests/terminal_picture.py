"""Creates docs/train.svg: the terminal output of charrnn-train after two of three minutes.

    python tests/terminal_picture.py [--after SECONDS] [--out FILE.svg]

The training run is real, in a temporary folder, and is stopped after the picture is taken. The terminal is
tmux, which must be installed. The text is the default one, from data/ if present.
"""

from __future__ import annotations

import argparse
import io
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.text import Text

ROOT = Path(__file__).resolve().parent.parent
COMMAND = "charrnn-train --minutes 3"
COLUMNS, ROWS = 80, 48
FONTS = "ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', monospace"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--after", type=float, default=120.0, help="seconds until the picture")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "train.svg")
    options = parser.parse_args()
    options.out.write_text(as_svg(f"$ {COMMAND}\n{shown(options.after)}"), encoding="utf-8")
    print(options.out)


def shown(after: float) -> str:
    """The contents of a terminal some seconds after the start of the command, with colour codes."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "data").symlink_to(ROOT / "data", target_is_directory=True)

        def tmux(*words: str) -> str:
            command = ["tmux", "-S", f"{folder}/tmux", "-f", "/dev/null", *words]
            done = subprocess.run(command, cwd=folder, check=True, capture_output=True, encoding="utf-8")
            return done.stdout

        program = f"PATH={Path(sys.executable).parent}:$PATH; export LC_ALL=C.UTF-8; {COMMAND}; sleep 60"
        tmux("new-session", "-d", "-x", str(COLUMNS), "-y", str(ROWS), program)
        try:
            time.sleep(after)
            return tmux("capture-pane", "-e", "-p")
        finally:
            tmux("kill-server")  # which also stops the training run
            time.sleep(5.0)


def as_svg(captured: str) -> str:
    """A self-contained picture of the contents of a terminal."""
    text = Text.from_ansi(captured.rstrip())
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), color_system="truecolor")
    console.print(text, no_wrap=True)
    svg = console.export_svg(title="charrnn-train", unique_id="train")
    svg = re.sub(r"@font-face \{.*?\}\s*|<!--.*?-->\s*", "", svg, flags=re.DOTALL)
    svg = svg.replace("Fira Code, monospace", FONTS)
    return re.sub(r"[ \t]+$", "", svg, flags=re.MULTILINE)


if __name__ == "__main__":
    main()
