"""How the results of runs differ, and why: sentences made from their figures alone.

Every sentence is chosen by the figures that it states, so that it is true of whatever runs are given.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from charrnn_trainer.compare.figures import (
    batch_time,
    bits,
    duration,
    listed,
    nats,
    share,
    signed,
    size,
)
from charrnn_trainer.compare.measure import ModelMeasures
from charrnn_trainer.compare.records import RunRecord, Validation

WINDOW: Final = 100
"""A training loss at a step is the mean of so many steps up to it (of all, where there are fewer)."""
EVEN: Final = 0.005
"""Losses that are less than so many nats apart are called even."""
EVEN_SPEED: Final = 0.03
"""Times, speeds and sizes that are less than this share apart are called even."""
OVERFIT: Final = 0.01
"""A validation loss that ends so many nats above its best has risen again."""

DISTURBED: Final = 1.2
"""Where the mean time of a step is so many times the median, something else kept the machine busy."""

_COMPUTING: Final = ("device", "precision", "onednn", "threads")
"""The settings that decide how fast a step is computed."""
_NO_PART: Final = (
    *("cell", "seed"),
    *("eval_every", "save_every", "log_every", "keep", "tensorboard"),
    *("device", "onednn", "threads"),
)
"""The settings that are the question, or chance, or no part of what is learned."""


@dataclass(frozen=True)
class Answer:
    """An answer to a question.

    Attributes:
        question: the question, a heading.
        paragraphs: the answer.
        gains: what is gained, a line each; empty where nothing is weighed.
        losses: what is lost.
        even: what makes no difference.
        after: what is to be said at the end.
    """

    question: str
    paragraphs: tuple[str, ...] = ()
    gains: tuple[str, ...] = ()
    losses: tuple[str, ...] = ()
    even: tuple[str, ...] = ()
    after: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Entry:
    """A run and what was measured of its model."""

    run: RunRecord
    model: ModelMeasures


def answer(runs: Sequence[RunRecord], models: Sequence[ModelMeasures]) -> list[Answer]:
    """The answers to what the course exercise asks, for these runs."""
    entries = [Entry(run, model) for run, model in zip(runs, models, strict=True)]
    return [
        Answer("How do the results differ?", tuple(_results(entries))),
        Answer("Where does learning turn into learning by heart?", tuple(_fits(entries))),
        Answer("Why do they differ?", tuple(_reasons(entries))),
        _gru_against_lstm(entries),
    ]


# --- how the results differ --------------------------------------------------------------------------------


def _results(entries: Sequence[Entry]) -> list[str]:
    runs = [entry.run for entry in entries]
    if len(runs) == 1:
        return [_alone(runs[0])]
    said = []
    if not _same_text(runs):
        said.append(
            "The runs read different texts, so their losses say little of one another: a text that is "
            "easier to predict gives a lower loss with any network."
        )
    validated = [run for run in runs if run.best is not None]
    if len(validated) > 1:
        said.append(_validation_ranking(validated))
        if not _same_split(validated):
            said.append(
                "They keep different parts of their texts for validation, which that comparison hides."
            )
    elif validated:
        said.append(
            f"Only {validated[0].name} kept text for validation, so there is no comparison on text that none "
            "of them learned from."
        )
    else:
        said.append(
            "None of the runs kept text for validation, so only their training losses can be compared; how "
            "they do on text that they never saw stays open."
        )
    said.append(_training_ranking(runs))
    said.append(_time_ranking(runs))
    unfinished = [run.name for run in runs if not run.finished]
    if unfinished:
        were = "is" if len(unfinished) == 1 else "are"
        said.append(f"{listed(unfinished)} {were} not finished: all of this is how it stands now.")
    return said


def _alone(run: RunRecord) -> str:
    so_far = "" if run.finished else " so far (it is not finished)"
    said = (
        f"{run.name} is a {run.cell} of {run.size} with {run.parameters:,} parameters. After {run.step:,} "
        f"steps and {duration(run.total_seconds)} of training its training loss is "
        f"{nats(run.last_train_loss(WINDOW))} nats per character (mean of the last "
        f"{min(WINDOW, len(run.losses))} steps){so_far}"
    )
    if run.best is None:
        return said + ". It kept no text for validation."
    return (
        f"{said}, and its lowest validation loss {nats(run.best.loss)} nats ({bits(run.best.loss)} bits per "
        f"character), at step {run.best.step:,}. With a second run there would be something to compare it "
        "with."
    )


def _validation_ranking(runs: Sequence[RunRecord]) -> str:
    ranked = sorted(((run, run.best) for run in runs if run.best), key=lambda item: item[1].loss)
    (winner, lowest), *others = ranked
    said = (
        f"On the text that was kept for validation, {winner.name} comes lowest: {nats(lowest.loss)} nats "
        f"({bits(lowest.loss)} bits) per character at step {lowest.step:,}. "
    )
    parts = [
        f"{run.name} has {nats(best.loss)} ({signed(best.loss - lowest.loss)}) at step {best.step:,}"
        for run, best in others
    ]
    said += listed(parts) + "."
    if others[0][1].loss - lowest.loss < EVEN:
        said += f" The first two are less than {EVEN} nats apart, which may be chance."
    return said


def _training_ranking(runs: Sequence[RunRecord]) -> str:
    """The training losses after the same number of steps."""
    step = min(run.step for run in runs)
    reached = [(run, run.train_loss(step, WINDOW)) for run in runs]
    ranked = sorted(((run, loss) for run, loss in reached if loss is not None), key=lambda item: item[1])
    if len(ranked) < 2:
        return "The histories have no steps in common at which training losses could be compared."
    (winner, lowest), *others = ranked
    parts = [f"{run.name} has {nats(loss)} ({signed(loss - lowest)})" for run, loss in others]
    said = (
        f"On the text that it learns from, after the {step:,} steps that all of them did, {winner.name} is "
        f"lowest with {nats(lowest)} nats (mean of {min(WINDOW, step)} steps), and {listed(parts)}."
    )
    last, highest = ranked[-1]
    first = winner.first_step_below(highest, min(WINDOW, step))
    if highest - lowest >= EVEN and first is not None and first < step:
        said += (
            f" {winner.name} had come down to the {nats(highest)} of {last.name} by step {first:,} already."
        )
    return said


def _time_ranking(runs: Sequence[RunRecord]) -> str:
    """The training losses after the same time."""
    seconds = min(run.total_seconds for run in runs)
    at = [(run, _loss_after(run, seconds)) for run in runs]
    ranked = sorted(((run, loss) for run, loss in at if loss is not None), key=lambda item: item[1])
    if len(ranked) < 2:
        return "The histories do not allow a comparison after the same time."
    (winner, lowest), *others = ranked
    parts = [f"{run.name} at {nats(loss)} ({signed(loss - lowest)})" for run, loss in others]
    said = (
        f"After the same time, {duration(seconds)} of training steps, {winner.name} is at {nats(lowest)} and "
        f"{listed(parts)}."
    )
    differ = _differences(runs, _COMPUTING)
    if differ:
        said += f" They did not compute alike ({'; '.join(differ)}), which has its part in this."
    disturbed = [
        f"{run.name}: {batch_time(float(run.seconds.mean()))} s, and {batch_time(run.batch_seconds)}"
        for run in runs
        if run.total_seconds > DISTURBED * run.batch_seconds * len(run.seconds)
    ]
    if disturbed:
        said += (
            f" The mean time of a step is far above the median ({'; '.join(disturbed)}): the machine did "
            "other work besides, and the median tells more of the speed."
        )
    return said


def _loss_after(run: RunRecord, seconds: float) -> float | None:
    done = run.steps[run.elapsed <= seconds * (1 + 1e-9)]
    return run.train_loss(int(done[-1]), WINDOW) if len(done) else None


# --- where learning turns into learning by heart -----------------------------------------------------------


def _fits(entries: Sequence[Entry]) -> list[str]:
    return [_fit(entry.run) for entry in entries]


def _fit(run: RunRecord) -> str:
    best = run.best
    if best is None:
        return f"{run.name} kept no text for validation, so this cannot be seen."
    last = run.validations[-1]
    spent = duration(run.seconds_until(best.step))
    if len(run.validations) == 1:
        return (
            f"{run.name} was validated once, after step {best.step:,} ({nats(best.loss)}): its course "
            "cannot be seen from that."
        )
    gap = _gap(run, last)
    ending = "" if gap is None else f" (training {nats(last.loss - gap)}, a gap of {nats(gap)})"
    if best.step == last.step:
        tail = (
            "more steps may well lower it further"
            if run.validations[-2].loss > best.loss + EVEN
            else (f"it had all but stopped, having been {nats(run.validations[-2].loss)} before")
        )
        return (
            f"{run.name} has its lowest validation loss, {nats(best.loss)}, at its last validation, step "
            f"{best.step:,}{ending}: it shows no overfitting yet, and {tail}."
        )
    if last.loss - best.loss < OVERFIT:
        return (
            f"{run.name} reaches its lowest validation loss, {nats(best.loss)}, at step {best.step:,} (after "
            f"{spent}) and then stays level, ending at {nats(last.loss)}{ending}."
        )
    at_best = _gap(run, best)
    grown = ""
    if gap is not None and at_best is not None:
        grown = (
            f" Over the same steps the training loss goes from {nats(best.loss - at_best)} to "
            f"{nats(last.loss - gap)}, so the gap between the two goes from {nats(at_best)} to {nats(gap)}"
        )
        grown += ": it overfits, learning its text by heart." if gap > at_best else "."
    return (
        f"{run.name} is best at step {best.step:,} of {last.step:,}, after {spent}: {nats(best.loss)}. From "
        f"there its validation loss rises to {nats(last.loss)}.{grown} Export takes the checkpoint of step "
        f"{run.best_checkpoint.step:,}."
    )


def _gap(run: RunRecord, at: Validation) -> float | None:
    """How much higher the validation loss is than the training loss."""
    training = run.train_loss(at.step, WINDOW)
    return None if training is None else at.loss - training


# --- why ---------------------------------------------------------------------------------------------------

_CELLS: Final = {
    "lstm": "An LSTM has four blocks of weights a layer (input, forget and output gate, and what may be "
    "written) and carries two vectors from character to character: the hidden state h and a cell state c of "
    "its own, to which it adds, so that errors flow back far.",
    "gru": "A GRU has three blocks (reset gate, update gate, and what may be written) and carries h alone; "
    "one gate decides both how much of h is kept and how much is written over.",
    "rnn": "A plain RNN has one block and no gate: every character overwrites all of h, so that errors "
    "fade or grow quickly on their way back.",
}


def _reasons(entries: Sequence[Entry]) -> list[str]:
    runs = [entry.run for entry in entries]
    cells = sorted({run.config.network.cell for run in runs}, key=list(_CELLS).index)
    said = [" ".join(_CELLS[cell] for cell in cells)]
    counts = [
        f"{entry.run.name} ({entry.run.cell}, {entry.run.size}) learns {entry.run.parameters:,} parameters "
        f"and carries {entry.model.state_size:,} numbers a stream"
        for entry in entries
    ]
    said.append(f"{'; '.join(counts)}.")
    if len(runs) == 1:
        return said
    others = _differences(runs)
    if not _same_text(runs):
        others.append("their texts")
    seeds = len({run.config.run.seed for run in runs}) > 1
    if others:
        said.append(
            f"The runs differ in more than the cell ({'; '.join(others)}), so what separates their results "
            "cannot be put down to the cell alone."
        )
    elif len(cells) > 1:
        said.append(
            f"All other settings{' but the seed' if seeds else ''} are the same, so what separates their "
            "losses is the cell, and the chance that is in any one run."
        )
    elif seeds:
        said.append("They differ in nothing but the seed: what separates them is chance.")
    pair = _pair(entries)
    if pair is not None and not others:
        said.append(_reading(*pair))
    return said


def _reading(lstm: Entry, gru: Entry) -> str:
    """What the losses of an LSTM and a GRU of the same settings suggest."""
    step = min(lstm.run.step, gru.run.step)
    one, other = lstm.run.train_loss(step, WINDOW), gru.run.train_loss(step, WINDOW)
    if one is None or other is None:
        return "Their training losses cannot be compared step by step."
    if abs(one - other) < EVEN:
        fit = (
            f"Step for step the two fit their text alike ({nats(one)} and {nats(other)} at step {step:,}): "
            "the LSTM's additional weights bought nothing here."
        )
    elif other < one:
        fit = (
            f"Step for step the GRU fits its text better here ({nats(other)} against {nats(one)} at step "
            f"{step:,}) though it has fewer weights. A likely reason: its one state is its output too, so "
            "that errors pass through fewer gates on their way, and among characters, which depend mostly "
            "on those just before, a cell state of its own is little missed."
        )
    else:
        fit = (
            f"Step for step the LSTM fits its text better here ({nats(one)} against {nats(other)} at step "
            f"{step:,}). A likely reason: it has more weights, and may decide separately what to forget and "
            "what to write."
        )
    return f"{fit} {_generalizing(lstm.run, gru.run)}".strip()


def _generalizing(lstm: RunRecord, gru: RunRecord) -> str:
    """Which of the two is further from its training loss on new text."""
    if not lstm.validations or not gru.validations:
        return ""
    gaps = [_gap(run, run.validations[-1]) for run in (lstm, gru)]
    if gaps[0] is None or gaps[1] is None or max(gaps[0], gaps[1]) < EVEN:
        return ""
    if abs(gaps[0] - gaps[1]) < EVEN:
        return f"The gap to new text is the same for both at the end ({nats(gaps[0])} and {nats(gaps[1])})."
    larger, lesser = ("LSTM", "GRU") if gaps[0] > gaps[1] else ("GRU", "LSTM")
    return (
        f"The gap between new text and learned text is larger for the {larger} at the end "
        f"({nats(max(gaps[0], gaps[1]))} against {nats(min(gaps[0], gaps[1]))} for the {lesser}): it has "
        "learned more that holds for its own text alone."
    )


# --- what GRU gains and loses against LSTM -----------------------------------------------------------------


def _pair(entries: Sequence[Entry]) -> tuple[Entry, Entry] | None:
    """The best LSTM and the best GRU; None where one of the two is missing."""

    def rank(entry: Entry) -> float:
        best = entry.run.best
        return entry.run.last_train_loss(WINDOW) if best is None else best.loss

    found = [
        min((entry for entry in entries if entry.run.config.network.cell == cell), key=rank, default=None)
        for cell in ("lstm", "gru")
    ]
    return None if found[0] is None or found[1] is None else (found[0], found[1])


def _gru_against_lstm(entries: Sequence[Entry]) -> Answer:
    question = "What does GRU gain and lose against LSTM?"
    pair = _pair(entries)
    if pair is None:
        have = {entry.run.config.network.cell for entry in entries}
        missing = [cell.upper() for cell in ("lstm", "gru") if cell not in have]
        commands = " and ".join(f"charrnn-train --cell {cell.lower()}" for cell in missing)
        said = (
            f"There is no run of {listed(missing)} among these, so they cannot answer this. To get one: "
            f"{commands}, with the same settings."
        )
        return Answer(question, (said,))
    lstm, gru = pair
    chosen = ""
    if len(entries) > 2:
        chosen = (
            f"Of the runs, {gru.run.name} (GRU) is set against {lstm.run.name} (LSTM), the best of each. "
        )
    weighed: dict[str, list[str]] = {"gains": [], "losses": [], "even": []}
    for measure in _measures(lstm, gru):
        weighed[measure.verdict].append(measure.sentence)
    counts = (
        f"{chosen}Figure by figure, each the GRU's against the LSTM's. Losses less than {EVEN} nats apart, "
        f"and other figures less than {100 * EVEN_SPEED:.0f} % apart, are called even."
    )
    return Answer(
        question,
        (counts,),
        gains=tuple(weighed["gains"]),
        losses=tuple(weighed["losses"]),
        even=tuple(weighed["even"]),
        after=(_conclusion(lstm.run, gru.run),),
    )


@dataclass(frozen=True)
class _Measure:
    verdict: str
    sentence: str


def _measures(lstm: Entry, gru: Entry) -> list[_Measure]:
    found = [
        _less("parameters", gru.run.parameters, lstm.run.parameters, "{:,}".format),
        _less("file", gru.model.file_bytes, lstm.model.file_bytes, size),
        _less("numbers that a stream carries", gru.model.state_size, lstm.model.state_size, "{:,}".format),
        _less("seconds a batch", gru.run.batch_seconds, lstm.run.batch_seconds, batch_time),
        _more(
            "characters a second generated",
            gru.model.characters_per_second,
            lstm.model.characters_per_second,
            "{:,.0f}".format,
        ),
    ]
    if not _same_text([lstm.run, gru.run]):
        return found  # losses on different texts say nothing of the cells
    step = min(lstm.run.step, gru.run.step)
    seconds = min(lstm.run.total_seconds, gru.run.total_seconds)
    losses = [
        (
            f"training loss at step {step:,}",
            gru.run.train_loss(step, WINDOW),
            lstm.run.train_loss(step, WINDOW),
        ),
        (
            f"training loss after {duration(seconds)}",
            _loss_after(gru.run, seconds),
            _loss_after(lstm.run, seconds),
        ),
    ]
    if gru.run.best and lstm.run.best and _same_split([lstm.run, gru.run]):
        losses.append(("best validation loss", gru.run.best.loss, lstm.run.best.loss))
        last = (gru.run.validations[-1], lstm.run.validations[-1])
        if last[0].step == last[1].step:
            losses.append((f"validation loss at the end, step {last[0].step:,}", last[0].loss, last[1].loss))
            gaps = (_gap(gru.run, last[0]), _gap(lstm.run, last[1]))
            losses.append((f"gap between validation and training at step {last[0].step:,}", *gaps))
    return found + [
        _lower(what, one, other) for what, one, other in losses if one is not None and other is not None
    ]


def _less(what: str, gru: float, lstm: float, form: Callable[[Any], str]) -> _Measure:
    """A figure that had better be small."""
    sentence = f"{what}: {form(gru)} against {form(lstm)} ({share(gru, lstm)})"
    if abs(gru - lstm) < EVEN_SPEED * lstm or gru == lstm:
        return _Measure("even", sentence)
    return _Measure("gains" if gru < lstm else "losses", sentence)


def _more(what: str, gru: float, lstm: float, form: Callable[[Any], str]) -> _Measure:
    """A figure that had better be large."""
    measure = _less(what, gru, lstm, form)
    turned = {"gains": "losses", "losses": "gains", "even": "even"}
    return _Measure(turned[measure.verdict], measure.sentence)


def _lower(what: str, gru: float, lstm: float) -> _Measure:
    """A loss."""
    sentence = f"{what}: {nats(gru)} against {nats(lstm)} ({signed(gru - lstm)})"
    if abs(gru - lstm) < EVEN:
        return _Measure("even", sentence)
    return _Measure("gains" if gru < lstm else "losses", sentence)


def _conclusion(lstm: RunRecord, gru: RunRecord) -> str:
    if not _same_text([lstm, gru]):
        return "They read different texts, so their losses are not weighed."
    if lstm.best is None or gru.best is None or not _same_split([lstm, gru]):
        return (
            "Which of the two predicts new text better is not known from these runs: they kept no common "
            "text for validation."
        )
    apart = gru.best.loss - lstm.best.loss
    cost = share(gru.batch_seconds, lstm.batch_seconds)
    if abs(apart) < EVEN:
        verdict = "On new text the two are even here"
    elif apart < 0:
        verdict = f"On new text the GRU is better here, by {nats(-apart)} nats at the best checkpoint of each"
    else:
        verdict = f"On new text the LSTM is better here, by {nats(apart)} nats at the best checkpoint of each"
    return (
        f"{verdict}; a step of the GRU takes {cost} of the LSTM's time, and it has "
        f"{share(gru.parameters, lstm.parameters)} of the parameters. This is one run of each: another seed "
        "would move the losses a little."
    )


# --- what the runs have in common --------------------------------------------------------------------------


def _same_text(runs: Sequence[RunRecord]) -> bool:
    return len({(run.corpus.sha256, run.config.data.level) for run in runs}) == 1


def _same_split(runs: Sequence[RunRecord]) -> bool:
    return _same_text(runs) and len({_split_of(run) for run in runs}) == 1


def _split_of(run: RunRecord) -> tuple[object, ...]:
    """All that decides which characters of a text validate."""
    return run.corpus.train_tokens, run.config.data.split


def _differences(runs: Sequence[RunRecord], only: Sequence[str] = ()) -> list[str]:
    """The settings in which runs differ, such as ``steps: 6000, 3000``.

    Args:
        runs: the runs.
        only: the names of the settings to look at; empty looks at all that the losses depend on, but the cell
            and the seed.
    """
    tables = [
        {name: value for section in run.config.to_dict().values() for name, value in section.items()}
        for run in runs
    ]
    found = []
    for name in dict.fromkeys(name for table in tables for name in table):
        values = [table.get(name) for table in tables]
        wanted = name in only if only else name not in _NO_PART
        if wanted and any(value != values[0] for value in values):
            distinct = dict.fromkeys(str(value) for value in values)
            found.append(f"{name.replace('_', ' ')}: {', '.join(distinct)}")
    return found
