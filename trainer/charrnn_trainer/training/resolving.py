"""Resolves settings: those left open are decided for a text and a machine."""

from __future__ import annotations

import torch

from charrnn_trainer.counting import counted
from charrnn_trainer.data.batches import fit_batch
from charrnn_trainer.data.corpus import Corpus
from charrnn_trainer.data.split import split_characters
from charrnn_trainer.data.unlike import warning_if_unlike
from charrnn_trainer.export.graph.weights import check_step_model_fits
from charrnn_trainer.setting import option_of
from charrnn_trainer.train_config import TrainConfig
from charrnn_trainer.training.distributed import ProcessGroup
from charrnn_trainer.training.events import (
    Listener,
    Notice,
)
from charrnn_trainer.training.precision import choose_compute_mode, has_fast_bf16, is_open
from charrnn_trainer.training.step_timing import choose_threads, threads_are_open
from charrnn_trainer.training.torch_settings import (
    is_gpu,
    threads,
)


def resolve_settings(
    config: TrainConfig,
    corpus: Corpus,
    emit: Listener,
    group: ProcessGroup,
    *,
    batches_fit: bool = False,
) -> TrainConfig:
    """Decide all settings that are left open, for this text and this machine.

    Args:
        config: the settings.
        corpus: the text.
        emit: receives a notice of each decision and its reason.
        group: the processes that train together.
        batches_fit: whether the text is known to fill the batches.

    Raises:
        CharRNNError: the step model would be too large, the device is missing, ...
    """
    device = group.device(config.run.device)
    config = config.replace(
        level=corpus.vocabulary.level,
        embedding_size=config.network.resolve(len(corpus.vocabulary)).embedding_size,
        device=device.type,
    )
    check_step_model_fits(config.network, len(corpus.vocabulary))  # before hours of training
    if not batches_fit and not config.data.lines:
        config = _fit_batch(config, split_characters(corpus, config.data).train_tokens, emit)
    if config.run.deterministic:
        config = _with_fixed_arithmetic(config, device)
    rows = group.rows(config.data.batch_size)
    measured = config.replace(batch_size=rows.stop - rows.start)
    # Under a time budget, the number of threads adapts to the load and stays open.
    open_threads = not config.optimization.minutes and threads_are_open(config, device, group.size)
    if open_threads or is_open(measured, device):
        emit(Notice("measuring the fastest way to train on this machine"))
    with threads(config.run.threads):
        choice = choose_compute_mode(measured, len(corpus.vocabulary), device, processes=group.size)
    if choice.milliseconds:
        times = ", ".join(f"{mode} {time:.1f} ms" for mode, time in choice.milliseconds.items())
        emit(Notice(f"using {choice.compute_mode}, the fastest here (step times: {times})"))
    elif choice.compute_mode.precision == "bf16" and device.type == "cpu" and not has_fast_bf16():
        emit(Notice("bf16 is slow on this processor; precision=fp32 would be faster", ("precision",)))
    if config.run.precision == "tf32" != choice.compute_mode.precision:
        emit(Notice("tf32 needs a GPU; using fp32 on this CPU"))
    config = config.replace(precision=choice.compute_mode.precision, onednn=choice.compute_mode.onednn)
    if open_threads:
        most = torch.get_num_threads()
        config = config.replace(threads=choose_threads(config, len(corpus.vocabulary), device))
        if config.run.threads != most:
            emit(Notice(f"using {counted(config.run.threads or 1, 'thread')} of {most}, the fastest here"))
    elif not (config.run.threads or config.optimization.minutes or is_gpu(device) or group.size > 1):
        config = config.replace(threads=torch.get_num_threads())  # repeating the run needs the same number
    if (choice.milliseconds or open_threads) and not config.optimization.minutes:
        needed = " ".join(
            option_of(name, value)
            for name, value in config.flat().items()
            if name in ("precision", "onednn", "threads") and value is not None
        )
        emit(Notice(f"to repeat this run exactly, use the same seed and {needed}, or its config.toml"))
    return config


def _with_fixed_arithmetic(config: TrainConfig, device: torch.device) -> TrainConfig:
    """The settings with fixed defaults in place of those that are otherwise chosen by measuring speed."""
    run = config.run
    return config.replace(
        precision="fp32" if run.precision == "auto" else run.precision,
        onednn=torch.backends.mkldnn.is_available() if run.onednn is None else run.onednn,
        threads=1 if run.threads is None and not is_gpu(device) else run.threads,
    )


def _fit_batch(config: TrainConfig, train_tokens: int, emit: Listener) -> TrainConfig:
    wanted = (config.data.batch_size, config.data.seq_length)
    fitting = fit_batch(train_tokens, *wanted)
    if fitting == wanted:
        return config
    emit(
        Notice(
            f"the text is short: its {train_tokens:,} characters for training do not fill two "
            f"batches of {wanted[0]} x {wanted[1]}; batches are reduced to "
            f"{counted(fitting[0], 'stream')} of {counted(fitting[1], 'character')}"
        )
    )
    return config.replace(batch_size=fitting[0], seq_length=fitting[1])


def warn_if_unlike(config: TrainConfig, corpus: Corpus, emit: Listener) -> None:
    """Warn if the validation text is unlike the training text."""
    if config.data.split == "end" and not config.data.lines:
        train_tokens = split_characters(corpus, config.data).train_tokens
        warning = warning_if_unlike(corpus.ids, train_tokens, corpus.vocabulary)
        if warning is not None:
            named = tuple(name for name in ("lines", "split") if f"{name}=" in warning)
            emit(Notice(warning, named))
