"""A whole step as one CUDA graph: forward, backward, clipping and optimizer are started by a single call.

A step of a small network is thousands of small kernels, which a host starts more slowly than a GPU runs them.
Whether a graph does the same, and faster, is tried out before it is used.
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
from charrnn_trainer.training.capture import Play, aside, capture_graph
from charrnn_trainer.training.device_batches import Batches
from charrnn_trainer.training.step import StepFunction, TrainStep
from charrnn_trainer.training.torch_settings import is_gpu

TRIAL_STEPS: Final = 4
_TOLERANCE: Final = 2e-3
_OTHER_DRAWS_TOLERANCE: Final = 0.05
_UPDATE_TOLERANCE: Final = 0.1
_OTHER_DRAWS_UPDATE_TOLERANCE: Final = 0.25
"""How far apart two ways of taking the same steps may be, as a share: in their losses (a rough check where
they draw other random numbers), and in the gradients' norms and the way that the weights went. Where they
draw other numbers, only how far they went counts: 6 % between seeds, with half of the activations dropped."""

_PLAIN: Final = "steps run one kernel after the other"


class StaticStep:
    """A step whose inputs and results are always at the same addresses; called as `TrainStep.learn` is.

    The state that it gives is its own memory, and holds until its next call.
    """

    def __init__(self, learn: StepFunction, inputs: Tensor, targets: Tensor, state: State) -> None:
        """Prepare for inputs, targets and states of these shapes and types."""
        self._learn = learn
        self._inputs, self._targets = inputs.clone(), targets.clone()
        self._state: State = tuple(part.clone() for part in state)
        self._results = torch.zeros(2, device=inputs.device)  # loss, norm
        self._play: Play = self.run

    def run(self) -> None:
        """Take a step from what lies at the inputs' places."""
        loss, norm, after = self._learn(self._inputs, self._targets, self._state)
        for held, new in zip(self._state, after, strict=True):
            held.copy_(new)
        self._results.copy_(torch.stack([loss, norm]))

    def play_by(self, capture: Callable[[Play], Play]) -> None:
        """From now on, step by what ``capture`` makes of `run`."""
        self._play = capture(self.run)

    def __call__(self, inputs: Tensor, targets: Tensor, state: State) -> tuple[Tensor, Tensor, State]:
        self._inputs.copy_(inputs)
        self._targets.copy_(targets)
        for held, given in zip(self._state, state, strict=True):
            if held is not given:
                held.copy_(given)
        self._play()
        loss, norm = self._results.clone()  # (2,) -> () and (): the next step writes over the results
        return loss, norm, self._state


@dataclass(frozen=True)
class StepChoice:
    """Which step was taken.

    Attributes:
        learn: takes the steps.
        words: why, in one line.
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
    """Take a few steps both ways; take the captured one if it does the same as the plain one, and faster.

    Loss, gradient and weights are compared. Afterwards weights, optimizer and random numbers are as before.

    Args:
        train_step: what learns, with its rate set.
        network: the network that it learns, in training mode.
        batches: the batches.
        first: the number of the batch that the steps begin with.
        state: the state before that batch.
        capture: makes a function faster that is called again and again with the same memory.
    """
    trial = _Trial(train_step, network, batches, first, state)
    try:
        state_after = trial.warm_up()
        plain = trial.steps(train_step.learn)
        step = StaticStep(train_step.learn, *batches.batch(first), state_after)
        step.play_by(capture)
        trial.go_back()
        captured = trial.steps(step)
    except RuntimeError as error:
        trial.go_back()
        reason = " ".join(str(error).split())[:120]
        return StepChoice(train_step.learn, f"{_PLAIN}, since as a graph they failed: {reason}")
    times = f"{plain.milliseconds:.2f} ms as kernels, {captured.milliseconds:.2f} ms as a graph"
    if not trial.alike(plain, captured):
        return StepChoice(
            train_step.learn,
            f"{_PLAIN}, since as a graph they learned something else (loss {captured.losses[-1]:.5g}, not "
            f"{plain.losses[-1]:.5g})",
        )
    if captured.milliseconds >= plain.milliseconds:
        return StepChoice(train_step.learn, f"{_PLAIN}, measured as faster ({times})")
    return StepChoice(step, f"every step runs as one CUDA graph, measured as faster ({times})")


@dataclass(frozen=True)
class _Steps:
    losses: list[float]
    norms: list[float]
    weights: Tensor
    milliseconds: float


class _Trial:
    """Steps that are taken back."""

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
        """Let libraries choose their ways and the optimizer make its memory; gives a state after a step."""
        if not is_gpu(self._device):
            return self._warm_up()
        with aside(self._device):
            return self._warm_up()

    def _warm_up(self) -> State:
        state = self._state
        for inputs, targets in self._batches:
            _, _, state = self._train_step.learn(inputs, targets, state)
        self.go_back()
        return state

    def steps(self, learn: StepFunction) -> _Steps:
        """Take the steps, and go back."""
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
        self.go_back()
        losses, norms = (list(values) for values in zip(*results, strict=True))
        return _Steps(losses, norms, weights, milliseconds)

    def go_back(self) -> None:
        """Put all back, at its place in memory."""
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
        """Whether two ways of taking the steps did the same, but for how sums are rounded."""
        config = self._network.config
        # cuDNN drops activations between layers by random numbers of its own, which cannot be put back.
        other_draws = config.layers > 1 and config.dropout > 0.0 and is_gpu(self._device)
        near = _OTHER_DRAWS_TOLERANCE if other_draws else _TOLERANCE
        pairs = zip(one.losses, other.losses, strict=True)
        if not all(abs(a - b) <= near * abs(a) for a, b in pairs):  # also where one is NaN
            return False
        start = torch.cat([weight.flatten() for weight in self._weights])
        update = float((one.weights - start).norm())
        if other_draws:
            apart = abs(update - float((other.weights - start).norm()))
            return apart <= _OTHER_DRAWS_UPDATE_TOLERANCE * update
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
