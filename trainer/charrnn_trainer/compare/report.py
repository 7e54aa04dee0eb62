"""The report: what was read and measured of some runs, as one page of HTML that holds everything."""

from __future__ import annotations

import platform
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

from charrnn_runtime.errors import SettingError
from charrnn_trainer.compare.answers import WINDOW, Answer, answer
from charrnn_trainer.compare.figures import batch_time, bits, duration, listed, nats, size
from charrnn_trainer.compare.measure import (
    SPEED_LENGTH,
    SPEED_REPEATS,
    ModelMeasures,
    Sample,
    SampleSettings,
    measure_models,
    write_samples,
)
from charrnn_trainer.compare.plots import RUN_COLOURS, RUN_COLOURS_DARK, Picture, draw_curves, draw_gaps
from charrnn_trainer.compare.records import RunRecord, read_runs
from charrnn_trainer.config import MOST_STEPS
from charrnn_trainer.version import __version__

PAGE: Final = "report.html"
PICTURES: Final = ("curves", "gap")
_MOST_ROWS: Final = 50
_TEXT_WIDTH: Final = 100
_POLICY: Final = "default-src 'none'; style-src 'unsafe-inline'"
"""Nothing is fetched or run, whatever a name or a sample holds."""


@dataclass(frozen=True, eq=False)
class Comparison:
    """Runs side by side.

    Attributes:
        runs: what each noted of itself.
        models: what was measured of each run's exported model.
        settings: how the samples were written.
        samples: rows of samples, one of every run or None where a run has no such checkpoint.
        pictures: the pictures, by name.
        answers: how the results differ and why, in words.
    """

    runs: tuple[RunRecord, ...]
    models: tuple[ModelMeasures, ...]
    settings: SampleSettings
    samples: tuple[tuple[Sample | None, ...], ...]
    pictures: dict[str, Picture]
    answers: tuple[Answer, ...]

    def files(self) -> dict[str, bytes]:
        """The files of the report by name: the pictures, and the page, which holds them too."""
        pictures = {f"{name}.png": picture.png for name, picture in self.pictures.items()}
        return {**pictures, PAGE: self.html().encode("utf-8", "replace")}

    def table(self) -> list[list[str]]:
        """The figures of every run: a list of headings, and then a list for each run."""
        headings = [
            *("run", "cell", "parameters", "steps", "training loss", "best validation loss"),
            *("bits per character", "seconds a batch", "characters a second", "file"),
        ]
        return [headings, *(_figures(*pair) for pair in zip(self.runs, self.models, strict=True))]

    def text(self) -> str:
        """The table and the answers as plain text."""
        table = self.table()
        widths = [max(len(row[column]) for row in table) for column in range(len(table[0]))]
        lines = [
            "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in table
        ]
        for item in self.answers:
            lines += ["", item.question, *_wrapped(item.paragraphs)]
            for title, points in _weighed(item):
                lines += [f"{title}:", *(f"  - {point}" for point in points)]
            lines += _wrapped(item.after)
        return "\n".join(line.rstrip() for line in lines)

    def html(self) -> str:
        """The page: one file that fetches nothing."""
        return _page(self)


def compare_runs(
    runs: Sequence[str | Path],
    *,
    prime: str = "",
    length: int = 300,
    seed: int = 1,
    temperature: float = 0.8,
    checkpoints: int = 3,
    report: Callable[[str], None] = lambda line: None,
) -> Comparison:
    """Compare runs.

    Args:
        runs: the runs' folders, or folders of runs.
        prime: what all samples go on from; empty starts each with the model's start token.
        length: how many characters a sample has.
        seed: what decides the samples' random numbers.
        temperature: the samples' temperature.
        checkpoints: at how many checkpoints of a run it writes samples, from 1 to 50; the best comes besides.
        report: is called with a line for each thing that is done.

    Raises:
        SettingError: a setting makes no sense.
        CharRNNError: a run cannot be read, or does not know a character of the prime.
    """
    if not 1 <= checkpoints <= _MOST_ROWS:
        raise SettingError(f"--checkpoints must be from 1 to {_MOST_ROWS}, not {checkpoints}")
    records = read_runs(runs)
    settings = SampleSettings(prime, length, seed, temperature)
    samples = write_samples(records, settings, checkpoints, report)
    report(f"measuring how fast {listed([run.name for run in records])} generate")
    models = measure_models(records)
    report("drawing")
    drawn = [draw_curves(records), draw_gaps(records)]
    return Comparison(
        runs=tuple(records),
        models=tuple(models),
        settings=settings,
        samples=tuple(tuple(row) for row in samples),
        pictures={picture.name: picture for picture in drawn if picture is not None},
        answers=tuple(answer(records, models)),
    )


def _figures(run: RunRecord, model: ModelMeasures) -> list[str]:
    best = run.best
    steps = run.config.optimization.steps
    planned = f" of {steps:,}" if steps < MOST_STEPS else ""  # the time ends it, not a number of steps
    return [
        run.name,
        f"{run.cell} {run.size}",
        f"{run.parameters:,}",
        f"{run.step:,}" + ("" if run.finished else f"{planned}, not finished"),
        nats(run.last_train_loss(WINDOW)),
        "none kept" if best is None else f"{nats(best.loss)} at step {best.step:,}",
        "-" if best is None else bits(best.loss),
        batch_time(run.batch_seconds),
        f"{model.characters_per_second:,.0f}",
        size(model.file_bytes),
    ]


def _wrapped(paragraphs: Sequence[str]) -> list[str]:
    return [line for paragraph in paragraphs for line in textwrap.wrap(paragraph, _TEXT_WIDTH)]


def _weighed(item: Answer) -> list[tuple[str, tuple[str, ...]]]:
    parts = (("It gains", item.gains), ("It loses", item.losses), ("Even", item.even))
    return [(title, points) for title, points in parts if points]


# --- the page ----------------------------------------------------------------------------------------------


def _page(comparison: Comparison) -> str:
    names = [run.name for run in comparison.runs]
    title = f"{listed(names)} compared" if len(names) > 1 else f"{names[0]}: one run"
    texts = dict.fromkeys(_text_read(run) for run in comparison.runs)
    body = [
        (
            f"<header><p class=kicker>charrnn</p><h1>{escape(title)}</h1>"
            f"<p class=lead>Learned from {escape(listed(list(texts)))}.</p></header>"
        ),
        _table_section(comparison),
        _curves_section(comparison),
        _answers_section(comparison.answers),
        _samples_section(comparison),
        _footer(comparison),
    ]
    return (
        "<!doctype html>\n"
        '<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="generator" content="charrnn-compare">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        f"<title>{escape(title)}</title>\n<style>\n{_style_sheet()}</style>\n</head>\n"
        f"<body>\n<main>\n{''.join(body)}</main>\n</body>\n</html>\n"
    )


def _text_read(run: RunRecord) -> str:
    unit = "bytes" if run.config.data.level == "byte" else "characters"
    return f"{run.corpus.name} ({run.corpus.characters:,} {unit})"


def _table_section(comparison: Comparison) -> str:
    headings, *rows = comparison.table()
    head = "".join(f'<th scope="col">{escape(heading)}</th>' for heading in headings)
    lines = []
    for index, row in enumerate(rows):
        name = f'<th scope="row">{_swatch(index)}{escape(row[0])}</th>'
        lines.append(f"<tr>{name}{''.join(f'<td>{escape(cell)}</td>' for cell in row[1:])}</tr>")
    kept = any(run.best is None for run in comparison.runs)
    note = (
        f"Losses in nats per character; the training loss is the mean of the last {WINDOW} steps. Seconds a "
        "batch: the median of all steps, as noted by the run. Characters a second: one stream on one thread "
        f"of this processor, median of {SPEED_REPEATS} texts of {SPEED_LENGTH:,} characters, through "
        "the exported fp32 step model of the best checkpoint, whose size is that of the file."
    )
    if kept:
        note += " A run without validation text exports its last checkpoint."
    return (
        '<section aria-labelledby="figures"><h2 id="figures">The figures</h2>'
        f'<div class=wide tabindex="0" role="region" aria-labelledby="figures"><table><thead><tr>{head}</tr>'
        f"</thead><tbody>{''.join(lines)}</tbody></table></div><p class=note>{escape(note)}</p></section>\n"
    )


def _curves_section(comparison: Comparison) -> str:
    figures = []
    for picture in comparison.pictures.values():
        label = f'role="img" aria-label="{escape(picture.alt)}" '
        svg = picture.svg.replace("<svg ", f"<svg {label}", 1)
        figures.append(f"<figure>{svg}<figcaption>{escape(picture.caption)}</figcaption></figure>\n")
    return (
        f'<section aria-labelledby="course"><h2 id="course">The course of training</h2>'
        f"{''.join(figures)}</section>\n"
    )


def _answers_section(answers: Sequence[Answer]) -> str:
    parts = []
    for item in answers:
        parts.append(f"<h3>{escape(item.question)}</h3>")
        parts += [f"<p>{escape(paragraph)}</p>" for paragraph in item.paragraphs]
        if columns := _weighed(item):
            cards = [_card(title, points) for title, points in columns]
            parts.append(f"<div class=cards>{''.join(cards)}</div>")
        parts += [f"<p>{escape(paragraph)}</p>" for paragraph in item.after]
    return (
        '<section class=text aria-labelledby="answers"><h2 id="answers">What the runs say</h2>'
        f"{''.join(parts)}</section>\n"
    )


def _card(title: str, points: Sequence[str]) -> str:
    items = "".join(f"<li>{escape(point)}</li>" for point in points)
    return f"<div class=card><h4>{title}</h4><ul>{items}</ul></div>"


def _samples_section(comparison: Comparison) -> str:
    settings = comparison.settings
    begin = (
        f"All go on from <q>{escape(settings.prime)}</q>" if settings.prime else "All start without a prime"
    )
    rows = []
    for row in comparison.samples:
        cells = [
            _sample(index, run, sample, settings.prime)
            for index, (run, sample) in enumerate(zip(comparison.runs, row, strict=True))
        ]
        rows.append(f"<div class=samples>{''.join(cells)}</div>\n")
    return (
        '<section aria-labelledby="samples"><h2 id="samples">What they write</h2>'
        f"<p class=note>{begin}, with seed {settings.seed} and temperature {settings.temperature:g}: the "
        f"same random numbers for every one.</p>{''.join(rows)}</section>\n"
    )


def _sample(index: int, run: RunRecord, sample: Sample | None, prime: str) -> str:
    if sample is None:
        return f"<article>{_swatch(index)}{escape(run.name)}<p class=note>no such checkpoint</p></article>"
    entry = sample.checkpoint
    marks = [f"step {entry.step:,}"]
    if entry.validation_loss is not None:
        marks.append(f"validation {nats(entry.validation_loss)}")
    elif entry.train_loss is not None:
        marks.append(f"training {nats(entry.train_loss)}")
    if entry.best and run.best is not None:
        marks.append("best")
    return (
        f"<article><h3>{_swatch(index)}{escape(run.name)} <small>{escape(' · '.join(marks))}</small></h3>"
        f"<pre><b>{escape(prime)}</b>{escape(_shown(sample.text))}</pre></article>"
    )


def _shown(text: str) -> str:
    """A text as a page can hold it: control characters but for line ends and tabs become a dot."""
    return "".join(character if character.isprintable() or character in "\n\t" else "·" for character in text)


def _swatch(index: int) -> str:
    return f'<span class=swatch style="background:var(--run{index % len(RUN_COLOURS)})"></span>'


def _footer(comparison: Comparison) -> str:
    devices = dict.fromkeys(
        f"{run.config.run.precision} on {run.config.run.device}" for run in comparison.runs
    )
    seconds = listed([f"{run.name} {duration(run.total_seconds)}" for run in comparison.runs])
    return (
        f"<footer><p>Trained in {escape(listed(list(devices)))} (training steps: {escape(seconds)}). Made by "
        f"charrnn-compare {__version__} with onnxruntime {escape(_onnxruntime())}, Python "
        f"{platform.python_version()}, on {escape(platform.system())} {escape(platform.machine())}.</p>"
        "</footer>\n"
    )


def _onnxruntime() -> str:
    for name in ("onnxruntime-gpu", "onnxruntime"):
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return "of unknown version"


def _style_sheet() -> str:
    def colours(runs: Sequence[str], **roles: str) -> str:
        named = {**roles, **{f"run{i}": colour for i, colour in enumerate(runs)}}
        return " ".join(f"--{name}: {colour};" for name, colour in named.items())

    light = colours(
        RUN_COLOURS, ink="#1c1e21", muted="#5b616a", line="#dfe2e6", paper="#ffffff", card="#f6f7f9"
    )
    dark = colours(
        RUN_COLOURS_DARK, ink="#e6e8eb", muted="#a2a9b3", line="#33383f", paper="#15171a", card="#1d2024"
    )
    return f":root {{ {light} }}\n@media (prefers-color-scheme: dark) {{ :root {{ {dark} }} }}\n{_STYLE}"


_STYLE: Final = """\
* { box-sizing: border-box; }
html { color-scheme: light dark; -webkit-text-size-adjust: 100%; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 1rem/1.6 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif; }
main { max-width: 66rem; margin: 0 auto; padding: 3rem 1.25rem 4rem; }
.kicker { margin: 0; color: var(--muted);
  font-size: .8rem; letter-spacing: .12em; text-transform: uppercase; }
h1 { margin: .15em 0 .2em; font-size: clamp(1.7rem, 4vw, 2.4rem); line-height: 1.15; letter-spacing: -.02em;
  overflow-wrap: anywhere; }
h2 { margin: 3rem 0 .8rem; padding-top: .9rem; border-top: 1px solid var(--line); font-size: 1.35rem;
  letter-spacing: -.01em; }
h3 { margin: 1.8rem 0 .4rem; font-size: 1.05rem; }
h4 { margin: 0 0 .3rem; font-size: .95rem; }
p { margin: .5rem 0; }
.lead { margin: 0; color: var(--muted); font-size: 1.05rem; overflow-wrap: anywhere; }
.text p { max-width: 44rem; overflow-wrap: anywhere; }
.note, figcaption, footer { color: var(--muted); font-size: .875rem; max-width: 52rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { padding: .55rem .7rem; border-bottom: 1px solid var(--line); text-align: right;
  vertical-align: top; }
th:first-child, td:nth-child(2), th:nth-child(2) { text-align: left; }
thead th { color: var(--muted); font-weight: 600; font-size: .8rem; vertical-align: bottom; }
tbody th { font-weight: 600; white-space: nowrap; }
th:first-child, td:first-child { padding-left: 0; }
.swatch { display: inline-block; width: .7em; height: .7em; margin-right: .5em; border-radius: 2px; }
figure { margin: 1rem 0 2rem; }
figure svg { display: block; width: 100%; height: auto; font-family: inherit; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(17rem, 1fr)); gap: 1rem;
  margin: 1rem 0; }
.card { padding: .9rem 1.1rem; background: var(--card); border-radius: 8px; }
.card ul { margin: 0; padding-left: 1.1rem; font-size: .92rem; font-variant-numeric: tabular-nums; }
.samples { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 19rem), 1fr)); gap: 1rem;
  margin: 1rem 0; }
.samples article { min-width: 0; }
.samples h3 { margin: 0 0 .4rem; font-size: .95rem; }
small { color: var(--muted); font-weight: 400; }
pre { margin: 0; padding: .9rem 1.1rem; background: var(--card); border-radius: 8px; white-space: pre-wrap;
  overflow-wrap: anywhere; font: .82rem/1.5 ui-monospace, "Cascadia Mono", Menlo, Consolas, monospace; }
footer { margin-top: 3rem; padding-top: .9rem; border-top: 1px solid var(--line); }
@media print { main { max-width: none; padding: 0; } pre, figure { break-inside: avoid; } }
"""
