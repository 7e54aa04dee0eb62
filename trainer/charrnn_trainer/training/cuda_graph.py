"""A whole training step as one CUDA graph: a single call launches forward, backward, clipping and optimizer.

A step of a small network consists of thousands of small kernels, which the host launches more slowly than the
GPU runs them. The graph is used only after a trial has shown that it gives the same results, faster.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from charrnn_trainer.nn.network import CharNetwork, State
from charrnn_trainer.training.capture import Play, capture_graph, side_stream
from charrnn_trainer.training.device_batches import Batches
from charrnn_trainer.training.step import StepFunction, TrainStep
from charrnn_trainer.training.torch_settings import is_gpu

TRIAL_STEPS: Final = 4
_TOLERANCE: Final = 2e-3
_DIFFERENT_DRAWS_TOLERANCE: Final = 0.05
_UPDATE_TOLERANCE: Final = 0.1
_DIFFERENT_DRAWS_UPDATE_TOLERANCE: Final = 0.25
"""How far two runs of the same steps may differ, relatively: in their losses (a rough check if they draw
different random numbers), and in gradient norms and weight updates. If they draw different numbers, only the
size of the update is compared: it differs by 6 % between seeds, with half of the activations dropped."""

_PLAIN: Final = "training steps run without a CUDA graph"


class StaticStep:
    """A step whose inputs and results keep the same addresses; called like `TrainStep.learn`.

    The state it returns is its own buffer, valid until the next call.
    """

    def __init__(self, learn: StepFunction, inputs: Tensor, targets: Tensor, state: State) -> None:
        """Allocate buffers for inputs, targets and states of these shapes and types."""
        self._learn = learn
        self._inputs, self._targets = inputs.clone(), targets.clone()
        self._state: State = tuple(part.clone() for part in state)
        self._results = torch.zeros(2, device=inputs.device)  # loss, norm
        self._play: Play = self.run

    def run(self) -> None:
        """Take a step on the contents of the input buffers."""
        loss, norm, after = self._learn(self._inputs, self._targets, self._state)
        for held, new in zip(self._state, after, strict=True):
            held.copy_(new)
        self._results.copy_(torch.stack([loss, norm]))

    def play_by(self, capture: Callable[[Play], Play]) -> None:
        """Replace `run` with its captured form."""
        self._play = capture(self.run)

    def __call__(self, inputs: Tensor, targets: Tensor, state: State) -> tuple[Tensor, Tensor, State]:
        self._inputs.copy_(inputs)
        self._targets.copy_(targets)
        for held, given in zip(self._state, state, strict=True):
            if held is not given:
                held.copy_(given)
        self._play()
        loss, norm = self._results.clone()  # (2,) -> () and (): the next step overwrites the results
        return loss, norm, self._state


@dataclass(frozen=True)
class StepChoice:
    """The step function that was chosen.

    Attributes:
        learn: the step function.
        words: the reason, in one line.
    """

    learn: StepFunction
    words: str


def choose_step(
    train_step: TrainStep,
    network: CharNetwork,
    batches: Batches,
    first: int,
    state: State,
    *,
    capture: Callable[[Play], Play] = capture_graph,
) -> StepChoice:
    """Try a few steps both ways, and choose the captured step if it gives the same results faster.

    Loss, gradient and weights are compared. Weights, optimizer and random generators are restored afterwards.

    Args:
        train_step: the step to try, with its learning rate set.
        network: its network, in training mode.
        batches: the batches.
        first: the index of the first batch.
        state: the state before that batch.
        capture: turns a function on fixed memory into its captured form.
    """
    trial = _Trial(train_step, network, batches, first, state)
    try:
        state_after = trial.warm_up()
        plain = trial.steps(train_step.learn)
        step = StaticStep(train_step.learn, *batches.batch(first), state_after)
        step.play_by(capture)
        trial.undo()
        captured = trial.steps(step)
    except RuntimeError as error:
        trial.undo()
        reason = " ".join(str(error).split())[:120]
        return StepChoice(train_step.learn, f"{_PLAIN}: capturing one failed ({reason})")
    times = f"{captured.milliseconds:.2f} ms with, {plain.milliseconds:.2f} ms without"
    if not trial.alike(plain, captured):
        return StepChoice(
            train_step.learn,
            f"{_PLAIN}: its results differed (loss {captured.losses[-1]:.5g} instead of "
            f"{plain.losses[-1]:.5g})",
        )
    if captured.milliseconds >= plain.milliseconds:
        return StepChoice(train_step.learn, f"{_PLAIN}, which is no faster here ({times})")
    return StepChoice(step, f"each training step runs as one CUDA graph, which is faster here ({times})")


@dataclass(frozen=True)
class _Steps:
    losses: list[float]
    norms: list[float]
    weights: Tensor
    milliseconds: float


class _Trial:
    """Trial steps, which are undone afterwards."""

    def __init__(
        self, train_step: TrainStep, network: CharNetwork, batches: Batches, first: int, state: State
    ) -> None:
        self._train_step, self._network = train_step, network
        self._batches = [batches.batch(first + number) for number in range(TRIAL_STEPS)]
        self._state: State = tuple(part.clone() for part in state)
        self._device = network.output.weight.device
        self._weights = [weight.detach().clone() for weight in network.parameters()]
        self._optimizer = {name: part.clone() for name, part in train_step.optimizer.tensors().items()}
        self._random = self._random_state()

    def warm_up(self) -> State:
        """Let libraries choose algorithms and the optimizer allocate; return a state after a step."""
        if not is_gpu(self._device):
            return self._warm_up()
        with side_stream(self._device):
            return self._warm_up()

    def _warm_up(self) -> State:
        state = self._state
        for inputs, targets in self._batches:
            _, _, state = self._train_step.learn(inputs, targets, state)
        self.undo()
        return state

    def steps(self, learn: StepFunction) -> _Steps:
        """Take the steps and undo them."""
        results: list[tuple[float, float]] = []
        milliseconds = math.inf
        state = self._state
        for inputs, targets in self._batches:
            self._wait()
            begin = time.perf_counter()
            loss, norm, state = learn(inputs, targets, state)
            self._wait()
            milliseconds = min(milliseconds, 1e3 * (time.perf_counter() - begin))
            results.append((float(loss), float(norm)))
        weights = self._flat_weights()
        self.undo()
        losses, norms = (list(values) for values in zip(*results, strict=True))
        return _Steps(losses, norms, weights, milliseconds)

    def undo(self) -> None:
        """Restore everything in place."""
        with torch.no_grad():
            for weight, before in zip(self._network.parameters(), self._weights, strict=True):
                weight.copy_(before)
            for name, part in self._train_step.optimizer.tensors().items():
                if name in self._optimizer:
                    part.copy_(self._optimizer[name])
                else:
                    part.zero_()
        self._set_random_state(self._random)

    def alike(self, one: _Steps, other: _Steps) -> bool:
        """Whether two runs of the steps agree up to rounding."""
        config = self._network.config
        # cuDNN's dropout between layers has its own random state, which cannot be restored.
        different_draws = config.layers > 1 and config.dropout > 0.0 and is_gpu(self._device)
        near = _DIFFERENT_DRAWS_TOLERANCE if different_draws else _TOLERANCE
        pairs = zip(one.losses, other.losses, strict=True)
        if not all(abs(a - b) <= near * abs(a) for a, b in pairs):  # also where one is NaN
            return False
        start = torch.cat([weight.flatten() for weight in self._weights])
        update = float((one.weights - start).norm())
        if different_draws:
            apart = abs(update - float((other.weights - start).norm()))
            return apart <= _DIFFERENT_DRAWS_UPDATE_TOLERANCE * update
        pairs = zip(one.norms, other.norms, strict=True)
        norms_agree = all(abs(a - b) <= _UPDATE_TOLERANCE * abs(a) for a, b in pairs)
        apart = float((one.weights - other.weights).norm())
        return norms_agree and apart <= _UPDATE_TOLERANCE * update

    def _flat_weights(self) -> Tensor:
        return torch.cat([weight.detach().flatten() for weight in self._network.parameters()])

    def _wait(self) -> None:
        if is_gpu(self._device):
            torch.cuda.synchronize(self._device)

    def _random_state(self) -> Tensor:
        on_gpu = is_gpu(self._device)
        return torch.cuda.get_rng_state(self._device) if on_gpu else torch.get_rng_state()

    def _set_random_state(self, state: Tensor) -> None:
        if is_gpu(self._device):
            torch.cuda.set_rng_state(state, self._device)
        else:
            torch.set_rng_state(state)
