"""The network as a torch module: symbols -> recurrent layers -> logits.

Shapes use the letters of the format: B streams, T characters, V symbols, L layers, H hidden size, and E for
the embedding size.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from charrnn_runtime.errors import CharRNNError
from charrnn_trainer.config import NetworkConfig
from charrnn_trainer.data.batches import IGNORED
from charrnn_trainer.nn.cells import CELLS
from charrnn_trainer.nn.dropout import dropout
from charrnn_trainer.nn.output_loss import output_loss

State = tuple[Tensor, ...]
"""The recurrent state: ``(h,)``, for an LSTM ``(h, c)``, each ``[L, B, H]``."""

LARGE_VOCABULARY = 256
"""With more symbols, the loss on a CPU is computed together with its gradients (`output_loss`), and the
output bias is initialized from frequencies (`init_output_bias`)."""


class CharNetwork(nn.Module):
    """A character-level recurrent network.

    The weights are ``embedding.weight [V, E]`` (absent for one-hot inputs), torch's own names under ``rnn.``,
    ``output.weight [V, H]`` and ``output.bias [V]``. With tied weights, the embedding is ``output.weight``,
    then ``[V, E]``, times the square root of E; there is no ``embedding.weight``, and unless E equals H,
    ``projection.weight [E, H]`` comes before the output.

    Examples:
        >>> network = CharNetwork(NetworkConfig(cell="gru", layers=1, hidden_size=8), vocabulary_size=5)
        >>> logits, state = network(torch.tensor([[0, 1, 2]]), network.initial_state(1))
        >>> tuple(logits.shape), [tuple(part.shape) for part in state]
        ((1, 3, 5), [(1, 1, 8)])
    """

    def __init__(self, config: NetworkConfig, vocabulary_size: int) -> None:
        """Initialize a network from torch's global random generator.

        Initialization is torch's default with one exception: an embedding of size V or more starts as the
        identity, which is equivalent to one-hot inputs. An LSTM's forget gates start half open, torch's
        default: with the often recommended bias of 1 (Jozefowicz et al. 2015), 1,000 steps of 512 units on
        tinyshakespeare ended at a loss of 1.696, without it at 1.637.

        Tied weights are drawn with a standard deviation of E^-0.5, and scaled by E^0.5 as inputs, as in
        Vaswani et al. (2017), section 3.4. After 300 steps of 128 units on a Chinese text of 6,128 symbols,
        the validation loss was 5.27 nats; without the scaling 5.41, with a standard deviation of 1, as for
        embeddings, 5.60, and without tying 5.37.
        """
        super().__init__()
        self.config = config.resolve(vocabulary_size)
        self.vocabulary_size = vocabulary_size
        embedding_size = self.config.embedding_size or 0
        if embedding_size and not config.tie_weights:
            self.embedding = nn.Embedding(vocabulary_size, embedding_size)
            if embedding_size >= vocabulary_size:
                nn.init.eye_(self.embedding.weight)
        self.cell = CELLS[config.cell]
        self.rnn = self.cell.layers(
            embedding_size or vocabulary_size,
            config.hidden_size,
            config.layers,
            batch_first=True,
            dropout=config.dropout if config.layers > 1 else 0.0,
        )
        if not config.tie_weights:
            self.output = nn.Linear(config.hidden_size, vocabulary_size)
            return
        if embedding_size != config.hidden_size:
            self.projection = nn.Linear(config.hidden_size, embedding_size, bias=False)
        self.output = nn.Linear(embedding_size, vocabulary_size)
        nn.init.normal_(self.output.weight, std=embedding_size**-0.5)
        nn.init.zeros_(self.output.bias)

    def load_weights(self, weights: Mapping[str, Tensor], source: object) -> None:
        """Load the weights of an identical network, named as in ``state_dict``.

        Args:
            weights: the weights.
            source: their origin, for the error message.

        Raises:
            CharRNNError: they belong to a different network.
        """
        own = self.state_dict()
        for name in sorted(own.keys() | weights.keys()):
            given = tuple(weights[name].shape) if name in weights else "absent"
            wanted = tuple(own[name].shape) if name in own else "absent"
            if given != wanted:
                raise CharRNNError(f"{source}: {name} is {given}, but this network's is {wanted}")
        self.load_state_dict(weights)

    def drop_as(self, config: NetworkConfig) -> None:
        """Change the dropout settings of the network."""
        self.config = config.resolve(self.vocabulary_size)
        self.rnn.dropout = config.dropout if config.layers > 1 else 0.0

    def forward(self, tokens: Tensor, state: State, targets: Tensor | None = None) -> tuple[Tensor, State]:
        """Read tokens, and predict the next one after each.

        Args:
            tokens: ``int64 [B, T]``.
            state: the recurrent state, ``[L, B, H]`` each.
            targets: ``int64 [B, T]``, the next tokens; if given, the loss is returned instead of the logits.

        Returns:
            The logits ``float32 [B, T, V]``, or the mean loss in nats per character; and the state after the
            last token.
        """
        hidden, after = self._recur(tokens, state)  # (B, T) -> (B, T, H)
        if self.training and self.config.dropout:
            hidden = dropout(hidden, self.config.dropout)
        if self._projects:
            hidden = self.projection(hidden)  # (B, T, H) -> (B, T, E)
        if targets is not None and self.vocabulary_size > LARGE_VOCABULARY and not hidden.is_cuda:
            output = self.output
            return output_loss(hidden.flatten(0, 1), output.weight, output.bias, targets.flatten()), after
        logits = self.output(hidden).float()  # (B, T, H or E) -> (B, T, V)
        return logits if targets is None else next_token_loss(logits, targets), after

    def initial_state(self, batch: int) -> State:
        """The initial state: zeros, ``float32 [L, B, H]`` each."""
        weight = self.output.weight
        shape = (self.config.layers, batch, self.config.hidden_size)
        return tuple(weight.new_zeros(shape) for _ in self.cell.states)

    def parameter_count(self) -> int:
        """The number of parameters."""
        return sum(parameter.numel() for parameter in self.parameters())

    @property
    def _projects(self) -> bool:
        """Whether there is a projection between the recurrent layers and the tied output."""
        return self.config.tie_weights and self.config.embedding_size != self.config.hidden_size

    def _recur(self, tokens: Tensor, state: State) -> tuple[Tensor, State]:
        """The hidden states of the last layer for ``tokens [B, T]``, ``[B, T, H]``, and the final state."""
        inputs = self._read(tokens)  # (B, T) -> (B, T, E or V)
        if self.training and self.config.input_dropout:
            inputs = inputs * self._input_mask(tokens, self.config.input_dropout)
        if inputs.is_cuda and torch.is_autocast_enabled("cuda"):
            # By default, autocast runs cuDNN's recurrent layers in fp16, where small gradients vanish.
            with torch.autocast("cuda", enabled=False):
                return self._recur_in(torch.get_autocast_dtype("cuda"), inputs, state)
        if self.training and self.cell.cpu_training is not None and not inputs.is_cuda:
            hidden, last = self.cell.cpu_training(
                inputs, state[0], self._dropped_weights(), self.config.dropout
            )
            return hidden, (last,)
        if self.training and self.config.weight_drop:
            return self._recur_with(self._dropped_weights(), inputs, state)
        hidden, rest = self.rnn(inputs, state if len(state) > 1 else state[0])  # -> (B, T, H)
        return hidden, rest if isinstance(rest, tuple) else (rest,)

    def _read(self, tokens: Tensor) -> Tensor:
        if self.config.tie_weights:
            return functional.embedding(tokens, self.output.weight) * math.sqrt(self.output.in_features)
        if self.config.embedding_size:
            embedded: Tensor = self.embedding(tokens)
            return embedded
        one_hot = self.output.weight.new_zeros((*tokens.shape, self.vocabulary_size))
        return one_hot.scatter_(2, tokens.unsqueeze(2), 1.0)

    def _input_mask(self, tokens: Tensor, dropped: float) -> Tensor:
        """A mask for ``tokens [B, T]``: 1 to keep and 0 to drop a token, ``[B, T, 1]``.

        The kept inputs are not scaled up, since other symbols do not replace a missing one.
        """
        chances = torch.rand(tokens.shape, device=tokens.device)
        return (chances >= dropped).unsqueeze(2).to(self.output.weight.dtype)

    def _dropped_weights(self) -> list[Tensor]:
        """The recurrent layers' weights; in training, with dropout on the hidden-to-hidden matrices."""
        drop = self.config.weight_drop if self.training else 0.0
        return [
            dropout(weight, drop) if drop and name.startswith("weight_hh") else weight
            for name, weight in self.rnn.named_parameters()
        ]

    def _recur_in(self, dtype: torch.dtype, inputs: Tensor, state: State) -> tuple[Tensor, State]:
        """Run the recurrent layers in another dtype, which is also that of the results."""
        weights = [weight.to(dtype) for weight in self._dropped_weights()]
        return self._recur_with(weights, inputs.to(dtype), tuple(part.to(dtype) for part in state))

    def _recur_with(self, weights: list[Tensor], inputs: Tensor, state: State) -> tuple[Tensor, State]:
        """Run the recurrent layers with these weights in place of their own for all T steps."""
        between = self.config.dropout if self.config.layers > 1 else 0.0
        options = (weights, True, self.config.layers, between, self.training, False, True)
        return self.cell.recur(inputs, state, *options)


def next_token_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """The mean cross-entropy, in nats per character, of ``logits [B, T, V]`` for ``targets [B, T]``."""
    return functional.cross_entropy(logits.flatten(0, 1), targets.flatten())  # (B, T, V) -> (B * T, V)


def masked_loss(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """The sum of the cross-entropies, in nats, and their mean, ignoring targets of -100.

    Shapes as for `next_token_loss`. If all targets are ignored, both are 0. The mean has no gradient.
    """
    logits, targets = logits.flatten(0, 1), targets.flatten()  # (B, T, V) -> (B * T, V)
    total = functional.cross_entropy(logits, targets, ignore_index=IGNORED, reduction="sum")
    return total, total.detach() / (targets != IGNORED).sum().clamp(min=1)


@torch.no_grad()
def write_sample(
    network: CharNetwork,
    start_token: int,
    length: int,
    *,
    temperature: float,
    seed: int,
    lines: bool = False,
) -> list[int]:
    """Sample the ids of ``length`` symbols after ``start_token``.

    With ``lines``, the state is reset to zero after every ``start_token``, as in training.

    The function has its own random generator, so that a sample never affects a training in progress.
    """
    generator = torch.Generator().manual_seed(seed)
    training = network.training
    network.eval()
    device = network.output.weight.device
    token = torch.tensor([[start_token]], device=device)
    state = network.initial_state(1)
    written = []
    for _ in range(length):
        logits, state = network(token, state)
        chances = torch.softmax(logits[0, 0].cpu() / temperature, dim=0)
        written.append(int(torch.multinomial(chances, 1, generator=generator)))
        if lines and written[-1] == start_token:
            state = network.initial_state(1)
        token.fill_(written[-1])
    network.train(training)
    return written
